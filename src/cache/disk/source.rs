//! A snapshot through the disk tier: what is kept is loaded, and what is fetched is kept.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use log::warn;
use tokio::sync::{OnceCell, OwnedSemaphorePermit};
use tokio::time::timeout;

use super::DiskCache;
use super::files::{Files, Found, Identity};
use crate::block::{Block, BlockIndex, BlockSet, Digest};
use crate::blocking::blocking;
use crate::error::{Error, ErrorKind, Result};
use crate::snapshot::SnapshotInfo;
use crate::source::{BlockSource, IndexCache};
use crate::stats::Stats;
use crate::store::Listing;

/// A source of one snapshot over the disk.
///
/// The disk is not touched before the first read. It is read and written on threads that may wait; whoever reads waits for
/// them for a bounded time, and goes on without.
pub struct DiskSource {
    source: Arc<dyn BlockSource>,
    cache: Arc<DiskCache>,
    identity: Arc<Identity>,
    key: Digest,
    /// Those of `source`, so that it knows what was listed on another day.
    windows: Arc<IndexCache>,
    stats: Arc<Stats>,
    /// None where they cannot be used.
    files: OnceCell<Option<Arc<Files>>>,
}

impl DiskSource {
    /// `source`, which is the snapshot `info` of the store with that identity and keeps its listings in `windows`,
    /// through `cache`; counts in `stats`.
    pub fn new(
        source: Arc<dyn BlockSource>,
        cache: Arc<DiskCache>,
        store: String,
        info: &SnapshotInfo,
        windows: Arc<IndexCache>,
        stats: Arc<Stats>,
    ) -> Self {
        let info = info.clone();
        let identity = Arc::new(Identity { store, info });
        Self {
            source,
            cache,
            key: identity.key(),
            identity,
            windows,
            stats,
            files: OnceCell::new(),
        }
    }

    /// The snapshot's files, opened at the first call.
    async fn files(&self) -> Option<Arc<Files>> {
        let opened = self.files.get_or_init(async || {
            let (cache, identity) = (Arc::clone(&self.cache), Arc::clone(&self.identity));
            let stats = Arc::clone(&self.stats);
            let place = Arc::clone(&cache.loads).acquire_owned().await.ok();
            let open = move || {
                // One that hangs keeps its place, so that not all threads come to hang.
                let _place = place;
                cache.files(&identity, &stats)
            };
            let opened = blocking("opening the disk cache", open).await;
            let unused = |e: &Error| {
                warn!("{}: nothing is kept on disk: {e:#}", self.identity.info.id);
            };
            opened.inspect_err(unused).ok()
        });
        opened.await.clone()
    }

