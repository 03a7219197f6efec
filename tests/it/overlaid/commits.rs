//! Commits of a mounted disk: a point in time, one child after another, and exactly what was edited.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use ebsfs::block::BlockIndex;
use ebsfs::store::Store as _;
use ebsfs::store::directory::DirectoryStore;
use rustix::fs::{FallocateFlags, fallocate};

use super::{Overlaid, assert_equal, assert_exports};
use crate::images::{BLOCK, Disk, GIB, random_block};
use crate::program::Running;
use crate::world::{World, run, umount};

/// A copy of the disk as it is now.
fn copy(world: &World, disk: &Overlaid, name: &str) -> PathBuf {
    let path = world.path(name);
    run(
        "cp",
        [
            "--sparse=always",
            disk.disk.to_str().unwrap(),
            path.to_str().unwrap(),
        ],
    )
    .ok();
    path
}

/// The blocks that the store tells to differ between two snapshots.
fn changed(world: &World, from: &str, to: &str) -> Vec<u32> {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let store = DirectoryStore::open(&world.store()).unwrap();
    let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
    let listing = runtime.block_on(store.changed(&from, &to, BlockIndex::ZERO));
    listing.unwrap().set.iter().map(BlockIndex::get).collect()
}

#[test]
fn each_commit_is_the_disk_of_its_time_and_holds_only_what_was_edited() {
    let Some(world) = World::new() else { return };
    let image = Disk::new(world.path("disk.img"), GIB).blocks(0, 20, 7);
    let disk = Overlaid::of(&world, image.path());
    disk.write(3 * BLOCK + 5, b"first");
    disk.write(600 * BLOCK, &random_block(1));
    let file = disk.open();
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    // A whole block of the parent becomes zeros; where it has none, nothing changes.
    fallocate(&file, punch, 8 * BLOCK, BLOCK).unwrap();
    fallocate(&file, punch, 900 * BLOCK, 100 * BLOCK).unwrap();
    drop(file);
    let first_time = copy(&world, &disk, "first.img");
    let first = disk.commit(&["--description", "one"]);
    disk.write(3 * BLOCK + 5, b"later");
    disk.write(19 * BLOCK, &[0; 512 << 10]);
    // The same bytes as before: nothing to put.
    disk.write(5 * BLOCK, &random_block(7 << 32 | 5)[..8192]);
    let second_time = copy(&world, &disk, "second.img");
    let second = disk.commit(&[]);
    assert_exports(&world, &disk.id, image.path());
    assert_exports(&world, &first, &first_time);
    assert_exports(&world, &second, &second_time);
    assert_eq!(changed(&world, &disk.id, &first), [3, 8, 600]);
    assert_eq!(changed(&world, &first, &second), [3, 19]);
    // The mount goes on, and so does the overlay after it.
    assert_equal(&disk.disk, &second_time);
    disk.unmount();
    let disk = Overlaid::over(&world, &second);
    assert_equal(&disk.disk, &second_time);
}

#[test]
fn a_commit_under_load_is_a_point_in_time_and_writes_go_on() {
    let Some(world) = World::new() else { return };
    let disk = Overlaid::empty(&world, 1);
    // Two counters far apart, the second written after the first: at any moment they are equal, or the first is
    // one ahead.
    let (file, far) = (disk.open(), 777 * BLOCK);
    let stop = AtomicBool::new(false);
    let child = thread::scope(|scope| {
        let (file, stop) = (&file, &stop);
        let writer = scope.spawn(move || {
            let mut count = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                count += 1;
                let page = count.to_le_bytes().repeat(512);
                file.write_all_at(&page, 0).unwrap();
                file.write_all_at(&page, far).unwrap();
                // Work for the upload, so that it takes a while.
                let spread = count % 1500 * BLOCK + 65536;
                file.write_all_at(&page, spread).unwrap();
            }
            count
        });
        thread::sleep(std::time::Duration::from_millis(300));
        let child = disk.commit(&[]);
        stop.store(true, Ordering::Relaxed);
        assert!(writer.join().unwrap() > 100);
        child
    });
    let out = world.path("child.img");
    world.ebsfs(["export", &child, out.to_str().unwrap()]).ok();
    let file = fs::File::open(&out).unwrap();
    let counter = |offset| {
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, offset).unwrap();
        u64::from_le_bytes(bytes)
    };
    let (first, second) = (counter(0), counter(far));
    assert!(
        first > 0 && (first == second || first == second + 1),
        "{first} and {second}"
    );
}

