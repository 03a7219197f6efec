//! Two trees side by side, in memory: what is told of every kind of change, and what is read for it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, SystemTime};

use ebsfs::compare::{Comparison, Finding, Side, What};
use ebsfs::error::{Error, ErrorKind, Result};
use ebsfs::filesystem::{Entry, Extent, Facts, FileTree, Kind, Metadata, Node};

/// A file of a tree: what `stat` tells, what is in it, and where that lies.
#[derive(Clone)]
struct File {
    metadata: Metadata,
    /// Contents, or a target.
    bytes: Vec<u8>,
    extents: Vec<Extent>,
    entries: Vec<Entry>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    fails: bool,
}

/// A tree that notes what is read.
#[derive(Clone)]
struct Tree {
    files: BTreeMap<u64, File>,
    read: RefCell<Vec<(u64, Range<u64>)>>,
    listed: RefCell<Vec<u64>>,
}

const ROOT: u64 = 2;

fn time(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn file(kind: Kind) -> File {
    let metadata = Metadata {
        kind,
        mode: 0o644,
        uid: 0,
        gid: 0,
        size: 0,
        links: 1,
        accessed: time(1),
        modified: time(10),
        changed: time(10),
    };
    File {
        metadata,
        bytes: vec![],
        extents: vec![],
        entries: vec![],
        xattrs: vec![],
        fails: false,
    }
}

impl Tree {
    fn new() -> Self {
        Self {
            files: [(ROOT, file(Kind::Directory))].into(),
            read: RefCell::default(),
            listed: RefCell::default(),
        }
    }

    fn node(&mut self, number: u64) -> &mut File {
        self.files.get_mut(&number).unwrap()
    }

    fn name(&mut self, dir: u64, name: &str, number: u64) {
        let entry = Entry {
            name: name.into(),
            node: Node::new(number),
        };
        // Not in order, as on a disk.
        self.node(dir).entries.insert(0, entry);
    }

    fn add(&mut self, dir: u64, name: &str, number: u64, kind: Kind) -> &mut File {
        self.files.insert(number, file(kind));
        self.name(dir, name, number);
        self.node(number)
    }

    /// A file of these bytes, which lie at `at`.
    fn put(&mut self, dir: u64, name: &str, number: u64, at: u64, bytes: &[u8]) -> &mut File {
        let file = self.add(dir, name, number, Kind::File);
        let size = bytes.len() as u64;
        file.bytes = bytes.into();
        file.metadata.size = size;
        file.extents = vec![Extent {
            range: 0..size,
            at: Some(at),
        }];
        file
    }

    fn get(&self, node: Node) -> Result<&File> {
        let lost = || Error::new(ErrorKind::Corrupt, "no such inode");
        let file = self.files.get(&node.number()).ok_or_else(lost)?;
        match file.fails {
            true => Err(Error::new(ErrorKind::Corrupt, "damaged inode")),
            false => Ok(file),
        }
    }
}

impl FileTree for Tree {
    fn facts(&self) -> Result<Facts> {
        unreachable!()
    }

    fn root(&self) -> Node {
        Node::new(ROOT)
    }

    fn lookup(&self, _: Node, _: &[u8]) -> Result<Node> {
        unreachable!()
    }

    fn entries(&self, dir: Node) -> Result<Vec<Entry>> {
        self.listed.borrow_mut().push(dir.number());
        Ok(self.get(dir)?.entries.clone())
    }

    fn metadata(&self, node: Node) -> Result<Metadata> {
        Ok(self.get(node)?.metadata.clone())
    }

    fn read(&self, node: Node, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let file = self.get(node)?;
        let bytes = file.bytes.get(offset as usize..).unwrap_or_default();
        // In small pieces, as it may be.
        let length = buf.len().min(bytes.len()).min(7);
        buf[..length].copy_from_slice(&bytes[..length]);
        let range = offset..offset + length as u64;
        self.read.borrow_mut().push((node.number(), range));
        Ok(length)
    }

    fn extents(&self, node: Node) -> Result<Vec<Extent>> {
        Ok(self.get(node)?.extents.clone())
    }

    fn link_target(&self, node: Node) -> Result<Vec<u8>> {
        Ok(self.get(node)?.bytes.clone())
    }

    fn xattrs(&self, node: Node) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        Ok(self.get(node)?.xattrs.clone())
    }
}

