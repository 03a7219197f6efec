//! A whole disk out of a source: into a file or a device at its place, or into a stream in order.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use futures_util::{TryStreamExt as _, pin_mut};
use rustix::fs::{FallocateFlags, fallocate};

use crate::block::{Block, BlockIndex};
use crate::blocking::blocking;
use crate::durable;
use crate::error::{Error, Result};
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
/// `progress` is told, after each block with data, the index before which everything has been written; an
/// error from it ends the download. Nothing is made durable: that is the caller's.
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
            blocking("writing", move || write(&file, target, index, &block)).await?;
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
    clear(file, target, done, end).await
}

/// How a stream ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Streamed {
    /// All of it was taken.
    Whole,
    /// Its reader went away, which is no error of ours.
    ReaderGone,
}

/// Writes all of `source` to `out` in order, absent blocks as zeros.
pub async fn to_stream(
    source: &dyn BlockSource,
    out: &Arc<File>,
    config: &Config,
    progress: &(dyn Fn(BlockIndex) + Sync),
) -> Result<Streamed> {
    let blocks = indexes(source, BlockIndex::ZERO)
        .map_ok(|index| async move { Ok((index, source.block(index).await?)) })
        .try_buffered(config.concurrency);
    pin_mut!(blocks);
    let mut next = blocks.try_next().await?;
    for index in (0..source.count()).map(BlockIndex::new) {
        let block = match next.take_if(|(present, _)| *present == index) {
            Some((_, block)) => {
                next = blocks.try_next().await?;
                block
            }
            None => Block::Zero,
        };
        let out = Arc::clone(out);
        // A reader may take its time, and an interruption must not have to wait for it.
        let written = blocking("writing", move || Ok((&*out).write_all(block.bytes()))).await?;
        match written {
            Ok(()) => progress(BlockIndex::new(index.get() + 1)),
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return Ok(Streamed::ReaderGone),
            Err(e) => return Err(cannot_write(index, e)),
        }
    }
    Ok(Streamed::Whole)
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
    blocking("writing", move || {
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
