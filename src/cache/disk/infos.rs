//! What is known of snapshots when their store does not answer.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use log::{error, warn};
use tokio::time::timeout;

use super::DiskCache;
use super::files::{Identity, identity_in, key};
use crate::block::{Block, BlockIndex};
use crate::blocking::blocking;
use crate::error::{Error, ErrorKind, Result};
use crate::snapshot::{NewSnapshot, Seal, SnapshotId, SnapshotInfo};
use crate::source::IndexCache;
use crate::store::{Listing, Store};

/// A store that describes the snapshots of which something is kept on disk even when it cannot be reached.
///
/// An answer in time is the answer. If the store is away, what is kept is told after a moment, and held against
/// the answer when it comes: if that says something else, nothing of what is kept is used any more. All other calls are the store's.
pub struct KeptInfos {
    store: Arc<dyn Store>,
    cache: Arc<DiskCache>,
    windows: Arc<IndexCache>,
}

impl KeptInfos {
    /// `store`, of whose snapshots something is kept in `cache` and, of listings, in `windows`.
    pub fn new(store: Arc<dyn Store>, cache: Arc<DiskCache>, windows: Arc<IndexCache>) -> Self {
        Self {
            store,
            cache,
            windows,
        }
    }

    /// What is kept of a snapshot.
    async fn kept(&self, id: &SnapshotId) -> Option<Identity> {
        let dir = self.cache.dir(&key(&self.store.identity(), id.as_str()));
        let look = blocking("the disk cache", move || Ok(identity_in(&dir)));
        let patience: Duration = self.cache.config.patience;
        timeout(patience, look).await.ok()?.ok().flatten()
    }
}

/// Holds what is kept against the store's answer, and forgets it if that says something else. Tells whether it did.
fn forgets(
    cache: &DiskCache,
    windows: &IndexCache,
    kept: &Identity,
    answer: &Result<SnapshotInfo>,
) -> bool {
    let good = match answer {
        Ok(info) => kept.is_same(&Identity {
            store: kept.store.clone(),
            info: info.clone(),
        }),
        Err(e) => !matches!(
            e.kind(),
            ErrorKind::NotFound | ErrorKind::Denied | ErrorKind::Invalid
        ),
    };
    if !good {
        windows.forget(&kept.info.id);
        if let Err(e) = cache.forget(&kept.store, &kept.info.id) {
            warn!("what is kept of {} stays: {e:#}", kept.info.id);
        }
    }
    !good
}

#[async_trait]
impl Store for KeptInfos {
    fn identity(&self) -> String {
        self.store.identity()
    }

    async fn list(&self) -> Result<Vec<SnapshotInfo>> {
        self.store.list().await
    }

    async fn info(&self, id: &SnapshotId) -> Result<SnapshotInfo> {
        let Some(kept) = self.kept(id).await else {
            return self.store.info(id).await;
        };
        let (store, asked) = (Arc::clone(&self.store), id.clone());
        let mut asking = tokio::spawn(async move { store.info(&asked).await });
        let ended = |e| Error::new(ErrorKind::Io, format!("a request ended early: {e}"));
        let (cache, windows) = (Arc::clone(&self.cache), Arc::clone(&self.windows));
        let why = match timeout(cache.config.outage, &mut asking).await {
            Ok(Ok(Err(e))) if e.kind() == ErrorKind::Unavailable => format!("{e:#}"),
            Ok(answer) => {
                let answer = answer.map_err(ended)?;
                // A snapshot that is another one has its files emptied when they are opened.
                if answer.is_err() {
                    forgets(&cache, &windows, &kept, &answer);
                }
                return answer;
            }
            Err(_) => "it does not answer".to_owned(),
        };
        warn!("{id}: going on with what was kept of it, as the store is away: {why}");
        let info = kept.info.clone();
        if !asking.is_finished() {
            tokio::spawn(async move {
                let Ok(answer) = asking.await else { return };
                if forgets(&cache, &windows, &kept, &answer) {
                    let said = match answer {
                        Ok(_) => "it is another snapshot now".to_owned(),
                        Err(e) => format!("{e:#}"),
                    };
                    let id = &kept.info.id;
                    error!(
                        "{id}: nothing that was kept of it is used any more: {said}; unmount it"
                    );
                }
            });
        }
        Ok(info)
    }

    async fn blocks(&self, id: &SnapshotId, from: BlockIndex) -> Result<Listing> {
        self.store.blocks(id, from).await
    }

    async fn changed(&self, from: &SnapshotId, to: &SnapshotId, at: BlockIndex) -> Result<Listing> {
        self.store.changed(from, to, at).await
    }

    async fn get(&self, id: &SnapshotId, index: BlockIndex) -> Result<Block> {
        self.store.get(id, index).await
    }

    async fn start(&self, new: &NewSnapshot) -> Result<SnapshotInfo> {
        self.store.start(new).await
    }

    async fn put(&self, id: &SnapshotId, index: BlockIndex, block: &Block) -> Result<()> {
        self.store.put(id, index, block).await
    }

    async fn complete(&self, id: &SnapshotId, seal: &Seal) -> Result<()> {
        self.store.complete(id, seal).await
    }

    async fn delete(&self, id: &SnapshotId) -> Result<()> {
        self.store.delete(id).await
    }
}
