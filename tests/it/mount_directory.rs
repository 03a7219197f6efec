//! The mounted directory: names, attributes, what cannot be done in it, and the files in `.ebsfs`.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, UNIX_EPOCH};

use ebsfs::snapshot::SnapshotInfo;
use rustix::fs::{Advice, StatVfsMountFlags};
use rustix::io::Errno;
use serde_json::Value;

use crate::oracle::{
    BLOCK, GIB, MIB, assert_disk, fixture, pending, random_block, read_direct, snapshot, sparse,
};
use crate::world::{World, eventually};

#[track_caller]
fn assert_fails<T>(errno: Errno, result: std::io::Result<T>) {
    match result {
        Ok(_) => panic!("should fail with {errno}"),
        Err(e) => assert_eq!(e.raw_os_error(), Some(errno.raw_os_error()), "{e}"),
    }
}

fn blocks(indexes: &[u32]) -> Vec<(u32, Vec<u8>)> {
    let block = |index: &u32| (*index, random_block(u64::from(*index)));
    indexes.iter().map(block).collect()
}

#[test]
fn attributes_are_those_of_a_read_only_image_of_its_owner() {
    let Some(world) = World::new() else { return };
    let id = snapshot(&world, 1, blocks(&[0, 7]));
    let mount = world.mount(&[&id]);
    let meta = fs::metadata(mount.disk(&id)).unwrap();
    assert_eq!(meta.mode(), 0o100_400);
    assert_eq!(meta.uid(), rustix::process::geteuid().as_raw());
    assert_eq!(meta.gid(), rustix::process::getegid().as_raw());
    assert_eq!(meta.len(), GIB);
    assert_eq!(meta.nlink(), 1);
    let said = world.ebsfs(["info", &id, "--json"]).ok();
    let info: SnapshotInfo = serde_json::from_str(&said).unwrap();
    let started = info.start_time.unwrap().as_second();
    assert_eq!([meta.mtime(), meta.ctime(), meta.atime()], [started; 3]);
    assert!(meta.modified().unwrap() > UNIX_EPOCH + Duration::from_secs(1 << 30));
    assert!((1..GIB / 512).contains(&meta.blocks()), "{}", meta.blocks());
    // Once everything is listed the number is exact.
    read_direct(&mount.disk(&id), 0, BLOCK).unwrap();
    let exact = || fs::metadata(mount.disk(&id)).unwrap().blocks() == 2 * BLOCK / 512;
    eventually("st_blocks tells of two blocks", || exact().then_some(()));

    let dir = fs::metadata(&mount.dir).unwrap();
    assert_eq!(dir.mode(), 0o040_500);
    assert_eq!(dir.uid(), rustix::process::geteuid().as_raw());
    let statfs = rustix::fs::statvfs(mount.disk(&id)).unwrap();
    assert_eq!((statfs.f_bsize, statfs.f_frsize), (4096, 4096));
    assert_eq!(statfs.f_blocks, GIB / 4096);
    assert_eq!(statfs.f_bfree, 0);
    let flags = StatVfsMountFlags::RDONLY | StatVfsMountFlags::NOSUID | StatVfsMountFlags::NODEV;
    assert!(statfs.f_flag.contains(flags), "{:?}", statfs.f_flag);
}

#[test]
fn nothing_can_be_written_made_or_removed() {
    let Some(world) = World::new() else { return };
    let id = snapshot(&world, 1, blocks(&[0]));
    let mount = world.mount(&[&id]);
    let (disk, new) = (mount.disk(&id), mount.dir.join("new"));
    assert_fails(Errno::ROFS, OpenOptions::new().write(true).open(&disk));
    assert_fails(Errno::ROFS, OpenOptions::new().append(true).open(&disk));
    assert_fails(Errno::ROFS, File::create(&new));
    assert_fails(Errno::ROFS, fs::create_dir(&new));
    assert_fails(Errno::ROFS, fs::remove_file(&disk));
    assert_fails(Errno::ROFS, std::os::unix::fs::symlink("x", &new));
    assert_fails(Errno::ROFS, fs::hard_link(&disk, &new));
    let truncating = OpenOptions::new().write(true).truncate(true).open(&disk);
    assert_fails(Errno::ROFS, truncating);
    assert_eq!(rustix::fs::chmod(&disk, 0o777.into()), Err(Errno::ROFS));
    assert_eq!(fs::metadata(&disk).unwrap().len(), GIB);
}

