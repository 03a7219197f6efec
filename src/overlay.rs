//! What was written over a snapshot, in local files. It knows no source: whatever lies below a page that was not
//! written is its caller's to find.
//!
//! An overlay has a top [`Layer`], which takes writes, and at most one sealed layer below it, which a commit
//! uploads. A page (4 KiB) of a layer is in one of three states:
//!
//! | State | Reads as | Becomes so by |
//! | --- | --- | --- |
//! | base | whatever lies below the layer | nothing was written there |
//! | written | the layer's own bytes | a write |
//! | zero | zeros | a discard |

use std::ops::Range;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::block::BlockIndex;
use crate::error::Result;
use crate::snapshot::{NewSnapshot, SnapshotId, VolumeSize};

/// Bytes in a page: what file systems and loop devices write at least.
pub const PAGE_SIZE: usize = 4096;

/// The directory that an overlay lies in: its files, by name. `LocalDirectory` is the real one.
pub trait Directory: Send + Sync {}

/// What an overlay is of, and how far a commit of it has come.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Header {
    /// Its own id, random.
    pub id: String,
    /// The store of its base, by identity.
    pub store: String,
    /// The snapshot below all layers.
    pub base: SnapshotId,
    /// The base's size.
    pub base_size: VolumeSize,
    /// The disk's size: the base's, or larger.
    pub size: VolumeSize,
    /// The commit of the sealed layer. There is one exactly as long as there is a sealed layer.
    pub commit: Option<Commit>,
}

/// How far the commit of a sealed layer has come.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Commit {
    /// The snapshot to start. Its client token makes repeated starts one.
    pub new: NewSnapshot,
    /// The snapshot, once it is started.
    pub snapshot: Option<SnapshotId>,
    /// Whether the store has accepted it as complete.
    pub accepted: bool,
    /// When the layer was sealed: the moment whose disk the snapshot holds.
    pub sealed: Timestamp,
}

/// The state of a run of pages, all layers taken together.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum State {
    /// What lies below the overlay.
    Base,
    /// Bytes of a layer.
    Written,
    /// Zeros.
    Zero,
}

/// What a layer has of a block.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Change {
    /// All of its pages, and at least one written.
    Whole,
    /// All of its pages are zero.
    Zero,
    /// Some of its pages; the others are what lies below.
    Part,
}

/// How much a layer holds.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Amount {
    /// Pages written.
    pub written: u64,
    /// Pages zero.
    pub zero: u64,
    /// Blocks of which at least one page is one or the other.
    pub blocks: u64,
}

/// Pages that were written or discarded.
pub struct Layer {}

impl Layer {
    /// The first run of blocks from `from` on that have changed in one way, ascending; O(log n).
    pub fn changed(&self, from: BlockIndex) -> Option<(Range<u32>, Change)> {
        let _ = from;
        unimplemented!()
    }

    /// Puts this layer's pages of block `index` over `bytes`, which are the whole block as it is below.
    pub fn apply(&self, index: BlockIndex, bytes: &mut [u8]) -> Result<()> {
        let _ = (index, bytes);
        unimplemented!()
    }

    /// How much it holds.
    pub fn amount(&self) -> Amount {
        unimplemented!()
    }
}

/// An overlay that is open. There is one for a directory at a time, in any process.
pub struct Overlay {}

impl Overlay {
    /// Makes an overlay over `base` in an empty directory.
    pub fn create(
        directory: Arc<dyn Directory>,
        store: &str,
        base: &SnapshotId,
        base_size: VolumeSize,
    ) -> Result<Self> {
        let _ = (directory, store, base, base_size);
        unimplemented!()
    }

    /// Opens the overlay in `directory`, as it was when it was last synced or later; none if there is none.
    pub fn open(directory: Arc<dyn Directory>) -> Result<Option<Self>> {
        let _ = directory;
        unimplemented!()
    }

    /// What it is of.
    pub fn header(&self) -> Header {
        unimplemented!()
    }

    /// Its layers as they are now. They go on to change, and serve also when the overlay has given them up.
    pub fn view(&self) -> View {
        unimplemented!()
    }

    /// Writes whole pages: `offset` and the length of `data` are multiples of [`PAGE_SIZE`].
    pub fn write_pages(&self, offset: u64, data: &[u8]) -> Result<()> {
        let _ = (offset, data);
        unimplemented!()
    }

    /// Writes a part of one page. `below` is the whole page as it lies below the overlay; without it, `false` if
    /// it is needed, and nothing is written.
    pub fn write_part(&self, offset: u64, data: &[u8], below: Option<&[u8]>) -> Result<bool> {
        let _ = (offset, data, below);
        unimplemented!()
    }

    /// Makes whole pages zero; both ends are multiples of [`PAGE_SIZE`]. O(extents), whatever the length.
    pub fn zero_pages(&self, range: Range<u64>) -> Result<()> {
        let _ = range;
        unimplemented!()
    }

    /// Makes durable what was written before. Once it has failed every later write and sync fails as `ReadOnly`.
    pub fn sync(&self) -> Result<()> {
        unimplemented!()
    }

    /// Makes the disk larger; `Invalid` if it would become smaller.
    pub fn grow(&self, size: VolumeSize) -> Result<()> {
        let _ = size;
        unimplemented!()
    }

    /// Seals the top layer for `commit`, and goes on with a new one: a point in time for all writers, who wait
    /// meanwhile. `Conflict` if there is a sealed layer. What was sealed is durable when this returns.
    pub fn seal(&self, commit: Commit) -> Result<()> {
        let _ = commit;
        unimplemented!()
    }

    /// Notes durably how far the commit of the sealed layer has come.
    pub fn note(&self, commit: Commit) -> Result<()> {
        let _ = commit;
        unimplemented!()
    }

    /// In one durable step: the snapshot of the accepted commit becomes the base and the sealed layer goes. Before
    /// this, whoever reads through the overlay must look for what lies below in the new base.
    pub fn finish(&self) -> Result<()> {
        unimplemented!()
    }

    /// Gives the commit up: what the sealed layer holds becomes a part of the top layer again.
    pub fn fold_back(&self) -> Result<()> {
        unimplemented!()
    }
}

/// The layers of an overlay at some moment.
#[derive(Clone)]
pub struct View {
    /// Takes writes.
    pub top: Arc<Layer>,
    /// Is being committed.
    pub sealed: Option<Arc<Layer>>,
}

impl View {
    /// Fills `buf` from `offset` on as far as the layers have it, and appends to `missing` which ranges of `buf`
    /// they have not: those are the base's, and not touched.
    pub fn read(&self, offset: u64, buf: &mut [u8], missing: &mut Vec<Range<usize>>) -> Result<()> {
        let _ = (offset, buf, missing);
        unimplemented!()
    }

    /// The state of the page at `offset`, and where the run of pages in this state ends, or earlier.
    pub fn extent(&self, offset: u64) -> (State, u64) {
        let _ = offset;
        unimplemented!()
    }
}
