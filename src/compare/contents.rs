//! Whether two files hold the same: by where their bytes lie, and by the bytes only where that does not tell.

use std::ops::Range;

use super::Comparison;
use crate::error::Result;
use crate::filesystem::{Extent, FileTree, Node};

/// Bytes of each side read at one time.
const STEP: usize = 256 << 10;

impl Comparison<'_> {
    /// Whether two files are known to hold the same without reading them: they lie in the same places, where the disks
    /// do not differ.
    pub(super) fn untouched(&self, old: Node, new: Node, size: u64) -> Result<bool> {
        let mut pieces = self.pieces(old, new, size)?;
        pieces.try_fold(true, |same, (piece, places)| match places {
            Places::Holes => Ok(same),
            Places::Same(at) if same => {
                let end = at.saturating_add(piece.end.saturating_sub(piece.start));
                Ok((self.differs)(at..end)?.is_none())
            }
            _ => Ok(false),
        })
    }

    /// Whether two files of one size hold the same.
    pub(super) fn same_bytes(&self, old: Node, new: Node, size: u64) -> Result<bool> {
        for (piece, places) in self.pieces(old, new, size)? {
            match places {
                Places::Holes => {}
                Places::Other => {
                    if !self.same_piece(old, new, piece)? {
                        return Ok(false);
                    }
                }
                Places::Same(at) => {
                    let length = piece.end.saturating_sub(piece.start);
                    let disk = at..at.saturating_add(length);
                    let mut from = disk.start;
                    while let Some(part) = (self.differs)(from..disk.end)? {
                        let within = |byte: u64| {
                            let byte = byte.clamp(from, disk.end).saturating_sub(disk.start);
                            piece.start.saturating_add(byte)
                        };
                        let part_of_file = within(part.start)..within(part.end);
                        if !self.same_piece(old, new, part_of_file)? {
                            return Ok(false);
                        }
                        if part.end <= from || part.end >= disk.end {
                            break;
                        }
                        from = part.end;
                    }
                }
            }
        }
        Ok(true)
    }

    fn same_piece(&self, old: Node, new: Node, piece: Range<u64>) -> Result<bool> {
        let (mut ours, mut theirs) = (vec![0; STEP], vec![0; STEP]);
        let mut at = piece.start;
        while at < piece.end {
            let length = piece.end.saturating_sub(at);
            let length = usize::try_from(length).map_or(STEP, |length| length.min(STEP));
            let (Some(ours), Some(theirs)) = (ours.get_mut(..length), theirs.get_mut(..length))
            else {
                break;
            };
            let read = fill(self.old.tree, old, at, ours)?;
            if read != fill(self.new.tree, new, at, theirs)?
                || ours.get(..read) != theirs.get(..read)
            {
                return Ok(false);
            }
            if read < length {
                break;
            }
            at = at.saturating_add(u64::try_from(read).unwrap_or(u64::MAX));
        }
        Ok(true)
    }

    /// The pieces of two files of one size, and where they lie.
    fn pieces(
        &self,
        old: Node,
        new: Node,
        size: u64,
    ) -> Result<impl Iterator<Item = (Range<u64>, Places)>> {
        let (old, new) = (self.old.tree.extents(old)?, self.new.tree.extents(new)?);
        let (old_start, new_start) = (self.old.start, self.new.start);
        let mut at = 0;
        Ok(std::iter::from_fn(move || {
            if at >= size {
                return None;
            }
            let (old_end, old_place) = place(&old, at, old_start);
            let (new_end, new_place) = place(&new, at, new_start);
            let end = old_end.min(new_end).min(size);
            let places = match (old_place, new_place) {
                (Place::Hole, Place::Hole) => Places::Holes,
                (Place::At(old), Place::At(new)) if old == new => Places::Same(old),
                _ => Places::Other,
            };
            let piece = at..end;
            at = end;
            Some((piece, places))
        }))
    }
}

/// Reads until `buf` is full, or the file ends.
fn fill(tree: &dyn FileTree, node: Node, offset: u64, buf: &mut [u8]) -> Result<usize> {
    let mut done = 0;
    while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
        let at = u64::try_from(done)
            .ok()
            .and_then(|done| offset.checked_add(done));
        match tree.read(node, at.unwrap_or(u64::MAX), rest)? {
            0 => break,
            read => done = done.saturating_add(read),
        }
    }
    Ok(done)
}

/// Where a piece of two files lies.
enum Places {
    /// Nowhere, in both.
    Holes,
    /// At the same byte of both disks.
    Same(u64),
    /// In two places, or in none that is known.
    Other,
}

enum Place {
    Hole,
    /// This byte of the disk.
    At(u64),
    /// In an inode, or not written yet.
    Elsewhere,
}

/// Where the byte `at` of a file lies on a disk on which its file system begins at `start`, and how far that goes on.
fn place(extents: &[Extent], at: u64, start: u64) -> (u64, Place) {
    let next = extents.partition_point(|extent| extent.range.end <= at);
    match extents.get(next) {
        None => (u64::MAX, Place::Hole),
        Some(extent) if extent.range.start > at => (extent.range.start, Place::Hole),
        Some(Extent { range, at: place }) => {
            let on_disk = place.and_then(|place| {
                let within = at.saturating_sub(range.start);
                start.checked_add(place)?.checked_add(within)
            });
            (range.end, on_disk.map_or(Place::Elsewhere, Place::At))
        }
    }
}
