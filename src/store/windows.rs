//! What was listed of snapshots, a window of blocks at a time, for all snapshots together in bounded memory.
//!
//! A source keeps which blocks are present ([`Listing`]), a remote store also the tokens that read them. Both
//! begin their windows at round indexes, so that one request serves both.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Listing;
use crate::block::BlockIndex;
use crate::snapshot::SnapshotId;

/// Something that was listed about a range of blocks.
pub trait Window {
    /// The indexes about which it speaks.
    fn covered(&self) -> Range<u32>;

    /// Bytes of memory it takes, nearly.
    fn memory(&self) -> usize;
}

impl Window for Listing {
    fn covered(&self) -> Range<u32> {
        self.covered.clone()
    }

    fn memory(&self) -> usize {
        size_of::<Self>() + self.set.memory()
    }
}

/// Blocks between the indexes at which windows begin; below a listing's largest page, so that the page which
/// begins there reaches the next.
const STRIDE: u32 = 8192;

/// Where the window that tells of `index` begins.
pub fn window_start(index: BlockIndex) -> BlockIndex {
    BlockIndex::new(index.get() - index.get() % STRIDE)
}

/// Windows of many snapshots; those not used for longest go first.
pub struct Windows<W> {
    limit: usize,
    /// Guards map operations only.
    state: Mutex<State<W>>,
}

struct State<W> {
    /// By snapshot and first index covered. Where two of a snapshot overlap, the later one is asked.
    windows: BTreeMap<(SnapshotId, u32), Kept<W>>,
    bytes: usize,
    clock: u64,
}

struct Kept<W> {
    window: Arc<W>,
    used: u64,
}

/// What a window takes beside its contents.
const OVERHEAD: usize = 192;

impl<W: Window> Windows<W> {
    /// None, and never more than `limit` bytes, the latest one aside.
    pub fn new(limit: usize) -> Self {
        let state = State {
            windows: BTreeMap::new(),
            bytes: 0,
            clock: 0,
        };
        Self {
            limit,
            state: Mutex::new(state),
        }
    }

    /// The window that tells of `index`.
    pub fn get(&self, id: &SnapshotId, index: BlockIndex) -> Option<Arc<W>> {
        let mut state = self.lock();
        state.clock += 1;
        let clock = state.clock;
        let (key, kept) = state
            .windows
            .range_mut(..=(id.clone(), index.get()))
            .next_back()?;
        if key.0 != *id || !kept.window.covered().contains(&index.get()) {
            return None;
        }
        kept.used = clock;
        Some(Arc::clone(&kept.window))
    }

    /// Keeps `window`, in place of those that begin in it.
    pub fn insert(&self, id: &SnapshotId, window: Arc<W>) {
        let mut state = self.lock();
        let Range { start, end } = window.covered();
        state.remove_all(id, start..end);
        state.clock += 1;
        state.bytes += cost(&*window);
        let used = state.clock;
        state
            .windows
            .insert((id.clone(), start), Kept { window, used });
        while state.bytes > self.limit && state.windows.len() > 1 {
            let oldest = state
                .windows
                .iter()
                .min_by_key(|(_, kept)| kept.used)
                .map(|(key, _)| key.clone());
            oldest.iter().for_each(|key| state.remove(key));
        }
    }

    /// Forgets `window`, unless another has taken its place.
    pub fn remove(&self, id: &SnapshotId, window: &Arc<W>) {
        let mut state = self.lock();
        let key = (id.clone(), window.covered().start);
        let same = |kept: &Kept<W>| Arc::ptr_eq(&kept.window, window);
        if state.windows.get(&key).is_some_and(same) {
            state.remove(&key);
        }
    }

    /// Forgets all windows of a snapshot.
    pub fn forget(&self, id: &SnapshotId) {
        self.lock().remove_all(id, 0..u32::MAX);
    }

    fn lock(&self) -> MutexGuard<'_, State<W>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<W: Window> State<W> {
    fn remove(&mut self, key: &(SnapshotId, u32)) {
        if let Some(kept) = self.windows.remove(key) {
            self.bytes -= cost(&*kept.window);
        }
    }

    /// Those that begin in `starts`.
    fn remove_all(&mut self, id: &SnapshotId, starts: Range<u32>) {
        let inside: Vec<_> = self
            .windows
            .range((id.clone(), starts.start)..(id.clone(), starts.end))
            .map(|(key, _)| key.clone())
            .collect();
        inside.iter().for_each(|key| self.remove(key));
    }
}

fn cost(window: &impl Window) -> usize {
    OVERHEAD + window.memory()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::BlockSet;
    use crate::snapshot::VolumeSize;

    fn listing(covered: Range<u32>) -> Arc<Listing> {
        let volume_size = VolumeSize::from_gib(100).unwrap();
        Arc::new(Listing {
            set: BlockSet::new(),
            covered,
            volume_size,
        })
    }

    fn id() -> SnapshotId {
        "snap-0".parse().unwrap()
    }

    #[test]
    fn memory_stays_bounded_and_the_least_used_window_goes_first() {
        let windows = Windows::new(3 * cost(&*listing(0..1)));
        for start in [0, 10, 20] {
            windows.insert(&id(), listing(start..start + 10));
        }
        assert!(windows.get(&id(), BlockIndex::new(5)).is_some());
        windows.insert(&id(), listing(30..40));
        let held: Vec<_> = [5, 15, 25, 35]
            .map(|i| windows.get(&id(), BlockIndex::new(i)).is_some())
            .into();
        assert_eq!(held, [true, false, true, true]);
    }

    #[test]
    fn a_wide_window_takes_the_place_of_those_it_covers() {
        let windows = Windows::new(1 << 20);
        windows.insert(&id(), listing(8192..9000));
        windows.insert(&id(), listing(0..100_000));
        let found = windows.get(&id(), BlockIndex::new(50_000));
        assert_eq!(found.unwrap().covered, 0..100_000);
        let other = "snap-1".parse().unwrap();
        assert!(windows.get(&other, BlockIndex::new(5)).is_none());
    }

    #[test]
    fn only_the_window_that_is_meant_is_removed() {
        let windows = Windows::new(1 << 20);
        let (old, new) = (listing(0..10), listing(0..20));
        windows.insert(&id(), Arc::clone(&old));
        windows.insert(&id(), Arc::clone(&new));
        windows.remove(&id(), &old);
        assert!(windows.get(&id(), BlockIndex::new(15)).is_some());
        windows.remove(&id(), &new);
        assert!(windows.get(&id(), BlockIndex::new(15)).is_none());
        windows.insert(&id(), new);
        windows.forget(&id());
        assert!(windows.get(&id(), BlockIndex::new(0)).is_none());
        assert_eq!(windows.lock().bytes, 0);
    }
}
