//! The files that differ: partition by partition, both trees side by side.
//!
//! What the store tells to be the same on both disks is fetched once and read as one. Without what the store tells, as
//! between snapshots of two lineages, all is read on both sides.

use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use tokio::runtime::Runtime;

use super::super::files::Failures;
use super::super::reading::Reading;
use super::super::stack::{Disk, Trees, Volume};
use super::super::{Common, Outcome, Stop, tell};
use super::told::Teller;
use super::{Diff, Pair, Side};
use crate::block::{BlockIndex, bytes_of};
use crate::compare::{self, Comparison, Finding};
use crate::error::{Error, ErrorKind, Result};
use crate::source::Differences;

/// Prints what differs, and tells whether anything does.
pub(super) fn compare(diff: Diff, common: &Common) -> Outcome<bool> {
    if diff.from.partition.is_some() != diff.to.partition.is_some() {
        let what = "name a partition of both snapshots, or of neither";
        return Err(Error::new(ErrorKind::Invalid, what).into());
    }
    let reading = Reading {
        cache_size: diff.cache_size,
        // Nothing is fetched that is not read.
        no_read_ahead: true,
        disk: diff.disk,
    };
    let trees = Trees::open(common, &reading)?;
    let (store, runtime) = (trees.store(), trees.runtime());
    let pair = Pair::open(store, runtime, &diff.from.snapshot, &diff.to.snapshot)?;
    let differences = differences(&pair, runtime)?;
    let [old, new] = trees.both((&pair.from, &pair.to), differences.as_ref())?;
    let mut work = Work {
        runtime,
        differences,
        contents: diff.content,
        teller: Teller::begin(&pair, diff.json)?,
        failures: Failures::default(),
    };
    for (old, new) in work.volumes((&old, &diff.from), (&new, &diff.to))? {
        work.volume(&old, &new)?;
    }
    let differs = work.teller.end()?;
    work.failures.end("file")?;
    Ok(differs)
}

/// Where the disks differ, if the store can tell.
fn differences(pair: &Pair, runtime: &Runtime) -> Result<Option<Arc<Differences>>> {
    match runtime.block_on(pair.differences.listing(BlockIndex::ZERO)) {
        Ok(_) => Ok(Some(Arc::clone(&pair.differences))),
        Err(e) if e.kind() == ErrorKind::Invalid => {
            log::warn!("both trees are read in full: {e:#}");
            Ok(None)
        }
        Err(e) => Err(e),
    }
}

struct Work<'a> {
    runtime: &'a Runtime,
    differences: Option<Arc<Differences>>,
    contents: bool,
    teller: Teller,
    failures: Failures,
}

