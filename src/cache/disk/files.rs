//! The directory of one snapshot: opened, mended, filled, and emptied again.
//!
//! Whoever opens it shares its lock as long as it is open. Who finds itself alone mends what is damaged or another snapshot's
//! by taking it away; who is not alone and finds it damaged does without. A block's digest is written after its bytes
//! and cleared before its room is given back, so a reader needs no lock: what it reads is what it hashes to, or a miss.

use std::fs;
use std::io::{Read as _, Write as _};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockWriteGuard};
use std::thread;
use std::time::{Duration, Instant};

use log::warn;
use serde::{Deserialize, Serialize};

use super::data::{Data, Way};
use super::digests::Digests;
use super::lock::{self, Gate, Lock};
use super::presence::Presence;
use super::private::{self, Mode};
use crate::block::{Block, BlockIndex, BlockSet, Buffer, Digest};
use crate::durable;
use crate::error::{Error, ErrorKind, Result};
use crate::record;
use crate::snapshot::SnapshotInfo;
use crate::store::Listing;

/// The name of the record that says which snapshot it is.
const INFO: &str = "info";
const INFO_RECORD: &str = "ebsfs-cached-snapshot";
/// Descriptions and tags are bounded, and short.
const LONGEST_INFO: u64 = 1 << 20;

/// How long to wait for who is alone with the directory: it takes something away, or has just begun it.
const PATIENCE: Duration = Duration::from_secs(1);
const RETRY: Duration = Duration::from_millis(5);

/// A block is noted as used once in so many seconds: a note is a page to be written.
const NOTED_EVERY: u32 = 60;

/// Which snapshot of which store.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct Identity {
    /// The store's identity.
    pub(super) store: String,
    pub(super) info: SnapshotInfo,
}

impl Identity {
    /// The key of the snapshot's directory, which is its name, and to which its tables are bound.
    pub(super) fn key(&self) -> Digest {
        key(&self.store, self.info.id.as_str())
    }

    /// Whether `other` may be the same snapshot: what both know of it, and what never changes, is the same.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let (ours, theirs) = (&self.info, &other.info);
        let known = ours.start_time.zip(theirs.start_time);
        self.store == other.store
            && ours.id == theirs.id
            && ours.volume_size == theirs.volume_size
            && ours.status == theirs.status
            && known.is_none_or(|(ours, theirs)| ours == theirs)
    }
}

/// The key of a snapshot: the SHA-256 of both texts, each after its length as a u64.
pub(super) fn key(store: &str, id: &str) -> Digest {
    let mut bytes = Vec::new();
    for text in [store, id] {
        bytes.extend(u64::try_from(text.len()).unwrap_or(u64::MAX).to_le_bytes());
        bytes.extend(text.as_bytes());
    }
    Digest::of(&bytes)
}

/// The identity that is kept in `dir`; none if there is none that can be believed.
pub(super) fn identity_in(dir: &Path) -> Option<Identity> {
    let mut bytes = Vec::new();
    let file = private::open(&dir.join(INFO), Mode::Existing).ok()??;
    file.take(LONGEST_INFO).read_to_end(&mut bytes).ok()?;
    let identity: Identity = record::decode(INFO_RECORD, &bytes).ok()?;
    let name = dir.file_name()?.to_str()?;
    (identity.key().to_string() == name).then_some(identity)
}

/// Forgets which snapshot it is in `dir`; what else is there is not believed then.
pub(super) fn forget_identity(dir: &Path) -> Result<()> {
    private::remove(&dir.join(INFO))
}

/// What the directory knows of a block.
pub(super) enum Found {
    Block(Block),
    /// What is kept as the block with that digest, and not hashed yet.
    Bytes(Buffer, Digest),
    Missing,
    /// Something was there, and it was not the block. It is taken away.
    Damaged,
}

/// A snapshot's files.
pub(super) struct Files {
    dir: PathBuf,
    lock: Lock,
    digests: Digests,
    data: Data,
    /// None for those who only take something away. Guards a read or a write of one listing.
    presence: Option<Mutex<Presence>>,
    /// Shared by those who write blocks, taken alone by who takes blocks away.
    writers: RwLock<()>,
}

impl Files {
    /// Opens the directory of a snapshot below `top`, and makes it if it is missing. Also tells whether anything had to be
    /// taken away.
    pub(super) fn open(top: &Path, identity: &Identity) -> Result<(Self, bool)> {
        let dir = top.join(identity.key().to_string());
        let begin = Instant::now();
        loop {
            if let Some(opened) = Self::try_open(top, &dir, identity)? {
                return Ok(opened);
            }
            if begin.elapsed() > PATIENCE {
                let what = format!("{} is in use in another way", dir.display());
                return Err(Error::new(ErrorKind::Conflict, what));
            }
            thread::sleep(RETRY);
        }
    }

