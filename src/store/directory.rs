//! The embedded store: a plain directory, nothing to install and nothing running.
//!
//! ```text
//! format           record: the store's UUID                            (src/record.rs)
//! lock, gate       locked while someone writes                         (lock.rs)
//! blocks/ab/abcd.. a block, named by its SHA-256                       (objects.rs)
//! trees/ab/abcd..  which blocks a volume has                           (tree.rs)
//! snapshots/ID     record of a completed snapshot: what it is, its root
//! pending/ID/      a snapshot between start and complete               (pending.rs)
//! tmp/             files being written
//! suspect          exists after the disk failed to keep something         (objects.rs)
//! ```
//! It promises what the trait does, and that a snapshot appears in one atomic, durable step: its blocks and
//! trees are flushed together, then its record is published. A crash leaves at most files that nothing refers
//! to, which [`DirectoryStore::gc`] removes. Reading takes no lock and writes nothing.
//!
//! A pending snapshot does not outlive its blocks: after a reboot every block put before it is read again
//! before the snapshot may be completed. It does not encrypt, and it trusts the owner of the directory.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::ErrorKind as IoKind;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use lru::LruCache;
use serde::{Deserialize, Serialize};

use self::objects::Objects;
use self::pending::Pending;
use self::tree::{Root, Segment};
use super::{Clock, Listing, Store, system_clock};
use crate::block::{Block, BlockIndex, Digest};
use crate::blocking::blocking;
use crate::durable;
use crate::error::{Error, ErrorKind, Result};
use crate::record;
use crate::snapshot::{NewSnapshot, Seal, SnapshotId, SnapshotInfo, random_hex};

mod gc;
mod lock;
mod objects;
mod pending;
mod reading;
mod tree;
mod writing;

pub use self::gc::Garbage;

const FORMAT_RECORD: &str = "ebsfs-store";
const SNAPSHOT_RECORD: &str = "ebsfs-snapshot";
const PENDING_RECORD: &str = "ebsfs-pending";

/// Records kept in memory, well below 1 KiB each unless they have many tags.
const RECORDS: NonZeroUsize = NonZeroUsize::new(256).expect("not zero");

/// Roots kept in memory: one of 64 TiB takes 1.3 MiB, one of 1 TiB 20 KiB.
const ROOTS: NonZeroUsize = NonZeroUsize::new(8).expect("not zero");

/// Segments kept in memory, at most 129 KiB each: 64 GiB of volume.
const SEGMENTS: NonZeroUsize = NonZeroUsize::new(32).expect("not zero");

/// A store in a directory.
pub struct DirectoryStore {
    inner: Arc<Inner>,
}

/// What the header says.
#[derive(Deserialize, Serialize)]
struct Format {
    id: String,
}

/// A snapshot on disk, pending or completed.
#[derive(Clone, Deserialize, Serialize)]
struct Record {
    info: SnapshotInfo,
    /// What `start` was asked for, to recognise a repetition.
    new: NewSnapshot,
    /// The first snapshot of its line of descent; known even when parents have been deleted.
    lineage: SnapshotId,
    /// The boot in which it was started: while it lasts, no put can have been lost.
    boot: String,
    /// Its root object, while pending its parent's. None: no blocks.
    root: Option<Digest>,
}

struct Inner {
    top: PathBuf,
    /// Opened before the first write, so that a flush through it reports every write error since.
    dir: File,
    /// Whether a flush failed. It would not report the same failure again, but what else was written before it
    /// may be lost as well.
    failed: AtomicBool,
    identity: String,
    clock: Clock,
    objects: Objects,
    /// Records of completed snapshots; they never change. Like the next three it guards nothing slow.
    completed: Mutex<LruCache<SnapshotId, Arc<Record>>>,
    roots: Mutex<LruCache<Digest, Arc<Root>>>,
    segments: Mutex<LruCache<(Digest, u32), Arc<Segment>>>,
    /// Pending snapshots that this process works on.
    pending: Mutex<HashMap<SnapshotId, Arc<Pending>>>,
}

impl DirectoryStore {
    /// Opens the store at `path`.
    ///
    /// `NotFound` if there is none, `Invalid` if `path` is something else, `Unsupported` if a newer program
    /// made it.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_with_clock(path, system_clock())
    }

    /// Opens the store at `path`; makes one if nothing is there or the directory is empty.
    pub fn create(path: &Path) -> Result<Self> {
        Self::create_with_clock(path, system_clock())
    }

    /// Like [`create`](Self::create), with the time from `clock`.
    pub fn create_with_clock(path: &Path, clock: Clock) -> Result<Self> {
        if !contains_store(path)? {
            durable::create_private_dir(path)?;
            let format = Format {
                id: random_hex::<16>()?,
            };
            // Another process may make it at the same time: the first header stays.
            durable::publish_new(
                &path.join("format"),
                &record::encode(FORMAT_RECORD, &format)?,
            )
            .map_err(|e| e.context(format!("cannot make a store in {}", path.display())))?;
            if let Some(parent) = path
                .parent()
                .filter(|parent| !parent.as_os_str().is_empty())
            {
                durable::sync_dir(parent)?;
            }
        }
        if !path.join("trees").exists() {
            // From the beginning, so that a store without it has lost it.
            durable::create_private_dir(&path.join("snapshots"))?;
        }
        Self::open_with_clock(path, clock)
    }

    fn open_with_clock(path: &Path, clock: Clock) -> Result<Self> {
        if !contains_store(path)? {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!(
                    "no store at {0}: `ebsfs --store {0} import IMAGE` makes one",
                    path.display()
                ),
            ));
        }
        let format: Format = record::read(FORMAT_RECORD, &path.join("format"))?;
        let dir = File::open(path).map_err(|e| Error::io(e, "open", path))?;
        let inner = Inner {
            top: path.to_owned(),
            dir,
            failed: AtomicBool::new(false),
            identity: format!("directory:{}", format.id),
            clock,
            objects: Objects::new(path),
            completed: Mutex::new(LruCache::new(RECORDS)),
            roots: Mutex::new(LruCache::new(ROOTS)),
            segments: Mutex::new(LruCache::new(SEGMENTS)),
            pending: Mutex::default(),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Removes what nothing refers to; with `dry_run` only says what that is. Waits for writers, and they for
    /// it. `Corrupt` if a snapshot is damaged: then nothing is removed.
    pub async fn gc(&self, dry_run: bool) -> Result<Garbage> {
        self.blocking(move |inner| inner.gc(dry_run)).await
    }

    /// Runs file operations where they may wait.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let inner = Arc::clone(&self.inner);
        blocking("a store operation", move || work(&inner)).await
    }
}

