//! File systems inside mounted images, mounted in turn: every file is what it was.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use crate::oracle::fixture;
use crate::world::{World, finish, limited, run, umount};

/// Mounts `file` and checks the lines of `manifest` whose paths begin with `prefix`, without it.
fn holds_every_file(world: &World, file: &Path, options: &str, manifest: &Path, prefix: &str) {
    let at = world.empty(&format!("inner{}", prefix.trim_end_matches('/')));
    mount_inner(file, options, &at);
    check(world, &at, manifest, prefix);
    umount(&at);
}

fn mount_inner(file: &Path, options: &str, at: &Path) {
    let options = OsStr::new(options);
    run(
        "mount",
        [OsStr::new("-o"), options, file.as_os_str(), at.as_os_str()],
    )
    .ok();
}

fn check(world: &World, at: &Path, manifest: &Path, prefix: &str) {
    let all = fs::read_to_string(manifest).unwrap();
    let ours: Vec<_> = all
        .lines()
        .filter_map(|line| line.split_once("  "))
        .filter_map(|(sum, path)| Some(format!("{sum}  {}\n", path.strip_prefix(prefix)?)))
        .collect();
    assert!(ours.len() > 300, "{} files", ours.len());
    let list = world.path("list");
    fs::write(&list, ours.concat()).unwrap();
    let mut sums = limited("sha256sum");
    sums.args(["--check", "--strict", "--quiet"]).arg(&list);
    finish(sums.current_dir(at)).ok();
}

#[test]
fn an_ext4_partition_mounts_and_every_file_is_the_same() {
    let Some(world) = World::for_root() else {
        return;
    };
    let fixture = fixture("gpt");
    let id = world.import(&fixture.image);
    let mount = world.mount(&[&id]);
    let file = mount.part(&id, 1);
    holds_every_file(&world, &file, "loop,ro,noload", &fixture.manifest, "p1/");
}

#[test]
fn an_xfs_partition_mounts_and_every_file_is_the_same() {
    let Some(world) = World::for_root() else {
        return;
    };
    let fixture = fixture("gpt");
    let id = world.import(&fixture.image);
    let mount = world.mount(&[&id]);
    let options = "loop,ro,norecovery,nouuid";
    holds_every_file(
        &world,
        &mount.part(&id, 2),
        options,
        &fixture.manifest,
        "p2/",
    );
}

#[test]
fn a_btrfs_image_mounts_and_every_file_is_the_same() {
    let Some(world) = World::for_root() else {
        return;
    };
    let fixture = fixture("btrfs");
    let id = world.import(&fixture.image);
    let mount = world.mount(&[&id]);
    holds_every_file(&world, &mount.disk(&id), "loop,ro", &fixture.manifest, "");
}

#[test]
fn a_partition_that_starts_at_sector_63_mounts_and_every_file_is_the_same() {
    let Some(world) = World::for_root() else {
        return;
    };
    let fixture = fixture("mbr63");
    let id = world.import(&fixture.image);
    let mount = world.mount(&[&id]);
    let file = mount.part(&id, 1);
    holds_every_file(&world, &file, "loop,ro,noload", &fixture.manifest, "p1/");
}

#[test]
fn a_logical_partition_mounts_and_every_file_is_the_same() {
    let Some(world) = World::for_root() else {
        return;
    };
    let fixture = fixture("logical");
    let id = world.import(&fixture.image);
    let mount = world.mount(&[&id]);
    let options = "loop,ro,norecovery,nouuid";
    holds_every_file(
        &world,
        &mount.part(&id, 5),
        options,
        &fixture.manifest,
        "p5/",
    );
}

#[test]
fn a_loop_device_may_go_past_the_page_cache() {
    let Some(world) = World::for_root() else {
        return;
    };
    let fixture = fixture("ext4");
    let id = world.import(&fixture.image);
    let mount = world.mount(&[&id]);
    let device = world.attach(&mount.disk(&id), &["--direct-io=on"]);
    let name = device.trim_start_matches("/dev/");
    let dio = fs::read_to_string(format!("/sys/block/{name}/loop/dio")).unwrap();
    assert_eq!(dio, "1\n", "direct I/O is on");
    holds_every_file(
        &world,
        Path::new(&device),
        "ro,noload",
        &fixture.manifest,
        "",
    );
}
