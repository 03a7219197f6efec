//! Where an overlay lies: a directory of few files, as a trait, so that tests can put a disk below that loses power.
//!
//! Every error names the file.

use std::ops::Range;
use std::sync::Arc;

use crate::error::Result;

mod local;
mod read_only;

pub(super) use local::open_read_only;
pub use local::{Holder, LocalDirectory};
pub(super) use read_only::ReadOnlyDirectory;

/// The files of one overlay, by name. Whoever has it is the only one that changes them.
pub trait Directory: Send + Sync {
    /// Opens the file `name` for reading and writing, and makes it if it is missing and `create` says so. That it
    /// has its name is durable after [`sync`](Self::sync).
    fn open(&self, name: &str, create: bool) -> Result<Option<Arc<dyn File>>>;

    /// The names of all files.
    fn names(&self) -> Result<Vec<String>>;

    /// Makes `name` hold exactly `bytes`, atomically, and durably when this returns. After `NoSpace` it holds what it
    /// held before; after another failure that is not known. Who has the old file open goes on with that.
    fn publish(&self, name: &str, bytes: &[u8]) -> Result<()>;

    /// Takes the name from a file, durably after [`sync`](Self::sync); nothing if there is none. Who has it open
    /// can go on to read it.
    fn remove(&self, name: &str) -> Result<()>;

    /// Makes the names durable as they are.
    fn sync(&self) -> Result<()>;

    /// How messages call the file `name`.
    fn display(&self, name: &str) -> String;
}

/// A file of a [`Directory`].
pub trait File: Send + Sync {
    /// Its length in bytes.
    fn length(&self) -> Result<u64>;

    /// Fills `buf` with what lies from `offset` on; holes, and what lies past the end, are zeros.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()>;

    /// Writes, and makes the file longer where it must.
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()>;

    /// Takes room for a range, so that a write there and a sync cannot fail for want of it; `NoSpace` if there is
    /// none. Does nothing where the file system cannot.
    fn reserve(&self, range: Range<u64>) -> Result<()>;

    /// Gives the room of a range back, which then reads as zeros; does nothing where the file system cannot.
    fn punch(&self, range: Range<u64>) -> Result<()>;

    /// Makes it end at `length`.
    fn truncate(&self, length: u64) -> Result<()>;

    /// Makes its bytes and its length durable.
    fn sync(&self) -> Result<()>;
}
