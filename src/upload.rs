//! Blocks into a new snapshot: start, parallel puts, checksum in order of index, complete.
//!
//! What is put is what the source has; zeros are put only where a parent's data would show through. The same
//! request again (same client token) goes on with the same pending snapshot: blocks are put again, which costs
//! a store that has them little, and nothing can be missing whatever happened in between.

use std::sync::Arc;

use futures_util::{TryStreamExt as _, pin_mut};

use crate::block::{Block, BlockIndex, Digest, Hasher};
use crate::error::Result;
use crate::snapshot::{NewSnapshot, Seal, SnapshotId, SnapshotInfo};
use crate::source::{BlockSource, indexes};
use crate::store::Store;

/// How an upload is done.
#[derive(Clone, Debug)]
pub struct Config {
    /// Blocks read, hashed or put at one time; each takes 512 KiB of memory.
    pub concurrency: usize,
}

impl Default for Config {
    fn default() -> Self {
        // Enough that both cores of a small machine hash while the disk reads and writes.
        Self { concurrency: 4 }
    }
}

/// Puts all of `source` into the pending snapshot `info`, which `store` started for `new`, and completes it.
///
/// `progress` is told the index behind which all is done, in ascending order. Returns the number of blocks put.
/// On an error the snapshot stays pending.
pub async fn upload(
    store: Arc<dyn Store>,
    info: &SnapshotInfo,
    new: &NewSnapshot,
    source: Arc<dyn BlockSource>,
    config: &Config,
    progress: &(dyn Fn(BlockIndex) + Sync),
) -> Result<u64> {
    let put_zeros = new.parent.is_some();
    let puts = indexes(&*source, BlockIndex::ZERO)
        .map_ok(|index| put_one(&*store, &info.id, &*source, index, put_zeros))
        .try_buffered(config.concurrency);
    pin_mut!(puts);
    let mut count = 0;
    let mut linear = Hasher::default();
    while let Some((index, put)) = puts.try_next().await? {
        if let Some(digest) = put {
            count += 1;
            linear.update(digest.as_bytes());
        }
        progress(index);
    }
    store
        .complete(
            &info.id,
            &Seal {
                count,
                checksum: Some(linear.finish()),
            },
        )
        .await?;
    Ok(count)
}

async fn put_one(
    store: &dyn Store,
    id: &SnapshotId,
    source: &dyn BlockSource,
    index: BlockIndex,
    put_zeros: bool,
) -> Result<(BlockIndex, Option<Digest>)> {
    let block = source.block(index).await?;
    if matches!(block, Block::Zero) && !put_zeros {
        return Ok((index, None));
    }
    store
        .put(id, index, &block)
        .await
        .map_err(|e| e.context(format!("cannot put block {index} into {id}")))?;
    Ok((index, Some(block.digest())))
}
