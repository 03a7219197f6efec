//! Memory of a daemon with an overlay: its cache and 64 MiB, whatever is written, committed and read back.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::thread;

use rustix::fs::fsync;

use super::remote::client;
use crate::images::{BLOCK, Disk, GIB, MIB, random_block};
use crate::kernel::memory;
use crate::program::id_of;
use crate::serving::Server;
use crate::world::{Mount, World};

/// Those who write, and then read, at one time. Each has every sixth block.
const USERS: u64 = 6;
/// Blocks of each of them: 600 MiB in all.
const BLOCKS: u64 = 204;
/// What is written of every block, from within a page on, so that each has to be fetched to be merged.
const FROM: u64 = 4100;
const LEN: u64 = BLOCK - 2 * FROM;

fn parent(index: u64) -> Vec<u8> {
    random_block((1 << 32) | index)
}

fn written(index: u64) -> Vec<u8> {
    let mut bytes = random_block((2 << 32) | index);
    bytes.truncate(LEN as usize);
    bytes
}

/// Lets all do `work` with their blocks.
fn by_all(work: impl Fn(u64) + Sync) {
    thread::scope(|scope| {
        for user in 0..USERS {
            let work = &work;
            scope.spawn(move || (0..BLOCKS).for_each(|nth| work(nth * USERS + user)));
        }
    });
}

#[test]
fn memory_stays_within_a_small_cache_and_64_mib_while_a_disk_is_written_committed_and_read() {
    write_commit_and_read(16);
}

#[test]
fn memory_stays_within_a_larger_cache_and_64_mib_while_a_disk_is_written_committed_and_read() {
    write_commit_and_read(64);
}

fn write_commit_and_read(cache: u64) {
    let Some(world) = World::new() else { return };
    let cache_size = format!("{cache}M");
    let image = Disk::new(world.path("disk.img"), GIB).blocks(0, USERS * BLOCKS, 1);
    let id = world.import(image.path());
    let server = Server::start(world.dir(), &[]);
    let at = world.empty("mounted");
    let place = at.to_str().unwrap();
    let options = ["--overlay", "overlay", "--cache-size", &cache_size];
    client(
        &world,
        &server,
        &[&["mount", &id, place], &options[..]].concat(),
    )
    .ok();
    let mount = Mount::at(at.clone());
    let most = |when: &str| {
        let most = memory(mount.pid, "VmHWM");
        eprintln!("cache of {cache} MiB, {when}: at most {} MiB", most / MIB);
        assert!(most <= (cache + 64) * MIB, "{} MiB {when}", most / MIB);
    };
    let file = File::options()
        .read(true)
        .write(true)
        .open(mount.disk(&id))
        .unwrap();
    by_all(|index| {
        let bytes = written(index);
        file.write_all_at(&bytes, index * BLOCK + FROM).unwrap();
    });
    fsync(&file).unwrap();
    most("written");
    let child = id_of(&client(&world, &server, &["commit", "--wait", place]).ok());
    assert_ne!(child, id);
    most("committed");
    // Past what the kernel has kept.
    let disk = crate::oracle::open_direct(&mount.disk(&id));
    by_all(|index| {
        let mut expected = parent(index);
        let range = FROM as usize..(FROM + LEN) as usize;
        expected[range].copy_from_slice(&written(index));
        let mut found = vec![0; BLOCK as usize];
        disk.read_exact_at(&mut found, index * BLOCK).unwrap();
        assert!(found == expected, "block {index}");
    });
    most("read");
    drop((file, disk));
    world.unmount(&mount);
}