#[test]
fn a_mount_of_the_whole_store_shows_snapshots_as_they_come() {
    let Some(world) = World::new() else { return };
    let first = snapshot(&world, 1, blocks(&[1]));
    let mount = world.mount(&[]);
    assert_eq!(mount.names(), [format!("{first}.img")]);
    let second = snapshot(&world, 1, blocks(&[2]));
    let mut both = [format!("{first}.img"), format!("{second}.img")];
    both.sort();
    assert_eq!(mount.names(), both);
    let read = read_direct(&mount.disk(&second), 2 * BLOCK, BLOCK).unwrap();
    assert!(read == random_block(2));
    // One that is not complete is not there.
    let unfinished = pending(&world).to_string();
    assert_eq!(mount.names(), both);
    assert!(fs::metadata(mount.disk(&unfinished)).is_err());
}

#[test]
fn a_snapshot_that_was_not_named_opens_when_its_name_is_looked_up() {
    let Some(world) = World::new() else { return };
    let named = snapshot(&world, 1, blocks(&[1]));
    let mount = world.mount(&[&named]);
    let fixture = fixture("mbr63");
    let other = world.import(&fixture.image);
    assert!(mount.part(&other, 1).exists());
    assert_disk(&mount.disk(&other), &fixture.image);
    assert_eq!(mount.names(), [format!("{named}.img")], "it is not listed");
}

#[test]
fn other_names_are_not_found_and_nothing_outside_is_reached() {
    let Some(world) = World::new() else { return };
    let id = snapshot(&world, 1, blocks(&[1]));
    fs::write(world.path("secret.img"), "x").unwrap();
    let mount = world.mount(&[&id]);
    for name in [
        "snap-ZZ.img",
        "snap-0.p99.img",
        "snap-.img",
        &id,
        &format!("{id}.p1.img"),
        &format!("{id}.p0.img"),
        &format!("{id}.IMG"),
        &format!("{id}.img "),
        "..\\secret.img",
        "%2e%2e%2fsecret.img",
        "snap-..%2f.img",
        "autorun.inf",
        &"a".repeat(255),
        ".ebsfs/none",
    ] {
        assert_fails(Errno::NOENT, fs::metadata(mount.dir.join(name)));
    }
    let through = mount.dir.join(format!("{id}.img/../secret.img"));
    assert_fails(Errno::NOTDIR, fs::metadata(through));
    // `..` is the kernel's: it leads to the directory around the mount.
    assert!(mount.dir.join("../secret.img").exists());
}

#[test]
fn control_files_tell_of_the_mount() {
    let Some(world) = World::new() else { return };
    let id = snapshot(&world, 1, blocks(&[0]));
    let mount = world.mount(&[&id]);
    assert!(!mount.names().contains(&".ebsfs".to_owned()));
    let control = mount.dir.join(".ebsfs");
    let mut names: Vec<_> = fs::read_dir(&control)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["log", "mount.json", "socket", "stats.json"]);
    assert_eq!(fs::metadata(&control).unwrap().mode(), 0o040_500);
    let json = |name: &str| -> Value {
        serde_json::from_str(&fs::read_to_string(control.join(name)).unwrap()).unwrap()
    };
    let about = json("mount.json");
    assert_eq!(about["mountpoint"], mount.dir.to_str().unwrap());
    assert!(about["store"].as_str().unwrap().starts_with("directory:"));
    let log = fs::read_link(control.join("log")).unwrap();
    assert_eq!(about["log_file"], log.to_str().unwrap());
    assert!(log.starts_with(world.path("state")), "{}", log.display());
    assert_eq!(fs::metadata(&log).unwrap().mode() & 0o777, 0o600);
    assert_eq!(json("stats.json")["cache"]["capacity"], 256 * MIB);
    assert_fails(Errno::ROFS, File::create(control.join("mount.json")));
}

