//! The way through both trees, and what a path stands for on each side.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::iter::Peekable;
use std::mem::discriminant;
use std::vec;

use super::{Comparison, File, Finding, Side, Tell, What};
use crate::error::{Error, ErrorKind, Result};
use crate::filesystem::{Entry, FileTree, Kind, Node};

/// Directories within each other: more than any path has room for.
const DEPTH: usize = 4096;

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

/// One comparison under way.
pub(super) struct Walk<'a, E> {
    comparison: &'a Comparison<'a>,
    found: Tell<'a, E>,
    path: Vec<u8>,
    stack: Vec<Frame>,
    old_seen: Seen,
    new_seen: Seen,
}

impl<'a, E> Walk<'a, E> {
    pub(super) fn new(comparison: &'a Comparison<'a>, found: Tell<'a, E>) -> Self {
        Self {
            comparison,
            found,
            path: Vec::new(),
            stack: Vec::new(),
            old_seen: Seen::default(),
            new_seen: Seen::default(),
        }
    }

    /// Goes through both trees from their roots on.
    pub(super) fn whole(&mut self) -> Result<(), E> {
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
