//! Where files go: what the walk asks of a directory and of an archive.

use super::Trouble;
use super::contents::Contents;
use crate::filesystem::Metadata;

/// A file on its way.
pub struct Item<'a> {
    /// Its name in the directory that was entered last; checked. Empty for the destination itself.
    pub(super) name: &'a [u8],
    /// Its path below the destination.
    pub(super) path: &'a [u8],
    /// Its path in the tree, for people.
    pub(super) shown: &'a [u8],
    /// What the tree tells of it.
    pub(super) metadata: &'a Metadata,
    /// Extended attributes, as far as they could be read; a further name of a file comes without.
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A destination. Every file goes into the directory entered last.
pub trait Target {
    /// Bytes that a file takes there.
    fn room_for(&self, contents: &Contents<'_>) -> u64;

    /// Whether the file is there already and shall be left alone.
    fn has(&self, item: &Item<'_>) -> bool;

    /// Makes a directory, or takes the one that is there, for what comes until it is left.
    fn enter(&mut self, item: &Item<'_>) -> Result<(), Trouble>;

    /// What was entered last is complete.
    fn leave(&mut self);

    /// Makes a file.
    fn file(&mut self, item: &Item<'_>, contents: &Contents<'_>) -> Result<(), Trouble>;

    /// Makes a symbolic link to `target`, whatever that is.
    fn symlink(&mut self, item: &Item<'_>, target: &[u8]) -> Result<(), Trouble>;

    /// Makes a further name of the file that went to the path `first`. An error is none of the user's: the file can be
    /// made once more.
    fn link(&mut self, item: &Item<'_>, first: &[u8]) -> Result<(), Trouble>;

    /// Makes a device, a pipe or a socket.
    fn special(&mut self, item: &Item<'_>) -> Result<(), Trouble>;

    /// All has been handed over: waits until all of it is there.
    fn finish(&mut self) -> Result<(), Trouble>;
}
