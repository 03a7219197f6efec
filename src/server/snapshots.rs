//! The store as the server shows it: snapshots, those that can be read already open.
//!
//! A snapshot stays open after its first read, so that its listings and its blocks in the cache serve the next
//! one; that it still exists is looked up again every second. A completed snapshot can be shown as pending
//! for a while, as the service does.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lru::LruCache;

use super::Opener;
use crate::error::Result;
use crate::snapshot::{Seal, SnapshotId, SnapshotInfo, Status};
use crate::source::BlockSource;
use crate::store::{Store, check_readable};

/// Snapshots open at a time. One takes little; its blocks are the cache's.
const OPEN: NonZeroUsize = NonZeroUsize::new(1024).expect("not zero");

/// How long a snapshot is taken to be still there: another process may delete it.
const TRUSTED: Duration = Duration::from_secs(1);

/// The snapshots of a store.
pub(super) struct Snapshots {
    pub(super) store: Arc<dyn Store>,
    opener: Opener,
    /// How long a completed snapshot is shown as pending.
    delay: Duration,
    /// Until when; only those for which it is not over.
    delayed: Mutex<HashMap<SnapshotId, Instant>>,
    /// Like `delayed` it guards map operations only.
    open: Mutex<LruCache<SnapshotId, Open>>,
}

/// A completed snapshot.
#[derive(Clone)]
pub(super) struct Readable {
    pub(super) info: Arc<SnapshotInfo>,
    pub(super) source: Arc<dyn BlockSource>,
}

struct Open {
    readable: Readable,
    looked_up: Instant,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Snapshots {
    pub(super) fn new(store: Arc<dyn Store>, opener: Opener, delay: Duration) -> Self {
        Self {
            store,
            opener,
            delay,
            delayed: Mutex::default(),
            open: Mutex::new(LruCache::new(OPEN)),
        }
    }

    /// All of them, by id.
    pub(super) async fn list(&self) -> Result<Vec<SnapshotInfo>> {
        let mut all = self.store.list().await?;
        all.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(all.into_iter().map(|info| self.shown(info)).collect())
    }

    /// One of them.
    pub(super) async fn info(&self, id: &SnapshotId) -> Result<SnapshotInfo> {
        Ok(self.shown(self.store.info(id).await?))
    }

    fn shown(&self, mut info: SnapshotInfo) -> SnapshotInfo {
        if self.is_delayed(&info.id) {
            info.status = Status::Pending;
        }
        info
    }

    fn is_delayed(&self, id: &SnapshotId) -> bool {
        let mut delayed = locked(&self.delayed);
        match delayed.get(id) {
            Some(until) if *until > Instant::now() => true,
            Some(_) => {
                delayed.remove(id);
                false
            }
            None => false,
        }
    }

    /// `Invalid` while a completed snapshot is still shown as pending.
    pub(super) fn check_not_delayed(&self, id: &SnapshotId) -> Result<()> {
        match self.is_delayed(id) {
            true => check_readable(id, Status::Pending),
            false => Ok(()),
        }
    }

    /// A completed snapshot; `Invalid` for others.
    pub(super) async fn readable(&self, id: &SnapshotId) -> Result<Readable> {
        if let Some(open) = locked(&self.open).get(id)
            && open.looked_up.elapsed() < TRUSTED
        {
            return Ok(open.readable.clone());
        }
        let info = match self.info(id).await {
            Ok(info) => info,
            Err(e) => {
                locked(&self.open).pop(id);
                return Err(e);
            }
        };
        check_readable(id, info.status)?;
        let mut open = locked(&self.open);
        if let Some(open) = open.get_mut(id) {
            open.looked_up = Instant::now();
            return Ok(open.readable.clone());
        }
        let readable = Readable {
            source: (self.opener)(&info),
            info: Arc::new(info),
        };
        let looked_up = Instant::now();
        let entry = Open {
            readable: readable.clone(),
            looked_up,
        };
        open.put(id.clone(), entry);
        Ok(readable)
    }

    /// Completes a snapshot; gives what it is shown as from now on.
    pub(super) async fn complete(&self, id: &SnapshotId, seal: &Seal) -> Result<Status> {
        if self.delay.is_zero() {
            self.store.complete(id, seal).await?;
            return Ok(Status::Completed);
        }
        // Before, so that nobody sees it completed for a moment.
        let first = {
            let mut delayed = locked(&self.delayed);
            let first = !delayed.contains_key(id);
            if first {
                delayed.insert(id.clone(), Instant::now() + self.delay);
            }
            first
        };
        let completed = self.store.complete(id, seal).await;
        if completed.is_err() && first {
            locked(&self.delayed).remove(id);
        }
        completed.map(|()| Status::Pending)
    }

    /// Deletes a snapshot.
    pub(super) async fn delete(&self, id: &SnapshotId) -> Result<()> {
        let deleted = self.store.delete(id).await;
        locked(&self.open).pop(id);
        deleted
    }
}
