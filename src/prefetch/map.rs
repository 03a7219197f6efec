//! Which blocks are present, as far as that is known without asking.

use std::sync::Arc;

use crate::block::BlockIndex;
use crate::store::Listing;

/// What is at hand of listings.
pub(super) struct Map<'a> {
    listed: &'a dyn Fn(BlockIndex) -> Option<Arc<Listing>>,
    count: u32,
}

/// Nothing is known of this block.
#[derive(Debug)]
pub(super) struct Unlisted(pub(super) BlockIndex);

impl<'a> Map<'a> {
    /// Of a disk of `count` blocks.
    pub(super) fn new(count: u32, listed: &'a dyn Fn(BlockIndex) -> Option<Arc<Listing>>) -> Self {
        Self { listed, count }
    }

    fn listing(&self, index: u32) -> Result<Arc<Listing>, Unlisted> {
        let index = BlockIndex::new(index);
        (self.listed)(index).ok_or(Unlisted(index))
    }

    /// The first present block of those from `from` to before `limit`.
    pub(super) fn first_from(&self, from: u32, limit: u32) -> Result<Option<u32>, Unlisted> {
        let (mut from, limit) = (from, limit.min(self.count));
        while from < limit {
            let listing = self.listing(from)?;
            if let Some(run) = listing.set.run_from(BlockIndex::new(from)) {
                return Ok(Some(run.start.max(from)).filter(|first| *first < limit));
            }
            from = listing.covered.end.max(from + 1);
        }
        Ok(None)
    }

    /// The last present block of those from `from` down to `limit`.
    pub(super) fn last_to(&self, from: u32, limit: u32) -> Result<Option<u32>, Unlisted> {
        let mut from = from;
        loop {
            let listing = self.listing(from)?;
            if let Some(run) = listing.set.run_to(BlockIndex::new(from)) {
                return Ok(Some(from.min(run.end - 1)).filter(|last| *last >= limit));
            }
            match listing.covered.start.min(from).checked_sub(1) {
                Some(below) if below >= limit => from = below,
                _ => return Ok(None),
            }
        }
    }
}
