//! Ranges of bytes in terms of pages and of data files.
//!
//! A layer's bytes lie in files of 1 TiB each, as no file of ext4 holds more than 16 TiB, at the same offset as on
//! the disk less what the files before hold.

use std::ops::Range;

use super::PAGE_SIZE;
use crate::error::{Error, ErrorKind, Result};

/// Bytes in a page, for offsets.
pub(super) const PAGE_BYTES: u64 = 4096;
const _: () = assert!(PAGE_SIZE == 4096);

/// Bytes of the disk that one data file holds.
const FILE_BYTES: u64 = 1 << 40;

/// What one data file holds of a range of bytes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Part {
    /// The file's number.
    pub(super) file: u64,
    /// Where it holds the bytes.
    pub(super) within: Range<u64>,
    /// Where the bytes are on the disk.
    pub(super) on_disk: Range<u64>,
}

/// Cuts a range of the disk at the ends of data files.
pub(super) fn parts(range: Range<u64>) -> impl Iterator<Item = Part> {
    let mut at = range.start;
    std::iter::from_fn(move || {
        if at >= range.end {
            return None;
        }
        let file = at / FILE_BYTES;
        let start = file * FILE_BYTES;
        let on_disk = at..range.end.min(start.saturating_add(FILE_BYTES));
        at = on_disk.end;
        Some(Part {
            file,
            within: on_disk.start - start..on_disk.end - start,
            on_disk,
        })
    })
}

/// The number of the data file that holds `page`.
pub(super) fn file_of(page: u64) -> u64 {
    page / (FILE_BYTES / PAGE_BYTES)
}

/// The first page that data file `file` holds.
pub(super) fn first_page_of(file: u64) -> u64 {
    file.saturating_mul(FILE_BYTES / PAGE_BYTES)
}

/// The pages that a range of bytes touches.
pub(super) fn pages(range: &Range<u64>) -> Range<u64> {
    range.start / PAGE_BYTES..range.end.div_ceil(PAGE_BYTES)
}

/// The bytes of a range of pages.
pub(super) fn bytes(pages: &Range<u64>) -> Range<u64> {
    pages.start.saturating_mul(PAGE_BYTES)..pages.end.saturating_mul(PAGE_BYTES)
}

/// The length of a buffer as a number of bytes in a file.
pub(super) fn length(buf: &[u8]) -> u64 {
    u64::try_from(buf.len()).unwrap_or(u64::MAX)
}

/// The place of `range` in a buffer that stands for the bytes from `start` on; the caller has checked that it is
/// within.
pub(super) fn within(start: u64, range: &Range<u64>) -> Range<usize> {
    let place = |at: u64| usize::try_from(at.saturating_sub(start)).unwrap_or(usize::MAX);
    place(range.start)..place(range.end)
}

/// Checks that `range` consists of whole pages and lies within `size`; `Invalid` if not.
pub(super) fn check_pages(range: &Range<u64>, size: u64) -> Result<()> {
    let whole = range.start.is_multiple_of(PAGE_BYTES) && range.end.is_multiple_of(PAGE_BYTES);
    if whole && range.start <= range.end && range.end <= size {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Invalid,
        format!(
            "bytes {} to {} are not whole pages within the {size} bytes of the disk",
            range.start, range.end
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_cut_where_a_file_ends() {
        let range = FILE_BYTES - PAGE_BYTES..2 * FILE_BYTES + PAGE_BYTES;
        let parts: Vec<_> = parts(range).collect();
        let expected = [
            (0, FILE_BYTES - PAGE_BYTES..FILE_BYTES),
            (1, 0..FILE_BYTES),
            (2, 0..PAGE_BYTES),
        ];
        assert_eq!(parts.len(), expected.len());
        for (part, (file, within)) in parts.iter().zip(expected) {
            assert_eq!((part.file, part.within.clone()), (file, within));
            assert_eq!(part.on_disk.start, file * FILE_BYTES + part.within.start);
        }
        assert_eq!(file_of(first_page_of(3)), 3);
        assert_eq!(file_of(first_page_of(3) - 1), 2);
    }
}
