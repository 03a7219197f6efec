//! Blocks into a new snapshot: put what differs from what the snapshot has anyway, then complete it.
//!
//! Which blocks those are is told by [`Changes`]: an image beside its parent for an import ([`Difference`]), what was
//! written over the base for a commit. Without a parent an absent block reads as zeros, so blocks of zeros are left out.
//! With a parent it reads as the parent's: put is what differs from that, blocks of zeros included. What was put is
//! noted in a [`Journal`], so that the same upload again puts only the rest; nothing depends on the journal being
//! there or being true.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{Stream, TryStreamExt as _, pin_mut, stream};
use log::warn;
use tokio::time::sleep;

use crate::block::{Block, BlockIndex, Digest, Hasher};
use crate::error::{Error, ErrorKind, Result};
use crate::snapshot::{Seal, SnapshotId, SnapshotInfo, Status};
use crate::store::Store;

mod difference;
mod journal;

pub use self::difference::Difference;
use self::journal::Verdict;
pub use self::journal::{Journal, Known};

/// How an upload is done.
#[derive(Clone, Debug)]
pub struct Config {
    /// Blocks read, hashed, compared or put at one time; each takes 512 KiB of memory, and another for its parent's.
    pub concurrency: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            // Enough that both cores of a small machine hash while the disk reads and writes.
            concurrency: 4,
        }
    }
}

/// What a snapshot shall hold, as far as that may be something else than what it has anyway.
#[async_trait]
pub trait Changes: Send + Sync {
    /// Blocks of the volume.
    fn count(&self) -> u32;

    /// Some runs of blocks from `from` on that may have to be put, ascending, and the index before which these are all.
    async fn page(&self, from: BlockIndex) -> Result<(Vec<Range<u32>>, u32)>;

    /// What the snapshot shall hold at `index`, which was told by [`page`](Self::page).
    async fn block(&self, index: BlockIndex) -> Result<Block>;

    /// Whether that `block` is something else than what the snapshot has at `index` anyway.
    async fn differs(&self, index: BlockIndex, block: &Block) -> Result<bool>;
}

/// The indexes that may have to be put, ascending.
pub fn candidates(changes: &dyn Changes) -> impl Stream<Item = Result<BlockIndex>> + '_ {
    let pages = stream::try_unfold(0, move |from| async move {
        let more = from < changes.count();
        let page = match more {
            true => Some(changes.page(BlockIndex::new(from)).await?),
            false => None,
        };
        Ok::<_, Error>(page)
    });
    pages
        .map_ok(|runs| stream::iter(runs.into_iter().flatten().map(BlockIndex::new).map(Ok)))
        .try_flatten()
}

/// What goes where.
pub struct Upload {
    /// The store that the snapshot was started in.
    pub store: Arc<dyn Store>,
    /// The pending snapshot.
    pub id: SnapshotId,
    /// What it shall hold.
    pub changes: Arc<dyn Changes>,
    /// How it is done.
    pub config: Config,
}

/// A block that has been dealt with.
struct Done {
    index: BlockIndex,
    digest: Digest,
    verdict: Verdict,
    /// Whether the journal knew.
    noted: bool,
}

impl Upload {
    /// Puts what is needed and completes the snapshot, which may take a while longer to become readable.
    ///
    /// `known` is what an earlier run noted in `journal`. `progress` is told the index behind which all is done, in
    /// ascending order. Returns the number of blocks put. On an error the snapshot stays pending, and the same upload
    /// can be run again.
    pub async fn run(
        &self,
        journal: &mut Journal,
        known: Known,
        progress: &(dyn Fn(BlockIndex) + Sync),
    ) -> Result<u64> {
        let trusting = !known.is_empty();
        let seal = self.put_all(journal, known, progress).await?;
        match self.store.complete(&self.id, &seal).await {
            // What an earlier run put may have been lost, by a power failure say: then all is put again.
            Err(e) if trusting && e.kind() == ErrorKind::Invalid => {
                warn!(
                    "{}: what was put earlier is not all there, putting it again: {e:#}",
                    self.id
                );
                let mut none = Journal::none(&self.id);
                let seal = self.put_all(&mut none, Known::default(), progress).await?;
                self.store.complete(&self.id, &seal).await?;
                Ok(seal.count)
            }
            completed => completed.map(|()| seal.count),
        }
    }

    async fn put_all(
        &self,
        journal: &mut Journal,
        mut known: Known,
        progress: &(dyn Fn(BlockIndex) + Sync),
    ) -> Result<Seal> {
        let work = candidates(&*self.changes)
            .map_ok(|index| self.put_one(index, known.verdict(index)))
            .try_buffered(self.config.concurrency);
        pin_mut!(work);
        let mut count = 0;
        let mut linear = Hasher::default();
        while let Some(done) = work.try_next().await? {
            if !done.noted {
                journal.note(done.index, done.verdict, &done.digest);
            }
            if done.verdict == Verdict::Put {
                count += 1;
                linear.update(done.digest.as_bytes());
            }
            progress(done.index);
        }
        Ok(Seal {
            count,
            checksum: Some(linear.finish()),
        })
    }

    async fn put_one(&self, index: BlockIndex, known: Option<(Verdict, Digest)>) -> Result<Done> {
        let block = self.changes.block(index).await?;
        let digest = block.digest();
        let done = |verdict, noted| Done {
            index,
            digest,
            verdict,
            noted,
        };
        if let Some((verdict, _)) = known.filter(|(_, before)| *before == digest) {
            return Ok(done(verdict, true));
        }
        if !self.changes.differs(index, &block).await? {
            return Ok(done(Verdict::LeftOut, false));
        }
        let put = self.store.put(&self.id, index, &block).await;
        put.map_err(|e| e.context(format!("cannot put block {index} into {}", self.id)))?;
        Ok(done(Verdict::Put, false))
    }
}

/// How long to wait between two looks at a snapshot: a service completes it in seconds to minutes.
const POLL: Duration = Duration::from_secs(2);

/// Waits until a snapshot that was completed can be read. `Invalid` if it never will.
pub async fn until_readable(store: &dyn Store, id: &SnapshotId) -> Result<SnapshotInfo> {
    loop {
        let info = store.info(id).await?;
        match info.status {
            Status::Completed => return Ok(info),
            Status::Pending => sleep(POLL).await,
            Status::Error => {
                return Err(Error::new(
                    ErrorKind::Invalid,
                    format!("{id} turned to `error` and is lost: delete it and upload again"),
                ));
            }
        }
    }
}
