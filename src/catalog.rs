//! Snapshots and their partitions as named files: what the mounted directory holds.
//!
//! ```text
//! snap-0123.img      the whole disk
//! snap-0123.p1.img   its partition 1, by the partition table's own number
//! ```
//! A snapshot is opened when its name is first looked up or listed, and stays as it was then. A catalog shows the
//! snapshots that it was given, or all completed ones of the store as they come and go; any other snapshot of
//! the store can be reached by its name all the same.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use log::warn;
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio::time::timeout;

use crate::error::{ErrorKind, Result};
use crate::fuse::{Export, Exports, Writable};
use crate::partition::{Partition, Slice, read_table};
use crate::read_at::{DEADLINE, ReadAt, WriteAt, too_late};
use crate::snapshot::{SnapshotId, SnapshotInfo, Status};
use crate::stats::Stats;
use crate::store::{Store, check_readable};

/// A snapshot's bytes.
pub struct Opened {
    /// To read.
    pub data: Arc<dyn ReadAt>,
    /// The same bytes to write to, if they can be.
    pub writable: Option<Arc<dyn WriteAt>>,
    /// Where what happens to them is counted.
    pub stats: Arc<Stats>,
    /// Called when the partition table was read: whatever is read from then on, somebody asked for.
    pub begin: Begin,
}

/// What is called when what a program reads for itself is read.
pub type Begin = Arc<dyn Fn() + Send + Sync>;

/// How a completed snapshot becomes bytes, without waiting for anything.
pub type Opener = Box<dyn Fn(&SnapshotInfo) -> Opened + Send + Sync>;

/// The files of one mount. Its calls wait for the store and must not be made on a worker of the runtime.
pub struct Catalog {
    store: Arc<dyn Store>,
    runtime: Handle,
    open: Opener,
    /// The snapshots to list; none: all.
    named: Option<Vec<SnapshotId>>,
    /// Guards the map, and that each is opened once.
    disks: Mutex<HashMap<SnapshotId, Arc<Disk>>>,
}

struct Disk {
    whole: Arc<Export>,
    begin: Begin,
    /// Not known as long as the table could not be read. Held while it is read, so that it is read once.
    partitions: Mutex<Option<Vec<Arc<Export>>>>,
}

impl Catalog {
    /// Opens the snapshots `named` in `store`, or none yet if all are to be shown.
    ///
    /// Fails for a named one that does not exist or cannot be read; a damaged partition table is only a
    /// warning in the log.
    pub fn open(
        store: Arc<dyn Store>,
        runtime: Handle,
        open: Opener,
        named: Option<Vec<SnapshotId>>,
    ) -> Result<Self> {
        let catalog = Self {
            store,
            runtime,
            open,
            named,
            disks: Mutex::default(),
        };
        for id in catalog.named.iter().flatten() {
            catalog.disk(id)?.files(id);
        }
        Ok(catalog)
    }

    /// What happened to each snapshot so far, by id.
    pub fn stats(&self) -> Value {
        self.disks()
            .iter()
            .map(|(id, disk)| (id.to_string(), json!(*disk.whole.stats)))
            .collect()
    }

    /// Whether a disk that is open can be written to.
    pub fn is_writable(&self) -> bool {
        self.disks()
            .values()
            .any(|disk| disk.whole.writable.is_some())
    }

    /// Makes durable what was written to the disks that can be.
    pub fn sync(&self) -> Result<()> {
        let disks: Vec<_> = self.disks().values().cloned().collect();
        let writable = disks.iter().filter_map(|disk| disk.whole.writable.as_ref());
        // The others are synced also if one fails.
        let synced: Vec<_> = writable.map(|writable| writable.data.sync()).collect();
        synced.into_iter().collect()
    }

    fn disks(&self) -> MutexGuard<'_, HashMap<SnapshotId, Arc<Disk>>> {
        self.disks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn disk(&self, id: &SnapshotId) -> Result<Arc<Disk>> {
        if let Some(disk) = self.disks().get(id) {
            return Ok(Arc::clone(disk));
        }
        let info = self.wait(self.store.info(id))?;
        check_readable(id, info.status)?;
        // Under the lock, so that two who ask at once open it once.
        let mut disks = self.disks();
        if let Some(disk) = disks.get(id) {
            return Ok(Arc::clone(disk));
        }
        let opened = (self.open)(&info);
        let whole = Arc::new(Export {
            name: format!("{id}.img"),
            data: opened.data,
            writable: opened.writable.map(|data| Writable { data, start: 0 }),
            time: info.start_time.unwrap_or_default().into(),
            stats: opened.stats,
        });
        let disk = Arc::new(Disk {
            whole,
            begin: opened.begin,
            partitions: Mutex::default(),
        });
        disks.insert(id.clone(), Arc::clone(&disk));
        Ok(disk)
    }

