//! A disk that can be written to: an overlay over an [`Image`], page by page.
//!
//! It owns the order in which the two are asked. The overlay is looked at first and what lies below second; a
//! commit exchanges what lies below first, and gives up the overlay's sealed layer second. So a reader never finds
//! a page in neither.

use std::ops::Range;
use std::sync::{Arc, PoisonError, RwLock};

use tokio::runtime::Handle;

use super::Image;
use crate::error::Result;
use crate::overlay::{Amount, Overlay, PAGE_SIZE, State, View};
use crate::read_at::{Extent, Lent, ReadAt, WriteAt, check_range};
use crate::source::BlockSource;

/// The same for offsets.
const PAGE_BYTES: u64 = 4096;

/// A writable disk. Where the overlay is larger than what lies below, zeros lie below.
pub struct OverlaidImage {
    overlay: Arc<Overlay>,
    size: u64,
    runtime: Handle,
    /// Exchanged by [`rebase`](Self::rebase), which waits for those who write a part of a page over it.
    below: RwLock<Arc<Image>>,
}

/// A part of a write, as pages see it.
enum Part {
    /// Whole pages.
    Pages(Range<u64>),
    /// Some bytes of one page.
    Within(Range<u64>),
}

/// Cuts a range into what lies within its first page, the whole pages, and what lies within its last.
fn parts(range: Range<u64>) -> impl Iterator<Item = Part> {
    let Range { start, end } = range;
    let head = start.next_multiple_of(PAGE_BYTES).min(end);
    let tail = (end - end % PAGE_BYTES).max(head);
    [
        Part::Within(start..head),
        Part::Pages(head..tail),
        Part::Within(tail..end),
    ]
    .into_iter()
    .filter(|part| match part {
        Part::Pages(range) | Part::Within(range) => !range.is_empty(),
    })
}

impl OverlaidImage {
    /// The disk that `overlay` makes of `source`. Calls that wait must not be made on a worker of `runtime`.
    pub fn new(overlay: Arc<Overlay>, source: Arc<dyn BlockSource>, runtime: Handle) -> Self {
        Self {
            size: overlay.header().size.bytes(),
            overlay,
            below: RwLock::new(Arc::new(Image::new(source, runtime.clone()))),
            runtime,
        }
    }

    /// From now on `source` lies below: the snapshot that was made of the present one and the sealed layer.
    pub fn rebase(&self, source: Arc<dyn BlockSource>) {
        let image = Arc::new(Image::new(source, self.runtime.clone()));
        *self.below.write().unwrap_or_else(PoisonError::into_inner) = image;
    }

