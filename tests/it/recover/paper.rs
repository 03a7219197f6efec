//! A tree on paper: whatever no image can be made to hold, and what a recovery of it told.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ebsfs::error::{Error, ErrorKind, Result};
use ebsfs::filesystem::{Entry, Extent, Facts, FileTree, Kind, Metadata, Node};
use ebsfs::recover::{Directory, Limits, Options, Recovery, Source, Tally, Trouble, Watch};

/// The files of a tree, each of which can lie about itself.
#[derive(Default)]
pub(crate) struct Paper {
    files: BTreeMap<Node, Sheet>,
}

/// One file.
pub(crate) struct Sheet {
    pub(crate) metadata: Metadata,
    pub(crate) entries: Vec<Entry>,
    pub(crate) data: Vec<u8>,
    /// None: one from the beginning to the end.
    pub(crate) extents: Option<Vec<Extent>>,
    /// Reads from here on fail.
    pub(crate) damaged_at: Option<(u64, ErrorKind)>,
    pub(crate) target: Vec<u8>,
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// The first directory.
pub(crate) const ROOT: Node = Node::new(2);

/// A time that nothing else has.
pub(crate) fn time(number: u64) -> SystemTime {
    UNIX_EPOCH + Duration::new(1_500_000_000 + number, 123_456_789)
}

impl Paper {
    /// A tree with an empty root.
    pub(crate) fn new() -> Self {
        let mut paper = Self::default();
        paper.add(ROOT, Kind::Directory, 0o755);
        paper
    }

    fn add(&mut self, at: Node, kind: Kind, mode: u32) -> &mut Sheet {
        let sheet = Sheet {
            metadata: Metadata {
                kind,
                mode,
                uid: 1234,
                gid: 5678,
                size: 0,
                links: 1,
                accessed: time(at.number() + 1000),
                modified: time(at.number()),
                changed: time(at.number()),
            },
            entries: vec![],
            data: vec![],
            extents: None,
            damaged_at: None,
            target: vec![],
            xattrs: vec![],
        };
        self.files.insert(at, sheet);
        self.files.get_mut(&at).unwrap()
    }

    /// What stands for a file.
    pub(crate) fn sheet(&mut self, at: Node) -> &mut Sheet {
        self.files.get_mut(&at).unwrap()
    }

    /// A name for what is there.
    pub(crate) fn name(&mut self, dir: Node, name: impl AsRef<[u8]>, at: Node) {
        let name = name.as_ref().to_vec();
        self.sheet(dir).entries.push(Entry { name, node: at });
    }

    /// A new file of any kind.
    pub(crate) fn make(&mut self, dir: Node, name: impl AsRef<[u8]>, kind: Kind) -> Node {
        let at = Node::new(self.files.keys().last().unwrap().number() + 1);
        let mode = match kind {
            Kind::Directory => 0o750,
            Kind::Symlink => 0o777,
            _ => 0o640,
        };
        self.add(at, kind, mode);
        self.name(dir, name, at);
        at
    }

    pub(crate) fn dir(&mut self, dir: Node, name: impl AsRef<[u8]>) -> Node {
        self.make(dir, name, Kind::Directory)
    }

    pub(crate) fn file(&mut self, dir: Node, name: impl AsRef<[u8]>, data: &[u8]) -> Node {
        let at = self.make(dir, name, Kind::File);
        let sheet = self.sheet(at);
        sheet.data = data.to_vec();
        sheet.metadata.size = data.len() as u64;
        at
    }

    pub(crate) fn symlink(&mut self, dir: Node, name: impl AsRef<[u8]>, target: &str) -> Node {
        let at = self.make(dir, name, Kind::Symlink);
        let sheet = self.sheet(at);
        sheet.target = target.into();
        sheet.metadata.size = target.len() as u64;
        at
    }

    fn of(&self, at: Node) -> Result<&Sheet> {
        let missing = || Error::new(ErrorKind::Corrupt, "no such inode");
        self.files.get(&at).ok_or_else(missing)
    }
}

impl FileTree for Paper {
    fn facts(&self) -> Result<Facts> {
        Ok(Facts {
            name: "paper",
            label: None,
            uuid: None,
            size: 1 << 30,
            free: 0,
        })
    }

    fn root(&self) -> Node {
        ROOT
    }

    fn lookup(&self, dir: Node, name: &[u8]) -> Result<Node> {
        let missing = || Error::new(ErrorKind::NotFound, "no such name");
        let entries = self.entries(dir)?;
        let found = entries.into_iter().find(|entry| entry.name == name);
        Ok(found.ok_or_else(missing)?.node)
    }

    fn entries(&self, dir: Node) -> Result<Vec<Entry>> {
        let sheet = self.of(dir)?;
        match sheet.damaged_at {
            Some((_, kind)) => Err(Error::new(kind, "the directory is damaged")),
            None => Ok(sheet.entries.clone()),
        }
    }

    fn metadata(&self, node: Node) -> Result<Metadata> {
        Ok(self.of(node)?.metadata.clone())
    }

