//! What a file holds: where there is data, and the bytes of it.

use std::ops::Range;

use crate::error::{Error, ErrorKind, Result};
use crate::filesystem::{FileTree, Node};

/// What has no place on the disk and is longer lies in no inode, so it was never written.
const MOST_IN_INODE: u64 = 64 << 10;

/// A file's contents, holes aside.
pub struct Contents<'a> {
    tree: &'a dyn FileTree,
    node: Node,
    /// Bytes, holes included.
    pub(super) size: u64,
    /// Ascending, none empty, none next to another, within the size.
    pub(super) data: Vec<Range<u64>>,
}

impl<'a> Contents<'a> {
    /// Of `node`, which has `size` bytes. Where the file system reserved room and nothing was written is a hole, as the kernel
    /// tells it.
    pub(super) fn of(tree: &'a dyn FileTree, node: Node, size: u64) -> Result<Self> {
        let mut contents = Self {
            tree,
            node,
            size,
            data: vec![],
        };
        if size == 0 {
            return Ok(contents);
        }
        let mut end = 0;
        for extent in tree.extents(node)? {
            let range = extent.range.start..extent.range.end.min(size);
            if extent.range.start < end || extent.range.end <= extent.range.start {
                return Err(Error::new(
                    ErrorKind::Corrupt,
                    format!("an extent at byte {} lies wrong", range.start),
                ));
            }
            end = extent.range.end;
            if range.is_empty() || (extent.at.is_none() && contents.is_unwritten(&range)?) {
                continue;
            }
            match contents.data.last_mut() {
                Some(last) if last.end == range.start => last.end = range.end,
                _ => contents.data.push(range),
            }
        }
        Ok(contents)
    }

    /// Bytes of data.
    pub(super) fn bytes(&self) -> u64 {
        let lens = self.data.iter();
        let len = |range: &Range<u64>| range.end.saturating_sub(range.start);
        lens.map(len).fold(0, u64::saturating_add)
    }

    /// Whether `range`, which has no place on the disk, is all zeros.
    fn is_unwritten(&self, range: &Range<u64>) -> Result<bool> {
        let len = range.end.saturating_sub(range.start);
        if len > MOST_IN_INODE {
            return Ok(true);
        }
        let mut bytes = vec![0; usize::try_from(len).unwrap_or_default()];
        self.read(range.start, &mut bytes)?;
        Ok(bytes.iter().all(|byte| *byte == 0))
    }

    /// Fills `buf` from `offset` on, where there is that much.
    pub(super) fn read(&self, mut offset: u64, mut buf: &mut [u8]) -> Result<()> {
        while !buf.is_empty() {
            let read = self.tree.read(self.node, offset, buf)?;
            let moved = u64::try_from(read).ok();
            let next = moved.and_then(|moved| offset.checked_add(moved));
            match (next, buf.get_mut(read..)) {
                (Some(next), Some(rest)) if read > 0 => (offset, buf) = (next, rest),
                _ => {
                    return Err(Error::new(
                        ErrorKind::Corrupt,
                        format!("it ends at byte {offset} of {}", self.size),
                    ));
                }
            }
        }
        Ok(())
    }
}

/// `range` in pieces of at most `len` bytes.
pub(super) fn pieces(range: Range<u64>, len: usize) -> impl Iterator<Item = (u64, usize)> {
    let mut at = range.start;
    std::iter::from_fn(move || {
        let left = range.end.checked_sub(at).filter(|left| *left > 0)?;
        let piece = usize::try_from(left).unwrap_or(usize::MAX).min(len.max(1));
        let here = at;
        at = at.saturating_add(u64::try_from(piece).unwrap_or(u64::MAX));
        Some((here, piece))
    })
}
