//! All that `stat`, `readlink`, `getfattr` and `read` tell of a directory, to be compared with another's.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{SeekFrom, lgetxattr, llistxattr, seek};
use sha2::{Digest as _, Sha256};

/// What is looked at beside names, types, sizes, contents, targets and links.
#[derive(Clone, Copy)]
pub(crate) struct Look {
    pub(crate) owners: bool,
    /// Where data begins and ends.
    pub(crate) holes: bool,
    pub(crate) xattrs: bool,
    /// The bits of setuid and setgid.
    pub(crate) setuid: bool,
    /// Of directories, too.
    pub(crate) directory_times: bool,
}

pub(crate) const ALL: Look = Look {
    owners: true,
    holes: true,
    xattrs: true,
    setuid: true,
    directory_times: true,
};

/// Each path below a directory, and what it is.
pub(crate) type Portrait = BTreeMap<PathBuf, String>;

/// Of all below `dir`, `lost+found` aside.
pub(crate) fn portrait(dir: &Path, look: Look) -> Portrait {
    let mut all = Portrait::new();
    let mut inodes = HashMap::new();
    visit(dir, Path::new(""), look, &mut all, &mut inodes);
    all
}

/// Panics with the first differences.
#[track_caller]
pub(crate) fn assert_same(ours: &Portrait, theirs: &Portrait) {
    let paths = ours.keys().chain(theirs.keys());
    let mut different: Vec<_> = paths
        .filter(|path| ours.get(*path) != theirs.get(*path))
        .collect();
    different.dedup();
    let shown: Vec<_> = different
        .iter()
        .take(10)
        .map(|path| {
            format!(
                "{path:?}\n  {:?}\n  {:?}",
                ours.get(*path),
                theirs.get(*path)
            )
        })
        .collect();
    assert!(
        different.is_empty(),
        "ours and theirs differ:\n{}",
        shown.join("\n")
    );
}

fn visit(
    dir: &Path,
    below: &Path,
    look: Look,
    all: &mut Portrait,
    inodes: &mut HashMap<(u64, u64), PathBuf>,
) {
    let mut entries: Vec<_> = fs::read_dir(dir.join(below))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    entries.sort();
    for name in entries {
        let path = below.join(&name);
        if path == Path::new("lost+found") {
            continue;
        }
        let at = dir.join(&path);
        let meta = at.symlink_metadata().unwrap();
        let first = inodes
            .entry((meta.dev(), meta.ino()))
            .or_insert(path.clone());
        let first = if meta.is_dir() { &path } else { first };
        all.insert(path.clone(), describe(&at, &meta, look, first));
        if meta.is_dir() {
            visit(dir, &path, look, all, inodes);
        }
    }
}

fn describe(at: &Path, meta: &fs::Metadata, look: Look, first: &Path) -> String {
    let bits = if look.setuid { 0o177_777 } else { 0o171_777 };
    let mut text = format!("{:o}", meta.mode() & bits);
    let kind = meta.file_type();
    if look.owners {
        text += &format!(" {}:{}", meta.uid(), meta.gid());
    }
    if !kind.is_dir() || look.directory_times {
        text += &format!(" {}.{:09}", meta.mtime(), meta.mtime_nsec());
    }
    if !kind.is_dir() {
        text += &format!(
            " {} bytes, first {first:?}, device {:x}",
            meta.len(),
            meta.rdev()
        );
    }
    if kind.is_symlink() {
        let target = fs::read_link(at).unwrap();
        text += &format!(" -> {target:?}");
    }
    if kind.is_file() {
        let file = File::open(at).unwrap();
        if look.holes {
            // Before it is read: what is reserved and in memory is said to be data.
            text += &format!(" {:?}", data_of(&file, meta.len()));
        }
        let mut hash = Sha256::new();
        std::io::copy(&mut &file, &mut Hashed(&mut hash)).unwrap();
        text += &format!(" {}", hex::encode(hash.finalize()));
    }
    if look.xattrs && !kind.is_symlink() {
        text += &format!(" {:?}", xattrs(at));
    }
    text
}

struct Hashed<'a>(&'a mut Sha256);

impl std::io::Write for Hashed<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Where `SEEK_DATA` and `SEEK_HOLE` say that data is.
fn data_of(file: &File, len: u64) -> Vec<(u64, u64)> {
    let mut found = vec![];
    let mut at = 0;
    while at < len {
        let Ok(start) = seek(file, SeekFrom::Data(at)) else {
            break;
        };
        at = seek(file, SeekFrom::Hole(start)).unwrap();
        found.push((start, at));
    }
    found
}

fn xattrs(at: &Path) -> BTreeMap<String, String> {
    let mut names = vec![0; 64 << 10];
    let Ok(len) = llistxattr(at, &mut names[..]) else {
        return BTreeMap::new();
    };
    let names = names[..len].split(|byte| *byte == 0);
    let value = |name: &[u8]| {
        let mut value = vec![0; 64 << 10];
        let len = lgetxattr(at, name, &mut value[..]).unwrap();
        let text = std::ffi::OsStr::from_bytes(name)
            .to_string_lossy()
            .into_owned();
        (text, hex::encode(&value[..len]))
    };
    // XFS shows access control lists under names of its own, too.
    let is_own = |name: &[u8]| !name.is_empty() && !name.starts_with(b"trusted.SGI_ACL_");
    names.filter(|name| is_own(name)).map(value).collect()
}