impl Work<'_> {
    /// Which are compared with each other: those of one number, and whole disks.
    fn volumes(
        &mut self,
        (old, from): (&Disk, &Side),
        (new, to): (&Disk, &Side),
    ) -> Result<Vec<(Rc<Volume>, Rc<Volume>)>> {
        if let (Some(from), Some(to)) = (from.partition, to.partition) {
            return Ok(vec![(old.numbered(from)?, new.numbered(to)?)]);
        }
        let number = |volume: &Volume| volume.partition.as_ref().map(|part| part.number);
        let mut pairs = Vec::new();
        for volume in &old.volumes {
            let same = |other: &&Rc<Volume>| number(other) == number(volume);
            match new.volumes.iter().find(same) {
                Some(other) => pairs.push((Rc::clone(volume), Rc::clone(other))),
                None => self.alone(volume, new),
            }
        }
        for volume in &new.volumes {
            if old
                .volumes
                .iter()
                .all(|other| number(other) != number(volume))
            {
                self.alone(volume, old);
            }
        }
        Ok(pairs)
    }

    /// A partition, or a disk without any, that the other snapshot has not.
    fn alone(&mut self, volume: &Volume, other: &Disk) {
        self.teller.differs();
        tell(&format!(
            "{} has nothing to be compared with in {}: its files are not listed",
            volume.name, other.info.id
        ));
    }

    fn volume(&mut self, old: &Volume, new: &Volume) -> Outcome {
        let range = |volume: &Volume| match &volume.partition {
            Some(partition) => partition.range.clone(),
            None => 0..volume.data.size(),
        };
        let (old_range, new_range) = (range(old), range(new));
        let trees = old.tree().and_then(|old| Ok((old, new.tree()?)));
        let (old_tree, new_tree) = match trees {
            Ok(trees) => trees,
            Err(e) => return self.unreadable((old, &old_range), (new, &new_range), e),
        };
        let prefix = match &new.partition {
            Some(partition) => format!("p{}:", partition.number),
            None => String::new(),
        };
        let (runtime, differences) = (self.runtime, self.differences.clone());
        let comparison = Comparison {
            old: compare::Side {
                tree: &*old_tree,
                start: old_range.start,
            },
            new: compare::Side {
                tree: &*new_tree,
                start: new_range.start,
            },
            differs: &|within| first_difference(runtime, differences.as_deref(), within),
            contents: self.contents,
        };
        comparison.run(&mut |path, finding| match finding {
            // Nor can anything else be had then.
            Finding::Failed(e)
                if matches!(e.kind(), ErrorKind::Unavailable | ErrorKind::Denied) =>
            {
                Err(Stop::Failed(e.context(shown(&prefix, path))))
            }
            Finding::Failed(e) => {
                let e = e.context(shown(&prefix, path));
                self.failures.say(&e);
                self.teller.failed(&prefix, path, &e)
            }
            finding => self.teller.tell(&prefix, path, &finding),
        })
    }

    /// No files are found on one side or on both, which is no harm where nothing has changed.
    fn unreadable(
        &mut self,
        (old, old_range): (&Volume, &Range<u64>),
        (new, new_range): (&Volume, &Range<u64>),
        e: Error,
    ) -> Outcome {
        if matches!(e.kind(), ErrorKind::Unavailable | ErrorKind::Denied) {
            return Err(e.into());
        }
        let mut blocks = 0;
        if let Some(differences) = self
            .differences
            .as_deref()
            .filter(|_| old_range == new_range)
        {
            let mut from = old_range.start;
            while let Some(part) =
                first_difference(self.runtime, Some(differences), from..old_range.end)?
            {
                let first = BlockIndex::containing(part.start).get();
                let last = BlockIndex::containing(part.end.saturating_sub(1)).get();
                blocks += u64::from(last - first) + 1;
                from = part.end;
            }
            if blocks == 0 {
                log::info!("{} and {} are the same: {e:#}", old.name, new.name);
                return Ok(());
            }
        }
        let what = match blocks {
            0 => "not compared".to_owned(),
            _ => format!(
                "{} of it are not the same any more",
                indicatif::HumanBytes(bytes_of(blocks))
            ),
        };
        let e = e.context(format!("{what}, and its files cannot be listed"));
        self.failures.say(&e);
        Ok(())
    }
}

fn shown(prefix: &str, path: &[u8]) -> String {
    format!("{prefix}{}", super::super::files::shown(path))
}

/// The first bytes of a range of the disk that may differ.
fn first_difference(
    runtime: &Runtime,
    differences: Option<&Differences>,
    within: Range<u64>,
) -> Result<Option<Range<u64>>> {
    if within.is_empty() {
        return Ok(None);
    }
    let Some(differences) = differences else {
        return Ok(Some(within));
    };
    let first = BlockIndex::containing(within.start);
    let last = BlockIndex::containing(within.end.saturating_sub(1));
    let blocks = first.get()..last.get().saturating_add(1);
    let run = runtime.block_on(differences.first(blocks))?;
    Ok(run.map(|run| {
        let start = BlockIndex::new(run.start).start().max(within.start);
        start..BlockIndex::new(run.end).start().min(within.end)
    }))
}
