//! Files of snapshots: from the store up to paths, in this process, without a mount.
//!
//! ```text
//! FileTree                 paths
//!   Slice                  a partition's bytes
//!   Image                  bytes
//!     ...                  as for a mount
//! ```

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use tokio::runtime::Runtime;

use super::{Disk, Opened, Snapshots, Spot, Tasks, open_store, runtime};
use crate::block::BlockIndex;
use crate::cache::BlockCache;
use crate::cache::disk::DiskCache;
use crate::cli::Common;
use crate::cli::disk_cache::settle;
use crate::cli::place::Place;
use crate::cli::reading::Reading;
use crate::error::{Error, Result};
use crate::filesystem::Last;
use crate::snapshot::{SnapshotId, SnapshotInfo};
use crate::source::Differences;
use crate::store::{Store, check_readable};

/// Snapshots of one store whose files are read. Not to be used from a worker of its own runtime.
pub(in crate::cli) struct Trees {
    snapshots: Snapshots,
    disks: RefCell<HashMap<SnapshotId, Rc<Disk>>>,
    disk_cache: Option<Arc<DiskCache>>,
    opened: Opened,
    // Dropped last: what is above may still have tasks.
    runtime: Tasks,
}

impl Trees {
    pub(in crate::cli) fn open(common: &Common, reading: &Reading) -> Result<Self> {
        let runtime = runtime()?;
        let opened = open_store(common, &runtime)?;
        let cache = Arc::new(BlockCache::new(reading.cache_size));
        let disk_cache = reading.disk.open(&opened, &runtime)?;
        let mut snapshots = Snapshots::new(&opened.store, &cache).on_disk(disk_cache.clone());
        if !reading.no_read_ahead {
            snapshots = snapshots.reading_ahead();
        }
        Ok(Self {
            snapshots,
            disks: RefCell::default(),
            disk_cache,
            opened,
            runtime,
        })
    }

    /// A snapshot, opened once.
    pub(in crate::cli) fn disk(&self, id: &SnapshotId) -> Result<Rc<Disk>> {
        if let Some(disk) = self.disks.borrow().get(id) {
            return Ok(Rc::clone(disk));
        }
        let described = self.snapshots.described();
        if self.opened.remote.is_some() {
            // No byte is read without the first listing, which the store keeps: it is asked for at the same time. Why it
            // cannot be had is told by who needs it.
            let (store, id) = (Arc::clone(&self.opened.store), id.clone());
            self.runtime
                .spawn(async move { drop(store.blocks(&id, BlockIndex::ZERO).await) });
        }
        let info = self.runtime.block_on(described.info(id))?;
        check_readable(id, info.status)?;
        let opened = self.snapshots.clone().opener(&self.runtime)(&info);
        let disk =
            Disk::open(info, opened.data, opened.stats).map_err(|e| e.context(id.to_string()))?;
        let disk = Rc::new(disk);
        self.disks.borrow_mut().insert(id.clone(), Rc::clone(&disk));
        Ok(disk)
    }

    /// Two snapshots, of which the second takes from the first what `differences` tells to be the same in both.
    pub(in crate::cli) fn both(
        &self,
        (from, to): (&SnapshotInfo, &SnapshotInfo),
        differences: Option<&Arc<Differences>>,
    ) -> Result<[Rc<Disk>; 2]> {
        let [first, second] = self.snapshots.both((from, to), differences, &self.runtime);
        let open = |info: &SnapshotInfo, (data, stats)| {
            let disk = Disk::open(info.clone(), data, stats);
            let disk = disk.map_err(|e| e.context(info.id.to_string()))?;
            let disk = Rc::new(disk);
            let mut disks = self.disks.borrow_mut();
            disks.insert(info.id.clone(), Rc::clone(&disk));
            Ok::<_, Error>(disk)
        };
        Ok([open(from, first)?, open(to, second)?])
    }

    pub(in crate::cli) fn store(&self) -> &Arc<dyn Store> {
        &self.opened.store
    }

    pub(in crate::cli) fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// The file at a place.
    pub(in crate::cli) fn find(&self, place: &Place, last: Last) -> Result<Spot> {
        self.disk(&place.snapshot)?.find(place, last)
    }

    /// Counters of what was done, by snapshot, for those who want to know.
    fn log(&self) {
        for (id, disk) in self.disks.borrow().iter() {
            log::info!("{}", serde_json::json!({ (id.as_str()): *disk.stats }));
        }
    }
}

impl Drop for Trees {
    fn drop(&mut self) {
        self.log();
        if let Some(disk_cache) = &self.disk_cache {
            settle(disk_cache, &self.runtime);
        }
    }
}