/// One line for each finding.
fn compared(old: &Tree, new: &Tree, changed: &[Range<u64>], contents: bool) -> Vec<String> {
    let differs = |within: Range<u64>| {
        let parts = changed.iter().map(|part| {
            let (start, end) = (part.start.max(within.start), part.end.min(within.end));
            start..end
        });
        Ok(parts.into_iter().find(|part| !part.is_empty()))
    };
    let comparison = Comparison {
        old: Side {
            tree: old,
            start: 1000,
        },
        new: Side {
            tree: new,
            start: 1000,
        },
        differs: &differs,
        contents,
    };
    let mut lines = Vec::new();
    let told = comparison.run(&mut |path, finding| {
        let path = String::from_utf8_lossy(path);
        lines.push(match finding {
            Finding::Added(_) => format!("+ {path}"),
            Finding::Removed(_) => format!("- {path}"),
            Finding::Retyped(..) => format!("t {path}"),
            Finding::Changed(_, _, what) => format!("{} {path}", letters(&what)),
            Finding::Failed(e) => format!("! {path}: {e:#}"),
        });
        Ok::<_, ()>(())
    });
    told.unwrap();
    lines
}

fn letters(what: &What) -> String {
    let told = [
        ('c', what.contents),
        ('p', what.mode),
        ('u', what.owner),
        ('g', what.group),
        ('x', what.xattrs),
        ('t', what.times),
        ('l', what.links),
    ];
    let told = told.into_iter().filter(|(_, is)| *is);
    told.map(|(letter, _)| letter).collect()
}

/// A tree with a bit of everything.
fn tree() -> Tree {
    let mut tree = Tree::new();
    tree.add(ROOT, "etc", 10, Kind::Directory);
    tree.put(10, "fstab", 11, 0, b"/dev/xvda1 / ext4");
    tree.put(10, "hosts", 12, 100, b"127.0.0.1 localhost");
    tree.add(ROOT, "empty", 13, Kind::File);
    tree.add(ROOT, "link", 14, Kind::Symlink).bytes = b"etc".into();
    let (major, minor) = (1, 3);
    tree.add(ROOT, "null", 15, Kind::CharDevice { major, minor });
    tree
}

#[test]
fn equal_trees_have_no_difference_and_nothing_is_read() {
    let (old, new) = (tree(), tree());
    let all = 0..u64::MAX;
    assert_eq!(compared(&old, &new, &[all], false), [""; 0]);
    assert!(old.read.borrow().is_empty() && new.read.borrow().is_empty());
    // Nor with contents, as long as the disks do not differ there.
    assert_eq!(compared(&old, &new, &[0..1000, 2000..9000], true), [""; 0]);
    assert!(old.read.borrow().is_empty() && new.read.borrow().is_empty());
}

#[test]
fn each_kind_of_change_is_told_by_its_name() {
    let (old, mut new) = (tree(), tree());
    let later = |file: &mut File| {
        file.metadata.changed = time(20);
    };
    let fstab = new.node(11);
    fstab.bytes.push(b'!');
    fstab.metadata.size += 1;
    fstab.metadata.modified = time(20);
    later(fstab);
    let hosts = new.node(12);
    hosts.metadata.mode = 0o600;
    later(hosts);
    let empty = new.node(13);
    (empty.metadata.uid, empty.metadata.gid) = (1, 2);
    empty.xattrs = vec![(b"user.a".into(), b"b".into())];
    later(empty);
    new.node(14).bytes = b"usr".into();
    later(new.node(14));
    new.node(15).metadata.kind = Kind::CharDevice { major: 1, minor: 5 };
    new.node(10).metadata.mode = 0o755;
    let expected = [
        "ugxt /empty",
        "p /etc",
        "ct /etc/fstab",
        "pt /etc/hosts",
        "ct /link",
        "c /null",
    ];
    assert_eq!(compared(&old, &new, &[], false), expected);
    assert_eq!(compared(&old, &new, &[], true), expected);
}

