//! `ebsfs export` to a block device.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use crate::devices::{Loop, Mounted};
use crate::images::{BLOCK, Disk, GIB, MIB, allocated, assert_same, random_block};
use crate::program::{Sandbox, is_root, tool};

fn with_snapshot() -> (Sandbox, String) {
    let sandbox = Sandbox::new();
    let disk = Disk::new(sandbox.path("disk.img"), GIB);
    drop(disk.block(4, 1).block(1000, 2).block(2047, 3));
    let id = sandbox.import(&["disk.img"]);
    (sandbox, id)
}

/// Compares what lies behind a device with the image.
fn assert_holds(sandbox: &Sandbox, backing: &str) {
    let [backing, image] =
        [backing, "disk.img"].map(|name| File::open(sandbox.path(name)).unwrap());
    assert_same(&backing, &image, GIB, "the device and the image");
}

#[test]
fn a_new_device_takes_the_volume_and_keeps_the_rest() {
    if !is_root("a_new_device_takes_the_volume_and_keeps_the_rest") {
        return;
    }
    let (sandbox, id) = with_snapshot();
    let backing = Disk::new(sandbox.path("backing"), GIB + 64 * MIB);
    let backing = backing
        .bytes(GIB, b"first of the rest")
        .bytes(GIB + 64 * MIB - 4, b"last");
    let device = Loop::over(backing.path());
    let ran = sandbox.run(&["export", &id, device.path()]);
    ran.succeeds_and_tells(&[device.path(), "larger than the volume", "1073741824 bytes"]);
    assert_holds(&sandbox, "backing");
    let mut rest = vec![0; 64 << 20];
    File::open(backing.path())
        .unwrap()
        .read_exact_at(&mut rest, GIB)
        .unwrap();
    assert!(rest.starts_with(b"first of the rest\0") && rest.ends_with(b"\0last"));
    assert!(sandbox.checkpoints().is_empty());
}

#[test]
fn a_device_that_is_too_small_is_refused_and_untouched() {
    if !is_root("a_device_that_is_too_small_is_refused_and_untouched") {
        return;
    }
    let (sandbox, id) = with_snapshot();
    let backing = Disk::new(sandbox.path("backing"), GIB - 4096);
    let device = Loop::over(backing.path());
    for force in ["--force", "--continue"] {
        let ran = sandbox.run(&["export", force, &id, device.path()]);
        ran.fails(2, &[device.path(), "needs 1 GiB", &id]);
    }
    assert_eq!(allocated(backing.path()), 0);
}

#[test]
fn a_used_device_is_refused_and_with_force_all_of_it_is_written() {
    if !is_root("a_used_device_is_refused_and_with_force_all_of_it_is_written") {
        return;
    }
    let (sandbox, id) = with_snapshot();
    let backing = Disk::new(sandbox.path("backing"), GIB).bytes(MIB - 1, b"x");
    // Old data in front of, between and behind the blocks of the snapshot.
    let old = [0, 3, 5, 500, 999, 1001, 2046];
    let backing = old
        .into_iter()
        .fold(backing, |disk, index| disk.block(index, 77));
    let device = Loop::over(backing.path());
    device.link(&sandbox.path("link"));
    let kept = sandbox.path("kept");
    std::fs::copy(backing.path(), &kept).unwrap();
    for name in [device.path(), "link"] {
        let ran = sandbox.run(&["export", &id, name]);
        ran.fails(2, &[device.path(), "holds something", "--force"]);
    }
    let [now, before] = [backing.path(), &kept].map(|path| File::open(path).unwrap());
    assert_same(&now, &before, GIB, "a device that was refused");

    sandbox
        .run(&["export", "--force", &id, "link"])
        .succeeds_silently();
    assert_holds(&sandbox, "backing");
    assert!(sandbox.path("link").is_symlink());
}

#[test]
fn a_device_that_ends_within_the_first_data_is_not_new() {
    if !is_root("a_device_that_ends_within_the_first_data_is_not_new") {
        return;
    }
    let (sandbox, id) = with_snapshot();
    // Where btrfs has its only mark.
    let backing = Disk::new(sandbox.path("backing"), GIB).bytes(64 << 10, b"_BHRfS_M");
    let device = Loop::over(backing.path());
    sandbox
        .run(&["export", &id, device.path()])
        .fails(2, &["holds something"]);
}

#[test]
fn a_mounted_device_is_refused_even_with_force() {
    if !is_root("a_mounted_device_is_refused_even_with_force") {
        return;
    }
    let (sandbox, id) = with_snapshot();
    let backing = Disk::new(sandbox.path("backing"), GIB);
    tool("mkfs.ext4", &["-q", backing.path().to_str().unwrap()]);
    let device = Loop::over(backing.path());
    let name = device.path().to_owned();
    let mounted = Mounted::device(device, &sandbox.path("mnt"));
    std::fs::write(sandbox.path("mnt/file"), random_block(5)).unwrap();
    let ran = sandbox.run(&["export", "--force", &id, &name]);
    ran.fails(2, &[&name, "is mounted or in use", "unmount it first"]);
    drop(mounted);
    let device = Loop::over(backing.path());
    tool("e2fsck", &["-fn", device.path()]);
    let mounted = Mounted::device(device, &sandbox.path("again"));
    assert_eq!(
        std::fs::read(sandbox.path("again/file")).unwrap(),
        random_block(5)
    );
    drop(mounted);
}

#[test]
fn a_device_without_a_note_is_not_continued_over_old_data() {
    if !is_root("a_device_without_a_note_is_not_continued_over_old_data") {
        return;
    }
    let (sandbox, id) = with_snapshot();
    let backing = Disk::new(sandbox.path("backing"), GIB).block(0, 77);
    let device = Loop::over(backing.path());
    let ran = sandbox.run(&["export", "--continue", &id, device.path()]);
    ran.fails(2, &["no interrupted export", "holds something"]);
    let mut head = vec![0; BLOCK as usize];
    File::open(backing.path())
        .unwrap()
        .read_exact_at(&mut head, 0)
        .unwrap();
    assert!(head == random_block(77));
}
