//! What is refused before anything is made.

use std::fs;

use super::{Browsed, simple};
use crate::program::Sandbox;
use crate::world::World;

#[test]
fn an_ordinary_user_is_told_of_the_way_without_the_kernel() {
    if !crate::world::is_root() {
        return;
    }
    let sandbox = Sandbox::new();
    let ran = sandbox.run_as_nobody(&["browse", "snap-01", "/tmp"]);
    ran.fails(4, &["root only", "ebsfs ls", "ebsfs cat", "ebsfs cp"]);
    assert!(!sandbox.path("nobody/.local").exists());
}

#[test]
fn a_directory_that_is_none_or_not_empty_or_taken_is_refused() {
    let Some(world) = World::for_root() else {
        return;
    };
    let id = simple(&world);
    let browsed = Browsed::new(&world, "files");
    fs::write(browsed.at.join("mine"), "").unwrap();
    browsed.begin(&id, &[]).refused(2, &["not empty"]);
    fs::remove_file(browsed.at.join("mine")).unwrap();
    fs::remove_dir(&browsed.at).unwrap();
    browsed.begin(&id, &[]).refused(3, &["mkdir"]);
    fs::create_dir(&browsed.at).unwrap();
    browsed.assert_gone();
    browsed.begin(&id, &[]).ok();
    browsed.begin(&id, &[]).refused(2, &["ebsfs umount"]);
    assert_eq!(fs::read(browsed.at.join("here")).unwrap(), b"text");
    browsed.end();
}

#[test]
fn without_the_state_directory_of_its_user_umount_finds_it_all_the_same() {
    let Some(world) = World::for_root() else {
        return;
    };
    let id = simple(&world);
    let browsed = Browsed::new(&world, "files");
    browsed.begin(&id, &[]).ok();
    // As sudo may have it.
    let mut command = world.bare();
    command.env("XDG_STATE_HOME", world.path("elsewhere"));
    let said = crate::world::finish(command.arg("umount").arg(&browsed.at));
    assert_eq!(said.code, Some(0), "{said:?}");
    browsed.assert_gone();
}
