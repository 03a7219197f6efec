//! The way through a tree, within its limits, and what becomes of every file on it.
//!
//! A directory's files come before its directories, ordered by inode, as they mostly lie on the disk so. The walk looks at files well
//! before it copies them, and tells their places to whoever can fetch them before they are read. A directory that was seen before is
//! damage, as each has one name: so the walk ends, whatever the tree. Depth and count have bounds of their own.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::vec;

use super::contents::Contents;
use super::names::{self, join};
use super::source::{Link, Source};
use super::target::{Item, Target};
use super::{MAX_DEPTH, Recovery, Trouble};
use crate::error::{Error, ErrorKind};
use crate::filesystem::{Entry, Kind, Metadata, Node};

/// Files that are looked at before the first of them is read.
const LOOK_AHEAD: usize = 2048;

/// Bytes that are told ahead and not read yet: enough for the line to a store far away, and little beside a cache.
const AHEAD_OF_ALL: u64 = 32 << 20;

/// What comes next, in order.
enum Step {
    /// A directory, and then what is in it.
    Enter(Found),
    /// Something else.
    Copy(Found),
    /// That was all in the directory that was entered last.
    Leave,
    /// It could not be looked at.
    Failed(Vec<u8>, Error),
}

/// A file that was looked at.
struct Found {
    entry: Entry,
    metadata: Metadata,
    path: Vec<u8>,
    shown: Vec<u8>,
    /// Bytes of it that were told ahead.
    ahead: u64,
}

/// A directory that is being looked at.
struct Open {
    path: Vec<u8>,
    shown: Vec<u8>,
    entries: vec::IntoIter<Entry>,
    /// Entries, from the next one on, of which the tree knows that they are looked at next.
    told: usize,
    directories: VecDeque<Found>,
}

impl Source<'_> {
    /// Copies `node`, which people know as `shown`, and all below it to `target`, by the name `name`; without one, a
    /// directory's contents. What could not be copied of it has been told, unless it is all that was asked for.
    pub fn copy(
        &mut self,
        node: Node,
        shown: &[u8],
        name: Option<&[u8]>,
        recovery: &Arc<Recovery>,
        target: &mut dyn Target,
    ) -> Result<(), Trouble> {
        let mut walk = Walk {
            recovery,
            target,
            seen: HashSet::new(),
            open: vec![],
            steps: VecDeque::new(),
            ahead: 0,
            entered: 0,
            source: self,
        };
        let entry = Entry {
            name: name.unwrap_or_default().to_vec(),
            node,
        };
        let begun = walk.begin(entry, name.is_some(), shown);
        let done = begun.and_then(|()| walk.run());
        // What was begun is left in order, also after an interruption.
        for _ in 0..walk.entered {
            walk.target.leave();
        }
        let finished = walk.target.finish();
        done.and(finished)
    }
}

/// One copy of a file or a directory.
struct Walk<'w, 'a> {
    source: &'w mut Source<'a>,
    recovery: &'w Arc<Recovery>,
    target: &'w mut dyn Target,
    /// Directories that were looked at.
    seen: HashSet<Node>,
    /// From the first directory to the one that is looked at.
    open: Vec<Open>,
    /// Looked at and not copied yet.
    steps: VecDeque<Step>,
    /// Bytes of those that were told ahead.
    ahead: u64,
    /// Directories in which the target is.
    entered: usize,
}

impl Walk<'_, '_> {
    /// The first file of all. An error of it is the caller's.
    fn begin(&mut self, entry: Entry, named: bool, shown: &[u8]) -> Result<(), Trouble> {
        let metadata = self.source.tree.metadata(entry.node)?;
        if named {
            names::check(&entry.name)?;
        }
        let found = Found {
            path: entry.name.clone(),
            shown: shown.to_vec(),
            entry,
            metadata,
            ahead: 0,
        };
        if named && found.metadata.kind != Kind::Directory {
            return self.copy(&found);
        }
        let entries = self.entries(&found)?;
        self.enter(&found)?;
        self.open(&found, entries);
        Ok(())
    }

