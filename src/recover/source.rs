//! A tree that files are taken from, and what its files may ask for.

use std::collections::HashMap;
use std::ops::Range;

use super::{Limits, Trouble};
use crate::error::{Error, ErrorKind};
use crate::filesystem::{FileTree, Kind, Metadata, Node};

/// Bytes of one file that are told ahead. Longer files are streams, which are recognised as such.
const AHEAD_OF_ONE: u64 = 1 << 20;

/// Told which bytes of the disk will be read soon.
pub type Ahead<'a> = Box<dyn Fn(Range<u64>) + 'a>;

/// A tree that files are taken from, and what is known of it so far: files with several names stay one file, whichever of
/// its directories they are found in.
pub struct Source<'a> {
    pub(super) tree: &'a dyn FileTree,
    limits: Limits,
    ahead: Option<Ahead<'a>>,
    /// Files that have more names than were seen.
    pub(super) links: HashMap<Node, Link>,
    files: u64,
    bytes: u64,
}

/// A file with several names.
pub(super) struct Link {
    /// Where it went first.
    pub(super) path: Vec<u8>,
    /// Names still to come.
    pub(super) left: u32,
}

impl<'a> Source<'a> {
    /// Takes files from `tree`, no more than `limits` allow in all.
    pub fn new(tree: &'a dyn FileTree, limits: Limits, ahead: Option<Ahead<'a>>) -> Self {
        Self {
            tree,
            limits,
            ahead,
            links: HashMap::new(),
            files: 0,
            bytes: 0,
        }
    }

    /// Whether somebody wants to know what is read next.
    pub(super) fn is_told_ahead(&self) -> bool {
        self.ahead.is_some()
    }

    /// Tells where the beginning of a file lies on the disk; and how much of it. That it cannot be told is told when the file is
    /// read.
    pub(super) fn tell_ahead(&self, node: Node, metadata: &Metadata) -> u64 {
        let Some(ahead) = &self.ahead else {
            return 0;
        };
        if metadata.kind != Kind::File || metadata.size == 0 {
            return 0;
        }
        let mut bytes = 0_u64;
        let extents = self.tree.extents(node).unwrap_or_default();
        for extent in extents {
            let end = extent.range.end.min(AHEAD_OF_ONE);
            let len = end.saturating_sub(extent.range.start);
            if let Some(at) = extent.at
                && len > 0
            {
                ahead(at..at.saturating_add(len));
                bytes = bytes.saturating_add(len);
            }
        }
        bytes
    }

    pub(super) fn count_file(&mut self) -> Result<(), Trouble> {
        self.files = self.files.saturating_add(1);
        let most = self.limits.files;
        beyond(self.files > most, || {
            format!("there are more than {most} files: --max-files allows more")
        })
    }

    pub(super) fn count_bytes(&mut self, bytes: u64) -> Result<(), Trouble> {
        self.bytes = self.bytes.saturating_add(bytes);
        let most = self.limits.bytes;
        beyond(self.bytes > most, || {
            format!("the files take more than {most} bytes: --max-bytes allows more")
        })
    }
}

fn beyond(is: bool, what: impl FnOnce() -> String) -> Result<(), Trouble> {
    match is {
        true => Err(Trouble::All(Error::new(ErrorKind::NoSpace, what()))),
        false => Ok(()),
    }
}
