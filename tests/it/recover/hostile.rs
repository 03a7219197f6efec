//! Trees that were made to do harm.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use ebsfs::error::ErrorKind;
use ebsfs::filesystem::{Entry, Extent, Kind, Node};
use ebsfs::recover::MAX_DEPTH;
use tempfile::tempdir;

use super::faithful::names;
use super::paper::{Paper, ROOT, plain, recover};

#[test]
fn names_that_are_none_are_errors_of_their_files() {
    let mut tree = Paper::new();
    let far = format!("{}x", "../".repeat(20));
    let long = "x".repeat(256);
    for name in ["..", ".", "", "/etc/x", "../x", "a/b", "nul\0", &far, &long] {
        tree.file(ROOT, name, b"evil");
        let dir = tree.dir(ROOT, name);
        tree.file(dir, "x", b"evil");
    }
    tree.file(ROOT, "good", b"good");
    let above = tempdir().unwrap();
    let to = above.path().join("to");
    fs::create_dir(&to).unwrap();
    let done = recover(&tree, &to, plain());
    assert!(done.result.is_ok());
    assert_eq!(done.failed().len(), 18, "{:?}", done.failed());
    assert_eq!(names(&to), ["good"]);
    assert_eq!(names(above.path()), ["to"]);
}

#[test]
fn a_link_and_then_a_directory_of_the_same_name_leads_nowhere() {
    let outside = tempdir().unwrap();
    let mut tree = Paper::new();
    let out = outside.path().to_str().unwrap();
    // Links come before directories, whatever the order here.
    tree.symlink(ROOT, "absolute", out);
    let dir = tree.dir(ROOT, "absolute");
    tree.file(dir, "evil", b"evil");
    tree.symlink(ROOT, "chain", "absolute");
    let dir = tree.dir(ROOT, "chain");
    tree.file(dir, "evil", b"evil");
    tree.symlink(ROOT, "up", "..");
    let dir = tree.dir(ROOT, "up");
    tree.file(dir, "evil", b"evil");
    // A file by the name of a link replaces the link.
    tree.symlink(ROOT, "file", &format!("{out}/evil"));
    tree.file(ROOT, "file", b"evil");
    let above = tempdir().unwrap();
    let to = above.path().join("to");
    fs::create_dir(&to).unwrap();
    let done = recover(&tree, &to, plain());
    done.fails(&[
        ("absolute", "something else"),
        ("chain", "something else"),
        ("up", "something else"),
    ]);
    assert_eq!(names(&to), ["absolute", "chain", "file", "up"]);
    assert_eq!(names(outside.path()), [""; 0]);
    assert_eq!(names(above.path()), ["to"]);
    assert!(to.join("file").symlink_metadata().unwrap().is_file());
}

#[test]
fn a_hard_link_goes_through_no_link_that_took_the_place_of_a_directory() {
    let outside = tempdir().unwrap();
    fs::write(outside.path().join("file"), "secret").unwrap();
    let mut tree = Paper::new();
    let dir = tree.dir(ROOT, "a");
    let file = tree.file(dir, "file", b"public");
    tree.sheet(file).metadata.links = 2;
    let later = tree.dir(ROOT, "b");
    tree.name(later, "file", file);
    let to = tempdir().unwrap();
    recover(&tree, to.path(), plain()).all_well();
    // The same again, with the first directory exchanged when the second name comes.
    fs::remove_dir_all(to.path().join("b")).unwrap();
    let exchanged = Exchanging {
        tree,
        at: later,
        deed: Box::new({
            let (a, out) = (to.path().join("a"), outside.path().to_owned());
            move || {
                fs::remove_dir_all(&a).unwrap();
                symlink(&out, &a).unwrap();
            }
        }),
    };
    recover(&exchanged, to.path(), plain());
    assert_eq!(fs::read(to.path().join("b/file")).unwrap(), b"public");
    assert_eq!(fs::read(outside.path().join("file")).unwrap(), b"secret");
    assert_eq!(names(outside.path()), ["file"]);
}

/// Does something to the destination when a directory is read.
struct Exchanging {
    tree: Paper,
    at: Node,
    deed: Box<dyn Fn()>,
}

