//! What goes when room is needed: the blocks not used for longest, of all snapshots that nobody else has mounted.
//!
//! First it is counted how old they are, then those go that are old enough; one snapshot is looked at at a time, and
//! nobody waits for its lock longer than that takes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use log::{debug, warn};

use super::files::{self, Alone, Files};
use super::lock::Gate;
use super::private;
use crate::block::{BlockIndex, Digest};
use crate::error::{ErrorKind, Result};

/// Blocks by when they were last used.
type Ages = BTreeMap<u32, u64>;

/// Who goes: blocks used before `before`, and `more` of those used just then.
struct Cut {
    before: u32,
    more: u64,
    taken: u64,
}

impl Cut {
    /// The oldest `wanted` blocks of `ages`.
    fn of(ages: &Ages, wanted: u64) -> Self {
        let mut more = wanted;
        for (used, count) in ages {
            if *count >= more {
                return Self::new(*used, more);
            }
            more -= count;
        }
        Self::new(u32::MAX, more)
    }

    fn new(before: u32, more: u64) -> Self {
        let taken = 0;
        Self {
            before,
            more,
            taken,
        }
    }

    /// Whether a block that was last used at `used` goes.
    fn takes(&mut self, used: u32) -> bool {
        let goes = if used == self.before {
            let left = self.more.checked_sub(1);
            self.more = left.unwrap_or(0);
            left.is_some()
        } else {
            used < self.before
        };
        self.taken += u64::from(goes);
        goes
    }
}

/// One pass over the directory `top`.
pub(super) struct Eviction<'a> {
    pub(super) top: &'a Path,
    pub(super) gate: &'a Gate,
    /// The files that this process has open of a snapshot, by its key.
    pub(super) open: &'a dyn Fn(&Digest) -> Option<Arc<Files>>,
}

impl Eviction<'_> {
    /// Takes the oldest `wanted` blocks away, or as many as nobody else uses; tells how many.
    pub(super) fn run(&self, wanted: u64) -> Result<u64> {
        let mut ages = Ages::new();
        let mut oldest = Vec::new();
        for name in private::names(self.top)? {
            let Ok(key) = name.parse::<Digest>() else {
                continue;
            };
            let mut first = None;
            self.alone(&key, |alone, _| {
                alone.ages(|_, used| {
                    *ages.entry(used).or_default() += 1;
                    first = Some(first.map_or(used, |first: u32| first.min(used)));
                })
            });
            // What holds no block at all goes as well.
            oldest.push((key, first.unwrap_or(0)));
        }
        let mut cut = Cut::of(&ages, wanted);
        oldest.retain(|(_, first)| *first <= cut.before);
        for (key, _) in &oldest {
            self.alone(key, |alone, is_open| take(alone, is_open, &mut cut));
        }
        Ok(cut.taken)
    }

    /// Does `work` on a snapshot's files, if nobody else uses them; also told is whether this process does. One that cannot be
    /// looked at must not keep the others.
    fn alone(&self, key: &Digest, work: impl FnOnce(Alone<'_>, bool) -> Result<()>) {
        let open = (self.open)(key);
        let is_open = open.is_some();
        let dir: PathBuf = self.top.join(key.to_string());
        let files = match open {
            Some(files) => Ok(Some(files)),
            None => match Files::to_evict(&dir, key) {
                Err(e) if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Denied) => {
                    files::remove_damaged(&dir, self.gate).map(|()| None)
                }
                files => files.map(|files| files.map(Arc::new)),
            },
        };
        let done = files.and_then(|files| match files {
            Some(files) => match files.alone(self.gate)? {
                Some(alone) => work(alone, is_open),
                None => Ok(()),
            },
            None => Ok(()),
        });
        if let Err(e) = done {
            warn!("{}: nothing more is taken from it: {e:#}", dir.display());
        }
    }
}

fn take(alone: Alone<'_>, is_open: bool, cut: &mut Cut) -> Result<()> {
    let mut old: Vec<BlockIndex> = Vec::new();
    let mut kept = false;
    alone.ages(|index, used| {
        if cut.takes(used) {
            old.push(index);
        } else {
            kept = true;
        }
    })?;
    debug!("{} blocks are taken from the disk cache", old.len());
    if !kept && !is_open {
        return alone.remove();
    }
    match old.into_iter().try_for_each(|index| alone.evict(index)) {
        // A file system that makes no holes in files.
        Err(e) if !is_open && e.kind() == ErrorKind::Unsupported => alone.remove(),
        evicted => evicted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_and_of_the_last_age_as_many_as_are_wanted() {
        let all = [10, 10, 10, 20, 20, 20, 20, 20, 30];
        let mut ages = Ages::new();
        for used in all {
            *ages.entry(used).or_default() += 1;
        }
        let taken = |wanted| {
            let mut cut = Cut::of(&ages, wanted);
            let goes = all.into_iter().filter(|used| cut.takes(*used));
            goes.collect::<Vec<_>>()
        };
        assert_eq!(taken(2), [10; 2]);
        assert_eq!(taken(3), [10; 3]);
        assert_eq!(taken(5), [10, 10, 10, 20, 20]);
        assert_eq!(taken(99).len(), 9);
    }
}
