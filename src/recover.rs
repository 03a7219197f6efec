//! Files out of a tree, to where they are wanted: a directory of this machine, or a tar stream.
//!
//! [`Source::copy`] goes through a [`FileTree`](crate::filesystem::FileTree) and hands what it finds to a target: [`Directory`] or [`Archive`].
//! What is recovered is right: contents and holes, modes, owners, times, links, extended attributes. A file that cannot be
//! read or written is told and left out, and the others go on; none is ever half there under its name.
//!
//! The tree is hostile, and so is the destination while it is written to. Nothing outside of it is touched: a name is one name
//! (`names`), a link is made and never followed, and what is written gets its name when it is complete. [`Limits`] bound what a
//! tree can ask for. Devices, pipes, sockets and what lets a file act for somebody else are left out unless wished for.

#![warn(clippy::arithmetic_side_effects, clippy::indexing_slicing)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, ErrorKind};
use crate::filesystem::Facts;

mod archive;
mod contents;
mod directory;
mod kept;
mod names;
mod source;
mod target;
mod walk;

pub use self::archive::Archive;
pub use self::directory::Directory;
pub use self::source::{Ahead, Source};
pub use self::target::Target;

/// What of a file is recovered, and how.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Owner and group, by number; else files belong to who writes them. Also what only root may set.
    pub owners: bool,
    /// The bits of setuid and setgid and the capabilities of a file. An archive of somebody else's owners has them, a
    /// directory only with `owners`.
    pub setuid: bool,
    /// Devices, pipes and sockets.
    pub devices: bool,
    /// Files that are there with the same size and time are left alone.
    pub go_on: bool,
}

/// What a tree may ask for. Beyond it the work ends.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Names, of directories too.
    pub files: u64,
    /// Bytes that are written, holes aside where they take no room.
    pub bytes: u64,
}

impl Limits {
    /// More than a disk in ordinary use has, and what a destination made for one of those can take.
    pub const FILES: u64 = 10_000_000;

    /// For a file system of this size. What shares no room on it takes no more elsewhere; twice that lets files which were
    /// copied by reference be recovered, too.
    pub fn of(facts: &Facts) -> Self {
        Self {
            files: Self::FILES,
            bytes: facts.size.saturating_mul(2),
        }
    }
}

/// Directories within each other, at most. Paths of 4096 bytes have room for 256 names of 15 each, and a directory is
/// held open for each level: a user may have 1024.
pub const MAX_DEPTH: usize = 256;

/// Hears how it goes, from several threads.
pub trait Watch: Send + Sync {
    /// Some of the file at `path` in the tree is not recovered, and this is why.
    fn failed(&self, path: &[u8], error: &Error);

    /// The destination does not take something that others have; told once.
    fn refused(&self, what: &str);

    /// There is something new in the counters.
    fn advanced(&self, _tally: &Tally) {}

    /// Whether to stop.
    fn interrupted(&self) -> bool {
        false
    }
}

/// What was done so far.
#[derive(Debug, Default)]
pub struct Tally {
    /// Files with contents.
    pub files: AtomicU64,
    /// Directories.
    pub directories: AtomicU64,
    /// Symbolic links.
    pub symlinks: AtomicU64,
    /// Further names of a file.
    pub links: AtomicU64,
    /// Devices, pipes and sockets.
    pub devices: AtomicU64,
    /// Those of them that were left out.
    pub left_out: AtomicU64,
    /// Files that were there already.
    pub skipped: AtomicU64,
    /// Bytes written.
    pub bytes: AtomicU64,
    /// Errors told.
    pub errors: AtomicU64,
}

/// What all parts of one recovery share.
pub struct Recovery {
    /// What is recovered.
    pub options: Options,
    /// How it went.
    pub tally: Tally,
    watch: Box<dyn Watch>,
}

impl Recovery {
    /// One that begins.
    pub fn new(options: Options, watch: Box<dyn Watch>) -> Arc<Self> {
        Arc::new(Self {
            options,
            tally: Tally::default(),
            watch,
        })
    }

    fn add(&self, counter: fn(&Tally) -> &AtomicU64, more: u64) {
        counter(&self.tally).fetch_add(more, Ordering::Relaxed);
        self.watch.advanced(&self.tally);
    }

    /// Tells that a file is not as it should be, and counts it.
    pub fn failed(&self, path: &[u8], error: &Error) {
        self.tally.errors.fetch_add(1, Ordering::Relaxed);
        self.watch.failed(path, error);
    }

    fn stop_if_interrupted(&self) -> Result<(), Trouble> {
        if self.watch.interrupted() {
            return Err(Trouble::Interrupted);
        }
        Ok(())
    }
}

/// What keeps a file, or all of them, from being recovered.
#[derive(Debug)]
pub enum Trouble {
    /// This file; the others go on.
    File(Error),
    /// All that is left.
    All(Error),
    /// Nobody reads the archive any more.
    ReaderGone,
    /// The user wishes so.
    Interrupted,
}

impl Trouble {
    /// The same, told by who knows the file.
    fn context(self, what: impl Into<String>) -> Self {
        match self {
            Self::File(error) => Self::File(error.context(what)),
            Self::All(error) => Self::All(error.context(what)),
            other => other,
        }
    }
}

impl From<Error> for Trouble {
    /// A store that is away keeps all files from being read, each after minutes.
    fn from(error: Error) -> Self {
        match error.kind() {
            ErrorKind::Unavailable => Self::All(error),
            _ => Self::File(error),
        }
    }
}