    /// What lies below; to be asked for after the overlay was.
    fn below(&self) -> Arc<Image> {
        Arc::clone(&self.below.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Fills `buf`; `false` if that needs waiting and must not.
    fn fill(&self, offset: u64, buf: &mut [u8], wait: bool) -> Result<bool> {
        check_range(self.size, offset, buf.len())?;
        let mut missing = Vec::new();
        self.overlay.view().read(offset, buf, &mut missing)?;
        if missing.is_empty() {
            return Ok(true);
        }
        let below = self.below();
        for range in missing {
            let start = offset + u64::try_from(range.start).unwrap_or(u64::MAX);
            if !fill_from(&below, start, &mut buf[range], wait)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Writes `data`; `false` if that needs waiting and must not.
    fn put(&self, offset: u64, data: &[u8], wait: bool) -> Result<bool> {
        check_range(self.size, offset, data.len())?;
        let mut rest = data;
        let end = offset + u64::try_from(data.len()).unwrap_or(u64::MAX);
        for part in parts(offset..end) {
            let (Part::Pages(range) | Part::Within(range)) = &part;
            let len = usize::try_from(range.end - range.start).unwrap_or(rest.len());
            let (bytes, after) = rest.split_at(len);
            rest = after;
            match part {
                Part::Pages(range) => self.overlay.write_pages(range.start, bytes)?,
                Part::Within(range) => {
                    if !self.put_within(range.start, bytes, wait)? {
                        return Ok(false);
                    }
                }
            }
        }
        Ok(true)
    }

    /// Writes a part of one page, which may need the rest of it from below.
    fn put_within(&self, offset: u64, data: &[u8], wait: bool) -> Result<bool> {
        if self.overlay.write_part(offset, data, None)? {
            return Ok(true);
        }
        let mut page = [0; PAGE_SIZE];
        let start = offset - offset % PAGE_BYTES;
        loop {
            // Fetched before the overlay is asked again, so that no other writer waits for the network.
            let below = self.below();
            if !fill_from(&below, start, &mut page, wait)? {
                return Ok(false);
            }
            let now = self.below.read().unwrap_or_else(PoisonError::into_inner);
            // Otherwise the page may have been written, committed and given up by the overlay meanwhile.
            if Arc::ptr_eq(&now, &below) {
                return self.overlay.write_part(offset, data, Some(&page));
            }
        }
    }
}

/// Fills `buf` from `below`, and with zeros past its end; `false` if that needs waiting and must not.
fn fill_from(below: &Image, offset: u64, buf: &mut [u8], wait: bool) -> Result<bool> {
    let there = below.size().saturating_sub(offset);
    let there = usize::try_from(there).map_or(buf.len(), |there| there.min(buf.len()));
    let (inside, past) = buf.split_at_mut(there);
    past.fill(0);
    if inside.is_empty() || below.try_read_at(offset, inside)? {
        return Ok(true);
    }
    if wait {
        below.read_at(offset, inside)?;
    }
    Ok(wait)
}

fn is_empty(view: &View) -> bool {
    let layers = std::iter::once(&view.top).chain(&view.sealed);
    layers
        .map(|layer| layer.amount())
        .all(|amount| amount == Amount::default())
}

impl ReadAt for OverlaidImage {
    fn size(&self) -> u64 {
        self.size
    }

    fn try_read_at(&self, offset: u64, buf: &mut [u8]) -> Result<bool> {
        self.fill(offset, buf, false)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.fill(offset, buf, true).map(drop)
    }

    /// What the overlay has nothing of is lent as it lies below.
    fn lend(&self, offset: u64, len: usize, wait: bool) -> Result<Lent> {
        check_range(self.size, offset, len)?;
        let end = offset + u64::try_from(len).unwrap_or(u64::MAX);
        let (state, until) = self.overlay.view().extent(offset);
        let below = self.below();
        if state != State::Base || until < end || below.size() < end {
            return Ok(Lent::Apart);
        }
        below.lend(offset, len, wait)
    }

    fn extent(&self, offset: u64) -> Result<Extent> {
        check_range(self.size, offset, 1)?;
        let (state, end) = self.overlay.view().extent(offset);
        let end = end.min(self.size);
        let below = self.below();
        Ok(match state {
            State::Written => Extent::Data { end },
            State::Zero => Extent::Hole { end },
            State::Base if offset >= below.size() => Extent::Hole { end },
            State::Base => match below.extent(offset)? {
                Extent::Data { end: until } => Extent::Data {
                    end: until.min(end),
                },
                Extent::Hole { end: until } => Extent::Hole {
                    end: until.min(end),
                },
            },
        })
    }

    /// Not known as soon as something was written: what it covers below would have to be taken off.
    fn allocated(&self, range: Range<u64>) -> Option<u64> {
        if !is_empty(&self.overlay.view()) {
            return None;
        }
        let below = self.below();
        let end = range.end.min(below.size());
        below.allocated(range.start.min(end)..end)
    }
}

impl WriteAt for OverlaidImage {
    fn try_write_at(&self, offset: u64, data: &[u8]) -> Result<bool> {
        self.put(offset, data, false)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.put(offset, data, true).map(drop)
    }

    fn zero(&self, range: Range<u64>) -> Result<()> {
        let len = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(usize::MAX);
        check_range(self.size, range.start, len)?;
        for part in parts(range) {
            match part {
                Part::Pages(range) => self.overlay.zero_pages(range)?,
                Part::Within(range) => {
                    let len = usize::try_from(range.end - range.start).unwrap_or(PAGE_SIZE);
                    self.put_within(range.start, &[0; PAGE_SIZE][..len], true)?;
                }
            }
        }
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        self.overlay.sync()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_cut_at_the_pages_it_covers() {
        let cut = |range| {
            let parts = parts(range).map(|part| match part {
                Part::Pages(range) => (true, range),
                Part::Within(range) => (false, range),
            });
            parts.collect::<Vec<_>>()
        };
        assert_eq!(cut(0..0), []);
        assert_eq!(cut(0..4096), [(true, 0..4096)]);
        assert_eq!(cut(10..20), [(false, 10..20)]);
        assert_eq!(cut(4000..4200), [(false, 4000..4096), (false, 4096..4200)]);
        assert_eq!(
            cut(1..12289),
            [(false, 1..4096), (true, 4096..12288), (false, 12288..12289)]
        );
    }
}
