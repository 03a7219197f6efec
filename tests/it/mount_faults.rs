//! Damage below and trouble beside: one bad block is EIO for that block alone, and all is well once it is mended.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use ebsfs::block::Digest;
use rustix::io::Errno;
use rustix::process::Signal;

use crate::oracle::{BLOCK, random_block, read_direct, snapshot};
use crate::world::{Mount, World, eventually};

/// A snapshot of the blocks 0 to 7.
fn eight_blocks(world: &World) -> String {
    snapshot(world, 1, (0..8).map(|n| (n, random_block(u64::from(n)))))
}

/// Where the store keeps block `n`.
fn block_file(world: &World, n: u64) -> PathBuf {
    let name = Digest::of(&random_block(n)).to_string();
    world.store().join("blocks").join(&name[..2]).join(name)
}

fn read(mount: &Mount, id: &str, n: u64) -> io::Result<Vec<u8>> {
    read_direct(&mount.disk(id), n * BLOCK, BLOCK)
}

#[track_caller]
fn assert_good(mount: &Mount, id: &str, n: u64) {
    assert!(read(mount, id, n).unwrap() == random_block(n), "block {n}");
}

#[track_caller]
fn assert_eio(result: io::Result<Vec<u8>>) {
    let code = result.unwrap_err().raw_os_error();
    assert_eq!(code, Some(Errno::IO.raw_os_error()));
}

/// Damages the file of block 3, reads it and its neighbours, mends it, and reads it again.
fn one_block_is_lost_and_found(damage: impl Fn(&Path)) {
    let Some(world) = World::new() else { return };
    let id = eight_blocks(&world);
    let mount = world.mount(&[&id]);
    let file = block_file(&world, 3);
    damage(&file);
    for _ in 0..2 {
        assert_eio(read(&mount, &id, 3));
    }
    for n in [0, 2, 4, 7] {
        assert_good(&mount, &id, n);
    }
    // The same through the page cache, whose read-ahead meets the bad block too.
    let cached = File::open(mount.disk(&id)).unwrap();
    let mut page = vec![0; 4096];
    assert_eio(
        cached
            .read_exact_at(&mut page, 3 * BLOCK + 8192)
            .map(|()| vec![]),
    );
    cached.read_exact_at(&mut page, 4 * BLOCK).unwrap();
    assert!(page == random_block(4)[..4096]);

    let log = mount.log();
    let line = log.lines().find(|line| line.contains("block 3"));
    let line = line.unwrap_or_else(|| panic!("no block 3 in {log}"));
    assert!(
        line.contains(file.to_str().unwrap()) && line.contains(&id),
        "{line}"
    );
    assert!(mount.count(&id, "errors") >= 2);
    assert!(mount.count(&id, "failed_fetches") >= 2);

    drop(fs::remove_file(&file));
    fs::write(&file, random_block(3)).unwrap();
    assert_good(&mount, &id, 3);
    cached.read_exact_at(&mut page, 3 * BLOCK + 8192).unwrap();
    assert!(page == random_block(3)[8192..12288]);
}

#[test]
fn a_flipped_bit_costs_its_block_alone_until_it_is_mended() {
    one_block_is_lost_and_found(|file| {
        let mut bytes = fs::read(file).unwrap();
        bytes[300_000] ^= 0x10;
        fs::write(file, bytes).unwrap();
    });
}

#[test]
fn a_truncated_file_costs_its_block_alone_until_it_is_mended() {
    one_block_is_lost_and_found(|file| {
        let file = File::options().write(true).open(file).unwrap();
        file.set_len(BLOCK - 1).unwrap();
    });
}

#[test]
fn a_file_that_grew_costs_its_block_alone_until_it_is_mended() {
    one_block_is_lost_and_found(|file| {
        let file = File::options().write(true).open(file).unwrap();
        file.set_len(BLOCK + 1).unwrap();
    });
}

#[test]
fn a_missing_file_costs_its_block_alone_until_it_is_mended() {
    one_block_is_lost_and_found(|file| fs::remove_file(file).unwrap());
}

#[test]
fn another_blocks_bytes_are_not_served() {
    let Some(world) = World::new() else { return };
    let id = eight_blocks(&world);
    let mount = world.mount(&[&id]);
    fs::copy(block_file(&world, 4), block_file(&world, 3)).unwrap();
    assert_eio(read(&mount, &id, 3));
}