#[test]
fn a_file_system_in_use_is_committed_as_a_crash_would_leave_it_and_frozen_as_a_clean_one() {
    let Some(world) = World::for_root() else {
        return;
    };
    let disk = Overlaid::empty(&world, 1);
    let device = disk.attach();
    run("mkfs.ext4", ["-q", "-F", &device]).ok();
    let tree = world.empty("tree");
    let tree_text = tree.to_str().unwrap();
    run("mount", [&*device, tree_text]).ok();
    // In threads, so that it ends with its process.
    let mut fio = Command::new("fio");
    fio.args(["--name=load", "--thread", "--rw=randwrite", "--bs=4k-64k"]);
    fio.args([
        "--size=64m",
        "--fsync=16",
        "--ioengine=psync",
        "--time_based",
    ]);
    fio.args(["--runtime=60", "--directory", tree_text]);
    fio.current_dir(world.dir());
    let mut fio = Running::start(fio);
    let stop = AtomicBool::new(false);
    let (crashed, frozen) = thread::scope(|scope| {
        let (stop, tree) = (&stop, &tree);
        scope.spawn(move || {
            let mut count = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                count += 1;
                fs::write(
                    tree.join((count % 200).to_string()),
                    count.to_string().repeat(3000),
                )
                .unwrap();
            }
        });
        thread::sleep(std::time::Duration::from_millis(300));
        let crashed = disk.commit(&[]);
        let frozen = disk.commit(&["--freeze", tree_text]);
        // It was thawed.
        fs::write(tree.join("after"), "after").unwrap();
        stop.store(true, Ordering::Relaxed);
        (crashed, frozen)
    });
    assert!(fio.runs(), "it wrote all the time");
    fio.kill();
    umount(&tree);
    for (id, repair) in [(&crashed, true), (&frozen, false)] {
        let out = world.path("child.img");
        world
            .ebsfs(["export", "--force", id, out.to_str().unwrap()])
            .ok();
        let out = out.to_str().unwrap();
        if repair {
            // 1: errors were corrected.
            let said = run("e2fsck", ["-fy", out]);
            assert!(matches!(said.code, Some(0 | 1)), "{said:?}");
        } else {
            // As `fsfreeze` leaves it: the journal needs no replay.
            let said = run("dumpe2fs", ["-h", out]).ok();
            assert!(!said.contains("needs_recovery"), "{said}");
        }
        run("e2fsck", ["-fn", out]).ok();
    }
}

#[test]
fn a_grown_disk_is_committed_with_its_new_size() {
    let Some(world) = World::new() else { return };
    let image = Disk::new(world.path("disk.img"), GIB).block(2047, 3);
    let id = world.import(image.path());
    let disk = Overlaid::with(&world, &id, &["--size", "3"]);
    assert_eq!(disk.disk.metadata().unwrap().len(), 3 * GIB);
    disk.write(3 * GIB - 4096, &[7; 4096]);
    disk.write(GIB + 100, b"over the old end");
    let now = copy(&world, &disk, "now.img");
    let child = disk.commit(&[]);
    assert_exports(&world, &child, &now);
    assert_equal(&disk.disk, &now);
    disk.unmount();
    let at = world.empty("smaller");
    let arguments = [
        "mount",
        &child,
        at.to_str().unwrap(),
        "--overlay",
        "overlay",
        "--size",
        "2",
    ];
    world.ebsfs(arguments).refused(2, &["3 GiB"]);
}