    /// What `work` reads, on a thread that may wait; none if it failed, took too long, or is better not tried.
    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&DiskCache, &Files) -> Result<T> + Send + 'static,
    ) -> Option<T> {
        let cache = &self.cache;
        if !cache.health.is_good() || cache.is_forgotten(&self.key) {
            return None;
        }
        let patience = cache.config.patience;
        let Ok(files) = timeout(patience, self.files()).await else {
            cache.hung();
            return None;
        };
        let files = files?;
        // To find all of them busy says nothing against the disk.
        let place = Arc::clone(&cache.loads).acquire_owned();
        let place = timeout(patience, place).await.ok()?.ok();
        let disk = Arc::clone(cache);
        let work = move || {
            let _place = place;
            work(&disk, &files)
        };
        match timeout(patience, blocking("the disk cache", work)).await {
            Ok(Ok(done)) => {
                cache.health.worked();
                Some(done)
            }
            Ok(Err(e)) if e.kind() == ErrorKind::Corrupt => {
                self.stats.disk_corrupt.add(1);
                warn!("not as it was written, and asked for again: {e:#}");
                None
            }
            Ok(Err(e)) => {
                cache.failed(&e);
                None
            }
            Err(_) => {
                cache.hung();
                None
            }
        }
    }

    /// The block, if it is kept.
    async fn load(&self, index: BlockIndex) -> Option<Block> {
        let load = move |cache: &DiskCache, files: &Files| files.load(index, cache.now());
        let mut found = self.read(load).await?;
        if let Found::Bytes(bytes, digest) = found {
            found = match Block::verify_together(bytes, &digest).await {
                Ok(block) => Found::Block(block),
                Err(why) => {
                    let unsound = move |_: &DiskCache, files: &Files| files.unsound(index, &why);
                    self.read(unsound).await?
                }
            };
        }
        match found {
            Found::Block(block) => {
                self.stats.disk_hits.add(1);
                Some(block)
            }
            Found::Damaged => {
                self.stats.disk_corrupt.add(1);
                None
            }
            Found::Missing | Found::Bytes(..) => None,
        }
    }

    /// A place among those who write, if one is free soon.
    async fn place(&self) -> Option<OwnedSemaphorePermit> {
        if !self.cache.health.is_good() || self.cache.is_forgotten(&self.key) {
            return None;
        }
        let place = Arc::clone(&self.cache.writes).acquire_owned();
        timeout(self.cache.config.wait, place).await.ok()?.ok()
    }

    /// Lets `write` be done, and does not wait for it. Tells whether what it was to keep is kept.
    async fn write_later(
        &self,
        write: impl FnOnce(&DiskCache, &Files) -> Result<bool> + Send + 'static,
    ) {
        let Some(place) = self.place().await else {
            self.stats.disk_skipped.add(1);
            return;
        };
        // It was opened, or could not be, when this was looked for.
        let Some(files) = self.files.get().cloned().flatten() else {
            return;
        };
        let (cache, stats) = (Arc::clone(&self.cache), Arc::clone(&self.stats));
        tokio::spawn(async move {
            let turn = Arc::clone(&cache.writers).acquire_owned().await.ok();
            let disk = Arc::clone(&cache);
            let write = move || {
                let _held = (place, turn);
                let kept = write(&disk, &files);
                kept.inspect_err(|e| disk.failed(e))
            };
            // One that hangs keeps its place and its turn.
            let writing = blocking("writing to the disk cache", write);
            let kept = match timeout(cache.config.patience, writing).await {
                Ok(kept) => kept.unwrap_or(false),
                Err(_) => {
                    cache.hung();
                    false
                }
            };
            if !kept {
                stats.disk_skipped.add(1);
            }
        });
    }
}

#[async_trait]
impl BlockSource for DiskSource {
    fn count(&self) -> u32 {
        self.source.count()
    }

    fn ready(&self, index: BlockIndex) -> Option<Block> {
        self.source.ready(index)
    }

    fn listed(&self, from: BlockIndex) -> Option<Arc<Listing>> {
        self.source.listed(from)
    }

    async fn kept(&self, run: Range<u32>) -> BlockSet {
        let kept = self.read(move |_, files| files.kept(run)).await;
        kept.unwrap_or_default()
    }

    async fn present(&self, from: BlockIndex) -> Result<Arc<Listing>> {
        if let Some(listing) = self.source.listed(from) {
            return Ok(listing);
        }
        let load = move |_: &DiskCache, files: &Files| files.listing(from);
        let kept = self.read(load).await.flatten();
        if let Some(listing) = kept.map(Arc::new) {
            let id = &self.identity.info.id;
            self.windows.insert(id, Arc::clone(&listing));
            return Ok(listing);
        }
        let listing = self.source.present(from).await?;
        let keep = Arc::clone(&listing);
        self.write_later(move |_, files| files.keep_listing(&keep).map(|()| true))
            .await;
        Ok(listing)
    }

    async fn block(&self, index: BlockIndex) -> Result<Block> {
        // Absent blocks are nowhere but in the listing.
        if let Some(block) = self.source.ready(index) {
            return Ok(block);
        }
        if let Some(block) = self.load(index).await {
            return Ok(block);
        }
        if !self.present(index).await?.set.contains(index) {
            return Ok(Block::Zero);
        }
        self.stats.disk_misses.add(1);
        let block = self.source.block(index).await?;
        let kept = block.clone();
        self.write_later(move |cache, files| cache.keep(files, index, &kept))
            .await;
        Ok(block)
    }
}