    fn run(&mut self) -> Result<(), Trouble> {
        loop {
            self.recovery.stop_if_interrupted()?;
            while self.steps.len() < LOOK_AHEAD && self.ahead < AHEAD_OF_ALL && self.look() {}
            match self.steps.pop_front() {
                None => return Ok(()),
                Some(Step::Enter(found)) => {
                    let entered = self.enter(&found);
                    if entered.is_err() {
                        self.pass_over();
                    }
                    self.go_on_after(entered, &found.shown)?;
                }
                Some(Step::Copy(found)) => {
                    self.ahead = self.ahead.saturating_sub(found.ahead);
                    let copied = self.copy(&found);
                    self.go_on_after(copied, &found.shown)?;
                }
                Some(Step::Leave) => {
                    self.target.leave();
                    self.entered = self.entered.saturating_sub(1);
                }
                Some(Step::Failed(shown, error)) => {
                    self.go_on_after(Err(error.into()), &shown)?;
                }
            }
        }
    }

    /// Leaves out what is in a directory that could not be made.
    fn pass_over(&mut self) {
        let mut depth = 1_usize;
        while depth > 0 {
            while self.steps.is_empty() && self.look() {}
            match self.steps.pop_front() {
                Some(Step::Enter(_)) => depth = depth.saturating_add(1),
                Some(Step::Leave) => depth = depth.saturating_sub(1),
                Some(Step::Copy(found)) => self.ahead = self.ahead.saturating_sub(found.ahead),
                // In the order of paths, it would have been told of as well.
                Some(Step::Failed(..)) => {}
                None => return,
            }
        }
    }

    /// Whatever keeps one file from being copied is told, and no more.
    fn go_on_after(&self, copied: Result<(), Trouble>, shown: &[u8]) -> Result<(), Trouble> {
        match copied {
            Err(Trouble::File(error)) => {
                self.recovery.failed(shown, &error);
                Ok(())
            }
            other => other.map_err(|trouble| trouble.context(String::from_utf8_lossy(shown))),
        }
    }

    /// Looks at the next file; false if there is none.
    fn look(&mut self) -> bool {
        let Some(open) = self.open.last_mut() else {
            return false;
        };
        if open.told == 0 && self.source.is_told_ahead() {
            let nodes = open.entries.as_slice().iter().take(LOOK_AHEAD);
            let nodes: Vec<_> = nodes.map(|entry| entry.node).collect();
            self.source.tree.ahead(&nodes);
            open.told = nodes.len();
        }
        if let Some(entry) = open.entries.next() {
            open.told = open.told.saturating_sub(1);
            let shown = join(&open.shown, &entry.name);
            let tree = self.source.tree;
            match names::check(&entry.name).and_then(|()| tree.metadata(entry.node)) {
                Ok(metadata) => {
                    let mut found = Found {
                        path: join(&open.path, &entry.name),
                        shown,
                        entry,
                        metadata,
                        ahead: 0,
                    };
                    if found.metadata.kind == Kind::Directory {
                        open.directories.push_back(found);
                        return true;
                    }
                    found.ahead = self.source.tell_ahead(found.entry.node, &found.metadata);
                    self.ahead = self.ahead.saturating_add(found.ahead);
                    self.steps.push_back(Step::Copy(found));
                }
                Err(error) => self.steps.push_back(Step::Failed(shown, error)),
            }
        } else if let Some(found) = open.directories.pop_front() {
            match self.entries(&found) {
                Ok(entries) => {
                    self.open(&found, entries);
                    self.steps.push_back(Step::Enter(found));
                }
                Err(error) => self.steps.push_back(Step::Failed(found.shown, error)),
            }
        } else {
            self.open.pop();
            self.steps.push_back(Step::Leave);
        }
        true
    }

