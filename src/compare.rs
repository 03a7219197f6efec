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

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::iter::Peekable;
use std::mem::discriminant;
use std::ops::Range;
use std::vec;

use crate::error::{Error, ErrorKind, Result};
use crate::filesystem::{Entry, Extent, FileTree, Kind, Metadata, Node};

/// Directories within each other: more than any path has room for.
const DEPTH: usize = 4096;

/// Bytes of each side read at one time.
const STEP: usize = 256 << 10;

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
        let mut walk = Walk {
            comparison: self,
            found,
            path: Vec::new(),
            stack: Vec::new(),
            old_seen: Seen::default(),
            new_seen: Seen::default(),
        };
        walk.whole()
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

    /// Whether two files are known to hold the same without reading them: they lie in the same places, where the disks
    /// do not differ.
    fn untouched(&self, old: Node, new: Node, size: u64) -> Result<bool> {
        let mut pieces = self.pieces(old, new, size)?;
        pieces.try_fold(true, |same, (piece, places)| match places {
            Places::Holes => Ok(same),
            Places::Same(at) if same => {
                let end = at.saturating_add(piece.end.saturating_sub(piece.start));
                Ok((self.differs)(at..end)?.is_none())
            }
            _ => Ok(false),
        })
    }

    /// Whether two files of one size hold the same.
    fn same_bytes(&self, old: Node, new: Node, size: u64) -> Result<bool> {
        for (piece, places) in self.pieces(old, new, size)? {
            match places {
                Places::Holes => {}
                Places::Other => {
                    if !self.same_piece(old, new, piece)? {
                        return Ok(false);
                    }
                }
                Places::Same(at) => {
                    let length = piece.end.saturating_sub(piece.start);
                    let disk = at..at.saturating_add(length);
                    let mut from = disk.start;
                    while let Some(part) = (self.differs)(from..disk.end)? {
                        let within = |byte: u64| {
                            let byte = byte.clamp(from, disk.end).saturating_sub(disk.start);
                            piece.start.saturating_add(byte)
                        };
                        let part_of_file = within(part.start)..within(part.end);
                        if !self.same_piece(old, new, part_of_file)? {
                            return Ok(false);
                        }
                        if part.end <= from || part.end >= disk.end {
                            break;
                        }
                        from = part.end;
                    }
                }
            }
        }
        Ok(true)
    }

    fn same_piece(&self, old: Node, new: Node, piece: Range<u64>) -> Result<bool> {
        let (mut ours, mut theirs) = (vec![0; STEP], vec![0; STEP]);
        let mut at = piece.start;
        while at < piece.end {
            let length = piece.end.saturating_sub(at);
            let length = usize::try_from(length).map_or(STEP, |length| length.min(STEP));
            let (Some(ours), Some(theirs)) = (ours.get_mut(..length), theirs.get_mut(..length))
            else {
                break;
            };
            let read = fill(self.old.tree, old, at, ours)?;
            if read != fill(self.new.tree, new, at, theirs)?
                || ours.get(..read) != theirs.get(..read)
            {
                return Ok(false);
            }
            if read < length {
                break;
            }
            at = at.saturating_add(u64::try_from(read).unwrap_or(u64::MAX));
        }
        Ok(true)
    }

    /// The pieces of two files of one size, and where they lie.
    fn pieces(
        &self,
        old: Node,
        new: Node,
        size: u64,
    ) -> Result<impl Iterator<Item = (Range<u64>, Places)>> {
        let (old, new) = (self.old.tree.extents(old)?, self.new.tree.extents(new)?);
        let (old_start, new_start) = (self.old.start, self.new.start);
        let mut at = 0;
        Ok(std::iter::from_fn(move || {
            if at >= size {
                return None;
            }
            let (old_end, old_place) = place(&old, at, old_start);
            let (new_end, new_place) = place(&new, at, new_start);
            let end = old_end.min(new_end).min(size);
            let places = match (old_place, new_place) {
                (Place::Hole, Place::Hole) => Places::Holes,
                (Place::At(old), Place::At(new)) if old == new => Places::Same(old),
                _ => Places::Other,
            };
            let piece = at..end;
            at = end;
            Some((piece, places))
        }))
    }
}

