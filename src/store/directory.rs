//! The embedded store: a plain directory, nothing to install and nothing running.
//!
//! ```text
//! format           record: the store's UUID                            (record.rs)
//! lock, gate       locked while someone writes                         (lock.rs)
//! blocks/ab/abcd.. a block, named by its SHA-256                       (objects.rs)
//! trees/ab/abcd..  which blocks a volume has                           (tree.rs)
//! snapshots/ID     record of a completed snapshot: what it is, its root
//! pending/ID/      a snapshot between start and complete               (pending.rs)
//! tmp/             files being written
//! ```
//! It promises what the trait does, and that a snapshot appears in one atomic, durable step: its blocks and
//! trees are flushed together, then its record is published. A crash leaves at most files that nothing refers
//! to, which [`DirectoryStore::gc`] removes. Reading takes no lock and writes nothing.
//!
//! A pending snapshot does not outlive its blocks: after a reboot every block put before it is read again
//! before the snapshot may be completed. It does not encrypt, and it trusts the owner of the directory.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::ErrorKind as IoKind;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use log::warn;
use lru::LruCache;
use serde::{Deserialize, Serialize};

use self::lock::StoreLock;
use self::objects::Objects;
use self::pending::Pending;
use self::tree::{Root, Segment, SegmentRef, first_of, segment_of};
use super::{
    Clock, Listing, Store, check_new, check_pending, check_readable, check_repeat, check_seal,
    no_such_snapshot, not_related, system_clock,
};
use crate::block::{Block, BlockIndex, BlockSet, Digest, Hasher};
use crate::durable;
use crate::error::{Error, ErrorKind, Result};
use crate::snapshot::{NewSnapshot, Seal, SnapshotId, SnapshotInfo, Status, random_hex};

mod gc;
mod lock;
mod objects;
mod pending;
mod record;
mod tree;

pub use self::gc::Garbage;

const FORMAT_RECORD: &str = "ebsfs-store";
const SNAPSHOT_RECORD: &str = "ebsfs-snapshot";
const PENDING_RECORD: &str = "ebsfs-pending";

/// Blocks after which a page of a listing ends, at the next segment; the service's largest page.
const PAGE_BLOCKS: u64 = 10_000;

/// Segments read for one page at most, so that a page of few blocks takes no long time either.
const PAGE_SEGMENTS: usize = 256;

/// Records kept in memory, well below 1 KiB each unless they have many tags.
const RECORDS: NonZeroUsize = NonZeroUsize::new(256).expect("not zero");

/// Roots kept in memory: one of 64 TiB takes 1.3 MiB, one of 1 TiB 20 KiB.
const ROOTS: NonZeroUsize = NonZeroUsize::new(16).expect("not zero");

/// Segments kept in memory, at most 129 KiB each: 128 GiB of volume.
const SEGMENTS: NonZeroUsize = NonZeroUsize::new(64).expect("not zero");

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
        tokio::task::spawn_blocking(move || work(&inner))
            .await
            .unwrap_or_else(|e| {
                Err(Error::new(
                    ErrorKind::Io,
                    format!("a store operation ended early: {e}"),
                ))
            })
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

/// One page of a listing from `from` on: what `list` tells of the segments `numbers`, which ascend.
fn page(
    record: &Record,
    from: BlockIndex,
    numbers: impl Iterator<Item = u32>,
    list: impl Fn(u32) -> Result<Vec<BlockIndex>>,
) -> Result<Listing> {
    let volume_size = record.info.volume_size;
    volume_size.check(from)?;
    let mut set = BlockSet::new();
    let mut end = volume_size.blocks();
    let numbers = numbers
        .skip_while(|number| *number < segment_of(from))
        .take_while(|number| first_of(*number) < volume_size.blocks());
    for (visited, number) in numbers.enumerate() {
        if visited >= PAGE_SEGMENTS || set.len() >= PAGE_BLOCKS {
            end = first_of(number);
            break;
        }
        list(number)?
            .into_iter()
            // The other snapshot of `changed` may have a larger volume.
            .filter(|index| *index >= from && volume_size.check(*index).is_ok())
            .for_each(|index| set.push(index));
    }
    Ok(Listing {
        set,
        covered: from.get()..end,
        volume_size,
    })
}