/// Whether `path` holds a store; false if it could become one.
fn contains_store(path: &Path) -> Result<bool> {
    if path.join("format").exists() {
        return Ok(true);
    }
    let entries = match fs::read_dir(path) {
        Err(e) if e.kind() == IoKind::NotFound => return Ok(false),
        Err(e) if e.kind() == IoKind::NotADirectory => {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "{} is a file, and a store is a directory: name another place",
                    path.display()
                ),
            ));
        }
        entries => entries.map_err(|e| Error::io(e, "read", path))?,
    };
    for entry in entries {
        // A header that was being written when the machine stopped is no obstacle.
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        if !(name.starts_with('.') && name.ends_with(".tmp")) {
            // Another process may have made the store since; its header comes before all else.
            if path.join("format").exists() {
                return Ok(true);
            }
            return Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "{} is no store: it holds other files; name another place, or an empty directory",
                    path.display()
                ),
            ));
        }
    }
    Ok(false)
}
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each holds a cache or a map of which every change is one call: whole, whoever panicked.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inner {
    fn snapshot_path(&self, id: &SnapshotId) -> PathBuf {
        self.top.join("snapshots").join(id.as_str())
    }

    fn pending_dir(&self, id: &SnapshotId) -> PathBuf {
        self.top.join("pending").join(id.as_str())
    }

    /// Ids named in `snapshots` or `pending`.
    fn ids(&self, dir: &str) -> Result<Vec<SnapshotId>> {
        let dir = self.top.join(dir);
        let entries = match fs::read_dir(&dir) {
            // Made before the first tree is: with trees and without it the store is not whole, and a gc would
            // take all that is left.
            Err(e)
                if e.kind() == IoKind::NotFound
                    && dir.ends_with("snapshots")
                    && self.objects.trees_dir().exists() =>
            {
                return Err(Error::new(
                    ErrorKind::Corrupt,
                    format!("{} is missing", dir.display()),
                ));
            }
            Err(e) if e.kind() == IoKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(|e| Error::io(e, "read", &dir))?,
        };
        let mut ids = Vec::new();
        for entry in entries {
            ids.extend(
                entry?
                    .file_name()
                    .to_str()
                    .and_then(|name| name.parse().ok()),
            );
        }
        Ok(ids)
    }
}

#[async_trait]
impl Store for DirectoryStore {
    fn identity(&self) -> String {
        self.inner.identity.clone()
    }

    async fn list(&self) -> Result<Vec<SnapshotInfo>> {
        self.blocking(|inner| {
            Ok(inner
                .list()?
                .into_iter()
                .map(|record| record.info)
                .collect())
        })
        .await
    }

    async fn info(&self, id: &SnapshotId) -> Result<SnapshotInfo> {
        let id = id.clone();
        self.blocking(move |inner| inner.record(&id).map(|record| record.info))
            .await
    }

    async fn blocks(&self, id: &SnapshotId, from: BlockIndex) -> Result<Listing> {
        let id = id.clone();
        self.blocking(move |inner| inner.blocks(&id, from)).await
    }

    async fn changed(&self, from: &SnapshotId, to: &SnapshotId, at: BlockIndex) -> Result<Listing> {
        let (from, to) = (from.clone(), to.clone());
        self.blocking(move |inner| inner.changed(&from, &to, at))
            .await
    }

    async fn get(&self, id: &SnapshotId, index: BlockIndex) -> Result<Block> {
        let id = id.clone();
        self.blocking(move |inner| inner.get(&id, index)).await
    }

    async fn start(&self, new: &NewSnapshot) -> Result<SnapshotInfo> {
        let new = new.clone();
        self.blocking(move |inner| inner.start(&new)).await
    }

    async fn put(&self, id: &SnapshotId, index: BlockIndex, block: &Block) -> Result<()> {
        let (id, block) = (id.clone(), block.clone());
        self.blocking(move |inner| inner.put(&id, index, &block))
            .await
    }

    async fn complete(&self, id: &SnapshotId, seal: &Seal) -> Result<()> {
        let (id, seal) = (id.clone(), seal.clone());
        self.blocking(move |inner| inner.complete(&id, &seal)).await
    }

    async fn delete(&self, id: &SnapshotId) -> Result<()> {
        let id = id.clone();
        self.blocking(move |inner| inner.delete(&id)).await
    }
}
