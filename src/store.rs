//! The `Store` trait: which snapshots exist, and their blocks. The semantics are the service's.
//!
//! | Call | Promise |
//! | --- | --- |
//! | `start` | a `pending` snapshot; the same client token gives the same snapshot again, and `Conflict` with other parameters |
//! | `put` | only while pending and inside the volume; a later put of the same index wins |
//! | `complete` | count and checksum are checked (a mismatch is `Invalid` and leaves it pending); then it never changes. It can be read once it is `completed`, which may be later: `info` tells |
//! | `blocks`, `changed`, `get` | only of completed snapshots (`Invalid` otherwise); a block never put and not inherited is absent |
//! | `delete` | also of pending ones; children keep what they inherited |
//!
//! A pending snapshot whose timeout passes without a put turns to `error` and can only be deleted. An id that
//! the store does not have is `NotFound`. Bytes that do not match their digest are `Corrupt`, never returned.
//!
//! One conformance suite, `tests/it/conformance.rs`, holds every implementation to this page.

use async_trait::async_trait;

use std::ops::Range;
use std::sync::Arc;

use jiff::Timestamp;

use crate::block::{Block, BlockIndex, BlockSet};
use crate::error::{Error, ErrorKind, Result};
use crate::snapshot::{NewSnapshot, Seal, SnapshotId, SnapshotInfo, Status, VolumeSize};

pub mod directory;
pub mod ebs;
pub mod memory;
pub mod windows;

/// One page of a listing: which blocks of `covered` are in the set. What lies outside is not told.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Listing {
    /// The blocks listed.
    pub set: BlockSet,
    /// The indexes about which this page speaks: begins where it was asked to, and is never empty. The next
    /// page begins at its end.
    pub covered: Range<u32>,
    /// Size of the (second) snapshot's volume.
    pub volume_size: VolumeSize,
}

impl Listing {
    /// Where the next page begins, unless this was the last.
    pub fn next(&self) -> Option<BlockIndex> {
        (self.covered.end < self.volume_size.blocks()).then(|| BlockIndex::new(self.covered.end))
    }
}

/// A place that keeps snapshots. See the module's documentation for what each call promises.
#[async_trait]
pub trait Store: Send + Sync {
    /// What this store is, to bind state to it: a directory's UUID, a service's partition and region.
    fn identity(&self) -> String;

    /// All snapshots, by start time.
    async fn list(&self) -> Result<Vec<SnapshotInfo>>;

    /// One snapshot.
    async fn info(&self, id: &SnapshotId) -> Result<SnapshotInfo>;

    /// Which blocks a completed snapshot has, from `from` on; one page.
    async fn blocks(&self, id: &SnapshotId, from: BlockIndex) -> Result<Listing>;

    /// Which blocks may differ between two completed snapshots of one lineage, from `at` on; one page.
    /// `Invalid` if they do not descend from the same first snapshot.
    async fn changed(&self, from: &SnapshotId, to: &SnapshotId, at: BlockIndex) -> Result<Listing>;

    /// A block of a completed snapshot; an absent one is [`Block::Zero`].
    async fn get(&self, id: &SnapshotId, index: BlockIndex) -> Result<Block>;

    /// Starts a snapshot.
    async fn start(&self, new: &NewSnapshot) -> Result<SnapshotInfo>;

    /// Puts a block into a pending snapshot.
    async fn put(&self, id: &SnapshotId, index: BlockIndex, block: &Block) -> Result<()>;

    /// Completes a pending snapshot.
    async fn complete(&self, id: &SnapshotId, seal: &Seal) -> Result<()>;

    /// Deletes a snapshot in any state.
    async fn delete(&self, id: &SnapshotId) -> Result<()>;
}

/// Where a store takes the time from; a test may turn it.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// The machine's clock.
pub fn system_clock() -> Clock {
    Arc::new(Timestamp::now)
}

/// `NotFound`, in the words that every store uses.
fn no_such_snapshot(id: &SnapshotId) -> Error {
    Error::new(
        ErrorKind::NotFound,
        format!("{id}: no such snapshot in this store; `ebsfs list` shows what there is"),
    )
}

/// `Invalid` unless a snapshot in state `status` can be read.
pub fn check_readable(id: &SnapshotId, status: Status) -> Result<()> {
    match status {
        Status::Completed => Ok(()),
        Status::Pending => Err(Error::new(
            ErrorKind::Invalid,
            format!(
                "{id} is still pending: only a completed snapshot can be read; wait, or complete it"
            ),
        )),
        Status::Error => Err(expired(id)),
    }
}

/// Checks that a snapshot in state `status` takes puts and can be completed.
fn check_pending(id: &SnapshotId, status: Status) -> Result<()> {
    match status {
        Status::Pending => Ok(()),
        Status::Completed => Err(Error::new(
            ErrorKind::Invalid,
            format!("{id} is completed and never changes; start a child of it instead"),
        )),
        Status::Error => Err(expired(id)),
    }
}

fn expired(id: &SnapshotId) -> Error {
    Error::new(
        ErrorKind::Invalid,
        format!("{id} was not completed before its timeout and is lost: delete it and start again"),
    )
}

/// Checks `new` against its limits and against its parent's state and size.
fn check_new(new: &NewSnapshot, parent: Option<&SnapshotInfo>) -> Result<()> {
    new.check()?;
    let Some(parent) = parent else { return Ok(()) };
    check_readable(&parent.id, parent.status)
        .map_err(|e| e.context("the parent cannot be used"))?;
    if new.volume_size < parent.volume_size {
        return Err(Error::new(
            ErrorKind::Invalid,
            format!(
                "a child of {} has at least its {}, not {}",
                parent.id, parent.volume_size, new.volume_size
            ),
        ));
    }
    Ok(())
}

/// Holds what was put against what the caller says it put.
fn check_seal(id: &SnapshotId, put: &Seal, said: &Seal) -> Result<()> {
    if put.count != said.count {
        return Err(Error::new(
            ErrorKind::Invalid,
            format!(
                "{id}: {} changed blocks announced, {} were put",
                said.count, put.count
            ),
        ));
    }
    match said.checksum {
        Some(checksum) if put.checksum != Some(checksum) => Err(Error::new(
            ErrorKind::Invalid,
            format!("{id}: the checksum over all blocks put is another"),
        )),
        _ => Ok(()),
    }
}

/// Answers a repeated `start`: the first result, or `Conflict` if it asks for something else.
fn check_repeat(first: &NewSnapshot, repeat: &NewSnapshot, id: &SnapshotId) -> Result<()> {
    if first == repeat {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Conflict,
        format!(
            "client token {:?} already started {id} with other parameters: use a new token",
            repeat.client_token
        ),
    ))
}

/// `Invalid` for snapshots that do not descend from one first snapshot.
fn not_related(from: &SnapshotId, to: &SnapshotId) -> Error {
    Error::new(
        ErrorKind::Invalid,
        format!("{from} and {to} are not related: they do not descend from one snapshot"),
    )
}
