//! One immutable disk as blocks, wherever they come from.
//!
//! [`BlockSource`] is the level between stores and bytes; a source of one implements it over another. Here are
//! the two at the bottom: [`SnapshotSource`], a snapshot in a store, fetched lazily, and [`RawSource`], an image
//! file. Neither keeps blocks: that is the cache's. Two snapshots of one lineage differ in few blocks, which
//! [`Differences`] tells; [`SharingSource`] reads the others where the first one's are.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::{Stream, TryStreamExt as _, stream};
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::block::{Block, BlockIndex, BlockSet};
use crate::error::{Error, ErrorKind, Result};
use crate::read_at::{DEADLINE, too_late};
use crate::snapshot::{SnapshotId, SnapshotInfo};
use crate::store::windows::{Windows, window_start};
use crate::store::{Listing, Store};

mod differences;
mod raw;
mod sharing;

pub use self::differences::Differences;
pub use self::raw::RawSource;
pub use self::sharing::SharingSource;

/// Which blocks are present, as far as it was asked.
pub type IndexCache = Windows<Listing>;

/// Memory for the listings of all snapshots of a process. A window of 10,000 blocks takes a few bytes if they lie
/// together, and at most 128 KiB if each lies alone: enough for a disk of 300 GiB of which every other block is there, and for
/// a few of any ordinary one.
pub const INDEX_MEMORY: usize = 8 << 20;

/// A disk that does not change, in blocks.
#[async_trait]
pub trait BlockSource: Send + Sync {
    /// Number of blocks, absent ones included.
    fn count(&self) -> u32;

    /// A block that is at hand without waiting.
    fn ready(&self, index: BlockIndex) -> Option<Block>;

    /// Tells that a block will be asked for soon, so that it can be fetched before. Waits for nothing and promises nothing. To be
    /// called in a runtime.
    fn ahead(&self, _index: BlockIndex) {}

    /// Which blocks of `run` are at hand on this machine, as far as that is soon known; they are not loaded, and do not count
    /// as used.
    async fn kept(&self, _run: Range<u32>) -> BlockSet {
        BlockSet::new()
    }

    /// The listing that tells of block `from`, if it is at hand; it may begin before `from`.
    fn listed(&self, from: BlockIndex) -> Option<Arc<Listing>>;

    /// The listing that tells of block `from`, and of as many more as one request brings.
    async fn present(&self, from: BlockIndex) -> Result<Arc<Listing>>;

    /// A block; absent ones are [`Block::Zero`] and cost nothing. `Invalid` past the end.
    async fn block(&self, index: BlockIndex) -> Result<Block>;
}

/// The runs of indexes from `from` on that hold data, ascending; listed as they are asked for.
pub fn runs(
    source: &dyn BlockSource,
    from: BlockIndex,
) -> impl Stream<Item = Result<Range<u32>>> + '_ {
    runs_within(source, from.get()..source.count())
}

/// The same for the indexes `within`; no more is listed than tells of them.
pub fn runs_within(
    source: &dyn BlockSource,
    within: Range<u32>,
) -> impl Stream<Item = Result<Range<u32>>> + '_ {
    let end = within.end;
    let pages = stream::unfold(
        Some(BlockIndex::new(within.start)),
        move |from| async move {
            let from = from.filter(|from| from.get() < end)?;
            Some(match source.present(from).await {
                Ok(listing) => (Ok((from.get(), Arc::clone(&listing))), listing.next()),
                Err(e) => (Err(e), None),
            })
        },
    );
    pages
        .map_ok(move |(from, listing)| {
            // A listing may begin before it was asked to, and go on beyond.
            let clipped = listing
                .set
                .runs()
                .map(move |run| run.start.max(from)..run.end.min(end));
            stream::iter(
                clipped
                    .filter(|run| !run.is_empty())
                    .map(Ok)
                    .collect::<Vec<_>>(),
            )
        })
        .try_flatten()
}

/// The indexes of [`runs`], one by one.
pub fn indexes(
    source: &dyn BlockSource,
    from: BlockIndex,
) -> impl Stream<Item = Result<BlockIndex>> + '_ {
    runs(source, from)
        .map_ok(|run| stream::iter(run.map(BlockIndex::new).map(Ok)))
        .try_flatten()
}

/// A completed snapshot in a store.
///
/// Listings are asked for when first needed, a window at a time, and kept in an [`IndexCache`] that all
/// snapshots share. Every call ends within two minutes.
pub struct SnapshotSource {
    store: Arc<dyn Store>,
    id: SnapshotId,
    count: u32,
    windows: Arc<IndexCache>,
    /// Held while a listing is fetched, so that readers who need the same one wait for it instead.
    listing: Mutex<()>,
}

impl SnapshotSource {
    /// The snapshot that `info` describes; nothing is fetched yet.
    pub fn new(store: Arc<dyn Store>, info: &SnapshotInfo, windows: Arc<IndexCache>) -> Self {
        let count = info.volume_size.blocks();
        Self {
            store,
            id: info.id.clone(),
            count,
            windows,
            listing: Mutex::default(),
        }
    }

    fn check(&self, index: BlockIndex) -> Result<()> {
        if index.get() < self.count {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Invalid,
            format!("{}: block {index} is past the end", self.id),
        ))
    }

    /// Asks for the listing of `from`, unless someone else did while this waited for its turn.
    async fn list(&self, from: BlockIndex) -> Result<Arc<Listing>> {
        let _turn = self.listing.lock().await;
        if let Some(listing) = self.listed(from) {
            return Ok(listing);
        }
        // Windows that begin at round indexes do not overlap much, wherever the reads fall.
        let mut listing = self.store.blocks(&self.id, window_start(from)).await?;
        if !listing.covered.contains(&from.get()) {
            listing = self.store.blocks(&self.id, from).await?;
        }
        if !listing.covered.contains(&from.get()) {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!("the listing leaves out block {from}"),
            ));
        }
        let listing = Arc::new(listing);
        self.windows.insert(&self.id, Arc::clone(&listing));
        Ok(listing)
    }
}

/// The result of `what`, or `Unavailable` if it takes too long.
async fn in_time<T>(what: impl Future<Output = Result<T>>) -> Result<T> {
    timeout(DEADLINE, what)
        .await
        .unwrap_or_else(|_| Err(too_late()))
}

#[async_trait]
impl BlockSource for SnapshotSource {
    fn count(&self) -> u32 {
        self.count
    }

    fn ready(&self, index: BlockIndex) -> Option<Block> {
        let listing = self.listed(index)?;
        (!listing.set.contains(index)).then_some(Block::Zero)
    }

    fn listed(&self, from: BlockIndex) -> Option<Arc<Listing>> {
        self.windows.get(&self.id, from)
    }

    async fn present(&self, from: BlockIndex) -> Result<Arc<Listing>> {
        self.check(from)?;
        if let Some(listing) = self.listed(from) {
            return Ok(listing);
        }
        // The wait for another reader's listing counts, too.
        let listing = in_time(self.list(from)).await;
        listing.map_err(|e| e.context(format!("cannot list the blocks of {}", self.id)))
    }

    async fn block(&self, index: BlockIndex) -> Result<Block> {
        if !self.present(index).await?.set.contains(index) {
            return Ok(Block::Zero);
        }
        in_time(self.store.get(&self.id, index))
            .await
            .map_err(|e| e.context(format!("{}: block {index}", self.id)))
    }
}
