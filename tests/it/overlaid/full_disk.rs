//! No room left for the overlay: the write that finds none says so, and nothing else suffers.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt as _;

use rustix::fs::fdatasync;

use super::Overlaid;
use crate::devices::Mounted;
use crate::images::{MIB, random_block};
use crate::world::{World, run};

#[test]
fn a_full_disk_is_told_by_the_write_and_work_goes_on_when_there_is_room() {
    let Some(world) = World::for_root() else {
        return;
    };
    let small = Mounted::ext4(&world.path("small.fs"), 96 * MIB, &world.path("small"));
    fs::write(world.path("small/ballast"), vec![1; 40 << 20]).unwrap();
    let id = {
        let image = crate::images::Disk::new(world.path("disk.img"), crate::images::GIB);
        world.import(image.path())
    };
    let overlay = world.path("small/overlay");
    let options = ["--overlay", overlay.to_str().unwrap()];
    let mount = world.mount_with(&[&id], &options);
    let open = || {
        let mut options = fs::OpenOptions::new();
        options
            .read(true)
            .write(true)
            .open(mount.disk(&id))
            .unwrap()
    };
    let file = open();
    let block = |index: u64| random_block(index)[..64 << 10].to_vec();
    let at = |index: u64| index * MIB / 2;
    let mut written = 0;
    let full = loop {
        match file.write_all_at(&block(written), at(written)) {
            Ok(()) => {
                // Every write that was taken can be made durable.
                fdatasync(&file).unwrap();
                written += 1;
            }
            Err(e) => break e,
        }
        assert!(written < 2000, "the disk does not get full");
    };
    assert_eq!(full.kind(), ErrorKind::StorageFull);
    assert!(written > 100, "{written}");
    fdatasync(&file).unwrap();
    let check = |count: u64| {
        let file = open();
        for index in 0..count {
            let mut found = vec![0; 64 << 10];
            file.read_exact_at(&mut found, at(index)).unwrap();
            assert!(found == block(index), "write {index}");
        }
    };
    run("sh", ["-c", "echo 1 > /proc/sys/vm/drop_caches"]).ok();
    check(written);
    // Overwriting needs no room.
    file.write_all_at(&block(0), at(0)).unwrap();
    fdatasync(&file).unwrap();

    fs::remove_file(world.path("small/ballast")).unwrap();
    for index in written..written + 200 {
        file.write_all_at(&block(index), at(index)).unwrap();
    }
    fdatasync(&file).unwrap();
    drop(file);
    check(written + 200);
    world.unmount(&mount);
    let mount = world.mount_with(&[&id], &options);
    let file = fs::File::open(mount.disk(&id)).unwrap();
    let mut found = vec![0; 64 << 10];
    file.read_exact_at(&mut found, at(written + 199)).unwrap();
    assert!(found == block(written + 199));
    drop(file);
    world.unmount(&mount);
    drop(small);
}

#[test]
fn an_overlay_is_refused_for_another_snapshot_and_while_it_is_in_use() {
    let Some(world) = World::new() else { return };
    let disk = Overlaid::empty(&world, 1);
    disk.write(0, b"mine");
    let other = {
        let image = crate::images::Disk::new(world.path("other.img"), crate::images::GIB);
        world.import(image.block(0, 1).path())
    };
    let at = world.empty("second");
    let mount = |id: &str| {
        let arguments = ["mount", id, at.to_str().unwrap(), "--overlay", "overlay"];
        world.ebsfs(arguments)
    };
    let id = disk.id.clone();
    let busy = mount(&id);
    busy.refused(2, &["overlay", disk.mount.dir.to_str().unwrap()]);
    disk.unmount();
    mount(&other).refused(2, &["overlay", &id, &other]);
    // As it was.
    let disk = Overlaid::over(&world, &id);
    let mut found = [0; 4];
    disk.open().read_exact_at(&mut found, 0).unwrap();
    assert_eq!(&found, b"mine");
}
