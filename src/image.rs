//! Blocks as bytes: the seam between the asynchronous levels below and the synchronous ones above.
//!
//! [`Image`] cuts a checked byte range into pieces, takes what is at hand, and waits for the rest, which it asks
//! for all at once. It keeps nothing: blocks belong to the cache, listings to the source. [`OverlaidImage`] is a disk that
//! can be written to: an overlay over an image.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::try_join_all;
use tokio::runtime::Handle;

use crate::block::{BlockIndex, bytes_of, pieces};
use crate::error::Result;
use crate::read_at::{Extent, Lent, ReadAt, check_range};
use crate::source::BlockSource;
use crate::store::Listing;

mod overlaid;

pub use self::overlaid::OverlaidImage;

/// A disk as bytes.
pub struct Image {
    source: Arc<dyn BlockSource>,
    runtime: Handle,
}

impl Image {
    /// The disk in `source`. Calls that wait must not be made on a worker of `runtime`: they would panic.
    pub fn new(source: Arc<dyn BlockSource>, runtime: Handle) -> Self {
        Self { source, runtime }
    }
}

impl ReadAt for Image {
    fn size(&self) -> u64 {
        bytes_of(self.source.count().into())
    }

    fn try_read_at(&self, offset: u64, buf: &mut [u8]) -> Result<bool> {
        check_range(self.size(), offset, buf.len())?;
        for piece in pieces(offset, buf.len()) {
            let Some(block) = self.source.ready(piece.index) else {
                return Ok(false);
            };
            buf[piece.at].copy_from_slice(&block.bytes()[piece.within]);
        }
        Ok(true)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        check_range(self.size(), offset, buf.len())?;
        let cut: Vec<_> = pieces(offset, buf.len()).collect();
        let blocks = cut.iter().map(|piece| self.source.block(piece.index));
        let blocks = self.runtime.block_on(try_join_all(blocks))?;
        for (piece, block) in cut.into_iter().zip(blocks) {
            buf[piece.at].copy_from_slice(&block.bytes()[piece.within]);
        }
        Ok(())
    }

    fn lend(&self, offset: u64, len: usize, wait: bool) -> Result<Lent> {
        check_range(self.size(), offset, len)?;
        let first = pieces(offset, len).next();
        let Some(piece) = first.filter(|piece| piece.at.len() == len) else {
            return Ok(Lent::Apart);
        };
        let block = match self.source.ready(piece.index) {
            Some(block) => block,
            None if wait => self.runtime.block_on(self.source.block(piece.index))?,
            None => return Ok(Lent::Later),
        };
        Ok(Lent::Bytes(Bytes::from_owner(block).slice(piece.within)))
    }

    fn extent(&self, offset: u64) -> Result<Extent> {
        check_range(self.size(), offset, 1)?;
        let index = BlockIndex::containing(offset);
        let listing = match self.source.listed(index) {
            Some(listing) => listing,
            None => self.runtime.block_on(self.source.present(index))?,
        };
        let limit = BlockIndex::new(listing.covered.end);
        Ok(match listing.set.run_from(index) {
            Some(run) if run.start <= index.get() => Extent::Data {
                end: BlockIndex::new(run.end).start(),
            },
            Some(run) => Extent::Hole {
                end: BlockIndex::new(run.start).start(),
            },
            None => Extent::Hole { end: limit.start() },
        })
    }

    fn ahead(&self, range: Range<u64>) {
        let _runtime = self.runtime.enter();
        let len = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(0);
        if check_range(self.size(), range.start, len).is_ok() {
            pieces(range.start, len).for_each(|piece| self.source.ahead(piece.index));
        }
    }

    fn allocated(&self, range: Range<u64>) -> Option<u64> {
        let mut bytes = 0;
        let mut position = range.start;
        while position < range.end {
            let listing = self.source.listed(BlockIndex::containing(position))?;
            let end = BlockIndex::new(listing.covered.end).start().min(range.end);
            bytes += bytes_within(&listing, position..end);
            position = end;
        }
        Some(bytes)
    }
}

fn bytes_within(listing: &Listing, range: Range<u64>) -> u64 {
    let clipped = |run: Range<u32>| {
        let start = BlockIndex::new(run.start).start().max(range.start);
        let end = BlockIndex::new(run.end).start().min(range.end);
        end.saturating_sub(start)
    };
    listing.set.runs().map(clipped).sum()
}
