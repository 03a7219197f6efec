//! What is recovered is what was there.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use ebsfs::error::ErrorKind;
use ebsfs::filesystem::{Extent, Kind};
use ebsfs::recover::Options;
use tempfile::tempdir;

use super::paper::{Paper, ROOT, plain, recover, time};
use crate::images::random_block;
use crate::program::is_root;
use crate::world::{World, run};

/// Seconds and nanoseconds of a time of the tree.
fn stamp(number: u64) -> (i64, i64) {
    let since = time(number).duration_since(std::time::UNIX_EPOCH).unwrap();
    (since.as_secs() as i64, since.subsec_nanos().into())
}

fn modified(path: &Path) -> (i64, i64) {
    let meta = path.symlink_metadata().unwrap();
    (meta.mtime(), meta.mtime_nsec())
}

#[test]
fn contents_modes_times_and_links_are_recovered() {
    let mut tree = Paper::new();
    let dir = tree.dir(ROOT, "dir");
    tree.sheet(dir).metadata.mode = 0o2551;
    let large = [random_block(1), random_block(2), random_block(3)].concat();
    let one = tree.file(dir, "large", &large);
    let two = tree.file(dir, "small", b"hello");
    tree.sheet(two).metadata.mode = 0o6444;
    let three = tree.file(ROOT, "empty", b"");
    let link = tree.symlink(dir, "link", "/etc/../nowhere");
    tree.name(ROOT, "again", two);
    tree.sheet(two).metadata.links = 2;
    let to = tempdir().unwrap();

    let done = recover(&tree, to.path(), plain()).all_well();

    let at = |name: &str| to.path().join(name);
    for (name, node) in [
        ("dir", dir),
        ("dir/large", one),
        ("dir/small", two),
        ("empty", three),
        ("dir/link", link),
    ] {
        assert_eq!(modified(&at(name)), stamp(node.number()), "{name}");
        let meta = at(name).symlink_metadata().unwrap();
        let accessed = (meta.atime(), meta.atime_nsec());
        if name != "dir" {
            // Whoever looks into a directory may change that.
            assert_eq!(accessed, stamp(node.number() + 1000), "{name}");
        }
        if plain().owners {
            assert_eq!((meta.uid(), meta.gid()), (1234, 5678), "{name}");
        }
    }
    assert_eq!(fs::read(at("dir/large")).unwrap(), large);
    assert_eq!(fs::read(at("dir/small")).unwrap(), b"hello");
    assert_eq!(fs::read(at("empty")).unwrap(), b"");
    let target = fs::read_link(at("dir/link")).unwrap();
    assert_eq!(target, Path::new("/etc/../nowhere"));
    // Without what lets them act for others.
    let mode = |name: &str| at(name).metadata().unwrap().mode() & 0o7777;
    assert_eq!(
        (mode("dir"), mode("dir/large"), mode("dir/small")),
        (0o551, 0o640, 0o444)
    );
    let inode = |name: &str| at(name).metadata().unwrap().ino();
    assert_eq!(inode("again"), inode("dir/small"));
    assert_eq!(done.count(|tally| &tally.files), 3);
    assert_eq!(done.count(|tally| &tally.links), 1);
    assert_eq!(done.count(|tally| &tally.directories), 2);
    assert_eq!(done.count(|tally| &tally.bytes), large.len() as u64 + 5);
}

#[test]
fn holes_and_room_that_was_never_written_stay_holes() {
    let mut tree = Paper::new();
    let mut data = vec![0; 4 << 20];
    data[1 << 20..(1 << 20) + 8192].fill(7);
    data[3 << 20..(3 << 20) + 300_000].fill(9);
    let sparse = tree.file(ROOT, "sparse", &data);
    let extent = |start: u64, end: u64, at| Extent {
        range: start..end,
        at,
    };
    tree.sheet(sparse).extents = Some(vec![
        extent(0, 512 << 10, None),
        extent(1 << 20, (1 << 20) + 8192, Some(0)),
        extent(2 << 20, (2 << 20) + 8192, None),
        extent(3 << 20, (3 << 20) + 300_000, Some(0)),
    ]);
    let tiny = tree.file(ROOT, "in the inode", b"tiny");
    tree.sheet(tiny).extents = Some(vec![extent(0, 4, None)]);
    let only = tree.file(ROOT, "only a hole", &vec![0; 1 << 20]);
    tree.sheet(only).extents = Some(vec![]);
    let to = tempdir().unwrap();
    recover(&tree, to.path(), plain()).all_well();
    assert_eq!(fs::read(to.path().join("sparse")).unwrap(), data);
    assert_eq!(fs::read(to.path().join("in the inode")).unwrap(), b"tiny");
    let allocated = |name: &str| crate::images::allocated(&to.path().join(name));
    assert!(allocated("sparse") < 400_000, "{}", allocated("sparse"));
    assert_eq!(allocated("only a hole"), 0);
    assert_eq!(
        fs::metadata(to.path().join("only a hole")).unwrap().len(),
        1 << 20
    );
}