#[test]
fn whole_trees_come_and_go_with_all_that_is_in_them() {
    let (mut old, mut new) = (tree(), tree());
    old.add(ROOT, "a", 20, Kind::Directory);
    old.add(20, "b", 21, Kind::Directory);
    old.put(21, "c", 22, 200, b"c");
    new.add(ROOT, "z", 30, Kind::Directory);
    new.put(30, "y", 31, 200, b"y");
    // A directory became a file, and a file a directory.
    old.add(ROOT, "m", 40, Kind::Directory);
    old.put(40, "in it", 41, 300, b"m");
    new.put(ROOT, "m", 40, 300, b"m");
    old.put(ROOT, "n", 50, 400, b"n");
    new.add(ROOT, "n", 50, Kind::Directory);
    new.add(50, "in it", 51, Kind::Fifo);
    let expected = [
        "- /a",
        "- /a/b",
        "- /a/b/c",
        "t /m",
        "- /m/in it",
        "t /n",
        "+ /n/in it",
        "+ /z",
        "+ /z/y",
    ];
    assert_eq!(compared(&old, &new, &[], false), expected);
}

#[test]
fn equal_metadata_is_believed_unless_contents_are_asked_for() {
    let (old, mut new) = (tree(), tree());
    new.node(12).bytes[3] = b'1';
    let changed = [1100..1105, 1110..1200];
    assert_eq!(compared(&old, &new, &changed, false), [""; 0]);
    assert!(old.read.borrow().is_empty());
    assert_eq!(compared(&old, &new, &changed, true), ["c /etc/hosts"]);
    // Equal bytes in a block that a neighbour changed are no change, and only those parts were read.
    let neighbours = [1105..1110, 1300..1301];
    old.read.borrow_mut().clear();
    assert_eq!(compared(&old, &old.clone(), &neighbours, true), [""; 0]);
    assert_eq!(*old.read.borrow(), [(12, 5..10)]);
    // Each of several such parts is looked at.
    let mut new = old.clone();
    new.node(12).bytes[16] = b'1';
    let parts = [1101..1102, 1115..1118];
    assert_eq!(compared(&old, &new, &parts, true), ["c /etc/hosts"]);
}

#[test]
fn a_touched_file_is_changed_only_where_its_bytes_may_be() {
    let (old, mut new) = (tree(), tree());
    let touched = |file: &mut File| {
        (file.metadata.modified, file.metadata.changed) = (time(30), time(30));
    };
    touched(new.node(11));
    touched(new.node(12));
    // Both lie where they lay; one of them in a block that differs.
    let hosts = [1100..1101, 1300..1301];
    let told = compared(&old, &new, &hosts, false);
    assert_eq!(told, ["t /etc/fstab", "ct /etc/hosts"]);
    let told = compared(&old, &new, &hosts, true);
    assert_eq!(told, ["t /etc/fstab", "t /etc/hosts"]);
    // Into how many pieces its map is cut makes no difference.
    let whole = new.node(11).extents.remove(0);
    let middle = whole.range.start + 3;
    let at = whole.at.unwrap();
    new.node(11).extents = vec![
        Extent {
            range: whole.range.start..middle,
            at: Some(at),
        },
        Extent {
            range: middle..whole.range.end,
            at: Some(at + 3),
        },
    ];
    let told = compared(&old, &new, &hosts, false);
    assert_eq!(told, ["t /etc/fstab", "ct /etc/hosts"]);
    new.node(11).extents = vec![whole];
    // And one that was written anew elsewhere may be another.
    new.node(11).extents[0].at = Some(500);
    let told = compared(&old, &new, &[], false);
    assert_eq!(told, ["ct /etc/fstab", "t /etc/hosts"]);
    assert_eq!(compared(&old, &new, &[], true)[0], "t /etc/fstab");
}

#[test]
fn holes_are_zeros_and_are_not_read_on_both_sides() {
    let holes = |at: Option<u64>, byte: u8| {
        let mut tree = Tree::new();
        let file = tree.put(ROOT, "f", 11, 0, &[]);
        file.bytes = vec![0; 40];
        file.bytes[10..20].fill(byte);
        file.metadata.size = 40;
        let part = |range: Range<u64>, at| Extent { range, at };
        file.extents = at.map_or(vec![], |at| {
            vec![part(10..20, Some(at)), part(30..35, None)]
        });
        tree
    };
    let same = [""; 0];
    let (none, zeros, ones) = (holes(None, 0), holes(Some(5), 0), holes(Some(5), 1));
    assert_eq!(compared(&none, &none.clone(), &[], true), same);
    assert!(none.read.borrow().is_empty());
    assert_eq!(compared(&none, &zeros, &[], true), same);
    let read = zeros.read.borrow().clone();
    assert_eq!(read, [(11, 10..17), (11, 17..20), (11, 30..35)]);
    assert_eq!(compared(&none, &ones, &[], true), ["c /f"]);
    assert_eq!(compared(&ones, &ones.clone(), &[], true), same);
}

