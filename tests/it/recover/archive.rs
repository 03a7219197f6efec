//! A tar stream, as GNU tar understands it.

use std::cell::RefCell;
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::{Duration, UNIX_EPOCH};

use ebsfs::error::ErrorKind;
use ebsfs::filesystem::{Extent, Kind};
use ebsfs::recover::{Archive, Options, Source, Trouble};
use tempfile::TempDir;

use super::paper::{ENOUGH, Paper, ROOT, Recovered, recover, recovery};
use super::portrait::{ALL, assert_same, portrait};
use crate::images::random_block;
use crate::program::is_root;
use crate::world::run;

/// Bytes that were written, of which the other one is the archive's.
#[derive(Clone, Default)]
struct Written(Rc<RefCell<Vec<u8>>>);

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn archive(tree: &Paper, name: Option<&[u8]>, options: Options) -> (Vec<u8>, Recovered) {
    let (recovery, ear) = recovery(options);
    let written = Written::default();
    let mut archive = Archive::new(Box::new(written.clone()), &recovery);
    let mut source = Source::new(tree, ENOUGH, None);
    let result = source.copy(ROOT, b"", name, &recovery, &mut archive);
    let result = result.and_then(|()| archive.end());
    let bytes = written.0.take();
    (
        bytes,
        Recovered {
            result,
            recovery,
            ear,
        },
    )
}

/// A directory where extended attributes can be set.
fn room() -> TempDir {
    tempfile::tempdir_in("/var/tmp").unwrap()
}

fn tar(arguments: &[&str], file: &Path, dir: &Path) -> String {
    let (file, dir) = (file.to_str().unwrap(), dir.to_str().unwrap());
    run("tar", [&["-f", file, "-C", dir], arguments].concat()).ok()
}

/// One of everything that is difficult.
fn difficult() -> Paper {
    let mut tree = Paper::new();
    let mut deep = ROOT;
    for _ in 0..20 {
        deep = tree.dir(deep, "a directory with a long name");
    }
    tree.file(deep, "x".repeat(255), b"far down");
    tree.symlink(deep, "long link", &"y/".repeat(1000));
    tree.file(ROOT, "n".repeat(100), b"fits");
    tree.file(ROOT, "n".repeat(101), b"does not");
    tree.file(ROOT, b"not \xff utf-8", b"x");
    tree.file(ROOT, "umlaut \u{fc}", b"x");
    tree.file(ROOT, "empty", b"");
    tree.file(ROOT, "a unit", &[1; 512]);
    let large = [random_block(1), random_block(2)].concat();
    let large = tree.file(ROOT, "large", &large[..700_001]);
    tree.sheet(large).metadata.links = 2;
    tree.name(deep, "second name", large);
    let strange = tree.file(ROOT, "strange owner", b"x");
    let meta = &mut tree.sheet(strange).metadata;
    (meta.uid, meta.gid, meta.mode) = (4_000_000_000, 3_000_000, 0o1777);
    let old = tree.file(ROOT, "old", b"x");
    tree.sheet(old).metadata.modified = UNIX_EPOCH - Duration::new(12_345, 500_000_000);
    let with = tree.file(ROOT, "with attributes", b"x");
    tree.sheet(with).xattrs = vec![
        (b"user.text".into(), b"value".into()),
        (b"user.bytes".into(), b"\0=\n\xff".into()),
        (b"user.a=b%".into(), b"odd".into()),
        // Owner rwx, user 1000 r, group r, mask rwx, others none.
        (
            b"system.posix_acl_access".into(),
            b"\x02\0\0\0\x01\0\x07\0\xff\xff\xff\xff\x02\0\x04\0\xe8\x03\0\0\x04\0\x04\0\xff\xff\xff\xff\x10\0\x07\0\xff\xff\xff\xff\x20\0\0\0\xff\xff\xff\xff".into(),
        ),
    ];
    tree.sheet(with).metadata.mode = 0o770;
    let data = [vec![0; 1 << 20], vec![7; 8192], vec![0; 1 << 20]].concat();
    for (name, end) in [
        ("hole at the end", 2 << 20),
        ("no hole at the end", (1 << 20) + 8192),
    ] {
        let sparse = tree.file(ROOT, name, &data[..end]);
        tree.sheet(sparse).extents = Some(vec![Extent {
            range: 1 << 20..(1 << 20) + 8192,
            at: Some(0),
        }]);
    }
    let only = tree.file(ROOT, "only a hole", &[0; 1 << 16]);
    tree.sheet(only).extents = Some(vec![]);
    tree.make(ROOT, "fifo", Kind::Fifo);
    tree.make(ROOT, "char", Kind::CharDevice { major: 1, minor: 3 });
    tree.make(
        ROOT,
        "block",
        Kind::BlockDevice {
            major: 259,
            minor: 70_000,
        },
    );
    tree
}