/// Identifies this run of the machine; never equal to itself where the kernel does not tell.
fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|id| id.trim().to_owned())
        .or_else(|_| random_hex::<16>())
        .unwrap_or_default()
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

    fn completed_record(&self, id: &SnapshotId) -> Result<Record> {
        record::read(SNAPSHOT_RECORD, &self.snapshot_path(id))
    }

    /// The record in whatever state, with its status as of now.
    fn record(&self, id: &SnapshotId) -> Result<Record> {
        match self.completed_record(id) {
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            found => return found.map_err(|e| e.context(format!("{id} is damaged"))),
        }
        let pending = match Pending::open(&self.pending_dir(id)) {
            Err(e) if e.kind() == ErrorKind::NotFound => {
                // It can have been completed in between; it cannot become pending again.
                return match self.completed_record(id) {
                    Err(e) if e.kind() == ErrorKind::NotFound => Err(no_such_snapshot(id)),
                    found => found.map_err(|e| e.context(format!("{id} is damaged"))),
                };
            }
            found => found.map_err(|e| e.context(format!("{id} is damaged")))?,
        };
        let mut record = pending.record.clone();
        record.info.status = pending.status((self.clock)())?;
        Ok(record)
    }

    fn list(&self) -> Result<Vec<Record>> {
        // In this order, as that is the way a snapshot goes: completed meanwhile, it is found twice, not never.
        let mut ids = self.ids("pending")?;
        ids.append(&mut self.ids("snapshots")?);
        ids.sort_unstable();
        ids.dedup();
        let mut records = Vec::new();
        for id in ids {
            match self.record(&id) {
                Ok(record) => records.push(record),
                // Deleted since the directory was read.
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                // One that cannot be read must not hide the others.
                Err(e) => warn!("left out of the list: {e:#}"),
            }
        }
        records
            .sort_by(|a, b| (a.info.start_time, &a.info.id).cmp(&(b.info.start_time, &b.info.id)));
        Ok(records)
    }

    fn readable(&self, id: &SnapshotId) -> Result<Arc<Record>> {
        if let Some(record) = locked(&self.completed).get(id) {
            return Ok(Arc::clone(record));
        }
        let record = Arc::new(self.record(id)?);
        check_readable(id, record.info.status)?;
        locked(&self.completed).put(id.clone(), Arc::clone(&record));
        Ok(record)
    }

    fn read_root(&self, digest: &Digest) -> Result<Root> {
        self.objects
            .read_tree(digest)
            .and_then(|bytes| Root::decode(&bytes))
    }

    fn root(&self, record: &Record) -> Result<Arc<Root>> {
        let Some(digest) = record.root else {
            return Ok(Arc::default());
        };
        if let Some(root) = locked(&self.roots).get(&digest) {
            return Ok(Arc::clone(root));
        }
        let root = Arc::new(self.read_root(&digest)?);
        locked(&self.roots).put(digest, Arc::clone(&root));
        Ok(root)
    }

    fn read_segment(&self, reference: &SegmentRef) -> Result<Segment> {
        self.objects
            .read_tree(&reference.digest)
            .and_then(|bytes| Segment::decode(&bytes, reference.number))
    }

    /// Segment `number` of a volume, if it has any block.
    fn segment(&self, root: &Root, number: u32) -> Result<Option<Arc<Segment>>> {
        let Some(reference) = root.segment(number) else {
            return Ok(None);
        };
        // Segments of equal contents share their object, but not their indexes.
        let key = (reference.digest, number);
        if let Some(segment) = locked(&self.segments).get(&key) {
            return Ok(Some(Arc::clone(segment)));
        }
        let segment = Arc::new(self.read_segment(reference)?);
        locked(&self.segments).put(key, Arc::clone(&segment));
        Ok(Some(segment))
    }

    fn get(&self, id: &SnapshotId, index: BlockIndex) -> Result<Block> {
        let record = self.readable(id)?;
        record.info.volume_size.check(index)?;
        let segment = self.segment(&*self.root(&record)?, segment_of(index))?;
        match segment.and_then(|segment| segment.get(index)) {
            Some(digest) => self.objects.read_block(&digest).map_err(|e| {
                // Deleted and collected by another process since it was opened here: that is no damage.
                if self.snapshot_path(id).exists() {
                    e
                } else {
                    no_such_snapshot(id)
                }
            }),
            None => Ok(Block::Zero),
        }
    }

    fn blocks(&self, id: &SnapshotId, from: BlockIndex) -> Result<Listing> {
        let record = self.readable(id)?;
        let root = self.root(&record)?;
        let numbers = root.segments.iter().map(|segment| segment.number);
        page(&record, from, numbers, |number| {
            let segment = self.segment(&root, number)?;
            Ok(segment
                .iter()
                .flat_map(|segment| segment.indexes())
                .collect())
        })
    }

    fn changed(&self, from: &SnapshotId, to: &SnapshotId, at: BlockIndex) -> Result<Listing> {
        let (old, new) = (self.readable(from)?, self.readable(to)?);
        if old.lineage != new.lineage {
            return Err(not_related(from, to));
        }
        let (old_root, new_root) = (self.root(&old)?, self.root(&new)?);
        let both = old_root.segments.iter().chain(&new_root.segments);
        let numbers: BTreeSet<u32> = both.map(|segment| segment.number).collect();
        let differing = numbers
            .into_iter()
            .filter(|number| old_root.segment(*number) != new_root.segment(*number));
        page(&new, at, differing, |number| {
            let digests = |root: &Root| -> Result<BTreeMap<BlockIndex, Digest>> {
                Ok(self
                    .segment(root, number)?
                    .iter()
                    .flat_map(|segment| segment.iter())
                    .collect())
            };
            let (old, new) = (digests(&old_root)?, digests(&new_root)?);
            let both: BTreeSet<_> = old.keys().chain(new.keys()).copied().collect();
            Ok(both
                .into_iter()
                .filter(|index| old.get(index) != new.get(index))
                .collect())
        })
    }

    fn start(&self, new: &NewSnapshot) -> Result<SnapshotInfo> {
        let _alone = StoreLock::exclusive(&self.top)?;
        if let Some(first) = self
            .list()?
            .into_iter()
            .find(|record| record.new.client_token == new.client_token)
        {
            let id = &first.info.id;
            check_repeat(&first.new, new, id)?;
            if first.info.status == Status::Pending {
                self.hold(id)?;
            }
            return Ok(first.info);
        }
        let parent = new.parent.as_ref().map(|id| self.record(id)).transpose()?;
        check_new(new, parent.as_ref().map(|parent| &parent.info))?;
        let id = SnapshotId::random()?;
        let now = (self.clock)();
        let record = Record {
            info: SnapshotInfo {
                id: id.clone(),
                parent: new.parent.clone(),
                volume_size: new.volume_size,
                status: Status::Pending,
                start_time: now,
                description: new.description.clone(),
                tags: new.tags.clone(),
            },
            new: new.clone(),
            lineage: parent
                .as_ref()
                .map_or_else(|| id.clone(), |parent| parent.lineage.clone()),
            boot: boot_id(),
            root: parent.and_then(|parent| parent.root),
        };
        let pending = Pending::create(&self.pending_dir(&id), &record, now)?;
        locked(&self.pending).insert(id, Arc::new(pending));
        Ok(record.info)
    }

    /// The pending snapshot `id`, from now on in use by this process. The caller holds the store's lock.
    fn hold(&self, id: &SnapshotId) -> Result<Arc<Pending>> {
        let held = locked(&self.pending).get(id).cloned();
        if let Some(pending) = held.filter(|pending| pending.exists()) {
            check_pending(id, pending.status((self.clock)())?)?;
            return Ok(pending);
        }
        locked(&self.pending).remove(id);
        check_pending(id, self.record(id)?.info.status)?;
        let pending = Arc::new(Pending::open(&self.pending_dir(id))?);
        locked(&self.pending).insert(id.clone(), Arc::clone(&pending));
        Ok(pending)
    }

    fn put(&self, id: &SnapshotId, index: BlockIndex, block: &Block) -> Result<()> {
        let _writing = StoreLock::shared(&self.top)?;
        let pending = self.hold(id)?;
        pending.record.info.volume_size.check(index)?;
        self.objects.write_block(block)?;
        pending.append(index, &block.digest(), (self.clock)())
    }

    fn complete(&self, id: &SnapshotId, seal: &Seal) -> Result<()> {
        // Most of the waiting is done here, while others may still write.
        let early = durable::flush(&self.dir);
        let _alone = StoreLock::exclusive(&self.top)?;
        let pending = self.hold(id)?;
        let mut record = pending.record.clone();
        record.root = self.write_tree(&pending, seal)?;
        record.info.status = Status::Completed;
        let flushed = early.and_then(|()| durable::flush(&self.dir));
        if let Err(e) = flushed {
            // The next flush would report success all the same, and what is read back now may only be in
            // memory. So nothing of this snapshot may be relied on again, by a repetition least of all.
            locked(&self.pending).remove(id);
            drop(pending);
            self.discard(&self.pending_dir(id))?;
            self.gc_alone(false)?;
            return Err(e.context(format!(
                "{id} is lost and was removed: check the disk, then import again"
            )));
        }
        durable::create_private_dir(&self.top.join("snapshots"))?;
        durable::publish(
            &self.snapshot_path(id),
            &record::encode(SNAPSHOT_RECORD, &record)?,
        )?;
        locked(&self.pending).remove(id);
        if let Err(e) = self.discard(&self.pending_dir(id)) {
            warn!("{id}: completed, but its log of puts stays until the next gc: {e:#}");
        }
        Ok(())
    }

    /// Writes the trees that `pending` will have, and returns their root.
    fn write_tree(&self, pending: &Pending, seal: &Seal) -> Result<Option<Digest>> {
        let id = &pending.record.info.id;
        let may_have_lost_puts = pending.record.boot != boot_id();
        if may_have_lost_puts && seal.checksum.is_none() {
            // A count cannot tell a block from the one that it had replaced.
            let what = format!(
                "{id}: the machine was restarted since it was started: a checksum is needed"
            );
            return Err(Error::new(ErrorKind::Invalid, what));
        }
        let mut root = Root::clone(&*self.root(&pending.record)?);
        let mut count = 0;
        let mut linear = Hasher::default();
        for number in pending.segments()? {
            let inherited = self.segment(&root, number)?;
            let mut blocks: BTreeMap<_, _> = inherited
                .iter()
                .flat_map(|segment| segment.iter())
                .collect();
            for (index, digest) in pending.puts(number)? {
                if may_have_lost_puts {
                    self.objects.read_block(&digest).map_err(|e| {
                        e.context(format!(
                            "{id}: block {index} was lost in a crash: put it again"
                        ))
                    })?;
                }
                count += 1;
                linear.update(digest.as_bytes());
                blocks.insert(index, digest);
            }
            let segment = Segment::new(number, &blocks);
            let digest = self.objects.write_tree(&segment.encode())?;
            root.set(SegmentRef {
                number,
                blocks: segment.len(),
                digest,
            });
        }
        check_seal(
            id,
            &Seal {
                count,
                checksum: Some(linear.finish()),
            },
            seal,
        )?;
        if root.segments.is_empty() {
            return Ok(None);
        }
        self.objects.write_tree(&root.encode()).map(Some)
    }

    fn delete(&self, id: &SnapshotId) -> Result<()> {
        let _alone = StoreLock::exclusive(&self.top)?;
        locked(&self.completed).pop(id);
        locked(&self.pending).remove(id);
        let completed = durable::remove(&self.snapshot_path(id))?;
        let dir = self.pending_dir(id);
        let pending = dir.exists();
        if pending {
            self.discard(&dir)?;
        }
        if completed || pending {
            Ok(())
        } else {
            Err(no_such_snapshot(id))
        }
    }

    /// Removes the directory of a pending snapshot; it disappears in one step.
    fn discard(&self, dir: &Path) -> Result<()> {
        let tmp = self.objects.tmp_dir();
        durable::create_private_dir(&tmp)?;
        let gone = tmp.join(durable::unique_name());
        durable::place(dir, &gone)?;
        fs::remove_dir_all(&gone).map_err(|e| Error::io(e, "remove", &gone))
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
