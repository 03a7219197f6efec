//! From names to files: one path, or all that is below a directory.
//!
//! A path never leaves the tree: links are followed within it, an absolute one begins at its root, and above the root is
//! the root. A walk visits no directory twice, whatever a damaged tree says.

use std::collections::{HashSet, VecDeque};

use super::bytes::corrupt;
use super::{FileTree, Kind, Metadata, Node};
use crate::error::{Error, ErrorKind, Result};

/// As many links as Linux follows in one path.
const MAX_LINKS: u32 = 40;

/// Deeper trees cannot be named by a path of 4096 bytes, nor made by accident.
const MAX_DEPTH: usize = 4096;

/// What becomes of a link that a path ends with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Last {
    /// It is followed.
    Follow,
    /// It is what was asked for; a slash after it follows it all the same.
    Keep,
}

/// The file that `path` names, with or without a slash before it.
///
/// `NotFound` where there is no such name, `Invalid` where something that is no directory stands before a slash or links lead
/// on and on: with the part of the path that it is about.
pub fn resolve(tree: &dyn FileTree, path: &[u8], last: Last) -> Result<Node> {
    let mut to_go: VecDeque<Vec<u8>> = names(path).collect();
    let follow_last = last == Last::Follow || path.ends_with(b"/");
    // The way back: what `..` goes to.
    let mut way = vec![(tree.root(), Vec::new())];
    let mut links = 0_u32;
    while let Some(name) = to_go.pop_front() {
        let (here, at) = way.last().cloned().unwrap_or((tree.root(), Vec::new()));
        let there = [&at[..], b"/", &name].concat();
        let failed = |e: Error| e.context(show(&there));
        if name == b"." || name == b".." {
            refuse_unless_directory(tree, here, &at)?;
            // Above the root is the root.
            if name == b".." && way.len() > 1 {
                way.pop();
            }
            continue;
        }
        let node = tree.lookup(here, &name).map_err(|e| match e.kind() {
            ErrorKind::Invalid => no_directory(&at),
            _ => failed(e),
        })?;
        let follow = follow_last || !to_go.is_empty();
        if !follow || tree.metadata(node).map_err(failed)?.kind != Kind::Symlink {
            way.push((node, there));
            continue;
        }
        links = links.saturating_add(1);
        if links > MAX_LINKS {
            let what = format!("more than {MAX_LINKS} symbolic links lead on from here");
            return Err(failed(Error::new(ErrorKind::Invalid, what)));
        }
        let target = tree.link_target(node).map_err(failed)?;
        if target.is_empty() {
            return Err(failed(corrupt("a symbolic link to nothing")));
        }
        if target.starts_with(b"/") {
            way.truncate(1);
        }
        // A slash at the target's end makes no difference to what it is.
        names(&target)
            .collect::<Vec<_>>()
            .into_iter()
            .rev()
            .for_each(|name| to_go.push_front(name));
    }
    let (node, at) = way.pop().unwrap_or((tree.root(), Vec::new()));
    if path.ends_with(b"/") {
        refuse_unless_directory(tree, node, &at)?;
    }
    Ok(node)
}

fn names(path: &[u8]) -> impl Iterator<Item = Vec<u8>> + '_ {
    path.split(|byte| *byte == b'/')
        .filter(|name| !name.is_empty())
        .map(<[u8]>::to_vec)
}

fn refuse_unless_directory(tree: &dyn FileTree, node: Node, at: &[u8]) -> Result<()> {
    match tree.metadata(node).map_err(|e| e.context(show(at)))?.kind {
        Kind::Directory => Ok(()),
        _ => Err(no_directory(at)),
    }
}

fn no_directory(at: &[u8]) -> Error {
    Error::new(ErrorKind::Invalid, format!("{} is no directory", show(at)))
}

/// A path as text.
fn show(path: &[u8]) -> String {
    match path {
        [] => "/".into(),
        path => String::from_utf8_lossy(path).into_owned(),
    }
}

/// A file that a walk came by.
#[derive(Debug)]
pub struct Found {
    /// Its path, which begins with what the walk was given.
    pub path: Vec<u8>,
    /// Names between it and where the walk began: 0 for that itself.
    pub depth: usize,
    /// What it is, or why that or what is in it cannot be read. A directory of which the names cannot be read comes twice:
    /// as a file, then with the reason.
    pub file: Result<(Node, Metadata)>,
}

/// A file and all that is below it: a directory before what is in it, names in the order of their bytes. Links are
/// not followed, and no failure ends it.
pub struct Walk<'t> {
    tree: &'t dyn FileTree,
    /// What is still to be visited, the next one last.
    to_go: Vec<(Vec<u8>, usize, Result<Node>)>,
    /// Directories that were visited.
    seen: HashSet<Node>,
}

impl<'t> Walk<'t> {
    /// From `node`, whose path is to be shown as `path`.
    pub fn new(tree: &'t dyn FileTree, path: &[u8], node: Node) -> Self {
        Self {
            tree,
            to_go: vec![(path.to_vec(), 0, Ok(node))],
            seen: HashSet::new(),
        }
    }

    /// Puts what is in a directory on the list.
    fn enter(&mut self, path: &[u8], depth: usize, dir: Node) {
        if let Err(e) = self.try_enter(path, depth, dir) {
            self.to_go.push((path.to_vec(), depth, Err(e)));
        }
    }

    fn try_enter(&mut self, path: &[u8], depth: usize, dir: Node) -> Result<()> {
        if !self.seen.insert(dir) {
            return Err(corrupt(
                "this directory has a second name, and what is in it was shown under the first",
            ));
        }
        if depth >= MAX_DEPTH {
            let what = format!("{MAX_DEPTH} directories in each other are as many as are visited");
            return Err(Error::new(ErrorKind::Unsupported, what));
        }
        let mut entries = self.tree.entries(dir)?;
        let nodes: Vec<_> = entries.iter().map(|entry| entry.node).collect();
        self.tree.ahead(&nodes);
        entries.sort_unstable_by(|a, b| b.name.cmp(&a.name));
        let slash: &[u8] = if path.ends_with(b"/") { b"" } else { b"/" };
        self.to_go.extend(entries.into_iter().map(|entry| {
            let path = [path, slash, &entry.name].concat();
            (path, depth.saturating_add(1), Ok(entry.node))
        }));
        Ok(())
    }
}

impl Iterator for Walk<'_> {
    type Item = Found;

    fn next(&mut self) -> Option<Found> {
        let (path, depth, node) = self.to_go.pop()?;
        let file = node.and_then(|node| Ok((node, self.tree.metadata(node)?)));
        if let Ok((node, metadata)) = &file
            && metadata.kind == Kind::Directory
        {
            self.enter(&path, depth, *node);
        }
        Some(Found { path, depth, file })
    }
}
