//! A recovery that was interrupted, and goes on.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::sync::atomic::Ordering;

use ebsfs::recover::{Options, Trouble};
use tempfile::tempdir;

use super::faithful::names;
use super::paper::{ENOUGH, Paper, ROOT, plain, recover, recover_with, recovery};
use crate::images::random_block;

fn going_on() -> Options {
    Options {
        go_on: true,
        ..plain()
    }
}

fn tree() -> Paper {
    let mut tree = Paper::new();
    let dirs: Vec<_> = (0..5).map(|n| tree.dir(ROOT, format!("d{n}"))).collect();
    for (number, dir) in (0..30).zip(dirs.into_iter().cycle()) {
        tree.file(dir, format!("small{number}"), &[number; 5000]);
        let large = [random_block(number.into()), random_block(99)].concat();
        tree.file(dir, format!("large{number}"), &large);
    }
    tree
}

#[test]
fn an_interruption_leaves_whole_files_and_the_next_run_adds_the_rest() {
    let tree = tree();
    let to = tempdir().unwrap();
    let (first, ear) = recovery(plain());
    ear.stop_after.store(7 << 20, Ordering::Relaxed);
    let interrupted = recover_with(&tree, to.path(), ENOUGH, &first);
    assert!(matches!(interrupted, Err(Trouble::Interrupted)));
    let made = first.tally.files.load(Ordering::Relaxed);
    assert!((3..50).contains(&made), "{made}");
    for file in crate::program::files_below(to.path()) {
        let len = file.metadata().unwrap().len();
        assert!(len == 5000 || len == 1 << 20, "{}: {len}", file.display());
    }
    let done = recover(&tree, to.path(), going_on()).all_well();
    assert_eq!(done.count(|tally| &tally.skipped), made);
    assert_eq!(done.count(|tally| &tally.files), 60 - made);
    let whole = tempdir().unwrap();
    recover(&tree, whole.path(), plain()).all_well();
    let diff = crate::world::run(
        "diff",
        [
            "-r",
            whole.path().to_str().unwrap(),
            to.path().to_str().unwrap(),
        ],
    );
    assert_eq!(diff.ok(), "");
}

#[test]
fn only_files_of_the_same_size_and_time_are_left_alone() {
    let mut tree = Paper::new();
    for name in ["same", "other size", "other time", "a link now"] {
        tree.file(ROOT, name, b"contents");
    }
    let to = tempdir().unwrap();
    let at = |name: &str| to.path().join(name);
    recover(&tree, to.path(), plain()).all_well();
    let inode = at("same").metadata().unwrap().ino();
    fs::set_permissions(at("same"), fs::Permissions::from_mode(0o604)).unwrap();
    let modified = at("other size").metadata().unwrap().modified().unwrap();
    fs::write(at("other size"), "more contents").unwrap();
    let file = fs::File::options().write(true).open(at("other size"));
    file.unwrap().set_modified(modified).unwrap();
    fs::write(at("other time"), "changed.").unwrap();
    fs::remove_file(at("a link now")).unwrap();
    std::os::unix::fs::symlink("same", at("a link now")).unwrap();
    let done = recover(&tree, to.path(), going_on()).all_well();
    assert_eq!(done.count(|tally| &tally.skipped), 1);
    assert_eq!(at("same").metadata().unwrap().ino(), inode);
    assert_eq!(at("same").metadata().unwrap().mode() & 0o777, 0o604);
    for name in ["same", "other size", "other time", "a link now"] {
        assert_eq!(fs::read(at(name)).unwrap(), b"contents", "{name}");
        assert!(at(name).symlink_metadata().unwrap().is_file(), "{name}");
    }
}