#[test]
fn a_file_that_cannot_be_read_is_told_and_the_others_are_recovered() {
    let mut tree = Paper::new();
    tree.file(ROOT, "before", b"b");
    let small = tree.file(ROOT, "small", b"broken");
    tree.sheet(small).damaged_at = Some((3, ErrorKind::Corrupt));
    let large = tree.file(ROOT, "large", &vec![1; 5 << 20]);
    tree.sheet(large).damaged_at = Some((3 << 20, ErrorKind::Corrupt));
    let short = tree.file(ROOT, "short", b"12345");
    tree.sheet(short).metadata.size = 10;
    let dir = tree.dir(ROOT, "dir");
    tree.file(dir, "hidden", b"");
    tree.sheet(dir).damaged_at = Some((0, ErrorKind::Corrupt));
    tree.file(ROOT, "after", b"a");
    let to = tempdir().unwrap();
    let done = recover(&tree, to.path(), plain());
    assert!(done.result.is_ok());
    done.fails(&[
        ("dir", "damaged"),
        ("large", "damaged"),
        ("short", "ends at byte 5 of 10"),
        ("small", "damaged"),
    ]);
    assert_eq!(names(to.path()), ["after", "before"]);
    assert_eq!(done.count(|tally| &tally.errors), 4);
}

#[test]
fn a_store_that_is_away_ends_it_all() {
    let mut tree = Paper::new();
    let away = tree.file(ROOT, "away", b"x");
    tree.sheet(away).damaged_at = Some((0, ErrorKind::Unavailable));
    tree.file(ROOT, "later", b"x");
    let to = tempdir().unwrap();
    let done = recover(&tree, to.path(), plain());
    let ebsfs::recover::Trouble::All(error) = done.result.unwrap_err() else {
        panic!("not the end");
    };
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("away"), "{error}");
    assert_eq!(names(to.path()), [""; 0]);
}

#[test]
fn what_is_there_is_replaced_as_cp_would_and_links_are_not_followed() {
    let mut tree = Paper::new();
    for name in ["file", "link", "dangling"] {
        tree.file(ROOT, name, b"new");
    }
    tree.symlink(ROOT, "becomes a link", "new");
    tree.file(ROOT, "a directory", b"new");
    for name in ["link to a directory", "file instead", "kept"] {
        let dir = tree.dir(ROOT, name);
        tree.file(dir, "inner", b"new");
    }
    let (to, outside) = (tempdir().unwrap(), tempdir().unwrap());
    let (at, out) = (
        |name: &str| to.path().join(name),
        |name: &str| outside.path().join(name),
    );
    fs::write(out("victim"), "old").unwrap();
    fs::write(at("file"), "old and longer").unwrap();
    fs::write(at("becomes a link"), "old").unwrap();
    fs::write(at("file instead"), "old").unwrap();
    symlink(out("victim"), at("link")).unwrap();
    symlink(out("made"), at("dangling")).unwrap();
    symlink(outside.path(), at("link to a directory")).unwrap();
    fs::create_dir(at("a directory")).unwrap();
    fs::create_dir(at("kept")).unwrap();
    fs::write(at("kept/own"), "own").unwrap();

    let done = recover(&tree, to.path(), plain());

    done.fails(&[
        ("a directory", "directory"),
        ("file instead", "something else"),
        ("link to a directory", "something else"),
    ]);
    for name in ["file", "link", "dangling", "kept/inner"] {
        assert!(at(name).symlink_metadata().unwrap().is_file(), "{name}");
        assert_eq!(fs::read(at(name)).unwrap(), b"new", "{name}");
    }
    assert_eq!(fs::read(out("victim")).unwrap(), b"old");
    assert_eq!(names(outside.path()), ["victim"]);
    assert_eq!(
        fs::read_link(at("becomes a link")).unwrap(),
        Path::new("new")
    );
    assert_eq!(fs::read(at("kept/own")).unwrap(), b"own");
    assert_eq!(fs::read(at("file instead")).unwrap(), b"old");
    assert_eq!(names(&at("a directory")), [""; 0]);
}

#[test]
fn the_directory_that_the_user_named_stays_as_it_is() {
    let tree = Paper::new();
    let to = tempdir().unwrap();
    fs::set_permissions(to.path(), fs::Permissions::from_mode(0o711)).unwrap();
    recover(&tree, to.path(), plain()).all_well();
    assert_eq!(to.path().metadata().unwrap().mode() & 0o7777, 0o711);
}

