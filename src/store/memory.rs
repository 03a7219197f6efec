//! The `Store` contract in its smallest form: maps behind a lock.
//!
//! It is the oracle of the tests and a store for programs that need none on disk. Nothing survives it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

use super::{
    Clock, Listing, Store, check_new, check_pending, check_readable, check_repeat, check_seal,
    no_such_snapshot, not_related, system_clock,
};
use crate::block::{Block, BlockIndex, BlockSet, Hasher};
use crate::error::Result;
use crate::snapshot::{NewSnapshot, Seal, SnapshotId, SnapshotInfo, Status, random_hex};

/// A store in memory.
pub struct MemoryStore {
    identity: String,
    clock: Clock,
    /// Guards everything; held for map operations only.
    snapshots: Mutex<HashMap<SnapshotId, Snapshot>>,
}

struct Snapshot {
    info: SnapshotInfo,
    new: NewSnapshot,
    /// The first snapshot of its line of descent.
    lineage: SnapshotId,
    /// What it inherited and, once completed, what was put.
    blocks: BTreeMap<BlockIndex, Block>,
    /// What was put while it is pending.
    puts: BTreeMap<BlockIndex, Block>,
    last_put: Timestamp,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Result<Self> {
        Self::with_clock(system_clock())
    }

    /// An empty store that takes the time from `clock`.
    pub fn with_clock(clock: Clock) -> Result<Self> {
        Ok(Self {
            identity: format!("memory:{}", random_hex::<16>()?),
            clock,
            snapshots: Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SnapshotId, Snapshot>> {
        // Every change is one insertion or removal: what a panicking thread left behind is whole.
        let mut snapshots = self
            .snapshots
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let now = (self.clock)();
        for snapshot in snapshots.values_mut() {
            // A clock that was set back makes nothing expire.
            let idle =
                Duration::try_from(now.duration_since(snapshot.last_put)).unwrap_or_default();
            if snapshot.info.status == Status::Pending && idle > snapshot.new.timeout {
                snapshot.info.status = Status::Error;
            }
        }
        snapshots
    }

    fn readable<T>(&self, id: &SnapshotId, read: impl FnOnce(&Snapshot) -> Result<T>) -> Result<T> {
        let snapshots = self.lock();
        let snapshot = snapshots.get(id).ok_or_else(|| no_such_snapshot(id))?;
        check_readable(id, snapshot.info.status)?;
        read(snapshot)
    }
}

#[async_trait]
impl Store for MemoryStore {
    fn identity(&self) -> String {
        self.identity.clone()
    }

    async fn list(&self) -> Result<Vec<SnapshotInfo>> {
        let mut all: Vec<_> = self
            .lock()
            .values()
            .map(|snapshot| snapshot.info.clone())
            .collect();
        all.sort_by(|a, b| (a.start_time, &a.id).cmp(&(b.start_time, &b.id)));
        Ok(all)
    }

    async fn info(&self, id: &SnapshotId) -> Result<SnapshotInfo> {
        self.lock()
            .get(id)
            .map(|snapshot| snapshot.info.clone())
            .ok_or_else(|| no_such_snapshot(id))
    }

    async fn blocks(&self, id: &SnapshotId, from: BlockIndex) -> Result<Listing> {
        self.readable(id, |snapshot| {
            let volume_size = snapshot.info.volume_size;
            volume_size.check(from)?;
            let set: BlockSet = snapshot
                .blocks
                .range(from..)
                .map(|(index, _)| *index)
                .collect();
            Ok(Listing {
                set,
                covered: from.get()..volume_size.blocks(),
                volume_size,
            })
        })
    }

    async fn changed(&self, from: &SnapshotId, to: &SnapshotId, at: BlockIndex) -> Result<Listing> {
        let (lineage, old) = self.readable(from, |s| Ok((s.lineage.clone(), s.blocks.clone())))?;
        self.readable(to, |snapshot| {
            if snapshot.lineage != lineage {
                return Err(not_related(from, to));
            }
            let volume_size = snapshot.info.volume_size;
            volume_size.check(at)?;
            // The volume of `from` may be larger; of its end this listing does not speak.
            let end = BlockIndex::new(volume_size.blocks());
            let mut both: Vec<_> = old
                .range(at..end)
                .chain(snapshot.blocks.range(at..end))
                .map(|(index, _)| *index)
                .collect();
            both.sort_unstable();
            both.dedup();
            let set = both
                .into_iter()
                .filter(|index| old.get(index) != snapshot.blocks.get(index))
                .collect();
            Ok(Listing {
                set,
                covered: at.get()..volume_size.blocks(),
                volume_size,
            })
        })
    }

    async fn get(&self, id: &SnapshotId, index: BlockIndex) -> Result<Block> {
        self.readable(id, |snapshot| {
            snapshot.info.volume_size.check(index)?;
            Ok(snapshot.blocks.get(&index).cloned().unwrap_or(Block::Zero))
        })
    }

    async fn start(&self, new: &NewSnapshot) -> Result<SnapshotInfo> {
        let mut snapshots = self.lock();
        let repeated = snapshots
            .values()
            .find(|s| s.new.client_token == new.client_token);
        if let Some(first) = repeated {
            check_repeat(&first.new, new, &first.info.id)?;
            return Ok(first.info.clone());
        }
        let parent = match &new.parent {
            Some(id) => Some(snapshots.get(id).ok_or_else(|| no_such_snapshot(id))?),
            None => None,
        };
        check_new(new, parent.map(|parent| &parent.info))?;
        let id = SnapshotId::random()?;
        let now = (self.clock)();
        let info = SnapshotInfo {
            id: id.clone(),
            parent: new.parent.clone(),
            volume_size: new.volume_size,
            status: Status::Pending,
            start_time: Some(now),
            description: new.description.clone(),
            tags: new.tags.clone(),
            encryption: match parent {
                Some(parent) => parent.info.encryption.clone(),
                None => new.encryption.clone(),
            },
        };
        let snapshot = Snapshot {
            info: info.clone(),
            new: new.clone(),
            lineage: parent.map_or_else(|| id.clone(), |parent| parent.lineage.clone()),
            blocks: parent
                .map(|parent| parent.blocks.clone())
                .unwrap_or_default(),
            puts: BTreeMap::new(),
            last_put: now,
        };
        snapshots.insert(id, snapshot);
        Ok(info)
    }

    async fn put(&self, id: &SnapshotId, index: BlockIndex, block: &Block) -> Result<()> {
        let mut snapshots = self.lock();
        let snapshot = snapshots.get_mut(id).ok_or_else(|| no_such_snapshot(id))?;
        check_pending(id, snapshot.info.status)?;
        snapshot.info.volume_size.check(index)?;
        snapshot.puts.insert(index, block.clone());
        snapshot.last_put = (self.clock)();
        Ok(())
    }

    async fn complete(&self, id: &SnapshotId, seal: &Seal) -> Result<()> {
        let mut snapshots = self.lock();
        let snapshot = snapshots.get_mut(id).ok_or_else(|| no_such_snapshot(id))?;
        check_pending(id, snapshot.info.status)?;
        let mut linear = Hasher::default();
        snapshot
            .puts
            .values()
            .for_each(|block| linear.update(block.digest().as_bytes()));
        let count = snapshot.puts.keys().map(|_| 1).sum();
        check_seal(
            id,
            &Seal {
                count,
                checksum: Some(linear.finish()),
            },
            seal,
        )?;
        let puts = std::mem::take(&mut snapshot.puts);
        snapshot.blocks.extend(puts);
        snapshot.info.status = Status::Completed;
        Ok(())
    }

    async fn delete(&self, id: &SnapshotId) -> Result<()> {
        self.lock()
            .remove(id)
            .map(drop)
            .ok_or_else(|| no_such_snapshot(id))
    }
}
