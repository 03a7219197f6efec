//! A whole disk out of a source: into a file or a device at its place, or into a stream in order.

use std::fs::File;
use std::io::{self, Write as _};
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use futures_util::future::try_join;
use futures_util::{Stream, TryStreamExt as _, pin_mut};
use rustix::fs::{FallocateFlags, fallocate};
use tokio::sync::mpsc;

use crate::block::{Block, BlockIndex};
use crate::blocking::blocking;
use crate::durable;
use crate::error::{Error, Result};
use crate::source::{BlockSource, indexes};

/// How a download is done.
#[derive(Clone, Debug)]
pub struct Config {
    /// Blocks fetched at one time; each takes 512 KiB of memory.
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
    let (out, mut done) = (Arc::clone(file), from);
    let write = move |index: BlockIndex, block: &Block| {
        clear(&out, target, done, index)?;
        write(&out, target, index, block)?;
        done = next(index);
        Ok(ControlFlow::Continue(()))
    };
    let (_, done) = write_behind(fetched(source, from, config), write, progress).await?;
    let (out, done) = (Arc::clone(file), done.unwrap_or(from));
    blocking("writing", move || clear(&out, target, done, end)).await
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
    let (sink, mut done) = (Arc::clone(out), BlockIndex::ZERO);
    let write = move |index: BlockIndex, block: &Block| {
        for _ in done.get()..index.get() {
            if send(&sink, done, &Block::Zero)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
            done = next(done);
        }
        done = next(index);
        send(&sink, index, block)
    };
    let blocks = fetched(source, BlockIndex::ZERO, config);
    let reached = |index| {
        progress(index);
        Ok(())
    };
    let (mut flow, done) = write_behind(blocks, write, &reached).await?;
    for index in done.map_or(0, BlockIndex::get)..source.count() {
        if flow.is_break() {
            break;
        }
        let (sink, index) = (Arc::clone(out), BlockIndex::new(index));
        // A reader may take its time, and an interruption must not have to wait for it.
        flow = blocking("writing", move || send(&sink, index, &Block::Zero)).await?;
        progress(next(index));
    }
    Ok(match flow {
        ControlFlow::Continue(()) => Streamed::Whole,
        ControlFlow::Break(()) => Streamed::ReaderGone,
    })
}

/// The blocks with data from `from` on, in order, several of them under way.
fn fetched<'a>(
    source: &'a dyn BlockSource,
    from: BlockIndex,
    config: &Config,
) -> impl Stream<Item = Result<(BlockIndex, Block)>> + 'a {
    indexes(source, from)
        .map_ok(move |index| async move { Ok((index, source.block(index).await?)) })
        .try_buffered(config.concurrency)
}

/// Blocks that may wait for being written: enough that neither side often waits for the other.
const AHEAD: usize = 8;

/// Hands `blocks` to `write`, one after the other on one thread, while the next are fetched.
///
/// Ends where `write` breaks. Returns that, and the index behind the last block written. `progress` is told this
/// index as it grows; an error from it ends everything.
async fn write_behind(
    blocks: impl Stream<Item = Result<(BlockIndex, Block)>>,
    mut write: impl FnMut(BlockIndex, &Block) -> Result<ControlFlow<()>> + Send + 'static,
    progress: &(dyn Fn(BlockIndex) -> Result<()> + Sync),
) -> Result<(ControlFlow<()>, Option<BlockIndex>)> {
    let (hand, mut taken) = mpsc::channel::<(BlockIndex, Block)>(AHEAD);
    let done = Arc::new(AtomicU32::new(0));
    let so_far =
        || Some(BlockIndex::new(done.load(Ordering::Acquire))).filter(|done| done.get() > 0);
    let writer_done = Arc::clone(&done);
    let writing = blocking("writing", move || {
        while let Some((index, block)) = taken.blocking_recv() {
            if write(index, &block)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
            writer_done.store(next(index).get(), Ordering::Release);
        }
        Ok(ControlFlow::Continue(()))
    });
    let handing = async {
        let hand = hand;
        pin_mut!(blocks);
        while let Some(block) = blocks.try_next().await? {
            // Closed: the writer tells why.
            if hand.send(block).await.is_err() {
                break;
            }
            so_far().map_or(Ok(()), progress)?;
        }
        Ok(())
    };
    let (flow, ()) = try_join(writing, handing).await?;
    so_far().map_or(Ok(()), progress)?;
    Ok((flow, so_far()))
}

fn next(index: BlockIndex) -> BlockIndex {
    BlockIndex::new(index.get() + 1)
}

/// Writes a block to a stream; breaks if its reader went away.
fn send(out: &File, index: BlockIndex, block: &Block) -> Result<ControlFlow<()>> {
    match { out }.write_all(block.bytes()) {
        Ok(()) => Ok(ControlFlow::Continue(())),
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(ControlFlow::Break(())),
        Err(e) => Err(cannot_write(index, e)),
    }
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
fn clear(file: &File, target: Target, start: BlockIndex, end: BlockIndex) -> Result<()> {
    if target == Target::New || start >= end {
        return Ok(());
    }
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    if fallocate(file, punch, start.start(), end.start() - start.start()).is_ok() {
        return Ok(());
    }
    // Not every device can: then they are written.
    (start.get()..end.get())
        .try_for_each(|index| write(file, target, BlockIndex::new(index), &Block::Zero))
}