    fn read(&self, node: Node, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let sheet = self.of(node)?;
        if let Some((at, kind)) = sheet.damaged_at
            && offset + buf.len() as u64 > at
        {
            return Err(Error::new(kind, "the block is damaged"));
        }
        // Never more than so much, as a read may do.
        let most = buf.len().min(100_000);
        let Some(rest) = sheet.data.get(offset as usize..) else {
            return Ok(0);
        };
        let len = most.min(rest.len());
        buf[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }

    fn extents(&self, node: Node) -> Result<Vec<Extent>> {
        let sheet = self.of(node)?;
        let all = Extent {
            range: 0..sheet.metadata.size,
            at: Some(1 << 20),
        };
        Ok(sheet.extents.clone().unwrap_or_else(|| vec![all]))
    }

    fn link_target(&self, node: Node) -> Result<Vec<u8>> {
        Ok(self.of(node)?.target.clone())
    }

    fn xattrs(&self, node: Node) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        Ok(self.of(node)?.xattrs.clone())
    }
}

/// What was told.
#[derive(Default)]
pub(crate) struct Ear {
    pub(crate) failed: Mutex<Vec<String>>,
    pub(crate) refused: Mutex<Vec<String>>,
    /// Interrupts after so many bytes; 0: never.
    pub(crate) stop_after: AtomicU64,
    stop: AtomicBool,
}

/// Who hears it; the test keeps the other one.
struct Watcher(Arc<Ear>);

impl Watch for Watcher {
    fn failed(&self, path: &[u8], error: &Error) {
        let line = format!("{}: {error:#}", String::from_utf8_lossy(path));
        self.0.failed.lock().unwrap().push(line);
    }

    fn refused(&self, what: &str) {
        self.0.refused.lock().unwrap().push(what.to_owned());
    }

    fn advanced(&self, tally: &Tally) {
        let after = self.0.stop_after.load(Ordering::Relaxed);
        if after > 0 && tally.bytes.load(Ordering::Relaxed) >= after {
            self.0.stop.store(true, Ordering::Relaxed);
        }
    }

    fn interrupted(&self) -> bool {
        self.0.stop.load(Ordering::Relaxed)
    }
}

/// A recovery under way, and what is heard of it.
pub(crate) fn recovery(options: Options) -> (Arc<Recovery>, Arc<Ear>) {
    let ear = Arc::new(Ear::default());
    (
        Recovery::new(options, Box::new(Watcher(Arc::clone(&ear)))),
        ear,
    )
}

/// What came of it.
pub(crate) struct Recovered {
    pub(crate) result: Result<(), Trouble>,
    pub(crate) recovery: Arc<Recovery>,
    pub(crate) ear: Arc<Ear>,
}

impl Recovered {
    /// Nothing went wrong.
    #[track_caller]
    pub(crate) fn all_well(self) -> Self {
        assert!(self.result.is_ok(), "{:?}", self.result);
        assert_eq!(self.failed(), [""; 0]);
        self
    }

    /// What was told of files, in order of their paths.
    pub(crate) fn failed(&self) -> Vec<String> {
        let mut failed = self.ear.failed.lock().unwrap().clone();
        failed.sort();
        failed
    }

    /// These files failed, each for a reason with that word in it, and no others.
    #[track_caller]
    pub(crate) fn fails(&self, of: &[(&str, &str)]) {
        let failed = self.failed();
        assert_eq!(failed.len(), of.len(), "{failed:?}");
        for ((path, why), line) in of.iter().zip(&failed) {
            assert!(line.starts_with(&format!("{path}: ")), "{path}: {failed:?}");
            assert!(line.contains(why), "{why}: {line}");
        }
    }

    pub(crate) fn count(&self, counter: fn(&Tally) -> &AtomicU64) -> u64 {
        counter(&self.recovery.tally).load(Ordering::Relaxed)
    }
}

/// What root asks for, and anybody else.
pub(crate) fn plain() -> Options {
    Options {
        owners: rustix::process::geteuid().is_root(),
        ..Options::default()
    }
}

/// More than any test needs.
pub(crate) const ENOUGH: Limits = Limits {
    files: 100_000,
    bytes: 1 << 30,
};

/// The contents of the root of `tree` into `to`.
pub(crate) fn recover(tree: &dyn FileTree, to: &Path, options: Options) -> Recovered {
    recover_within(tree, to, options, ENOUGH)
}

pub(crate) fn recover_within(
    tree: &dyn FileTree,
    to: &Path,
    options: Options,
    limits: Limits,
) -> Recovered {
    let (recovery, ear) = recovery(options);
    let result = recover_with(tree, to, limits, &recovery);
    Recovered {
        result,
        recovery,
        ear,
    }
}

pub(crate) fn recover_with(
    tree: &dyn FileTree,
    to: &Path,
    limits: Limits,
    recovery: &Arc<Recovery>,
) -> Result<(), Trouble> {
    let mut directory = Directory::open(to, recovery).unwrap();
    let mut source = Source::new(tree, limits, None);
    source.copy(tree.root(), b"", None, recovery, &mut directory)
}