    fn wait<T>(&self, what: impl Future<Output = Result<T>>) -> Result<T> {
        let answer = self
            .runtime
            .block_on(async { timeout(DEADLINE, what).await });
        answer.unwrap_or_else(|_| Err(too_late()))
    }

    fn listed(&self) -> Result<Vec<SnapshotId>> {
        if let Some(named) = &self.named {
            return Ok(named.clone());
        }
        let all = self.wait(self.store.list())?;
        Ok(all
            .into_iter()
            .filter(|info| info.status == Status::Completed)
            .map(|info| info.id)
            .collect())
    }
}

impl Disk {
    /// The whole disk, then its partitions. A table that cannot be read is tried again the next time.
    fn files(&self, id: &SnapshotId) -> Vec<Arc<Export>> {
        let mut partitions = self
            .partitions
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if partitions.is_none() {
            match self.open_partitions(id) {
                Ok(opened) => *partitions = Some(opened),
                Err(e) => warn!("{id}: no partitions are shown: {e:#}"),
            }
            (self.begin)();
        }
        let whole = std::iter::once(&self.whole);
        whole.chain(partitions.iter().flatten()).cloned().collect()
    }

    fn open_partitions(&self, id: &SnapshotId) -> Result<Vec<Arc<Export>>> {
        let data = &self.whole.data;
        let table = read_table(&**data)?;
        table
            .warnings
            .iter()
            .for_each(|warning| warn!("{id}: {warning}"));
        let open = |partition: Partition| {
            let range = partition.range;
            let writable = match &self.whole.writable {
                Some(disk) => Some(Writable {
                    data: Arc::new(Slice::new(Arc::clone(&disk.data), range.clone())?),
                    start: range.start,
                }),
                None => None,
            };
            let slice = Slice::new(Arc::clone(data), range)?;
            Ok(Arc::new(Export {
                name: format!("{id}.p{}.img", partition.number),
                data: Arc::new(slice),
                writable,
                time: self.whole.time,
                stats: Arc::clone(&self.whole.stats),
            }))
        };
        table.partitions.into_iter().map(open).collect()
    }
}

/// The snapshot that a file's name speaks of.
fn snapshot_of(name: &str) -> Option<SnapshotId> {
    let stem = name.strip_suffix(".img")?;
    let id = match stem.rsplit_once(".p") {
        Some((id, number)) => number
            .parse::<u32>()
            .is_ok_and(|n| n.to_string() == number)
            .then_some(id)?,
        None => stem,
    };
    id.parse().ok()
}

impl Exports for Catalog {
    fn list(&self) -> Result<Vec<Arc<Export>>> {
        let mut files = Vec::new();
        for id in self.listed()? {
            match self.disk(&id) {
                Ok(disk) => files.extend(disk.files(&id)),
                // One that cannot be opened must not hide the others.
                Err(e) => warn!("{id}: left out of the directory: {e:#}"),
            }
        }
        Ok(files)
    }

    fn lookup(&self, name: &str) -> Result<Option<Arc<Export>>> {
        // Any other name is answered without asking the store.
        let Some(id) = snapshot_of(name) else {
            return Ok(None);
        };
        match self.disk(&id) {
            Ok(disk) => Ok(disk.files(&id).into_iter().find(|file| file.name == name)),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_images_reach_the_store() {
        let id = |name: &str| snapshot_of(name).map(|id| id.to_string());
        assert_eq!(id("snap-0a.img").as_deref(), Some("snap-0a"));
        assert_eq!(id("snap-0a.p1.img").as_deref(), Some("snap-0a"));
        for other in [
            "snap-0a",
            "snap-0a.p.img",
            "snap-0a.p01.img",
            "snap-0a.px.img",
            "snap-.img",
            "SNAP-0A.img",
            ".img",
            "autorun.inf",
            "snap-0a.p1.p2.img",
            "snap-0a.p+1.img",
        ] {
            assert_eq!(id(other), None, "{other}");
        }
    }
}
