//! What was written over a snapshot: the changes that a commit puts.
//!
//! | A block of the layer | Needs of the base | Is put |
//! | --- | --- | --- |
//! | whole | nothing | unless all of it is zeros: then where the base has data |
//! | zero | its listing | where the base has data |
//! | in part | the block, to merge | where the result differs from it |
//!
//! Past the base's end, on a disk that has grown, everything below is zeros and nothing is inherited.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;

use crate::block::{Block, BlockIndex, Buffer};
use crate::blocking::blocking;
use crate::error::Result;
use crate::overlay::{Change, Layer};
use crate::source::BlockSource;
use crate::stats::Requests;
use crate::store::Listing;
use crate::upload::Changes;

/// Runs told in one page, nearly: a layer may have as many as it has blocks.
const PAGE_RUNS: usize = 1000;

/// A sealed layer over its base.
pub struct Edited {
    layer: Arc<Layer>,
    base: Arc<dyn BlockSource>,
    count: u32,
    requests: Arc<Requests>,
}

impl Edited {
    /// `layer`, which does not change any more, over `base`; `count` blocks in all. What has to be asked of the base's
    /// store is counted in `requests`.
    pub fn new(
        layer: Arc<Layer>,
        base: Arc<dyn BlockSource>,
        count: u32,
        requests: Arc<Requests>,
    ) -> Self {
        Self {
            layer,
            base,
            count,
            requests,
        }
    }

    /// How a block has changed, if it has.
    pub(super) fn change(&self, index: BlockIndex) -> Option<Change> {
        let (run, change) = self.layer.changed(index)?;
        run.contains(&index.get()).then_some(change)
    }

    /// What the base lists of `index`; nothing past its end.
    pub(super) async fn listing(&self, index: BlockIndex) -> Result<Option<Arc<Listing>>> {
        if index.get() >= self.base.count() {
            return Ok(None);
        }
        if self.base.listed(index).is_none() {
            self.requests.listings.add(1);
        }
        self.base.present(index).await.map(Some)
    }

    /// Whether the base has data there.
    async fn inherits(&self, index: BlockIndex) -> Result<bool> {
        let listing = self.listing(index).await?;
        Ok(listing.is_some_and(|listing| listing.set.contains(index)))
    }

    /// The base's block.
    async fn below(&self, index: BlockIndex) -> Result<Block> {
        if !self.inherits(index).await? {
            return Ok(Block::Zero);
        }
        if let Some(block) = self.base.ready(index) {
            return Ok(block);
        }
        self.requests.gets.add(1);
        self.base.block(index).await
    }
}

#[async_trait]
impl Changes for Edited {
    fn count(&self) -> u32 {
        self.count
    }

    async fn page(&self, from: BlockIndex) -> Result<(Vec<Range<u32>>, u32)> {
        let mut runs = Vec::new();
        let mut at = from.get();
        while at < self.count && runs.len() < PAGE_RUNS {
            let changed = self.layer.changed(BlockIndex::new(at));
            let Some((run, change)) = changed.filter(|(run, _)| run.start < self.count) else {
                return Ok((runs, self.count));
            };
            let run = run.start.max(at)..run.end.min(self.count);
            at = run.end;
            if change != Change::Zero {
                runs.push(run);
                continue;
            }
            // However long a discard is, only what it hides is looked at.
            if let Some(listing) = self.listing(BlockIndex::new(run.start)).await? {
                at = run.end.min(listing.covered.end);
                let hidden = listing.set.runs();
                let hidden = hidden.map(|held| held.start.max(run.start)..held.end.min(at));
                runs.extend(hidden.filter(|held| !held.is_empty()));
            }
        }
        Ok((runs, at))
    }

    async fn block(&self, index: BlockIndex) -> Result<Block> {
        let below = match self.change(index) {
            Some(Change::Zero) => return Ok(Block::Zero),
            Some(Change::Whole) => None,
            Some(Change::Part) => Some(self.below(index).await?),
            None => return self.below(index).await,
        };
        let layer = Arc::clone(&self.layer);
        let merged = blocking("merging a block", move || {
            let mut bytes = Buffer::new();
            if let Some(below) = below {
                bytes.copy_from_slice(below.bytes());
            }
            layer.apply(index, &mut bytes)?;
            Ok(bytes)
        });
        Block::seal_together(merged)
            .await
            .map_err(|e| e.context(format!("cannot read block {index} of the overlay")))
    }

    async fn differs(&self, index: BlockIndex, block: &Block) -> Result<bool> {
        match self.change(index) {
            Some(Change::Whole | Change::Zero) => match block {
                Block::Zero => self.inherits(index).await,
                Block::Data(_) => Ok(true),
            },
            // It was fetched to be merged, and is at hand in the cache.
            Some(Change::Part) | None => Ok(self.below(index).await? != *block),
        }
    }
}
