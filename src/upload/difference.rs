//! What an image holds beside what its parent has: the changes that an import puts.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;

use super::Changes;
use crate::block::{Block, BlockIndex};
use crate::error::Result;
use crate::source::BlockSource;

/// A whole disk, of which only what differs from the parent's is put.
pub struct Difference {
    /// What the snapshot shall hold, as large as its volume.
    pub source: Arc<dyn BlockSource>,
    /// What it inherits, if it has a parent.
    pub parent: Option<Arc<dyn BlockSource>>,
    /// Put blocks of zeros where nothing is inherited, too. What an encrypted snapshot does not have may read as noise
    /// on the volume that is made of it.
    pub zero_blocks: bool,
}

impl Difference {
    /// The parent's block, if it has one there.
    async fn inherited(&self, index: BlockIndex) -> Result<Option<Block>> {
        let parent = self.parent.as_ref();
        let Some(parent) = parent.filter(|parent| index.get() < parent.count()) else {
            return Ok(None);
        };
        if !parent.present(index).await?.set.contains(index) {
            return Ok(None);
        }
        parent.block(index).await.map(Some)
    }
}

#[async_trait]
impl Changes for Difference {
    fn count(&self) -> u32 {
        self.source.count()
    }

    /// Where the source or the parent has data, or all.
    async fn page(&self, from: BlockIndex) -> Result<(Vec<Range<u32>>, u32)> {
        if self.zero_blocks {
            let all = from.get()..self.source.count();
            return Ok((vec![all.clone()], all.end));
        }
        let mut listings = vec![self.source.present(from).await?];
        if let Some(parent) = self
            .parent
            .as_ref()
            .filter(|parent| from.get() < parent.count())
        {
            listings.push(parent.present(from).await?);
        }
        let ends = listings.iter().map(|listing| listing.covered.end);
        let end = ends.min().unwrap_or_default();
        let runs = listings.iter().flat_map(|listing| listing.set.runs());
        let clipped = runs.map(|run| run.start.max(from.get())..run.end.min(end));
        Ok((union(clipped.filter(|run| !run.is_empty()).collect()), end))
    }

    async fn block(&self, index: BlockIndex) -> Result<Block> {
        self.source.block(index).await
    }

    async fn differs(&self, index: BlockIndex, block: &Block) -> Result<bool> {
        Ok(match self.inherited(index).await? {
            Some(inherited) => inherited != *block,
            None => self.zero_blocks || !matches!(block, Block::Zero),
        })
    }
}

/// The same indexes in ascending runs that do not overlap.
fn union(mut runs: Vec<Range<u32>>) -> Vec<Range<u32>> {
    runs.sort_unstable_by_key(|run| run.start);
    let mut merged: Vec<Range<u32>> = Vec::with_capacity(runs.len());
    for run in runs {
        match merged.last_mut() {
            Some(last) if run.start <= last.end => last.end = last.end.max(run.end),
            _ => merged.push(run),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_two_listings_become_one_ascending_list() {
        assert_eq!(union(vec![]), []);
        assert_eq!(
            union(vec![5..9, 0..2, 2..3, 7..12, 20..21]),
            [0..3, 5..12, 20..21]
        );
    }
}