#[test]
fn setuid_and_capabilities_come_only_when_asked_for() {
    if !is_root("setuid_and_capabilities_come_only_when_asked_for") {
        return;
    }
    // cap_net_raw+ep, for the kernel's own root.
    let capability = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec();
    let mut tree = Paper::new();
    let file = tree.file(ROOT, "program", b"#!");
    tree.sheet(file).metadata.mode = 0o6755;
    tree.sheet(file).xattrs = vec![
        (b"security.capability".into(), capability.clone()),
        (b"user.note".into(), b"kept".into()),
        (b"security.selinux".into(), b"of elsewhere".into()),
    ];
    let attribute = |path: &Path, name: &str| {
        let mut value = [0; 100];
        let got = rustix::fs::getxattr(path, name, &mut value[..]);
        got.map(|len| value[..len].to_vec()).ok()
    };
    for setuid in [false, true] {
        // Where extended attributes can be set, which is not so in every /tmp.
        let to = tempfile::tempdir_in("/var/tmp").unwrap();
        let options = Options { setuid, ..plain() };
        recover(&tree, to.path(), options).all_well();
        let path = to.path().join("program");
        let mode = path.metadata().unwrap().mode() & 0o7777;
        assert_eq!(mode, if setuid { 0o6755 } else { 0o755 });
        let found = attribute(&path, "security.capability");
        assert_eq!(found, setuid.then(|| capability.clone()));
        assert_eq!(attribute(&path, "user.note").unwrap(), b"kept");
        assert_eq!(attribute(&path, "security.selinux"), None);
    }
}

#[test]
fn access_control_lists_of_the_destination_do_not_rub_off() {
    let mut tree = Paper::new();
    tree.file(ROOT, "file", b"x");
    let dir = tree.dir(ROOT, "dir");
    tree.file(dir, "inner", b"x");
    let to = tempfile::tempdir_in("/var/tmp").unwrap();
    // Owner rwx, user 1000 rwx, group none, mask rwx, others none.
    let list = b"\x02\0\0\0\x01\0\x07\0\xff\xff\xff\xff\x02\0\x07\0\xe8\x03\0\0\x04\0\0\0\xff\xff\xff\xff\x10\0\x07\0\xff\xff\xff\xff\x20\0\0\0\xff\xff\xff\xff";
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(to.path(), "system.posix_acl_default", list, flags).unwrap();
    recover(&tree, to.path(), plain()).all_well();
    for name in ["file", "dir", "dir/inner"] {
        for kind in ["access", "default"] {
            let mut value = [0; 100];
            let attribute = format!("system.posix_acl_{kind}");
            let found = rustix::fs::getxattr(to.path().join(name), attribute, &mut value[..]);
            assert!(found.is_err(), "{name}: {kind}");
        }
    }
}

#[test]
fn devices_are_counted_and_come_only_when_asked_for() {
    if !is_root("devices_are_counted_and_come_only_when_asked_for") {
        return;
    }
    let mut tree = Paper::new();
    let kinds = [
        (
            "block",
            Kind::BlockDevice {
                major: 7,
                minor: 300,
            },
            libc::S_IFBLK,
        ),
        (
            "char",
            Kind::CharDevice { major: 1, minor: 3 },
            libc::S_IFCHR,
        ),
        ("fifo", Kind::Fifo, libc::S_IFIFO),
        ("socket", Kind::Socket, libc::S_IFSOCK),
    ];
    for (name, kind, _) in kinds {
        tree.make(ROOT, name, kind);
    }
    let to = tempdir().unwrap();
    let done = recover(&tree, to.path(), plain()).all_well();
    assert_eq!(done.count(|tally| &tally.left_out), 4);
    assert_eq!(names(to.path()), [""; 0]);
    let options = Options {
        devices: true,
        ..plain()
    };
    recover(&tree, to.path(), options).all_well();
    for (number, (name, _, format)) in (3..).zip(kinds) {
        let meta = to.path().join(name).symlink_metadata().unwrap();
        assert_eq!(meta.mode(), format | 0o640, "{name}");
        assert_eq!((meta.uid(), meta.gid()), (1234, 5678), "{name}");
        assert_eq!(meta.mtime(), stamp(number).0, "{name}");
    }
    let number = |name: &str| to.path().join(name).metadata().unwrap().rdev();
    assert_eq!(number("block"), rustix::fs::makedev(7, 300));
    assert_eq!(number("char"), rustix::fs::makedev(1, 3));
}

/// All names in a directory, in order.
pub(super) fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn a_name_that_cannot_be_a_hard_link_is_a_file_of_its_own() {
    let Some(world) = World::for_root() else {
        return;
    };
    let mut tree = Paper::new();
    let [one, other] = ["a", "b"].map(|name| tree.dir(ROOT, name));
    let file = tree.file(one, "first", b"contents");
    tree.name(one, "linked", file);
    tree.name(other, "elsewhere", file);
    tree.name(other, "linked there", file);
    tree.sheet(file).metadata.links = 4;
    // What is mounted there is another file system.
    let to = world.empty("to");
    let there = world.empty("to/b");
    run("mount", ["-t", "tmpfs", "none", there.to_str().unwrap()]).ok();
    let done = recover(&tree, &to, plain()).all_well();
    assert_eq!(done.count(|tally| &tally.files), 2);
    assert_eq!(done.count(|tally| &tally.links), 2);
    for names in [["a/first", "a/linked"], ["b/elsewhere", "b/linked there"]] {
        let [first, second] = names.map(|name| to.join(name).metadata().unwrap());
        assert_eq!(first.ino(), second.ino());
        assert_eq!(fs::read(to.join(names[1])).unwrap(), b"contents");
    }
}