impl ebsfs::filesystem::FileTree for Exchanging {
    fn facts(&self) -> ebsfs::error::Result<ebsfs::filesystem::Facts> {
        self.tree.facts()
    }
    fn root(&self) -> Node {
        self.tree.root()
    }
    fn lookup(&self, dir: Node, name: &[u8]) -> ebsfs::error::Result<Node> {
        self.tree.lookup(dir, name)
    }
    fn entries(&self, dir: Node) -> ebsfs::error::Result<Vec<Entry>> {
        if dir == self.at {
            (self.deed)();
        }
        self.tree.entries(dir)
    }
    fn metadata(&self, node: Node) -> ebsfs::error::Result<ebsfs::filesystem::Metadata> {
        self.tree.metadata(node)
    }
    fn read(&self, node: Node, offset: u64, buf: &mut [u8]) -> ebsfs::error::Result<usize> {
        self.tree.read(node, offset, buf)
    }
    fn extents(&self, node: Node) -> ebsfs::error::Result<Vec<Extent>> {
        self.tree.extents(node)
    }
    fn link_target(&self, node: Node) -> ebsfs::error::Result<Vec<u8>> {
        self.tree.link_target(node)
    }
    fn xattrs(&self, node: Node) -> ebsfs::error::Result<Vec<(Vec<u8>, Vec<u8>)>> {
        self.tree.xattrs(node)
    }
}

// Directories are renamed to do harm.
#[allow(clippy::disallowed_methods)]
#[test]
fn who_exchanges_directories_for_links_meanwhile_gains_nothing() {
    let outside = tempdir().unwrap();
    let mut tree = Paper::new();
    for number in 0..40 {
        let dir = tree.dir(ROOT, format!("d{number}"));
        for inner in 0..20 {
            tree.file(dir, format!("f{inner}"), &[number; 3000]);
        }
    }
    let to = tempdir().unwrap();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut random = crate::images::Random(1);
            while !stop.load(Ordering::Relaxed) {
                let name = format!("d{}", random.below(40));
                let path = to.path().join(&name);
                let moved = to.path().join(format!("moved-{name}"));
                if fs::rename(&path, &moved).is_ok() || !path.exists() {
                    drop(symlink(outside.path(), &path));
                }
                thread::yield_now();
            }
        });
        for _ in 0..5 {
            recover(&tree, to.path(), plain());
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(names(outside.path()), [""; 0]);
}

#[test]
fn a_directory_within_itself_ends_as_an_error() {
    let mut tree = Paper::new();
    let a = tree.dir(ROOT, "a");
    let b = tree.dir(a, "b");
    tree.name(b, "self", b);
    tree.name(b, "up", a);
    tree.name(b, "root", ROOT);
    tree.file(b, "file", b"x");
    let to = tempdir().unwrap();
    let done = recover(&tree, to.path(), plain());
    assert!(done.result.is_ok());
    done.fails(&[
        ("a/b/root", "copied already"),
        ("a/b/self", "copied already"),
        ("a/b/up", "copied already"),
    ]);
    assert_eq!(names(&to.path().join("a/b")), ["file"]);
}

#[test]
fn directories_that_fork_into_each_other_are_copied_once() {
    let mut tree = Paper::new();
    let mut dir = ROOT;
    // As paths these would be more than there are atoms.
    for _ in 0..200 {
        let next = tree.dir(dir, "left");
        tree.name(dir, "right", next);
        dir = next;
    }
    let to = tempdir().unwrap();
    let done = recover(&tree, to.path(), plain());
    assert_eq!(done.failed().len(), 200);
    assert_eq!(done.count(|tally| &tally.directories), 201);
}

#[test]
fn what_lies_too_deep_is_an_error_and_the_rest_is_recovered() {
    let mut tree = Paper::new();
    let mut dir = ROOT;
    for _ in 0..MAX_DEPTH + 10 {
        dir = tree.dir(dir, "d");
    }
    tree.file(ROOT, "file", b"x");
    let to = tempdir().unwrap();
    let done = recover(&tree, to.path(), plain());
    let deepest = vec!["d"; MAX_DEPTH].join("/");
    done.fails(&[(&*deepest, "deep")]);
    assert_eq!(done.count(|tally| &tally.directories), MAX_DEPTH as u64);
    assert!(to.path().join("file").exists());
}