#[test]
fn going_on_removes_what_a_killed_run_left_and_nothing_else() {
    let mut tree = Paper::new();
    let dir = tree.dir(ROOT, "dir");
    tree.file(dir, "file", b"x");
    let to = tempdir().unwrap();
    fs::create_dir(to.path().join("dir")).unwrap();
    let left = ".0123456789abcdef-12.tmp";
    let own = [
        ".own.tmp",
        ".0123456789abcdef-x.tmp",
        "0123456789abcdef-12.tmp",
    ];
    for name in [&[left], &own[..]].concat() {
        fs::write(to.path().join("dir").join(name), "half").unwrap();
        fs::write(to.path().join(name), "half").unwrap();
    }
    recover(&tree, to.path(), plain()).all_well();
    assert!(to.path().join(left).exists() && to.path().join("dir").join(left).exists());
    recover(&tree, to.path(), going_on()).all_well();
    let mut expected = own.map(str::to_owned).to_vec();
    expected.sort();
    assert_eq!(
        names(&to.path().join("dir")),
        [&expected[..], &["file".into()]].concat()
    );
    assert_eq!(names(to.path()), [&expected[..], &["dir".into()]].concat());
}

#[test]
fn what_another_recovery_is_writing_is_left_alone() {
    let tree = Paper::new();
    let to = tempdir().unwrap();
    let path = to.path().join(".0123456789abcdef-12.tmp");
    let file = fs::File::create(&path).unwrap();
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).unwrap();
    recover(&tree, to.path(), going_on()).all_well();
    assert!(path.exists());
    rustix::fs::flock(&file, rustix::fs::FlockOperation::Unlock).unwrap();
    recover(&tree, to.path(), going_on()).all_well();
    assert!(!path.exists());
}

/// Each time a directory is entered what seems left in it goes, while files of the time before are written.
#[test]
fn what_is_being_written_is_no_leftover_of_a_damaged_tree_with_one_name_twice() {
    let mut tree = Paper::new();
    for _ in 0..200 {
        let dir = tree.dir(ROOT, "again");
        for number in 0..8 {
            tree.file(dir, format!("file{number}"), &[number; 5000]);
        }
    }
    let to = tempdir().unwrap();
    recover(&tree, to.path(), going_on()).all_well();
    assert_eq!(names(&to.path().join("again")).len(), 8);
}

#[test]
fn a_directory_that_may_not_be_written_to_is_gone_on_with() {
    let mut tree = Paper::new();
    for (name, mode) in [("shut", 0o000), ("read only", 0o555)] {
        let dir = tree.dir(ROOT, name);
        tree.sheet(dir).metadata.mode = mode;
        tree.file(dir, "one", b"x");
        tree.file(dir, "two", b"x");
    }
    let to = tempdir().unwrap();
    let run = |options| {
        let to = to.path();
        let modes = |mode| {
            for name in ["shut", "read only"] {
                let permissions = fs::Permissions::from_mode(mode);
                fs::set_permissions(to.join(name), permissions).unwrap();
            }
        };
        let done = recover(&tree, to, options).all_well();
        assert_eq!(to.join("shut").metadata().unwrap().mode() & 0o777, 0);
        assert_eq!(
            to.join("read only").metadata().unwrap().mode() & 0o777,
            0o555
        );
        modes(0o700);
        assert_eq!(names(&to.join("shut")), ["one", "two"]);
        fs::remove_file(to.join("shut/two")).unwrap();
        modes(0o000);
        done.count(|tally| &tally.skipped)
    };
    assert_eq!(run(plain()), 0);
    assert_eq!(run(going_on()), 3);
}

#[test]
fn a_file_with_two_names_is_one_after_going_on() {
    let mut tree = Paper::new();
    let file = tree.file(ROOT, "one", b"x");
    tree.name(ROOT, "two", file);
    tree.name(ROOT, "three", file);
    tree.sheet(file).metadata.links = 3;
    let to = tempdir().unwrap();
    recover(&tree, to.path(), plain()).all_well();
    fs::remove_file(to.path().join("two")).unwrap();
    let done = recover(&tree, to.path(), going_on()).all_well();
    let inode = |name: &str| to.path().join(name).metadata().unwrap().ino();
    assert_eq!((inode("one"), inode("one")), (inode("two"), inode("three")));
    assert_eq!(done.count(|tally| &tally.links), 1);
    assert_eq!(done.count(|tally| &tally.skipped), 2);
    assert_eq!(names(to.path()), ["one", "three", "two"]);
    // Once more over all of it, not going on.
    recover(&tree, to.path(), plain()).all_well();
    assert_eq!((inode("one"), inode("one")), (inode("two"), inode("three")));
    assert_eq!(names(to.path()), ["one", "three", "two"]);
}