#[test]
fn gnu_tar_extracts_what_a_recovery_makes() {
    if !is_root("gnu_tar_extracts_what_a_recovery_makes") {
        return;
    }
    let tree = difficult();
    let options = Options {
        owners: true,
        setuid: true,
        devices: true,
        go_on: false,
    };
    let (bytes, done) = archive(&tree, None, options);
    done.all_well();
    let room = room();
    let at = |name: &str| room.path().join(name);
    for dir in ["theirs", "ours"] {
        fs::create_dir(at(dir)).unwrap();
    }
    fs::write(at("a.tar"), &bytes).unwrap();
    let all = ["--numeric-owner", "--xattrs", "--xattrs-include=*", "-xp"];
    tar(&all, &at("a.tar"), &at("theirs"));
    recover(&tree, &at("ours"), options).all_well();
    let (ours, theirs) = (portrait(&at("ours"), ALL), portrait(&at("theirs"), ALL));
    assert!(ours.len() > 35, "{}", ours.len());
    assert_same(&ours, &theirs);
}

#[test]
fn gnu_tar_lists_what_it_lists_of_its_own_archive() {
    if !is_root("gnu_tar_lists_what_it_lists_of_its_own_archive") {
        return;
    }
    let tree = difficult();
    let options = Options {
        owners: true,
        devices: true,
        ..Options::default()
    };
    let (bytes, done) = archive(&tree, Some(b"top"), options);
    done.all_well();
    let room = room();
    let at = |name: &str| room.path().join(name);
    fs::write(at("ours.tar"), &bytes).unwrap();
    fs::create_dir(at("top")).unwrap();
    let (recovery, _) = recovery(options);
    super::paper::recover_with(&tree, &at("top"), ENOUGH, &recovery).unwrap();
    let pack = ["--format=pax", "--sparse", "--sort=inode", "-c", "top"];
    tar(&pack, &at("theirs.tar"), room.path());
    let list = |file: &str| {
        let options = ["--numeric-owner", "--full-time", "-tv"];
        let mut lines: Vec<_> = tar(&options, &at(file), room.path())
            .lines()
            .filter(|line| !line.ends_with(" top/"))
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        lines.sort();
        lines
    };
    // Which of two names is the first one is up to who writes.
    let first = |lines: Vec<String>| -> Vec<_> {
        let lines = lines.into_iter();
        let kept =
            lines.filter(|line| !line.contains("second name") && !line.contains("top/large"));
        kept.collect()
    };
    let ours = list("ours.tar");
    assert!(
        ours.iter()
            .any(|line| line.contains("link to top/large") || line.contains("second name link to")),
        "{ours:?}"
    );
    assert_eq!(first(ours), first(list("theirs.tar")));
}

