//! Every counter of this crate, declared once. They only count: nothing decides by them.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Serialize, Serializer};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Its value now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Serialize for Counter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.get())
    }
}

/// What happened to one snapshot since it was opened, under the names that the statistics file uses.
#[derive(Debug, Default, Serialize)]
pub struct Stats {
    /// Reads asked for.
    pub reads: Counter,
    /// Bytes that those reads returned.
    pub bytes: Counter,
    /// Writes and discards asked for.
    pub writes: Counter,
    /// Bytes that those writes took.
    pub written_bytes: Counter,
    /// Reads, writes and syncs that ended in an error.
    pub errors: Counter,
    /// Blocks answered from memory.
    pub hits: Counter,
    /// Blocks fetched from below the memory, disk or store, successfully or not.
    pub fetches: Counter,
    /// Bytes of the blocks fetched.
    pub fetched_bytes: Counter,
    /// Fetches that failed.
    pub failed_fetches: Counter,
    /// Fetches begun before anybody asked for the block.
    pub read_ahead: Counter,
    /// Of these, blocks that were asked for later.
    pub read_ahead_used: Counter,
    /// Of these, blocks that were given up before anybody asked.
    pub read_ahead_wasted: Counter,
    /// Blocks asked for because an access profile named them.
    pub profile_fetches: Counter,
    /// Of these, blocks that were read afterwards.
    pub profile_hits: Counter,
    /// Blocks loaded from the disk cache.
    pub disk_hits: Counter,
    /// Blocks that the disk cache did not have, so that the store was asked.
    pub disk_misses: Counter,
    /// Entries of the disk cache that were not what was written; none of them was used.
    pub disk_corrupt: Counter,
    /// Blocks and listings that were not kept on disk, for want of time or room or for a failure.
    pub disk_skipped: Counter,
}

/// What happened between this process and a remote store, under the names that the statistics file uses.
#[derive(Debug, Default, Serialize)]
pub struct Remote {
    /// Requests sent, repeated ones included.
    pub requests: Counter,
    /// Requests sent again after a failure.
    pub retries: Counter,
    /// Answers that asked to slow down.
    pub throttles: Counter,
    /// Answers that were not what their checksum or format says; none of them was used.
    pub corrupt: Counter,
    /// Attempts that took too long.
    pub timeouts: Counter,
    /// Pages of listings fetched.
    pub listings: Counter,
    /// Block tokens that were refused, so that their blocks were listed again.
    pub relistings: Counter,
}

/// What one piece of work asked of a store, requests repeated by the store's client not included.
#[derive(Debug, Default, Serialize)]
pub struct Requests {
    /// Pages of listings.
    pub listings: Counter,
    /// Blocks fetched.
    pub gets: Counter,
    /// Blocks put.
    pub puts: Counter,
    /// Everything else.
    pub others: Counter,
}
