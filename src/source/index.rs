//! Which blocks are present, as far as it was asked: listings of all snapshots together in bounded memory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::block::BlockIndex;
use crate::snapshot::SnapshotId;
use crate::store::Listing;

/// Listings of many snapshots; those not used for longest go first.
pub struct IndexCache {
    limit: usize,
    /// Guards map operations only.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By snapshot and first index covered. Where two of a snapshot overlap, the later one is asked.
    windows: BTreeMap<(SnapshotId, u32), Window>,
    bytes: usize,
    clock: u64,
}

struct Window {
    listing: Arc<Listing>,
    used: u64,
}

/// What a window takes beside its set.
const OVERHEAD: usize = 256;

impl IndexCache {
    /// Memory for the listings of all snapshots of a process. A window of 10,000 blocks takes a few bytes if they
    /// lie together, and at most 128 KiB if each lies alone.
    pub const DEFAULT_LIMIT: usize = 16 << 20;

    /// Blocks between the indexes at which windows begin; below a listing's largest page, so that the page
    /// which begins there reaches the next.
    const STRIDE: u32 = 8192;

    /// An empty cache of at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            state: Mutex::default(),
        }
    }

    /// Where the window that tells of `index` begins.
    pub(super) fn window_start(index: BlockIndex) -> BlockIndex {
        BlockIndex::new(index.get() - index.get() % Self::STRIDE)
    }

    pub(super) fn get(&self, id: &SnapshotId, index: BlockIndex) -> Option<Arc<Listing>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.clock += 1;
        let clock = state.clock;
        let (key, window) = state
            .windows
            .range_mut(..=(id.clone(), index.get()))
            .next_back()?;
        if key.0 != *id || !window.listing.covered.contains(&index.get()) {
            return None;
        }
        window.used = clock;
        Some(Arc::clone(&window.listing))
    }

    pub(super) fn insert(&self, id: &SnapshotId, listing: Arc<Listing>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (start, end) = (listing.covered.start, listing.covered.end);
        let inside: Vec<_> = state
            .windows
            .range((id.clone(), start)..(id.clone(), end))
            .map(|(key, _)| key.clone())
            .collect();
        inside.iter().for_each(|key| state.remove(key));
        state.clock += 1;
        state.bytes += cost(&listing);
        let used = state.clock;
        state
            .windows
            .insert((id.clone(), start), Window { listing, used });
        while state.bytes > self.limit && state.windows.len() > 1 {
            let oldest = state
                .windows
                .iter()
                .min_by_key(|(_, window)| window.used)
                .map(|(key, _)| key.clone());
            oldest.iter().for_each(|key| state.remove(key));
        }
    }
}

impl State {
    fn remove(&mut self, key: &(SnapshotId, u32)) {
        if let Some(window) = self.windows.remove(key) {
            self.bytes -= cost(&window.listing);
        }
    }
}

fn cost(listing: &Listing) -> usize {
    OVERHEAD + listing.set.memory()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::BlockSet;
    use crate::snapshot::VolumeSize;

    fn listing(covered: std::ops::Range<u32>) -> Arc<Listing> {
        let volume_size = VolumeSize::from_gib(100).unwrap();
        Arc::new(Listing {
            set: BlockSet::new(),
            covered,
            volume_size,
        })
    }

    #[test]
    fn memory_stays_bounded_and_the_least_used_window_goes_first() {
        let id: SnapshotId = "snap-0".parse().unwrap();
        let cache = IndexCache::new(3 * cost(&listing(0..1)));
        for start in [0, 10, 20] {
            cache.insert(&id, listing(start..start + 10));
        }
        assert!(cache.get(&id, BlockIndex::new(5)).is_some());
        cache.insert(&id, listing(30..40));
        let held: Vec<_> = [5, 15, 25, 35]
            .map(|i| cache.get(&id, BlockIndex::new(i)).is_some())
            .into();
        assert_eq!(held, [true, false, true, true]);
    }

    #[test]
    fn a_wide_window_takes_the_place_of_those_it_covers() {
        let id: SnapshotId = "snap-0".parse().unwrap();
        let cache = IndexCache::new(1 << 20);
        cache.insert(&id, listing(8192..9000));
        cache.insert(&id, listing(0..100_000));
        assert_eq!(
            cache.get(&id, BlockIndex::new(50_000)).unwrap().covered,
            0..100_000
        );
        assert!(
            cache
                .get(&"snap-1".parse().unwrap(), BlockIndex::new(5))
                .is_none()
        );
    }
}