/// Reads until `buf` is full, or the file ends.
fn fill(tree: &dyn FileTree, node: Node, offset: u64, buf: &mut [u8]) -> Result<usize> {
    let mut done = 0;
    while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
        let at = u64::try_from(done)
            .ok()
            .and_then(|done| offset.checked_add(done));
        match tree.read(node, at.unwrap_or(u64::MAX), rest)? {
            0 => break,
            read => done = done.saturating_add(read),
        }
    }
    Ok(done)
}

/// Where a piece of two files lies.
enum Places {
    /// Nowhere, in both.
    Holes,
    /// At the same byte of both disks.
    Same(u64),
    /// In two places, or in none that is known.
    Other,
}

enum Place {
    Hole,
    /// This byte of the disk.
    At(u64),
    /// In an inode, or not written yet.
    Elsewhere,
}

/// Where the byte `at` of a file lies on a disk on which its file system begins at `start`, and how far that goes on.
fn place(extents: &[Extent], at: u64, start: u64) -> (u64, Place) {
    let next = extents.partition_point(|extent| extent.range.end <= at);
    match extents.get(next) {
        None => (u64::MAX, Place::Hole),
        Some(extent) if extent.range.start > at => (extent.range.start, Place::Hole),
        Some(Extent { range, at: place }) => {
            let on_disk = place.and_then(|place| {
                let within = at.saturating_sub(range.start);
                start.checked_add(place)?.checked_add(within)
            });
            (range.end, on_disk.map_or(Place::Elsewhere, Place::At))
        }
    }
}

/// The names in a directory, sorted.
type Names = Peekable<vec::IntoIter<Entry>>;

/// A directory that is being compared.
struct Frame {
    /// Bytes of its path.
    path: usize,
    old: Names,
    new: Names,
}

impl Frame {
    /// The next name, on one side or on both.
    fn next(&mut self) -> Option<(Option<Entry>, Option<Entry>)> {
        let order = match (self.old.peek(), self.new.peek()) {
            (None, None) => return None,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(old), Some(new)) => old.name.cmp(&new.name),
        };
        let old = order.is_le().then(|| self.old.next()).flatten();
        let new = order.is_ge().then(|| self.new.next()).flatten();
        Some((old, new))
    }
}

struct Walk<'a, E> {
    comparison: &'a Comparison<'a>,
    found: Tell<'a, E>,
    path: Vec<u8>,
    stack: Vec<Frame>,
    old_seen: Seen,
    new_seen: Seen,
}