#[test]
fn what_cannot_be_read_is_left_out_or_zeros_and_is_told() {
    let mut tree = Paper::new();
    let whole = tree.file(ROOT, "not at all", &[1; 3000]);
    tree.sheet(whole).damaged_at = Some((0, ErrorKind::Corrupt));
    let some = tree.file(ROOT, "not all", &vec![1; 1 << 20]);
    tree.sheet(some).damaged_at = Some((600_000, ErrorKind::Corrupt));
    tree.file(ROOT, "whole", &[1; 3000]);
    tree.make(ROOT, "socket", Kind::Socket);
    let options = Options {
        devices: true,
        ..Options::default()
    };
    let (bytes, done) = archive(&tree, None, options);
    assert!(done.result.is_ok());
    done.fails(&[
        ("not all", "zeros from byte 524288"),
        ("not at all", "damaged"),
        ("socket", "no sockets"),
    ]);
    let room = room();
    fs::write(room.path().join("a.tar"), &bytes).unwrap();
    tar(&["-x"], &room.path().join("a.tar"), room.path());
    let mut expected = vec![1; 1 << 19];
    expected.resize(1 << 20, 0);
    assert_eq!(fs::read(room.path().join("not all")).unwrap(), expected);
    assert_eq!(fs::read(room.path().join("whole")).unwrap(), [1; 3000]);
    assert!(!room.path().join("not at all").exists());
}

#[test]
fn what_acts_for_others_is_in_it_only_when_asked_for() {
    let mut tree = Paper::new();
    let file = tree.file(ROOT, "program", b"x");
    tree.sheet(file).metadata.mode = 0o6755;
    tree.sheet(file).xattrs = vec![(b"security.capability".into(), b"\x01\0\0\x02".into())];
    for (setuid, mode) in [(false, "-rwxr-xr-x"), (true, "-rwsr-sr-x")] {
        let options = Options {
            setuid,
            ..Options::default()
        };
        let (bytes, done) = archive(&tree, None, options);
        done.all_well();
        let room = room();
        fs::write(room.path().join("a.tar"), &bytes).unwrap();
        let listed = tar(&["-tv"], &room.path().join("a.tar"), room.path());
        assert!(listed.contains(mode), "{listed}");
        let has = bytes
            .windows(20)
            .any(|some| some.starts_with(b"SCHILY.xattr.securit"));
        assert_eq!(has, setuid);
    }
}

#[test]
fn one_that_was_broken_off_is_not_complete() {
    let mut tree = Paper::new();
    for number in 0..20 {
        tree.file(ROOT, format!("f{number}"), &random_block(number));
    }
    let (recovery, ear) = recovery(Options::default());
    ear.stop_after.store(3 << 20, Ordering::Relaxed);
    let written = Written::default();
    let mut archive = Archive::new(Box::new(written.clone()), &recovery);
    let mut source = Source::new(&tree, ENOUGH, None);
    let result = source.copy(ROOT, b"", None, &recovery, &mut archive);
    assert!(matches!(result, Err(Trouble::Interrupted)));
    drop(archive);
    let bytes = written.0.take();
    assert!(bytes.len() > 3 << 20);
    assert!(!bytes.ends_with(&[0; 1024]));
    let (whole, _) = self::archive(&tree, None, Options::default());
    assert!(whole.ends_with(&[0; 1024]));
}

/// Somebody who reads so many bytes and goes away.
struct Leaving(usize);

impl Write for Leaving {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.0.checked_sub(bytes.len()) {
            Some(left) => self.0 = left,
            None => return Err(io::ErrorKind::BrokenPipe.into()),
        }
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn it_ends_when_its_reader_is_gone() {
    let mut tree = Paper::new();
    for number in 0..20 {
        tree.file(ROOT, format!("f{number}"), &random_block(number));
    }
    let (recovery, ear) = recovery(Options::default());
    let mut archive = Archive::new(Box::new(Leaving(1 << 20)), &recovery);
    let mut source = Source::new(&tree, ENOUGH, None);
    let result = source.copy(ROOT, b"", None, &recovery, &mut archive);
    assert!(matches!(result, Err(Trouble::ReaderGone)), "{result:?}");
    assert_eq!(*ear.failed.lock().unwrap(), [""; 0]);
}