#[test]
fn a_store_that_goes_away_is_eio_until_it_comes_back() {
    let Some(world) = World::new() else { return };
    let id = eight_blocks(&world);
    let mount = world.mount(&[&id]);
    assert_good(&mount, &id, 1);
    let away = world.path("away");
    run_mv(&world.store(), &away);
    assert_eio(read(&mount, &id, 2));
    assert_good(&mount, &id, 1);
    assert!(fs::metadata(mount.disk(&id)).is_ok());
    assert!(fs::metadata(mount.disk("snap-0123")).is_err());
    fs::write(world.store(), "a file in its place").unwrap();
    assert_eio(read(&mount, &id, 2));
    fs::remove_file(world.store()).unwrap();
    run_mv(&away, &world.store());
    assert_good(&mount, &id, 2);
}

fn run_mv(from: &Path, to: &Path) {
    crate::world::run("mv", [from, to]).ok();
}

#[test]
fn damaged_metadata_is_eio_until_it_is_mended() {
    let Some(world) = World::new() else { return };
    let id = eight_blocks(&world);
    let trees = world.store().join("trees");
    let away = world.path("trees");
    run_mv(&trees, &away);
    let mount = world.mount(&[&id]);
    assert_eq!(mount.names(), [format!("{id}.img")]);
    assert_eio(read(&mount, &id, 3));
    let disk = File::open(mount.disk(&id)).unwrap();
    let seek = rustix::fs::seek(&disk, rustix::fs::SeekFrom::Data(0));
    assert_eq!(seek, Err(Errno::IO));
    let log = mount.log();
    assert!(log.contains("tree object") && log.contains(&id), "{log}");
    run_mv(&away, &trees);
    assert_good(&mount, &id, 3);
}

#[test]
fn partitions_appear_once_their_table_can_be_read() {
    let Some(world) = World::new() else { return };
    // An MBR whose one entry begins at sector 2 and has 6.
    let mut first = random_block(0);
    first[446..510].fill(0);
    first[450] = 0x83;
    first[454] = 2;
    first[458] = 6;
    first[510..512].copy_from_slice(&[0x55, 0xaa]);
    let id = snapshot(&world, 1, [(0, first.clone())]);
    let trees = world.store().join("trees");
    let away = world.path("trees");
    run_mv(&trees, &away);
    let mount = world.mount(&[&id]);
    assert_eq!(mount.names(), [format!("{id}.img")]);
    run_mv(&away, &trees);
    assert_eq!(mount.names(), [format!("{id}.img"), format!("{id}.p1.img")]);
    assert!(fs::read(mount.part(&id, 1)).unwrap() == first[1024..4096]);
}

#[test]
fn a_reader_waits_for_a_stopped_daemon_and_succeeds() {
    let Some(world) = World::new() else { return };
    let id = eight_blocks(&world);
    let mount = world.mount(&[&id]);
    assert!(mount.disk(&id).exists());
    mount.signal(Signal::STOP);
    let (tell, told) = mpsc::channel();
    let disk = mount.disk(&id);
    let reader = thread::spawn(move || tell.send(read_direct(&disk, 5 * BLOCK, BLOCK)));
    let early = told.recv_timeout(Duration::from_millis(300));
    assert_eq!(early.map(drop), Err(RecvTimeoutError::Timeout));
    mount.signal(Signal::CONT);
    let read = told.recv_timeout(Duration::from_secs(20)).unwrap().unwrap();
    assert!(read == random_block(5));
    reader.join().unwrap().unwrap();
}

#[test]
fn readers_of_a_daemon_that_is_killed_get_an_error_and_do_not_hang() {
    let Some(world) = World::new() else { return };
    let id = eight_blocks(&world);
    let mount = world.mount(&[&id]);
    let open = File::open(mount.disk(&id)).unwrap();
    mount.signal(Signal::STOP);
    let reader = thread::spawn(move || open.read_exact_at(&mut [0; 4096], 5 * BLOCK));
    thread::sleep(Duration::from_millis(100));
    mount.signal(Signal::KILL);
    eventually("the reader returns", || reader.is_finished().then_some(()));
    assert!(reader.join().unwrap().is_err());
}
