//! Bytes by offset: the level on which a disk, a partition and an image file look alike.
//!
//! Synchronous on purpose: file-system libraries and partition tables are, and tests stay simple. Where the
//! bytes come from the network, a call waits; it must then not be made on a worker of the async runtime.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use bytes::Bytes;

use crate::error::{Error, ErrorKind, Result};

/// Bytes without a copy.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Lent {
    /// As they lie in memory; they stay there as long as somebody has them.
    Bytes(Bytes),
    /// They would, once somebody has waited for them.
    Later,
    /// They do not lie together: they are to be read.
    Apart,
}

/// What lies at an offset, and how far it reaches.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Extent {
    /// Data up to `end`; some of it may still be zeros.
    Data {
        /// Offset of the byte after it.
        end: u64,
    },
    /// Zeros that take no room, up to `end`.
    Hole {
        /// Offset of the byte after it.
        end: u64,
    },
}

impl Extent {
    /// Offset of the byte after it.
    pub fn end(self) -> u64 {
        match self {
            Self::Data { end } | Self::Hole { end } => end,
        }
    }
}

/// How long a request may wait for a store that does not answer. A loop device over a file cannot be killed
/// while it waits.
pub const DEADLINE: Duration = Duration::from_secs(120);

/// `Unavailable`, when [`DEADLINE`] has passed.
pub fn too_late() -> Error {
    let seconds = DEADLINE.as_secs();
    Error::new(
        ErrorKind::Unavailable,
        format!("the store did not answer for {seconds} s"),
    )
}

/// A fixed number of bytes that can be read anywhere.
///
/// Ranges past [`size`](Self::size) are `Invalid`; a read fills the whole buffer or fails.
pub trait ReadAt: Send + Sync {
    /// Bytes in all; never changes.
    fn size(&self) -> u64;

    /// Reads if that needs no waiting: `false`, with the buffer's content unspecified, if it would.
    fn try_read_at(&self, offset: u64, buf: &mut [u8]) -> Result<bool>;

    /// Reads, and waits where it must.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()>;

    /// The same without a copy, for those who only pass the bytes on. [`Lent::Later`] only if it must not wait.
    fn lend(&self, offset: u64, len: usize, _wait: bool) -> Result<Lent> {
        check_range(self.size(), offset, len).map(|()| Lent::Apart)
    }

    /// What lies at `offset`, which is inside. An extent may be reported in several parts, and neighbours may
    /// be of one kind: one call looks no further than what one listing tells.
    fn extent(&self, offset: u64) -> Result<Extent>;

    /// Tells that these bytes will be read soon, so that they can be fetched before somebody waits for them. Waits for nothing
    /// and promises nothing.
    fn ahead(&self, _range: Range<u64>) {}

    /// Bytes of data in `range`, if all of it is known without waiting.
    fn allocated(&self, range: Range<u64>) -> Option<u64>;
}

/// A fixed number of bytes that can be written anywhere, too.
///
/// What was written is read at once, also through other views of the same disk, and is durable after
/// [`sync`](Self::sync). Ranges past the end are `Invalid`; `NoSpace` leaves what was there.
pub trait WriteAt: ReadAt {
    /// Writes if that needs no waiting for a store: `false` if it would. A part may have been written by then;
    /// [`write_at`](Self::write_at) writes all of it once more.
    fn try_write_at(&self, offset: u64, data: &[u8]) -> Result<bool>;

    /// Writes, and waits where it must.
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()>;

    /// Makes a range read as zeros, and gives the room back that it took. Costs as many steps as there are
    /// extents, not bytes. Waits where a page at an end is only partly within.
    fn zero(&self, range: Range<u64>) -> Result<()>;

    /// Makes durable what was written before, through whatever view. After a failure, `ReadOnly` for ever.
    fn sync(&self) -> Result<()>;
}

/// Checks that `len` bytes from `offset` lie within `size`; `Invalid` if not.
pub fn check_range(size: u64, offset: u64, len: usize) -> Result<()> {
    let end = u64::try_from(len)
        .ok()
        .and_then(|len| offset.checked_add(len));
    match end {
        Some(end) if end <= size => Ok(()),
        _ => Err(Error::new(
            ErrorKind::Invalid,
            format!("{len} bytes at offset {offset} are not all within {size}"),
        )),
    }
}

/// Fills `buf` with what a file holds from `offset` on; what lies past its end is zeros.
pub fn read_padded(file: &File, mut offset: u64, mut buf: &mut [u8]) -> io::Result<()> {
    while !buf.is_empty() {
        match file.read_at(buf, offset) {
            Ok(0) => {
                buf.fill(0);
                return Ok(());
            }
            Ok(read) => {
                offset += u64::try_from(read).unwrap_or_default();
                buf = buf.get_mut(read..).unwrap_or_default();
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
