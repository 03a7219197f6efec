//! Which blocks differ between two snapshots of one lineage, as far as it was asked.

use std::ops::Range;
use std::sync::Arc;

use tokio::sync::Mutex;

use super::{INDEX_MEMORY, IndexCache, in_time};
use crate::block::BlockIndex;
use crate::error::{Error, ErrorKind, Result};
use crate::snapshot::{SnapshotId, SnapshotInfo};
use crate::store::windows::window_start;
use crate::store::{Listing, Store};

/// The blocks of a second snapshot that may be others than the first one's.
///
/// They are asked for when first needed, a window at a time, and kept in bounded memory. Every call ends within two
/// minutes. A block that one of the two does not reach differs.
pub struct Differences {
    store: Arc<dyn Store>,
    from: SnapshotId,
    to: SnapshotId,
    /// Blocks of the second one.
    count: u32,
    /// Blocks that both have.
    common: u32,
    windows: IndexCache,
    /// Held while a listing is fetched, so that readers who need the same one wait for it instead.
    listing: Mutex<()>,
}

impl Differences {
    /// What is different in `to` from what it is in `from`, both completed; nothing is asked for yet.
    pub fn new(store: Arc<dyn Store>, from: &SnapshotInfo, to: &SnapshotInfo) -> Self {
        let count = to.volume_size.blocks();
        Self {
            store,
            from: from.id.clone(),
            to: to.id.clone(),
            count,
            common: count.min(from.volume_size.blocks()),
            windows: IndexCache::new(INDEX_MEMORY),
            listing: Mutex::default(),
        }
    }

    /// Blocks of the second snapshot.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// What differs from `at` on: one page, which is not kept. `Invalid` if the snapshots are not of one lineage.
    pub async fn page(&self, at: BlockIndex) -> Result<Listing> {
        let page = in_time(self.store.changed(&self.from, &self.to, at)).await;
        let page = page.and_then(|page| match page.covered.contains(&at.get()) {
            true => Ok(page),
            false => Err(left_out(at)),
        });
        page.map_err(|e| {
            e.context(format!(
                "cannot list what differs between {} and {}",
                self.from, self.to
            ))
        })
    }

    /// The listing that tells of block `at`, if it is at hand; it may begin before `at`.
    pub fn listed(&self, at: BlockIndex) -> Option<Arc<Listing>> {
        self.windows.get(&self.to, at)
    }

    /// The listing that tells of block `at`, which is then kept.
    pub async fn listing(&self, at: BlockIndex) -> Result<Arc<Listing>> {
        if let Some(listing) = self.listed(at) {
            return Ok(listing);
        }
        let _turn = self.listing.lock().await;
        if let Some(listing) = self.listed(at) {
            return Ok(listing);
        }
        let mut listing = self.page(window_start(at)).await?;
        if !listing.covered.contains(&at.get()) {
            listing = self.page(at).await?;
        }
        let listing = Arc::new(listing);
        self.windows.insert(&self.to, Arc::clone(&listing));
        Ok(listing)
    }

    /// Whether block `index` may differ, if that is known without asking.
    pub fn known(&self, index: BlockIndex) -> Option<bool> {
        if index.get() >= self.common {
            return Some(true);
        }
        Some(self.listed(index)?.set.contains(index))
    }

    /// The first blocks of `within` that may differ, if any do; more of them may follow at once.
    pub async fn first(&self, within: Range<u32>) -> Result<Option<Range<u32>>> {
        let mut at = within.start;
        while at < within.end {
            if at >= self.common {
                return Ok(Some(at..within.end));
            }
            let listing = self.listing(BlockIndex::new(at)).await?;
            let end = within.end.min(listing.covered.end).min(self.common);
            let run = listing.set.run_from(BlockIndex::new(at));
            if let Some(run) = run.filter(|run| run.start < end) {
                return Ok(Some(run.start.max(at)..run.end.min(end)));
            }
            at = end;
        }
        Ok(None)
    }
}

fn left_out(at: BlockIndex) -> Error {
    let what = format!("the listing leaves out block {at}");
    Error::new(ErrorKind::Corrupt, what)
}
