//! A whole disk out of a source: into a file or a device at its place, or into a stream in order.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use futures_util::{StreamExt as _, TryStreamExt as _, pin_mut};
use rustix::fs::{FallocateFlags, fallocate};

use crate::block::{Block, BlockIndex};
use crate::durable;
use crate::error::{Error, ErrorKind, Result};
use crate::source::{BlockSource, indexes};

/// How a download is done.
#[derive(Clone, Debug)]
pub struct Config {
    /// Blocks fetched or written at one time; each takes 512 KiB of memory.
    pub concurrency: usize,
}

impl Default for Config {
    fn default() -> Self {
        // Enough that both cores of a small machine hash while the disk reads and writes.
        Self { concurrency: 4 }
    }
}

/// What the places of absent blocks hold before.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Target {
    /// Zeros: a new file. They are left as they are, so the file becomes sparse.
    New,
    /// Anything: a device. They are written as zeros.
    Used,
}

/// Writes the blocks of `source` from `from` on to their places in `file`.
///
/// `progress` is told, in ascending order, the index before which everything has been written; an error from
/// it ends the download. Nothing is made durable: that is the caller's.
pub async fn to_file(
    source: &dyn BlockSource,
    file: &Arc<File>,
    target: Target,
    from: BlockIndex,
    config: &Config,
    progress: &(dyn Fn(BlockIndex) -> Result<()> + Sync),
) -> Result<()> {
    let end = BlockIndex::new(source.count());
    let written = indexes(source, from)
        .map_ok(|index| async move {
            let block = source.block(index).await?;
            let file = Arc::clone(file);
            blocking(move || write(&file, target, index, &block)).await?;
            Ok(index)
        })
        .try_buffered(config.concurrency);
    pin_mut!(written);
    let mut done = from;
    while let Some(index) = written.try_next().await? {
        clear(file, target, done, index).await?;
        done = BlockIndex::new(index.get() + 1);
        progress(done)?;
    }
    clear(file, target, done, end).await?;
    progress(end)
}

/// Writes all of `source` to `out` in order, absent blocks as zeros.
pub async fn to_stream(
    source: &dyn BlockSource,
    out: &mut dyn Write,
    config: &Config,
    progress: &(dyn Fn(BlockIndex) + Sync),
) -> Result<()> {
    let blocks = indexes(source, BlockIndex::ZERO)
        .map_ok(|index| async move { Ok((index, source.block(index).await?)) })
        .try_buffered(config.concurrency);
    let end = BlockIndex::new(source.count());
    let blocks = blocks.chain(futures_util::stream::iter([Ok((end, Block::Zero))]));
    pin_mut!(blocks);
    let mut done = 0;
    while let Some((index, block)) = blocks.try_next().await? {
        for absent in done..index.get() {
            let absent = BlockIndex::new(absent);
            out.write_all(Block::Zero.bytes())
                .map_err(|e| cannot_write(absent, e))?;
            progress(BlockIndex::new(absent.get() + 1));
        }
        if index < end {
            out.write_all(block.bytes())
                .map_err(|e| cannot_write(index, e))?;
            done = index.get() + 1;
            progress(BlockIndex::new(done));
        }
    }
    Ok(out.flush()?)
}

fn write(file: &File, target: Target, index: BlockIndex, block: &Block) -> Result<()> {
    if matches!(block, Block::Zero) && target == Target::New {
        return Ok(());
    }
    file.write_all_at(block.bytes(), index.start())
        .map_err(|e| cannot_write(index, e))?;
    durable::begin(file, index.start(), block.bytes().len());
    Ok(())
}

fn cannot_write(index: BlockIndex, error: io::Error) -> Error {
    Error::from(error).context(format!("cannot write block {index}"))
}

/// Makes the blocks from `start` up to `end` read as zeros.
async fn clear(file: &Arc<File>, target: Target, start: BlockIndex, end: BlockIndex) -> Result<()> {
    if target == Target::New || start >= end {
        return Ok(());
    }
    let file = Arc::clone(file);
    blocking(move || {
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        if fallocate(&*file, punch, start.start(), end.start() - start.start()).is_ok() {
            return Ok(());
        }
        // Not every device can: then they are written.
        (start.get()..end.get())
            .try_for_each(|index| write(&file, target, BlockIndex::new(index), &Block::Zero))
    })
    .await
}

async fn blocking(work: impl FnOnce() -> Result<()> + Send + 'static) -> Result<()> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| {
        Err(Error::new(
            ErrorKind::Io,
            format!("writing ended early: {e}"),
        ))
    })
}