#[test]
fn names_of_one_file_are_compared_each_and_more_names_are_told() {
    let (mut old, mut new) = (tree(), tree());
    for tree in [&mut old, &mut new] {
        tree.name(ROOT, "also", 11);
        tree.node(11).metadata.links = 2;
    }
    assert_eq!(compared(&old, &new, &[], true), [""; 0]);
    new.name(10, "third", 11);
    new.node(11).metadata.links = 3;
    new.node(11).metadata.changed = time(20);
    let told = compared(&old, &new, &[], false);
    assert_eq!(told, ["tl /also", "tl /etc/fstab", "+ /etc/third"]);
}

#[test]
fn what_cannot_be_read_is_told_and_the_rest_goes_on() {
    let (mut old, mut new) = (tree(), tree());
    old.node(11).fails = true;
    new.name(10, "lost", 99);
    new.add(ROOT, "zzz", 60, Kind::Fifo);
    let told = compared(&old, &new, &[], false);
    let expected = [
        "! /etc/fstab: damaged inode",
        "! /etc/lost: no such inode",
        "+ /zzz",
    ];
    assert_eq!(told, expected);
    // A damaged directory on one side makes nothing added or removed on the other.
    old.node(11).fails = false;
    old.node(10).fails = true;
    let told = compared(&old, &new, &[], false);
    assert_eq!(told, ["! /etc: damaged inode", "+ /zzz"]);
    old.node(ROOT).fails = true;
    assert_eq!(compared(&old, &new, &[], false), ["! /: damaged inode"]);
}

#[test]
fn a_tree_that_bites_its_tail_or_has_two_roots_ends() {
    let (old, mut new) = (tree(), tree());
    new.name(10, "self", 10);
    new.name(10, "up", ROOT);
    let told = compared(&old, &new, &[], false);
    let seen = "this directory is also in another place, or in itself: not looked into";
    let expected = [
        "+ /etc/self".to_owned(),
        format!("! /etc/self: {seen}"),
        "+ /etc/up".to_owned(),
        format!("! /etc/up: {seen}"),
    ];
    assert_eq!(told, expected);

    // As many ways as two to the power of fifty.
    let mut tree = Tree::new();
    for level in 0..50 {
        let dir = if level == 0 { ROOT } else { 100 + level - 1 };
        tree.add(dir, "a", 100 + level, Kind::Directory);
        tree.name(dir, "b", 100 + level);
    }
    let told = compared(&tree, &tree.clone(), &[], false);
    assert_eq!(told.len(), 50);
    assert_eq!(tree.listed.borrow().len(), 51);

    // Two names that are one.
    let mut twice = Tree::new();
    twice.put(ROOT, "a", 11, 0, b"1");
    twice.put(ROOT, "a", 12, 0, b"1");
    let told = compared(&twice, &twice.clone(), &[], false);
    assert!(told.len() == 1 && told[0].contains("one name"), "{told:?}");
}

#[test]
fn a_tree_deeper_than_any_path_is_not_followed_for_ever() {
    let deep = |levels: u64| {
        let mut tree = Tree::new();
        for level in 0..levels {
            let dir = if level == 0 { ROOT } else { 100 + level - 1 };
            tree.add(dir, "d", 100 + level, Kind::Directory);
        }
        tree
    };
    let fits = deep(4000);
    assert_eq!(compared(&fits, &fits.clone(), &[], false), [""; 0]);
    let told = compared(&Tree::new(), &fits, &[], false);
    assert_eq!(told.len(), 4000);
    let too_deep = deep(10_000);
    let told = compared(&too_deep, &too_deep.clone(), &[], false);
    assert_eq!(told.len(), 1);
    assert!(told[0].ends_with("4096 deep: not looked into"));
}

#[test]
fn who_is_told_may_end_it() {
    let (old, new) = (Tree::new(), tree());
    let comparison = Comparison {
        old: Side {
            tree: &old,
            start: 0,
        },
        new: Side {
            tree: &new,
            start: 0,
        },
        differs: &|_| Ok(None),
        contents: false,
    };
    let mut told = 0;
    let ended = comparison.run(&mut |_, _| {
        told += 1;
        if told == 2 { Err("enough") } else { Ok(()) }
    });
    assert_eq!((ended, told), (Err("enough"), 2));
}
