//! One file system as names: directories, files and what they hold, read-only and without the kernel.
//!
//! [`FileTree`] is the level of paths, and `filesystem/` has an adapter for each file system that can be read. Every byte
//! below is hostile: an adapter takes no length, no count and no block number on its word, and ends whatever it
//! reads.
//!
//! It writes nothing, follows no path out of the tree, and does not repair: what is damaged is an error with its place.

#![warn(clippy::arithmetic_side_effects, clippy::indexing_slicing)]

use std::ops::Range;
use std::time::SystemTime;

use crate::error::{Error, ErrorKind, Result};

mod bytes;
mod ext4;
mod map;
mod probe;
mod walk;
mod xfs;

pub use self::probe::{Format, open, probe};
pub use self::walk::{Found, Last, Walk, resolve};

/// A file of one tree, by its inode number; good as long as the tree is. Two names with one node are hard links.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Node(u64);

impl Node {
    /// The file with this inode number, which need not exist.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Its inode number, as `stat` tells it.
    pub fn number(self) -> u64 {
        self.0
    }
}

/// What a file is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// Has contents.
    File,
    /// Has entries.
    Directory,
    /// Has a target.
    Symlink,
    /// A character device, with its numbers.
    CharDevice {
        /// Which driver.
        major: u32,
        /// Which of its devices.
        minor: u32,
    },
    /// A block device, with its numbers.
    BlockDevice {
        /// Which driver.
        major: u32,
        /// Which of its devices.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

/// What `stat` tells of a file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Metadata {
    /// What it is, from the upper bits of the mode.
    pub kind: Kind,
    /// The lower twelve bits of the mode: permissions, setuid, setgid, sticky.
    pub mode: u32,
    /// The owner, by number: whoever that is on the machine that wrote it.
    pub uid: u32,
    /// The owning group, by number.
    pub gid: u32,
    /// Bytes of a file's contents, holes included, or of a link's target. For other kinds what the file system says.
    pub size: u64,
    /// Names of the file. Of a directory: what the file system counts, 1 where it does not.
    pub links: u32,
    /// Last read; as old as the mount options made it.
    pub accessed: SystemTime,
    /// Contents last changed.
    pub modified: SystemTime,
    /// Contents or what is in here last changed.
    pub changed: SystemTime,
}

/// A name in a directory.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    /// Never `.`, `..`, empty, or with a `/` or a NUL in it: an adapter takes those for damage. Else any bytes.
    pub name: Vec<u8>,
    /// What the name stands for.
    pub node: Node,
}

/// Part of a file's contents that takes room; what lies between two is a hole, and reads as zeros.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Extent {
    /// Bytes of the file.
    pub range: Range<u64>,
    /// Where they begin on what the file system lies on; none for bytes that lie in an inode or are not written yet
    /// (those are zeros).
    pub at: Option<u64>,
}

/// A file system's word on itself.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Facts {
    /// As mount(8) calls it.
    pub name: &'static str,
    /// What its owner calls it, as text; none if that is empty.
    pub label: Option<String>,
    /// As blkid(8) writes it.
    pub uuid: Option<String>,
    /// Bytes that it manages, as statfs(2) counts them or a little more.
    pub size: u64,
    /// Bytes that nothing takes.
    pub free: u64,
}

/// The files of one file system.
///
/// Neither `Send` nor `Sync`: a tree stays on its thread, which may wait. Names and targets are bytes. What the file
/// system has wrong is `Corrupt`, with the place; what the adapter cannot read is `Unsupported`; an error of what lies below keeps its
/// kind. A damaged file says nothing of the others: go on with them. No call panics or fails to end, whatever the bytes below are, and
/// none takes more memory than it answers with, what a log has to replay, and a few blocks.
///
/// What is read is what the kernel would show after a mount: a log that was not replayed is, in memory.
pub trait FileTree {
    /// What the file system says of itself.
    fn facts(&self) -> Result<Facts>;

    /// The directory that all paths begin at.
    fn root(&self) -> Node;

    /// The file called `name` in `dir`. `NotFound` if there is no such name; `Invalid` if `dir` is no directory. Knows
    /// neither `.` nor `..`.
    fn lookup(&self, dir: Node, name: &[u8]) -> Result<Node> {
        let entries = self.entries(dir)?;
        let found = entries.into_iter().find(|entry| entry.name == name);
        let missing = || Error::new(ErrorKind::NotFound, "there is no such name");
        found.map(|entry| entry.node).ok_or_else(missing)
    }

    /// All names in a directory, in the file system's order. `Invalid` if it is none.
    fn entries(&self, dir: Node) -> Result<Vec<Entry>>;

    /// Says that all of these will be looked at, and what is in those that are directories: what takes a way to a store can then be
    /// under way at one time. Changes nothing else, and hides no failure from who asks later.
    fn ahead(&self, _nodes: &[Node]) {}

    /// What `stat` tells.
    fn metadata(&self, node: Node) -> Result<Metadata>;

    /// Fills `buf` from `offset` on, up to the end of the file; tells how many bytes. Holes are zeros. `Invalid` if it
    /// is no file.
    fn read(&self, node: Node, offset: u64, buf: &mut [u8]) -> Result<usize>;

    /// What of a file's contents takes room: in ascending order, none overlapping, none empty, within the size. `Invalid` if it is
    /// no file.
    fn extents(&self, node: Node) -> Result<Vec<Extent>>;

    /// Where a symbolic link points, as written. `Invalid` if it is none.
    fn link_target(&self, node: Node) -> Result<Vec<u8>>;

    /// Extended attributes: names with their namespace (`user.mime_type`), as listxattr(2) gives them, and values as
    /// getxattr(2) does, so POSIX ACLs in the kernel's form for programs. In no order.
    fn xattrs(&self, node: Node) -> Result<Vec<(Vec<u8>, Vec<u8>)>>;
}

/// `Invalid` unless the file `node`, which is a `kind`, is what was asked for.
fn expect(kind: Kind, wanted: Kind, node: Node) -> Result<()> {
    if kind == wanted {
        return Ok(());
    }
    let what = match wanted {
        Kind::Directory => "no directory",
        Kind::Symlink => "no symbolic link",
        _ => "no file",
    };
    let what = format!("inode {} is {what}", node.number());
    Err(Error::new(ErrorKind::Invalid, what))
}
