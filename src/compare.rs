//! Two trees side by side: which files were added, removed, or changed.
//!
//! [`Comparison`] walks both in one order and tells what it finds as it goes. It remembers the directories that it is in,
//! and a bit for each that it was in: a directory that is found twice, as in a tree that bites its own tail, is told
//! and not entered again. What cannot be read is told, and the rest goes on.
//!
//! A file is taken for unchanged if its kind, size, owner, mode and times are. Times decide where nothing else does:
//! the kernel sets the one of contents whenever it writes them, and the other one at every change. With
//! [`contents`](Comparison::contents) bytes decide, and only such are read that lie where the disks differ, or in other
//! places. Directories are listed for what they are themselves: what is in them has made their sizes and times.
//!
//! It knows neither blocks nor snapshots: where the disks differ it is told.

#![warn(clippy::arithmetic_side_effects, clippy::indexing_slicing)]

use std::ops::Range;

use self::walk::Walk;
use crate::error::{Error, Result};
use crate::filesystem::{FileTree, Kind, Metadata, Node};

mod contents;
mod walk;

/// One of the two file systems.
pub struct Side<'a> {
    /// Its files.
    pub tree: &'a dyn FileTree,
    /// The byte of its disk that it begins at.
    pub start: u64,
}

/// The first part of a range of bytes of both disks that may differ between them; none if nothing in it does.
pub type Differs<'a> = &'a dyn Fn(Range<u64>) -> Result<Option<Range<u64>>>;

/// Two trees to be compared.
pub struct Comparison<'a> {
    /// As it was.
    pub old: Side<'a>,
    /// As it is.
    pub new: Side<'a>,
    /// Where the disks below them may differ.
    pub differs: Differs<'a>,
    /// Whether bytes decide where sizes are the same.
    pub contents: bool,
}

/// What is different in a file that there was and is.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct What {
    /// What is in it: bytes, a target, the numbers of a device.
    pub contents: bool,
    /// Permissions.
    pub mode: bool,
    /// The owner.
    pub owner: bool,
    /// The owning group.
    pub group: bool,
    /// Extended attributes.
    pub xattrs: bool,
    /// When it, or what is in it, was last changed.
    pub times: bool,
    /// How many names it has.
    pub links: bool,
}

/// A file on one side.
#[derive(Clone, Debug)]
pub struct File {
    /// Its inode number.
    pub node: Node,
    /// What `stat` tells of it.
    pub metadata: Metadata,
}

/// What is told of a path.
#[derive(Debug)]
pub enum Finding {
    /// It is new.
    Added(File),
    /// It is gone.
    Removed(File),
    /// It is another kind of file: before, and now.
    Retyped(File, File),
    /// It is another one than it was: before, now, and in what.
    Changed(File, File, What),
    /// It, or what is in it, cannot be read, on one side or the other.
    Failed(Error),
}

/// Who is told of a path, from the root on, and what was found there; to fail ends it all.
pub type Tell<'a, E> = &'a mut dyn FnMut(&[u8], Finding) -> Result<(), E>;

impl Comparison<'_> {
    /// Tells `found` what differs. Ends early only if `found` fails.
    pub fn run<E>(&self, found: Tell<'_, E>) -> Result<(), E> {
        Walk::new(self, found).whole()
    }

    /// What is different between two files of one kind.
    fn changes(&self, old: &File, new: &File) -> Result<What> {
        let (old_node, new_node) = (old.node, new.node);
        let (old, new) = (&old.metadata, &new.metadata);
        let mut what = What {
            mode: old.mode != new.mode,
            owner: old.uid != new.uid,
            group: old.gid != new.gid,
            ..What::default()
        };
        // Every change of them changes this time.
        if old.changed != new.changed {
            let sorted = |tree: &dyn FileTree, node| {
                let mut xattrs = tree.xattrs(node)?;
                xattrs.sort_unstable();
                Ok::<_, Error>(xattrs)
            };
            what.xattrs = sorted(self.old.tree, old_node)? != sorted(self.new.tree, new_node)?;
        }
        if old.kind == Kind::Directory {
            return Ok(what);
        }
        what.links = old.links != new.links;
        what.times = old.modified != new.modified || old.changed != new.changed;
        let looks_same = old.size == new.size && !what.times;
        what.contents = match old.kind {
            Kind::File if old.size != new.size => true,
            Kind::File if self.contents => !self.same_bytes(old_node, new_node, old.size)?,
            Kind::File => {
                old.modified != new.modified && !self.untouched(old_node, new_node, old.size)?
            }
            Kind::Symlink if looks_same && !self.contents => false,
            Kind::Symlink => {
                self.old.tree.link_target(old_node)? != self.new.tree.link_target(new_node)?
            }
            _ => old.kind != new.kind,
        };
        Ok(what)
    }
}