#[test]
fn counters_tell_reads_hits_fetches_and_bytes_of_each_snapshot() {
    let Some(world) = World::new() else { return };
    let (id, idle) = (
        snapshot(&world, 1, blocks(&[0, 5, 9])),
        snapshot(&world, 1, blocks(&[1])),
    );
    let mount = world.mount(&[&id, &idle]);
    let disk = mount.disk(&id);
    let count = |name: &str| mount.count(&id, name);
    let before = (
        count("fetches"),
        mount.count(&idle, "fetches"),
        mount.count(&idle, "reads"),
    );
    let (reads, bytes) = (count("reads"), count("bytes"));

    assert!(read_direct(&disk, 5 * BLOCK, BLOCK).unwrap() == random_block(5));
    assert_eq!(count("fetches"), before.0 + 1);
    assert_eq!(count("bytes"), bytes + BLOCK);
    assert!(count("reads") > reads);
    let (hits, fetches) = (count("hits"), count("fetches"));
    assert!(read_direct(&disk, 5 * BLOCK, BLOCK).unwrap() == random_block(5));
    assert!(count("hits") > hits, "the second read hits");
    assert_eq!(count("fetches"), fetches, "and fetches nothing");

    // The same through the page cache, once that has forgotten.
    let file = File::open(&disk).unwrap();
    let mut buffer = vec![0; 4096];
    file.read_exact_at(&mut buffer, 9 * BLOCK).unwrap();
    let (hits, fetches) = (count("hits"), count("fetches"));
    assert_eq!(fetches, before.0 + 2);
    rustix::fs::fadvise(&file, 0, None, Advice::DontNeed).unwrap();
    file.read_exact_at(&mut buffer, 9 * BLOCK).unwrap();
    assert!(count("hits") > hits);
    assert_eq!(count("fetches"), fetches);

    // Absent blocks are zeros for nothing.
    let zeros = read_direct(&disk, 100 * BLOCK, 8 * BLOCK).unwrap();
    assert!(zeros.iter().all(|byte| *byte == 0));
    assert_eq!(count("fetches"), fetches);
    assert_eq!(count("errors"), 0);
    let idle_now = (mount.count(&idle, "fetches"), mount.count(&idle, "reads"));
    assert_eq!(
        idle_now,
        (before.1, before.2),
        "the other snapshot was not read"
    );
}

#[test]
fn many_readers_of_one_block_make_one_fetch() {
    let Some(world) = World::new() else { return };
    let indexes: Vec<u32> = (1..40).collect();
    let id = snapshot(&world, 1, blocks(&indexes));
    let mount = world.mount(&[&id]);
    let before = mount.count(&id, "fetches");
    let barrier = Barrier::new(12);
    thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| {
                for index in &indexes {
                    barrier.wait();
                    let at = u64::from(*index) * BLOCK;
                    let read = read_direct(&mount.disk(&id), at, BLOCK).unwrap();
                    assert!(read == random_block(u64::from(*index)), "block {index}");
                }
            });
        }
    });
    assert_eq!(mount.count(&id, "fetches") - before, indexes.len() as u64);
}

#[test]
fn a_second_read_of_a_kept_page_does_not_reach_the_program() {
    let Some(world) = World::new() else { return };
    let image = world.path("image");
    sparse(&image, 2 * MIB, Some(0..2 * MIB), 31);
    let id = world.import(&image);
    let mount = world.mount(&[&id]);
    let read = |path: &Path| {
        let mut bytes = vec![0; MIB as usize];
        File::open(path)
            .unwrap()
            .read_exact_at(&mut bytes, 0)
            .unwrap();
        bytes
    };
    let first = read(&mount.disk(&id));
    // Read-ahead may still be under way.
    let mut reads = mount.count(&id, "reads");
    eventually("reads come to rest", || {
        let before = std::mem::replace(&mut reads, mount.count(&id, "reads"));
        (before == reads).then_some(())
    });
    assert!(read(&mount.disk(&id)) == first);
    assert_eq!(
        mount.count(&id, "reads"),
        reads,
        "the page cache is kept between opens"
    );
}
