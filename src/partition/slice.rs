//! A partition as bytes of its own.

use std::ops::Range;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::read_at::{Extent, Lent, ReadAt, WriteAt, check_range};

/// A range of a disk as bytes of its own: a partition. It can be written to if the disk can.
pub struct Slice<D: ?Sized = dyn ReadAt> {
    range: Range<u64>,
    disk: Arc<D>,
}

impl<D: ReadAt + ?Sized> Slice<D> {
    /// The bytes `range` of `disk`; `Invalid` unless all of them are there.
    pub fn new(disk: Arc<D>, range: Range<u64>) -> Result<Self> {
        if range.start > range.end || range.end > disk.size() {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "bytes {} to {} are not all within a disk of {}",
                    range.start,
                    range.end,
                    disk.size()
                ),
            ));
        }
        Ok(Self { range, disk })
    }

    /// Where `len` bytes from `offset` begin on the disk, once they are known to be inside.
    fn on_disk(&self, offset: u64, len: usize) -> Result<u64> {
        check_range(self.size(), offset, len)?;
        // Cannot saturate: what is inside the slice is inside the disk.
        Ok(self.range.start.saturating_add(offset))
    }

    /// An offset on the disk as one in here: past the end is the end.
    fn in_here(&self, offset: u64) -> u64 {
        offset.min(self.range.end).saturating_sub(self.range.start)
    }
}

impl<D: ReadAt + ?Sized> ReadAt for Slice<D> {
    fn size(&self) -> u64 {
        self.range.end.saturating_sub(self.range.start)
    }

    fn try_read_at(&self, offset: u64, buf: &mut [u8]) -> Result<bool> {
        self.disk.try_read_at(self.on_disk(offset, buf.len())?, buf)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.disk.read_at(self.on_disk(offset, buf.len())?, buf)
    }

    fn lend(&self, offset: u64, len: usize, wait: bool) -> Result<Lent> {
        self.disk.lend(self.on_disk(offset, len)?, len, wait)
    }

    fn extent(&self, offset: u64) -> Result<Extent> {
        Ok(match self.disk.extent(self.on_disk(offset, 1)?)? {
            Extent::Data { end } => Extent::Data {
                end: self.in_here(end),
            },
            Extent::Hole { end } => Extent::Hole {
                end: self.in_here(end),
            },
        })
    }

    fn ahead(&self, range: Range<u64>) {
        let on_disk = |offset: u64| self.range.start.saturating_add(offset.min(self.size()));
        self.disk.ahead(on_disk(range.start)..on_disk(range.end));
    }

    fn allocated(&self, range: Range<u64>) -> Option<u64> {
        let on_disk = |offset: u64| self.range.start.saturating_add(offset.min(self.size()));
        let range = on_disk(range.start)..on_disk(range.end);
        if range.is_empty() {
            return Some(0);
        }
        self.disk.allocated(range)
    }
}

impl<D: WriteAt + ?Sized> WriteAt for Slice<D> {
    fn try_write_at(&self, offset: u64, data: &[u8]) -> Result<bool> {
        self.disk
            .try_write_at(self.on_disk(offset, data.len())?, data)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.disk.write_at(self.on_disk(offset, data.len())?, data)
    }

    fn zero(&self, range: Range<u64>) -> Result<()> {
        // An end before the start is refused below, as one past the end is.
        let len = range.end.checked_sub(range.start);
        let len = len.and_then(|len| usize::try_from(len).ok());
        let start = self.on_disk(range.start, len.unwrap_or(usize::MAX))?;
        // Cannot saturate either: all of it is inside.
        let end = self.range.start.saturating_add(range.end);
        self.disk.zero(start..end)
    }

    fn sync(&self) -> Result<()> {
        self.disk.sync()
    }
}

#[cfg(test)]
#[allow(clippy::as_conversions)]
mod tests {
    use super::super::testing::Disk;
    use super::*;

    fn slice(bytes: usize, range: Range<u64>) -> Result<Slice> {
        let bytes = (0..bytes)
            .map(|i| if (i / 4096) % 2 == 0 { 0 } else { i as u8 | 1 })
            .collect();
        Slice::new(Arc::new(Disk::new(bytes)), range)
    }

    #[test]
    #[allow(clippy::reversed_empty_ranges)]
    fn a_slice_cannot_reach_outside_its_range() {
        for bad in [0..65537, 65537..65537, 9..8, 0..u64::MAX] {
            let kind = slice(65536, bad).err().map(|e| e.kind());
            assert_eq!(kind, Some(ErrorKind::Invalid));
        }
        let slice = slice(65536, 4000..9000).unwrap();
        assert_eq!(slice.size(), 5000);
        let mut buf = [0; 100];
        slice.read_at(4900, &mut buf).unwrap();
        assert!(slice.try_read_at(0, &mut buf).unwrap());
        assert_eq!(&buf[94..], &[0, 0, 1, 1, 3, 3]);
        for offset in [4901, 5000, 5001, u64::MAX] {
            let kind = |result: Result<()>| result.unwrap_err().kind();
            assert_eq!(kind(slice.read_at(offset, &mut buf)), ErrorKind::Invalid);
            let tried = slice.try_read_at(offset, &mut buf).map(|_| ());
            assert_eq!(kind(tried), ErrorKind::Invalid);
        }
        slice.read_at(5000, &mut []).unwrap();
    }

    #[test]
    fn a_slice_sees_the_disks_extents_cut_to_itself() {
        // Holes and data by turns, 4096 bytes each, from 0.
        let slice = slice(65536, 4000..9000).unwrap();
        assert_eq!(slice.extent(0).unwrap(), Extent::Hole { end: 96 });
        assert_eq!(slice.extent(96).unwrap(), Extent::Data { end: 4192 });
        assert_eq!(slice.extent(4192).unwrap(), Extent::Hole { end: 5000 });
        assert!(slice.extent(5000).is_err());
        assert_eq!(slice.allocated(0..5000), Some(4096));
        assert_eq!(slice.allocated(100..200), Some(100));
        assert_eq!(slice.allocated(4000..u64::MAX), Some(192));
        assert_eq!(slice.allocated(5000..6000), Some(0));
    }
}
