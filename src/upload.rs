//! A source's blocks into a new snapshot: put what differs from what the snapshot has anyway, then complete it.
//!
//! Without a parent an absent block reads as zeros, so blocks of zeros are left out. With a parent it reads as
//! the parent's: put is what differs from that, blocks of zeros included. What was put is noted in a [`Journal`],
//! so that the same upload again puts only the rest; nothing depends on the journal being there or being true.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, TryStreamExt as _, pin_mut, stream};
use log::warn;
use tokio::time::sleep;

use crate::block::{Block, BlockIndex, Digest, Hasher};
use crate::error::{Error, ErrorKind, Result};
use crate::snapshot::{Seal, SnapshotId, SnapshotInfo, Status};
use crate::source::BlockSource;
use crate::store::Store;

mod journal;

use self::journal::Verdict;
pub use self::journal::{Journal, Known};

/// How an upload is done.
#[derive(Clone, Debug)]
pub struct Config {
    /// Blocks read, hashed, compared or put at one time; each takes 512 KiB of memory, and another for its parent's.
    pub concurrency: usize,
    /// Put blocks of zeros where nothing is inherited, too. What an encrypted snapshot does not have may read as noise
    /// on the volume that is made of it.
    pub zero_blocks: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            // Enough that both cores of a small machine hash while the disk reads and writes.
            concurrency: 4,
            zero_blocks: false,
        }
    }
}

/// What goes where.
pub struct Upload {
    /// The store that the snapshot was started in.
    pub store: Arc<dyn Store>,
    /// The pending snapshot.
    pub id: SnapshotId,
    /// What it shall hold, as large as its volume.
    pub source: Arc<dyn BlockSource>,
    /// What it inherits, if it has a parent.
    pub parent: Option<Arc<dyn BlockSource>>,
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
        let work = self
            .candidates()
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
        let block = self.source.block(index).await?;
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
        let needed = match self.inherited(index).await? {
            Some(inherited) => inherited != block,
            None => self.config.zero_blocks || !matches!(block, Block::Zero),
        };
        if !needed {
            return Ok(done(Verdict::LeftOut, false));
        }
        let put = self.store.put(&self.id, index, &block).await;
        put.map_err(|e| e.context(format!("cannot put block {index} into {}", self.id)))?;
        Ok(done(Verdict::Put, false))
    }

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

    /// The indexes that may have to be put, ascending: where the source or the parent has data, or all.
    fn candidates(&self) -> impl Stream<Item = Result<BlockIndex>> + '_ {
        let pages = stream::try_unfold(0, move |from| async move {
            let more = from < self.source.count();
            let page = match more {
                true => Some(self.page(BlockIndex::new(from)).await?),
                false => None,
            };
            Ok::<_, Error>(page)
        });
        pages
            .map_ok(|runs| stream::iter(runs.into_iter().flatten().map(BlockIndex::new).map(Ok)))
            .try_flatten()
    }

    /// Some candidates from `from` on, and the index before which these are all.
    async fn page(&self, from: BlockIndex) -> Result<(Vec<Range<u32>>, u32)> {
        if self.config.zero_blocks {
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
