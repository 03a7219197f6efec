//! How much may be kept: the limit of the whole cache directory, and what the file system can spare.
//!
//! What is used is measured, as other processes fill and empty the directory, too: by the bytes that files take. After each
//! measurement a process may add a quarter of what is free, so four that fill it at once stay within the limit.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::private;
use crate::block::{BlockIndex, blocks_for};
use crate::error::{Error, Result};

/// This part of a file system stays free for others: one in so many bytes.
const SPARED: u64 = 20;
/// Less than this part of what may be used is too little: then something must go.
const TIGHT: u64 = 16;
/// And so much of it goes at one time, as looking for the oldest blocks costs more than one block is worth.
const EVICTED: u64 = 8;
/// A process adds no more than this without looking again.
const LARGEST_GRANT: u64 = 256 << 20;
/// What a block's entry may take beside it: a page of the table.
const ENTRY: u64 = 4096;
/// After hardly anything could be taken away, so long nothing is added.
const PAUSE: Duration = Duration::from_secs(5);

pub(super) struct Room {
    top: PathBuf,
    limit: u64,
    /// As measured, and what was added since.
    used: AtomicU64,
    /// Room that was taken, for blocks that may not be written yet.
    writing: AtomicU64,
    /// Guards the numbers in it.
    grant: Mutex<Grant>,
}

/// Room for a block that is being written.
pub(super) struct Taken<'a>(&'a Room);

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.0.writing.fetch_sub(cost(), Ordering::Relaxed);
    }
}

#[derive(Default)]
struct Grant {
    bytes: u64,
    not_before: Option<Instant>,
}

/// What a measurement found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Measured {
    used: u64,
    /// What may be used.
    most: u64,
}

impl Measured {
    fn free(self) -> u64 {
        self.most.saturating_sub(self.used)
    }

    fn grant(self) -> u64 {
        (self.free() / 4).min(LARGEST_GRANT)
    }

    /// How many blocks must go before any is added.
    pub(super) fn excess(self) -> Option<u64> {
        let tight = self.free() < self.most / TIGHT || self.grant() < cost();
        let wanted = self.most - self.most / EVICTED;
        tight.then(|| blocks_for(self.used.saturating_sub(wanted)).max(1))
    }
}

/// What keeping a block takes.
fn cost() -> u64 {
    BlockIndex::ZERO.end() + ENTRY
}

impl Room {
    pub(super) fn new(top: &Path, limit: u64) -> Self {
        Self {
            top: top.to_owned(),
            limit,
            used: AtomicU64::new(0),
            writing: AtomicU64::new(0),
            grant: Mutex::default(),
        }
    }

    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    /// Bytes that all files take, nearly.
    pub(super) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Takes room for a block, if there is any that was granted. To be held until the block is written.
    pub(super) fn take(&self) -> Option<Taken<'_>> {
        let mut grant = self.grant.lock().unwrap_or_else(PoisonError::into_inner);
        grant.bytes = grant.bytes.checked_sub(cost())?;
        self.used.fetch_add(cost(), Ordering::Relaxed);
        self.writing.fetch_add(cost(), Ordering::Relaxed);
        Some(Taken(self))
    }

    /// Whether it is worth while to look for more.
    pub(super) fn may_look(&self) -> bool {
        let grant = self.grant.lock().unwrap_or_else(PoisonError::into_inner);
        grant.not_before.is_none_or(|time| time <= Instant::now())
    }

    /// Looks at all files, and at the file system.
    pub(super) fn measure(&self) -> Result<Measured> {
        // First, so that what is written meanwhile counts twice and not never.
        let mut used = self.writing.load(Ordering::Relaxed);
        for name in private::names(&self.top)? {
            let path = self.top.join(name);
            used += allocated(&path);
            // Another process may take it away at the same time.
            for name in private::names(&path).unwrap_or_default() {
                used += allocated(&path.join(name));
            }
        }
        let disk = rustix::fs::statvfs(&self.top)
            .map_err(|e| Error::io(e.into(), "look at the file system of", &self.top))?;
        let spare = disk.f_blocks.saturating_mul(disk.f_frsize) / SPARED;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        let most = used.saturating_add(free).saturating_sub(spare);
        self.used.store(used, Ordering::Relaxed);
        Ok(Measured {
            used,
            most: most.min(self.limit),
        })
    }

    /// Grants what a measurement leaves.
    pub(super) fn grant(&self, measured: Measured) {
        let mut grant = self.grant.lock().unwrap_or_else(PoisonError::into_inner);
        *grant = Grant {
            bytes: measured.grant(),
            not_before: None,
        };
    }

    /// Grants nothing for a while: the disk said that it is full, or hardly anything could be taken away.
    pub(super) fn pause(&self) {
        let mut grant = self.grant.lock().unwrap_or_else(PoisonError::into_inner);
        *grant = Grant {
            bytes: 0,
            not_before: Some(Instant::now() + PAUSE),
        };
    }
}

fn allocated(path: &Path) -> u64 {
    fs::symlink_metadata(path).map_or(0, |found| found.blocks() * 512)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn something_goes_when_little_is_left_and_then_enough_for_a_while() {
        let measured = |used, most| Measured { used, most };
        assert_eq!(measured(0, 160 * MIB).excess(), None);
        assert_eq!(measured(140 * MIB, 160 * MIB).excess(), None);
        // Down to 140 MiB.
        assert_eq!(measured(155 * MIB, 160 * MIB).excess(), Some(30));
        // The file system is filled by others.
        assert_eq!(measured(100 * MIB, 0).excess(), Some(200));
        assert_eq!(measured(0, 0).excess(), Some(1));
    }

    #[test]
    fn four_processes_at_once_stay_within_the_limit() {
        let dir = tempfile::tempdir().unwrap();
        let all = [(); 4].map(|()| Room::new(dir.path(), 64 * MIB));
        let mut taken = 0;
        for room in &all {
            assert!(
                room.take().is_none(),
                "nothing is granted before it is measured"
            );
            let measured = room.measure().unwrap();
            room.grant(measured);
        }
        for room in &all {
            while room.take().is_some() {
                taken += cost();
            }
        }
        assert!(taken > 60 * MIB && taken <= 64 * MIB, "{taken}");
        all[0].pause();
        assert!(!all[0].may_look() && all[1].may_look());
    }
}
