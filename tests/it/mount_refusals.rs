//! What cannot be mounted is refused at once, with the reason and the remedy, and leaves nothing behind.

use std::fs;

use crate::kernel::mounts_below;
use crate::oracle::{pending, random_block, snapshot};
use crate::world::{Said, World};

/// Tries to mount, which must leave neither a mount nor a process.
fn try_mount(world: &World, args: &[&str]) -> Said {
    let before = (mounts_below(world.dir()), world.daemons());
    let said = world.ebsfs([&["mount"], args].concat());
    assert_eq!((mounts_below(world.dir()), world.daemons()), before);
    said
}

fn one_block(world: &World) -> String {
    snapshot(world, 1, [(3, random_block(3))])
}

#[test]
fn mount_points_that_cannot_be_used_are_refused() {
    let Some(world) = World::new() else { return };
    let id = one_block(&world);
    world.empty("mnt");
    fs::write(world.path("file"), "").unwrap();
    fs::write(world.empty("full").join("x"), "").unwrap();
    try_mount(&world, &[&id, "missing"]).refused(3, &["missing", "mkdir missing"]);
    try_mount(&world, &[&id, "file"]).refused(2, &["file is not a directory"]);
    try_mount(&world, &[&id, "full"]).refused(2, &["full is not empty"]);
    try_mount(&world, &[&id]).refused(2, &["name a mount point"]);
    let mount = world.mount(&[&id]);
    let at = mount.dir.to_str().unwrap();
    try_mount(&world, &[&id, at]).refused(2, &["already mounted", "ebsfs umount"]);
    assert!(mount.disk(&id).exists());
}

#[test]
fn snapshots_that_cannot_be_shown_are_refused() {
    let Some(world) = World::new() else { return };
    let id = one_block(&world);
    let unfinished = pending(&world).to_string();
    world.empty("mnt");
    let unknown = "snap-0123456789abcdef0";
    try_mount(&world, &[unknown, "mnt"]).refused(3, &[unknown, "ebsfs list"]);
    try_mount(&world, &[&id, unknown, "mnt"]).refused(3, &[unknown]);
    try_mount(&world, &["snap-XYZ", "mnt"]).refused(2, &["snap-XYZ", "hexadecimal"]);
    try_mount(&world, &["../store", "mnt"]).refused(2, &["not a snapshot id"]);
    try_mount(&world, &[&unfinished, "mnt"]).refused(2, &[&unfinished, "pending"]);
    fs::remove_dir(world.path("mnt")).unwrap();
}

#[test]
fn a_store_that_cannot_be_read_is_refused() {
    let Some(world) = World::new() else { return };
    world.empty("mnt");
    try_mount(&world, &["mnt"]).refused(3, &["no store at", "ebsfs --store"]);
    fs::write(world.store(), "a file").unwrap();
    try_mount(&world, &["mnt"]).refused(2, &["is a file"]);
    fs::remove_file(world.store()).unwrap();
    let id = one_block(&world);
    fs::write(world.store().join("format"), "nonsense").unwrap();
    let said = try_mount(&world, &[&id, "mnt"]);
    said.refused(5, &["format"]);
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let Some(world) = World::new() else { return };
    let id = one_block(&world);
    world.empty("mnt");
    for (size, word) in [
        ("0", "1MiB"),
        ("12", "1MiB"),
        ("1X", "unit"),
        ("-1", "cache-size"),
    ] {
        let option = format!("--cache-size={size}");
        try_mount(&world, &[&option, &id, "mnt"]).refused(2, &[word]);
    }
    let said = try_mount(&world, &["--log-file", "/proc/none/log", &id, "mnt"]);
    assert!(!matches!(said.code, Some(0) | None), "{said:?}");
    assert!(said.err.contains("/proc/none"), "{said:?}");
}