    /// None if others must go on first.
    fn try_open(top: &Path, dir: &Path, identity: &Identity) -> Result<Option<(Self, bool)>> {
        private::directory(dir)?;
        let Some(lock) = Lock::try_share(dir)? else {
            return Ok(None);
        };
        let alone = match Gate::try_enter(top)? {
            Some(gate) if lock.try_alone(dir, &gate)? => Some(gate),
            _ => None,
        };
        let mended = match alone {
            Some(gate) => {
                let mended = mend(dir, identity)?;
                lock.share(dir)?;
                drop(gate);
                mended
            }
            None if check(dir, identity, identity_in(dir).as_ref()).is_ok() => false,
            None => return Ok(None),
        };
        let presence = Presence::open(dir, &identity.key(), identity.info.volume_size)?;
        let files = Self::with(dir, &identity.key(), lock, Some(Mutex::new(presence)))?;
        Ok(Some((files, mended)))
    }

    /// The files in `dir`, whose key is `key`, for who takes something away; none if somebody else does.
    pub(super) fn to_evict(dir: &Path, key: &Digest) -> Result<Option<Self>> {
        match Lock::try_share(dir)? {
            Some(lock) => Self::with(dir, key, lock, None).map(Some),
            None => Ok(None),
        }
    }

    fn with(
        dir: &Path,
        key: &Digest,
        lock: Lock,
        presence: Option<Mutex<Presence>>,
    ) -> Result<Self> {
        let digests = Digests::open(dir, key, Mode::Create)?;
        let digests = digests
            .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("{} is gone", dir.display())))?;
        Ok(Self {
            dir: dir.to_owned(),
            lock,
            digests,
            data: Data::new(dir.to_owned()),
            presence,
            writers: RwLock::default(),
        })
    }

    /// Reads what is kept of a block. Whether it is the block, its digest tells.
    pub(super) fn load(&self, index: BlockIndex, now: u32) -> Result<Found> {
        let entry = match self.digests.get(index) {
            Ok(Some(entry)) => entry,
            Ok(None) => return Ok(Found::Missing),
            Err(e) if e.kind() == ErrorKind::Corrupt => return self.damaged(index, &e),
            Err(e) => return Err(e),
        };
        if now.abs_diff(entry.used) >= NOTED_EVERY {
            // The block is no worse if nothing can be noted.
            drop(self.digests.touch(index, now));
        }
        if entry.digest == Digest::ZERO_BLOCK {
            return Ok(Found::Block(Block::Zero));
        }
        match self.data.read(index)? {
            Some(bytes) => Ok(Found::Bytes(bytes, entry.digest)),
            None => {
                let what = Error::new(ErrorKind::Corrupt, "its file ends before it");
                self.unsound(index, &what)
            }
        }
    }

    /// Takes a block away of which [`load`](Self::load) gave something else, for that reason.
    pub(super) fn unsound(&self, index: BlockIndex, why: &Error) -> Result<Found> {
        // Taken away since its digest was read.
        if self.digests.get(index).is_ok_and(|entry| entry.is_none()) {
            return Ok(Found::Missing);
        }
        self.damaged(index, why)
    }

    /// The blocks of `run` for which there is something, whatever it is.
    pub(super) fn kept(&self, run: Range<u32>) -> Result<BlockSet> {
        let mut kept = BlockSet::new();
        self.digests.ages(run.start, run.end, |index, used| {
            if used > 0 {
                kept.push(index);
            }
        })?;
        Ok(kept)
    }

    fn damaged(&self, index: BlockIndex, why: &Error) -> Result<Found> {
        warn!(
            "{}: block {index}: damaged, and fetched again: {why:#}",
            self.dir.display()
        );
        self.digests.clear(index)?;
        Ok(Found::Damaged)
    }

    /// Keeps a block, which goes that way.
    pub(super) fn keep(&self, index: BlockIndex, block: &Block, now: u32, way: Way) -> Result<()> {
        let _shared = self.writers.read().unwrap_or_else(PoisonError::into_inner);
        if let Block::Data(_) = block {
            self.data.write(index, block.bytes(), way)?;
        }
        self.digests.put(index, &block.digest(), now)
    }

    fn presence(&self) -> Option<MutexGuard<'_, Presence>> {
        let presence = self.presence.as_ref()?;
        Some(presence.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The listing that tells of block `from`, if it is kept. One that is damaged is `Corrupt`, once.
    pub(super) fn listing(&self, from: BlockIndex) -> Result<Option<Listing>> {
        match self.presence() {
            Some(mut presence) => presence.get(from),
            None => Ok(None),
        }
    }

    /// Keeps a listing.
    pub(super) fn keep_listing(&self, listing: &Listing) -> Result<()> {
        match self.presence() {
            Some(mut presence) => presence.put(listing),
            None => Ok(()),
        }
    }

    /// Alone with the files, or none if others use them.
    pub(super) fn alone<'a>(&'a self, gate: &'a Gate) -> Result<Option<Alone<'a>>> {
        let writers = self.writers.write().unwrap_or_else(PoisonError::into_inner);
        if !self.lock.try_alone(&self.dir, gate)? {
            return Ok(None);
        }
        Ok(Some(Alone {
            files: self,
            _writers: writers,
        }))
    }
}