#[test]
fn sizes_and_extents_that_cannot_be_are_errors_of_their_files() {
    let mut tree = Paper::new();
    let extent = |start, end| Extent {
        range: start..end,
        at: Some(0),
    };
    let huge = tree.file(ROOT, "a huge hole", b"");
    tree.sheet(huge).metadata.size = u64::MAX;
    tree.sheet(huge).extents = Some(vec![]);
    for (name, extents) in [
        ("b backwards", vec![extent(8, 4)]),
        ("c overlapping", vec![extent(0, 8), extent(4, 12)]),
        ("d out of order", vec![extent(8, 12), extent(0, 4)]),
        ("e empty", vec![extent(4, 4)]),
        ("f past the end", vec![extent(0, u64::MAX)]),
    ] {
        let file = tree.file(ROOT, name, b"0123456789abcdef");
        tree.sheet(file).extents = Some(extents);
    }
    let lies = tree.file(ROOT, "g shorter than it says", b"x");
    tree.sheet(lies).metadata.size = 100 << 20;
    for (name, target) in [("h empty link", ""), ("i link with a nul", "a\0b")] {
        tree.symlink(ROOT, name, target);
    }
    tree.name(ROOT, "j no inode", Node::new(999));
    let to = tempdir().unwrap();
    let done = recover(&tree, to.path(), plain());
    assert!(done.result.is_ok());
    done.fails(&[
        ("a huge hole", ""),
        ("b backwards", "extent"),
        ("c overlapping", "extent"),
        ("d out of order", "extent"),
        ("e empty", "extent"),
        ("g shorter than it says", "ends at byte 1"),
        ("h empty link", "empty"),
        ("i link with a nul", "NUL"),
        ("j no inode", "no such inode"),
    ]);
    assert_eq!(names(to.path()), ["f past the end"]);
}

#[test]
fn attributes_that_cannot_be_set_leave_the_file_and_are_told() {
    let mut tree = Paper::new();
    let file = tree.file(ROOT, "file", b"kept");
    tree.sheet(file).xattrs = vec![
        (b"system.posix_acl_access".into(), b"nonsense".into()),
        (b"user.".into(), b"no name".into()),
        ([&b"user."[..], &[b'x'; 300]].concat(), b"long".into()),
        (b"user.large".into(), vec![1; 1 << 20]),
        (b"user.good".into(), b"good".into()),
    ];
    let to = tempfile::tempdir_in("/var/tmp").unwrap();
    let done = recover(&tree, to.path(), plain());
    assert!(done.result.is_ok());
    assert_eq!(done.failed().len(), 3, "{:?}", done.failed());
    let refused = done.ear.refused.lock().unwrap();
    assert_eq!(*refused, ["access control lists"]);
    assert_eq!(fs::read(to.path().join("file")).unwrap(), b"kept");
    let mut value = [0; 10];
    let len = rustix::fs::getxattr(to.path().join("file"), "user.good", &mut value[..]).unwrap();
    assert_eq!(&value[..len], b"good");
}

#[test]
fn a_destination_without_extended_attributes_is_told_once() {
    // procfs and the like aside, ramfs is what has none; mounting it takes root.
    let Some(world) = crate::world::World::for_root() else {
        return;
    };
    let to = world.empty("ramfs");
    let mounted = crate::world::run("mount", ["-t", "ramfs", "none", to.to_str().unwrap()]);
    mounted.ok();
    let mut tree = Paper::new();
    for number in 0..10 {
        let file = tree.file(ROOT, format!("f{number}"), b"kept");
        tree.sheet(file).xattrs = vec![(b"user.note".into(), b"lost".into())];
    }
    let done = recover(&tree, &to, plain()).all_well();
    assert_eq!(*done.ear.refused.lock().unwrap(), ["extended attributes"]);
    assert_eq!(names(&to).len(), 10);
    drop(done);
}

#[test]
fn a_kind_that_changes_between_two_looks_does_no_harm() {
    let mut tree = Paper::new();
    let file = tree.make(ROOT, "directory without entries", Kind::Directory);
    tree.sheet(file).damaged_at = Some((0, ErrorKind::Invalid));
    let to = tempdir().unwrap();
    recover(&tree, to.path(), plain()).fails(&[("directory without entries", "damaged")]);
    assert_eq!(names(Path::new(to.path())), [""; 0]);
}
