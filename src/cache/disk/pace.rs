//! Which way blocks go to the disk: past the page cache, as long as the disk keeps up.
//!
//! What was just fetched is in memory already, and pages for it, which nobody may read, cost more than all else that is done
//! with a block. But a disk that is slower than the store would slow its readers down: then the page cache takes what the
//! disk cannot, as far as the kernel lets it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::data::Way;

/// A disk that takes longer for a block is slow: 125 MiB/s, which a network's disk has at least.
const SLOW: u64 = 4000;

/// One block in so many decides: a disk that was slow once is not slow.
const WEIGHT: u64 = 8;

/// What was seen of the disk: how long a block takes each way, nearly, in microseconds; 0 before the first.
#[derive(Default)]
pub(super) struct Pace {
    direct: AtomicU64,
    buffered: AtomicU64,
}

impl Pace {
    /// The way of the next block; `behind` if many wait.
    pub(super) fn way(&self, behind: bool) -> Way {
        let direct = self.direct.load(Ordering::Relaxed);
        let is_slow = direct > SLOW && direct > self.buffered.load(Ordering::Relaxed);
        match behind && is_slow {
            true => Way::Buffered,
            false => Way::Direct,
        }
    }

    /// A block took so long.
    pub(super) fn took(&self, way: Way, time: Duration) {
        let mean = match way {
            Way::Direct => &self.direct,
            Way::Buffered => &self.buffered,
        };
        let time = u64::try_from(time.as_micros()).unwrap_or(u64::MAX / WEIGHT);
        // Whose block gets lost of two that are noted at one time does not matter.
        let next = match mean.load(Ordering::Relaxed) {
            0 => time,
            before => (before * (WEIGHT - 1)).saturating_add(time) / WEIGHT,
        };
        mean.store(next, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_slow_disk_that_is_behind_leaves_blocks_to_the_page_cache() {
        let (slow, fast) = (Duration::from_millis(10), Duration::from_millis(1));
        let pace = Pace::default();
        assert_eq!(pace.way(true), Way::Direct, "nothing is known of it yet");
        pace.took(Way::Direct, fast);
        pace.took(Way::Direct, slow);
        assert_eq!(pace.way(true), Way::Direct, "once is not often");
        (0..8).for_each(|_| pace.took(Way::Direct, slow));
        assert_eq!(pace.way(false), Way::Direct);
        assert_eq!(pace.way(true), Way::Buffered);
        // A page cache that is slower still is no help.
        (0..2).for_each(|_| pace.took(Way::Buffered, slow * 2));
        assert_eq!(pace.way(true), Way::Direct);
        (0..20).for_each(|_| pace.took(Way::Buffered, fast));
        assert_eq!(pace.way(true), Way::Buffered);
        (0..20).for_each(|_| pace.took(Way::Direct, fast));
        assert_eq!(pace.way(true), Way::Direct);
    }
}