impl<E> Walk<'_, E> {
    fn whole(&mut self) -> Result<(), E> {
        let (old, new) = (&self.comparison.old, &self.comparison.new);
        let roots = (Some(old.tree.root()), Some(new.tree.root()));
        self.path.push(b'/');
        let entered = self.compare(roots)?;
        self.path.clear();
        self.enter(entered)?;
        while let Some(frame) = self.stack.last_mut() {
            self.path.truncate(frame.path);
            let Some((old, new)) = frame.next() else {
                self.stack.pop();
                continue;
            };
            self.path.push(b'/');
            if let Some(entry) = old.as_ref().or(new.as_ref()) {
                self.path.extend_from_slice(&entry.name);
            }
            let node = |entry: Option<Entry>| entry.map(|entry| entry.node);
            let entered = self.compare((node(old), node(new)))?;
            self.enter(entered)?;
        }
        Ok(())
    }

    /// Compares what a path stands for on both sides; tells which of them are directories to be looked into.
    fn compare(
        &mut self,
        (old, new): (Option<Node>, Option<Node>),
    ) -> Result<(Option<Node>, Option<Node>), E> {
        let comparison = self.comparison;
        let look = |side: &Side<'_>, node: Option<Node>| -> Result<_> {
            match node {
                Some(node) => {
                    let metadata = side.tree.metadata(node)?;
                    Ok(Some(File { node, metadata }))
                }
                None => Ok(None),
            }
        };
        let looked =
            look(&comparison.old, old).and_then(|old| Ok((old, look(&comparison.new, new)?)));
        let (old, new) = match looked {
            Ok(both) => both,
            Err(e) => {
                self.tell(Finding::Failed(e))?;
                return Ok((None, None));
            }
        };
        let directory = |side: &Option<File>| match side {
            Some(file) if file.metadata.kind == Kind::Directory => Some(file.node),
            _ => None,
        };
        let entered = (directory(&old), directory(&new));
        match (old, new) {
            (None, None) => {}
            (Some(old), None) => self.tell(Finding::Removed(old))?,
            (None, Some(new)) => self.tell(Finding::Added(new))?,
            (Some(old), Some(new))
                if discriminant(&old.metadata.kind) != discriminant(&new.metadata.kind) =>
            {
                self.tell(Finding::Retyped(old, new))?;
            }
            (Some(old), Some(new)) => match comparison.changes(&old, &new) {
                Ok(what) if what == What::default() => {}
                Ok(what) => self.tell(Finding::Changed(old, new, what))?,
                Err(e) => self.tell(Finding::Failed(e))?,
            },
        }
        Ok(entered)
    }

    /// Goes into directories, on one side or on both.
    fn enter(&mut self, (old, new): (Option<Node>, Option<Node>)) -> Result<(), E> {
        if (None, None) == (old, new) {
            return Ok(());
        }
        let comparison = self.comparison;
        let listed = if self.stack.len() >= DEPTH {
            let what = format!("directories are nested more than {DEPTH} deep: not looked into");
            Err(Error::new(ErrorKind::Unsupported, what))
        } else {
            let old = names(comparison.old.tree, old, &mut self.old_seen);
            old.and_then(|old| Ok((old, names(comparison.new.tree, new, &mut self.new_seen)?)))
        };
        match listed {
            Ok((old, new)) => self.stack.push(Frame {
                path: self.path.len(),
                old,
                new,
            }),
            Err(e) => self.tell(Finding::Failed(e))?,
        }
        Ok(())
    }

    fn tell(&mut self, finding: Finding) -> Result<(), E> {
        let path = if self.path.is_empty() {
            b"/"
        } else {
            &self.path[..]
        };
        (self.found)(path, finding)
    }
}

/// The names in a directory that was not seen before.
fn names(tree: &dyn FileTree, dir: Option<Node>, seen: &mut Seen) -> Result<Names> {
    let mut entries = Vec::new();
    if let Some(dir) = dir {
        let corrupt = |what: &str| Err(Error::new(ErrorKind::Corrupt, what));
        if !seen.insert(dir) {
            return corrupt(
                "this directory is also in another place, or in itself: not looked into",
            );
        }
        entries = tree.entries(dir)?;
        let nodes: Vec<_> = entries.iter().map(|entry| entry.node).collect();
        tree.ahead(&nodes);
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        if entries.array_windows().any(|[a, b]| a.name == b.name) {
            return corrupt("two files in this directory have one name: not looked into");
        }
    }
    Ok(entries.into_iter().peekable())
}

/// A set of inode numbers, which mostly lie together.
#[derive(Default)]
struct Seen(BTreeMap<u64, [u64; 4]>);

impl Seen {
    /// Whether it was not in it yet.
    fn insert(&mut self, node: Node) -> bool {
        let number = node.number();
        let words = self.0.entry(number >> 8).or_default();
        let at = usize::try_from((number >> 6) & 3).unwrap_or_default();
        let bit = 1_u64 << (number & 63);
        let Some(word) = words.get_mut(at) else {
            return false;
        };
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_inode_number_is_seen_once() {
        let mut seen = Seen::default();
        let numbers = [0, 1, 63, 64, 255, 256, 257, 1 << 40, u64::MAX];
        for number in numbers {
            assert!(seen.insert(Node::new(number)), "{number}");
        }
        for number in numbers {
            assert!(!seen.insert(Node::new(number)), "{number}");
        }
        assert!(seen.insert(Node::new(2)));
    }
}
