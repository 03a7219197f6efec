//! A snapshot that is read where another one is, as far as both are the same.

use std::sync::Arc;

use async_trait::async_trait;

use super::{BlockSource, Differences};
use crate::block::{Block, BlockIndex};
use crate::error::Result;
use crate::store::Listing;

/// The second of two snapshots, which takes from the first what does not differ: so a block that both have is fetched
/// once and kept once, whichever of them is asked.
///
/// It knows by itself which blocks it has. What differs is asked of the store before the first block is.
pub struct SharingSource {
    own: Arc<dyn BlockSource>,
    first: Arc<dyn BlockSource>,
    differences: Arc<Differences>,
}

impl SharingSource {
    /// `own`, which `differences` tells from `first`.
    pub fn new(
        own: Arc<dyn BlockSource>,
        first: Arc<dyn BlockSource>,
        differences: Arc<Differences>,
    ) -> Self {
        Self {
            own,
            first,
            differences,
        }
    }
}

#[async_trait]
impl BlockSource for SharingSource {
    fn count(&self) -> u32 {
        self.own.count()
    }

    fn ready(&self, index: BlockIndex) -> Option<Block> {
        match self.differences.known(index)? {
            true => self.own.ready(index),
            false => self.first.ready(index),
        }
    }

    fn listed(&self, from: BlockIndex) -> Option<Arc<Listing>> {
        self.own.listed(from)
    }

    async fn present(&self, from: BlockIndex) -> Result<Arc<Listing>> {
        self.own.present(from).await
    }

    async fn block(&self, index: BlockIndex) -> Result<Block> {
        let only = index.get()..index.get().saturating_add(1);
        match self.differences.first(only).await? {
            Some(_) => self.own.block(index).await,
            None => self.first.block(index).await,
        }
    }
}
