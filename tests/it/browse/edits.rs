//! Edited in an overlay of the user's, committed, and browsed again.

use std::fs;

use super::{Browsed, Origin, file_system, simple};
use crate::overlaid::assert_exports;
use crate::program::id_of;
use crate::world::World;

#[test]
fn an_edit_is_kept_committed_and_browsed_in_the_child() {
    let Some(world) = World::for_root() else {
        return;
    };
    let id = simple(&world);
    let before = world.path("before.img");
    world.ebsfs(["export", &id, before.to_str().unwrap()]).ok();
    let browsed = Browsed::new(&world, "files");
    browsed.begin(&id, &["--rw", "--overlay", "edits"]).ok();
    let options = browsed.options();
    for option in ["rw", "nosuid", "nodev", "noexec"] {
        assert!(options.contains(option), "{options}");
    }
    fs::write(browsed.at.join("new"), "edited").unwrap();
    browsed.end();
    assert!(world.path("edits/overlay").exists(), "the overlay stays");
    let child = id_of(&world.ebsfs(["commit", "edits"]).ok());
    browsed.begin(&child, &[]).ok();
    assert_eq!(fs::read(browsed.at.join("new")).unwrap(), b"edited");
    assert_eq!(fs::read(browsed.at.join("here")).unwrap(), b"text");
    browsed.end();
    assert_exports(&world, &id, &before);
    // It goes on from there.
    browsed
        .begin(&child, &["--rw", "--overlay", "edits", "-o", "exec"])
        .ok();
    assert!(
        !browsed.options().contains("noexec"),
        "{}",
        browsed.options()
    );
    assert_eq!(fs::read(browsed.at.join("new")).unwrap(), b"edited");
    browsed.end();
}

#[test]
fn what_is_browsed_is_committed_by_its_directory_and_frozen_for_it() {
    let Some(world) = World::for_root() else {
        return;
    };
    let image = file_system(&world, "origin.img", "xfs");
    let origin = Origin::mount(&world, &image);
    origin.write("here", "text");
    origin.umount();
    let id = world.import(&image);
    let browsed = Browsed::new(&world, "files");
    browsed.begin(&id, &["--rw", "--overlay", "edits"]).ok();
    fs::write(browsed.at.join("new"), "edited").unwrap();
    let at = browsed.at.to_str().unwrap();
    // The overlay is in use, and told by the name that the user has for it.
    world
        .ebsfs(["commit", "edits"])
        .refused(2, &["ebsfs commit", at]);
    let said = world.ebsfs(["commit", at, "--freeze", at]);
    assert!(!said.err.contains("power failure"), "{said:?}");
    let child = id_of(&said.ok());
    fs::write(browsed.at.join("later"), "edited").unwrap();
    browsed.end();
    // It was clean: what is in no journal needs none.
    browsed.begin(&child, &["--no-replay"]).ok();
    assert_eq!(fs::read(browsed.at.join("new")).unwrap(), b"edited");
    assert!(!browsed.at.join("later").exists());
    browsed.end();
}

#[test]
fn a_mount_for_writing_without_an_overlay_of_ones_own_is_refused() {
    let Some(world) = World::for_root() else {
        return;
    };
    let browsed = Browsed::new(&world, "files");
    browsed
        .begin("snap-01", &["--rw"])
        .refused(2, &["--overlay"]);
    browsed
        .begin("snap-01", &["--overlay", "edits"])
        .refused(2, &["--rw"]);
    browsed
        .begin("snap-01", &["-o", "noatime,rw"])
        .refused(2, &["--rw --overlay DIR"]);
    browsed
        .begin("snap-01", &["--rw", "--overlay", "edits", "--no-replay"])
        .refused(2, &["--no-replay"]);
    browsed.assert_gone();
}
