//! What only the embedded store promises: its files, who shares them, and what becomes of damaged ones.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use ebsfs::block::Digest;
use ebsfs::store::directory::DirectoryStore;
use tempfile::TempDir;

use crate::common::{Turnable, filled, scratch};

mod collection;
mod crash;
mod damage;
mod opening;
mod storage;

/// A place for a store, the clock of its handles, and ways to look at its files and to harm them.
pub(crate) struct Place {
    dir: TempDir,
    pub(crate) time: Turnable,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self {
            dir: scratch(),
            time: Turnable::new(),
        }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    /// A new handle, as another process has it; the first one makes the store.
    pub(crate) fn open(&self) -> DirectoryStore {
        DirectoryStore::create_with_clock(&self.path(), self.time.clock()).unwrap()
    }

    /// The store's files by their path in it.
    fn files(&self) -> BTreeSet<PathBuf> {
        files(&self.path())
    }

    /// Those files with what they hold.
    fn contents(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let read = |file: PathBuf| (file.clone(), fs::read(self.path().join(file)).unwrap());
        self.files().into_iter().map(read).collect()
    }

    fn count(&self, part: &str) -> usize {
        let files = self.files();
        files.iter().filter(|file| file.starts_with(part)).count()
    }

    /// The file of a block of `byte`.
    fn block(&self, byte: u8) -> PathBuf {
        self.path().join(block_file(&filled(byte).digest()))
    }

    /// The files of tree objects that begin with `magic`.
    fn trees(&self, magic: &[u8; 8]) -> Vec<PathBuf> {
        let contents = self.contents().into_iter();
        contents
            .filter(|(file, bytes)| file.starts_with("trees") && bytes.starts_with(magic))
            .map(|(file, _)| self.path().join(file))
            .collect()
    }
}

const SEGMENT: &[u8; 8] = b"EBSFSSEG";
const ROOT: &[u8; 8] = b"EBSFSROT";

fn object(part: &str, digest: &Digest) -> PathBuf {
    let name = digest.to_string();
    Path::new(part).join(&name[..2]).join(name)
}

fn block_file(digest: &Digest) -> PathBuf {
    object("blocks", digest)
}

pub(crate) fn files(top: &Path) -> BTreeSet<PathBuf> {
    fn walk(top: &Path, dir: &Path, found: &mut BTreeSet<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                walk(top, &entry.path(), found);
            } else {
                found.insert(entry.path().strip_prefix(top).unwrap().to_owned());
            }
        }
    }
    let mut found = BTreeSet::new();
    walk(top, top, &mut found);
    found
}

fn flip(file: &Path) {
    let mut bytes = fs::read(file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(file, bytes).unwrap();
}

fn truncate(file: &Path, by: u64) {
    let file = fs::OpenOptions::new().write(true).open(file).unwrap();
    let len = file.metadata().unwrap().len();
    file.set_len(len - by).unwrap();
}

/// Changes a record's JSON and gives it the checksum that goes with it; it stays as old as it is.
fn edit_record(file: &Path, change: impl FnOnce(&mut serde_json::Value)) {
    let modified = fs::metadata(file).unwrap().modified().unwrap();
    let text = fs::read_to_string(file).unwrap();
    let (first, body) = text.split_once('\n').unwrap();
    let mut value = serde_json::from_str(body).unwrap();
    change(&mut value);
    let body = format!("{value}\n");
    let kind_and_version = first.rsplit_once(' ').unwrap().0;
    let checksum = Digest::of(body.as_bytes());
    fs::write(file, format!("{kind_and_version} {checksum}\n{body}")).unwrap();
    let file = fs::OpenOptions::new().write(true).open(file).unwrap();
    file.set_modified(modified).unwrap();
}

/// Every file that completed snapshots need, found by the documented formats and nothing else.
pub(crate) fn reachable(top: &Path) -> BTreeSet<PathBuf> {
    let digest = |bytes: &[u8]| Digest::from_bytes(bytes.try_into().unwrap());
    let mut found = BTreeSet::from(["format", "gate", "lock"].map(PathBuf::from));
    let records = fs::read_dir(top.join("snapshots")).into_iter().flatten();
    for record in records {
        let record = record.unwrap();
        let text = fs::read_to_string(record.path()).unwrap();
        let body = text.split_once('\n').unwrap().1;
        let value: serde_json::Value = serde_json::from_str(body).unwrap();
        found.insert(Path::new("snapshots").join(record.file_name()));
        let Some(root) = value["root"].as_str() else {
            continue;
        };
        let root = object("trees", &root.parse().unwrap());
        for entry in fs::read(top.join(&root)).unwrap()[16..].chunks_exact(40) {
            let segment = object("trees", &digest(&entry[8..]));
            for block in fs::read(top.join(&segment)).unwrap()[528..].chunks_exact(32) {
                let block = digest(block);
                if block != Digest::ZERO_BLOCK {
                    found.insert(block_file(&block));
                }
            }
            found.insert(segment);
        }
        found.insert(root);
    }
    found
}