/// Nobody else uses the files as long as this exists; readers of this process do.
pub(super) struct Alone<'a> {
    files: &'a Files,
    _writers: RwLockWriteGuard<'a, ()>,
}

impl Alone<'_> {
    /// Tells `each` which blocks take room, and when they were last used. Those that nothing is known of are the oldest: they were
    /// being written when their writer ended.
    pub(super) fn ages(&self, mut each: impl FnMut(BlockIndex, u32)) -> Result<()> {
        for run in self.files.data.allocated()? {
            self.files.digests.ages(run.start, run.end, &mut each)?;
        }
        Ok(())
    }

    /// Takes a block away.
    pub(super) fn evict(&self, index: BlockIndex) -> Result<()> {
        self.files.digests.clear(index)?;
        self.files.data.punch(index)
    }

    /// Takes everything away, the directory too.
    pub(super) fn remove(self) -> Result<()> {
        remove_all(&self.files.dir)
    }
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        if let Err(e) = self.files.lock.share(&self.files.dir) {
            warn!("{}: {e:#}", self.files.dir.display());
        }
    }
}

/// Takes away what cannot be believed in `dir`, and says which snapshot it is; only for who is alone there. Tells whether there
/// was any such thing.
fn mend(dir: &Path, identity: &Identity) -> Result<bool> {
    let kept = identity_in(dir);
    let sound = check(dir, identity, kept.as_ref());
    if let Err(e) = &sound {
        let is_new = private::names(dir)?.iter().all(|name| name == lock::NAME);
        if !is_new {
            warn!("{}: emptied: {e:#}", dir.display());
        }
        empty(dir)?;
        write_identity(dir, identity)?;
        // Its tables are made before others come.
        check(dir, identity, Some(identity))?;
        return Ok(!is_new);
    }
    for name in private::names(dir)? {
        if name.ends_with(".tmp") {
            private::remove(&dir.join(name))?;
        }
    }
    let mut presence = Presence::open(dir, &identity.key(), identity.info.volume_size)?;
    let torn = !presence.is_whole();
    presence.mend()?;
    // One who may not ask when it was started must not make that forgotten.
    let knows_more = identity.info.start_time.is_some();
    if knows_more && kept.as_ref() != Some(identity) {
        write_identity(dir, identity)?;
    }
    Ok(torn)
}

/// Whether the files in `dir` are those of that snapshot.
fn check(dir: &Path, identity: &Identity, kept: Option<&Identity>) -> Result<()> {
    let is_same = kept.is_some_and(|kept| kept.is_same(identity));
    if !is_same {
        let what = "it does not say that it is of this snapshot";
        return Err(Error::new(ErrorKind::Corrupt, what));
    }
    let key = identity.key();
    for name in private::names(dir)? {
        private::open(&dir.join(name), Mode::Existing)?;
    }
    Presence::open(dir, &key, identity.info.volume_size)?;
    Digests::open(dir, &key, Mode::Create).map(drop)
}

/// Without a sync: what a power failure leaves of it does not match its checksum.
fn write_identity(dir: &Path, identity: &Identity) -> Result<()> {
    let bytes = record::encode(INFO_RECORD, identity)?;
    let temporary = dir.join(durable::unique_name());
    let written = durable::create_private(&temporary).and_then(|mut file| {
        file.write_all(&bytes)
            .map_err(|e| Error::io(e, "write", &temporary))
    });
    let placed = written.and_then(|()| durable::place(&temporary, &dir.join(INFO)));
    if placed.is_err() {
        drop(fs::remove_file(&temporary));
    }
    placed
}

fn empty(dir: &Path) -> Result<()> {
    let names = private::names(dir)?;
    let mut others = names.iter().filter(|name| *name != lock::NAME);
    others.try_for_each(|name| private::remove(&dir.join(name)))
}

/// The lock goes last: who waits for it finds that it is gone, and begins anew.
fn remove_all(dir: &Path) -> Result<()> {
    empty(dir)?;
    private::remove(&dir.join(lock::NAME))?;
    fs::remove_dir(dir).map_err(|e| Error::io(e, "remove", dir))
}

/// Takes a directory away whose tables are nobody's, unless somebody uses it.
pub(super) fn remove_damaged(dir: &Path, gate: &Gate) -> Result<()> {
    match Lock::try_share(dir)? {
        Some(lock) if lock.try_alone(dir, gate)? => remove_all(dir),
        _ => Ok(()),
    }
}
