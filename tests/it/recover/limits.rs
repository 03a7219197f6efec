//! What a tree may ask for, and a destination that has no more room.

use std::fs;

use ebsfs::error::ErrorKind;
use ebsfs::filesystem::Extent;
use ebsfs::recover::{Limits, Trouble};
use tempfile::tempdir;

use super::faithful::names;
use super::paper::{ENOUGH, Paper, ROOT, plain, recover, recover_within};
use crate::world::{World, run};

#[track_caller]
fn ends(trouble: Result<(), Trouble>, word: &str) {
    let Err(Trouble::All(error)) = trouble else {
        panic!("it went on: {trouble:?}");
    };
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    assert!(format!("{error:#}").contains(word), "{error:#}");
}

#[test]
fn more_files_than_allowed_end_it() {
    let mut tree = Paper::new();
    for number in 0..100 {
        tree.file(ROOT, format!("f{number:02}"), b"x");
    }
    let to = tempdir().unwrap();
    let limits = Limits {
        files: 10,
        ..ENOUGH
    };
    let done = recover_within(&tree, to.path(), plain(), limits);
    ends(done.result, "--max-files");
    // The directory itself is one of them.
    assert_eq!(names(to.path()).len(), 9);
}

#[test]
fn more_bytes_than_allowed_end_it_before_they_are_written() {
    let mut tree = Paper::new();
    tree.file(ROOT, "a", &[1; 600]);
    let hole = tree.file(ROOT, "b", b"");
    tree.sheet(hole).metadata.size = 1 << 40;
    tree.sheet(hole).extents = Some(vec![]);
    // As if all blocks of a disk were in one file many times.
    let claims = tree.file(ROOT, "c", b"");
    tree.sheet(claims).metadata.size = 1 << 40;
    tree.sheet(claims).extents = Some(vec![Extent {
        range: 0..1 << 40,
        at: Some(0),
    }]);
    let to = tempdir().unwrap();
    let done = recover_within(&tree, to.path(), plain(), ENOUGH);
    ends(done.result, "--max-bytes");
    assert_eq!(names(to.path()), ["a", "b"]);
}

#[test]
fn a_full_destination_is_an_error_of_each_file_and_leaves_no_half_one() {
    let Some(world) = World::for_root() else {
        return;
    };
    let to = world.empty("small");
    let options = ["-t", "tmpfs", "-o", "size=1M,mode=0700", "none"];
    run("mount", [&options[..], &[to.to_str().unwrap()]].concat()).ok();
    let mut tree = Paper::new();
    let large = vec![1; 2 << 20];
    tree.file(ROOT, "a fits", &[1; 1000]);
    tree.file(ROOT, "b large", &large);
    for name in ["c", "d", "e", "f", "g"] {
        tree.file(ROOT, format!("{name} small"), &large[..250 << 10]);
    }
    tree.file(ROOT, "z fits", b"");
    let done = recover(&tree, &to, plain());
    assert!(done.result.is_ok(), "{:?}", done.result);
    let failed = done.failed();
    assert!(
        failed.iter().any(|line| line.starts_with("b large: ")),
        "{failed:?}"
    );
    assert!(failed.len() >= 2, "{failed:?}");
    assert!(
        failed.iter().all(|line| line.contains("No space")),
        "{failed:?}"
    );
    let names = names(&to);
    assert_eq!(names.len(), 8 - failed.len(), "{names:?}");
    for name in &names {
        let len = fs::read(to.join(name)).unwrap().len();
        assert!(
            [0, 1000, 250 << 10].contains(&len),
            "{name} has {len} bytes"
        );
    }
}

#[test]
fn what_was_there_by_the_name_of_a_file_that_failed_gets_no_links() {
    let Some(world) = World::for_root() else {
        return;
    };
    let to = world.empty("small");
    let options = ["-t", "tmpfs", "-o", "size=1M,mode=0700", "none"];
    run("mount", [&options[..], &[to.to_str().unwrap()]].concat()).ok();
    fs::write(to.join("first"), "another file").unwrap();
    fs::write(to.join("filler"), vec![1; 900 << 10]).unwrap();
    let mut tree = Paper::new();
    let file = tree.file(ROOT, "first", &[1; 200 << 10]);
    tree.name(ROOT, "second", file);
    tree.sheet(file).metadata.links = 2;
    let done = recover(&tree, &to, plain());
    done.fails(&[("first", "No space"), ("second", "No space")]);
    assert_eq!(names(&to), ["filler", "first"]);
    assert_eq!(fs::read(to.join("first")).unwrap(), b"another file");
}
