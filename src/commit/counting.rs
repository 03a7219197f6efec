//! A store that counts what is asked of it.

use std::sync::Arc;

use async_trait::async_trait;

use crate::block::{Block, BlockIndex};
use crate::error::Result;
use crate::snapshot::{NewSnapshot, Seal, SnapshotId, SnapshotInfo};
use crate::stats::Requests;
use crate::store::{Listing, Store};

/// `inner`, each of whose calls is counted as one request.
pub(super) struct Counting {
    pub(super) inner: Arc<dyn Store>,
    pub(super) requests: Arc<Requests>,
}

#[async_trait]
impl Store for Counting {
    fn identity(&self) -> String {
        self.inner.identity()
    }

    async fn list(&self) -> Result<Vec<SnapshotInfo>> {
        self.requests.others.add(1);
        self.inner.list().await
    }

    async fn info(&self, id: &SnapshotId) -> Result<SnapshotInfo> {
        self.requests.others.add(1);
        self.inner.info(id).await
    }

    async fn blocks(&self, id: &SnapshotId, from: BlockIndex) -> Result<Listing> {
        self.requests.listings.add(1);
        self.inner.blocks(id, from).await
    }

    async fn changed(&self, from: &SnapshotId, to: &SnapshotId, at: BlockIndex) -> Result<Listing> {
        self.requests.listings.add(1);
        self.inner.changed(from, to, at).await
    }

    async fn get(&self, id: &SnapshotId, index: BlockIndex) -> Result<Block> {
        self.requests.gets.add(1);
        self.inner.get(id, index).await
    }

    async fn start(&self, new: &NewSnapshot) -> Result<SnapshotInfo> {
        self.requests.others.add(1);
        self.inner.start(new).await
    }

    async fn put(&self, id: &SnapshotId, index: BlockIndex, block: &Block) -> Result<()> {
        self.requests.puts.add(1);
        self.inner.put(id, index, block).await
    }

    async fn complete(&self, id: &SnapshotId, seal: &Seal) -> Result<()> {
        self.requests.others.add(1);
        self.inner.complete(id, seal).await
    }

    async fn delete(&self, id: &SnapshotId) -> Result<()> {
        self.requests.others.add(1);
        self.inner.delete(id).await
    }
}
