//! Which blocks were read lately, without a lock.

use std::sync::atomic::{AtomicU32, Ordering};

use super::BlockIndex;

/// More than there are streams of reads, so that these seldom meet.
const PLACES: usize = 128;

/// No block's index.
const NONE: u32 = u32::MAX;

/// Blocks read lately, by their last digits. Most reads are of a block that was just read: here they end.
#[derive(Debug)]
pub struct Recent([AtomicU32; PLACES]);

impl Default for Recent {
    fn default() -> Self {
        Self([const { AtomicU32::new(NONE) }; PLACES])
    }
}

impl Recent {
    /// Notes that a block is read; false if it is known that it was before. Of several who read it at one time for the first
    /// time one is told so. A block may be news more than once.
    pub fn is_news(&self, index: BlockIndex) -> bool {
        let number = index.get();
        let place = usize::try_from(number).unwrap_or(0) % PLACES;
        let recent = &self.0[place];
        recent.load(Ordering::Relaxed) != number && recent.swap(number, Ordering::Relaxed) != number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_news_until_another_takes_its_place() {
        let recent = Recent::default();
        let places = u32::try_from(PLACES).unwrap();
        let news = |index| recent.is_news(BlockIndex::new(index));
        assert!(news(0) && !news(0));
        assert!(news(1) && !news(0) && !news(1));
        assert!(news(places) && news(0));
        assert!(!news(1));
    }
}
