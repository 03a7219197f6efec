//! The overlay's storage: on a real directory, on a disk that loses power, and against a plain array of bytes.

use std::path::Path;
use std::sync::Arc;

use ebsfs::overlay::{Commit, Directory, LocalDirectory, Overlay, PAGE_SIZE, View};
use ebsfs::snapshot::{NewSnapshot, SnapshotId};
use jiff::Timestamp;

use crate::common::gib;

mod crash;
mod directory;
mod local;
mod meanwhile;
pub(crate) mod model;
pub(crate) mod simulated;

pub(crate) const PAGE: u64 = PAGE_SIZE as u64;

/// The snapshot that is below.
pub(crate) fn base() -> SnapshotId {
    "snap-0a".parse().unwrap()
}

/// A commit that has got no further than the seal.
pub(crate) fn commit() -> Commit {
    Commit {
        new: NewSnapshot {
            client_token: "token".into(),
            ..NewSnapshot::new(gib(1)).unwrap()
        },
        snapshot: None,
        accepted: false,
        sealed: Timestamp::UNIX_EPOCH,
    }
}

/// One that the store has accepted.
pub(crate) fn accepted() -> Commit {
    Commit {
        snapshot: Some("snap-0b".parse().unwrap()),
        accepted: true,
        ..commit()
    }
}

/// The overlay at `path`, made if there is none.
pub(crate) fn open(path: &Path) -> Overlay {
    let directory: Arc<dyn Directory> = Arc::new(LocalDirectory::open(path).unwrap());
    match Overlay::open(Arc::clone(&directory)).unwrap() {
        Some(overlay) => overlay,
        None => Overlay::create(directory, "store", &base(), gib(1)).unwrap(),
    }
}

/// `pages` pages of `byte`.
pub(crate) fn filled(byte: u8, pages: usize) -> Vec<u8> {
    vec![byte; pages * PAGE_SIZE]
}

/// What is read from `offset` on over a base that is `below` throughout.
pub(crate) fn read(view: &View, offset: u64, len: usize, below: u8) -> Vec<u8> {
    let mut bytes = vec![0x55; len];
    let mut missing = Vec::new();
    view.read(offset, &mut bytes, &mut missing).unwrap();
    for range in missing {
        bytes[range].fill(below);
    }
    bytes
}