    /// What is in a directory, which is looked at once.
    fn entries(&mut self, found: &Found) -> Result<Vec<Entry>, Error> {
        if self.open.len() >= MAX_DEPTH {
            let what = format!(
                "it lies more than {MAX_DEPTH} directories deep: copy it by a path of its own"
            );
            return Err(Error::new(ErrorKind::Unsupported, what));
        }
        if !self.seen.insert(found.entry.node) {
            let what = "it is a directory that was copied already by another name";
            return Err(Error::new(ErrorKind::Corrupt, what));
        }
        let mut entries = self.source.tree.entries(found.entry.node)?;
        entries.sort_unstable_by_key(|entry| entry.node);
        Ok(entries)
    }

    fn open(&mut self, found: &Found, entries: Vec<Entry>) {
        self.open.push(Open {
            path: found.path.clone(),
            shown: found.shown.clone(),
            entries: entries.into_iter(),
            told: 0,
            directories: VecDeque::new(),
        });
    }

    fn enter(&mut self, found: &Found) -> Result<(), Trouble> {
        self.source.count_file()?;
        let item = Item {
            name: &found.entry.name,
            path: &found.path,
            shown: &found.shown,
            metadata: &found.metadata,
            xattrs: self.xattrs(found.entry.node, &found.shown),
        };
        self.target.enter(&item)?;
        self.entered = self.entered.saturating_add(1);
        self.recovery.add(|tally| &tally.directories, 1);
        Ok(())
    }

    /// What is no directory.
    fn copy(&mut self, found: &Found) -> Result<(), Trouble> {
        let Found {
            entry,
            metadata,
            path,
            shown,
            ..
        } = found;
        self.source.count_file()?;
        let special = match metadata.kind {
            Kind::File | Kind::Symlink | Kind::Directory => false,
            Kind::CharDevice { .. } | Kind::BlockDevice { .. } | Kind::Fifo | Kind::Socket => true,
        };
        if special && !self.recovery.options.devices {
            self.recovery.add(|tally| &tally.left_out, 1);
            return Ok(());
        }
        let mut item = Item {
            name: &entry.name,
            path,
            shown,
            metadata,
            xattrs: vec![],
        };
        if self.target.has(&item) {
            self.recovery.add(|tally| &tally.skipped, 1);
            self.remember(entry.node, metadata, path);
            return Ok(());
        }
        if self.linked(entry.node, &item)? {
            self.recovery.add(|tally| &tally.links, 1);
            return Ok(());
        }
        let (tree, node) = (self.source.tree, entry.node);
        item.xattrs = self.xattrs(node, shown);
        match metadata.kind {
            Kind::File => {
                let contents = Contents::of(tree, node, metadata.size)?;
                self.source.count_bytes(self.target.room_for(&contents))?;
                self.target.file(&item, &contents)?;
            }
            Kind::Symlink => {
                let target = tree.link_target(node)?;
                names::check_target(&target)?;
                self.target.symlink(&item, &target)?;
                self.recovery.add(|tally| &tally.symlinks, 1);
            }
            _ => {
                self.target.special(&item)?;
                self.recovery.add(|tally| &tally.devices, 1);
            }
        }
        self.remember(node, metadata, path);
        Ok(())
    }

    fn xattrs(&self, node: Node, shown: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
        // The contents are worth having without them.
        self.source.tree.xattrs(node).unwrap_or_else(|error| {
            let error = error.context("its extended attributes are left out");
            self.recovery.failed(shown, &error);
            vec![]
        })
    }

    /// Whether the file was copied by another name and has got this one, too.
    fn linked(&mut self, node: Node, item: &Item<'_>) -> Result<bool, Trouble> {
        let Some(link) = self.source.links.get_mut(&node) else {
            return Ok(false);
        };
        match self.target.link(item, &link.path) {
            Ok(()) => {
                link.left = link.left.saturating_sub(1);
                if link.left == 0 {
                    self.source.links.remove(&node);
                }
                Ok(true)
            }
            // The other one is not there any more, or not reached: this one is made as if it were the first.
            Err(Trouble::File(_)) => Ok(false),
            Err(other) => Err(other),
        }
    }

    fn remember(&mut self, node: Node, metadata: &Metadata, path: &[u8]) {
        if metadata.links > 1 {
            let (path, left) = (path.to_vec(), metadata.links.saturating_sub(1));
            self.source.links.insert(node, Link { path, left });
        }
    }
}
