//! `ebsfs map`: a picture of a disk, of what a snapshot has of it, and where another one differs.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use futures_util::{TryStreamExt as _, future};
use tokio::runtime::Runtime;

use self::picture::{Mark, Picture};
use self::terminal::Looks;
use super::diff::{Pair, if_unrelated};
use super::disk_cache::DiskOptions;
use super::interrupt::unless_interrupted;
use super::progress::Progress;
use super::{Common, Outcome, Stop, print, stack};
use crate::block::BlockIndex;
use crate::blocking::blocking;
use crate::cache::disk::glance;
use crate::error::Error;
use crate::snapshot::{SnapshotId, SnapshotInfo};
use crate::source::runs;
use crate::store::{Store, check_readable};

mod picture;
mod svg;
mod terminal;

#[derive(Args)]
pub(super) struct Map {
    /// The snapshot
    #[arg(value_name = "SNAP")]
    snapshot: SnapshotId,

    /// A later one: then the picture is of that, with what has changed since SNAP
    #[arg(value_name = "SNAP2")]
    later: Option<SnapshotId>,

    /// Draw it as SVG into this file, or - for stdout, instead of on the terminal
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    #[command(flatten)]
    disk: DiskOptions,
}

/// What the picture is of.
struct Subject {
    info: SnapshotInfo,
    /// Of what was, if anything is compared.
    since: Option<SnapshotId>,
    /// Whether there is a place where blocks of it might be kept.
    may_be_cached: bool,
}

const HOW_TO_GO_ON: &str = "nothing was drawn";

impl Map {
    pub(super) fn run(self, common: &Common) -> Outcome {
        let runtime = stack::runtime()?;
        let opened = stack::open_store(common, &runtime)?;
        let store = &opened.store;
        let kept = self.disk.blocks(&opened)?;
        let pair = match &self.later {
            Some(later) => Some(Pair::open(store, &runtime, &self.snapshot, later)?),
            None => None,
        };
        let info = match &pair {
            Some(pair) => pair.to.clone(),
            None => runtime.block_on(store.info(&self.snapshot))?,
        };
        check_readable(&info.id, info.status)?;
        let looks = Looks::of_stdout();
        let count = info.volume_size.blocks();
        let table = stack::partitions(store, &runtime, &info).unwrap_or_default();
        let mut picture = match &self.output {
            Some(_) => svg::canvas(count, table),
            None => looks.canvas(count, table),
        };
        if let Some(pair) = &pair {
            mark_changed(&mut picture, pair, &runtime)?;
        }
        mark_present(&mut picture, store, &info, &runtime)?;
        let may_be_cached = kept.is_some();
        if let Some(top) = kept {
            picture = mark_cached(picture, top, &store.identity(), &info, &runtime)?;
        }
        let subject = Subject {
            info,
            since: pair.map(|pair| pair.from.id),
            may_be_cached,
        };
        match &self.output {
            None => print(&looks.draw(&picture, &subject)),
            Some(path) => write(path, &svg::draw(&picture, &subject)),
        }
    }
}

fn write(path: &Path, text: &str) -> Outcome {
    if path == Path::new("-") {
        return print(text);
    }
    fs::write(path, text).map_err(|e| Error::io(e, "write", path).into())
}

fn mark_changed(picture: &mut Picture, pair: &Pair, runtime: &Runtime) -> Outcome {
    let progress = Progress::new("comparing", pair.to.volume_size.bytes());
    let work = async {
        let mut next = Some(BlockIndex::ZERO);
        while let Some(at) = next {
            let page = pair.differences.page(at).await?;
            page.set
                .runs()
                .for_each(|run| picture.mark(Mark::Changed, run));
            progress.reached(BlockIndex::new(page.covered.end));
            next = page.next();
        }
        Ok(())
    };
    let marked = runtime.block_on(unless_interrupted(work, HOW_TO_GO_ON));
    marked.map_err(|stop| match stop {
        Stop::Failed(e) => Stop::Failed(if_unrelated(e, pair)),
        other => other,
    })
}

fn mark_present(
    picture: &mut Picture,
    store: &Arc<dyn Store>,
    info: &SnapshotInfo,
    runtime: &Runtime,
) -> Outcome {
    let source = stack::snapshot(store, info);
    let progress = Progress::new("listing", info.volume_size.bytes());
    let work = runs(&source, BlockIndex::ZERO).try_for_each(|run: Range<u32>| {
        progress.reached(BlockIndex::new(run.end));
        picture.mark(Mark::Present, run);
        future::ready(Ok(()))
    });
    runtime.block_on(unless_interrupted(work, HOW_TO_GO_ON))
}

/// What is kept on this machine's disk, if that answers.
fn mark_cached(
    picture: Picture,
    top: PathBuf,
    store: &str,
    info: &SnapshotInfo,
    runtime: &Runtime,
) -> Outcome<Picture> {
    let (store, info) = (store.to_owned(), info.clone());
    let look = blocking("looking into the disk cache", move || {
        let mut picture = picture;
        let marked = glance(&top, &store, &info, |run| picture.mark(Mark::Cached, run));
        let cannot = |e: Error| log::warn!("what is cached is not shown: {e:#}");
        marked.unwrap_or_else(cannot);
        Ok::<_, Error>(picture)
    });
    runtime.block_on(unless_interrupted(look, HOW_TO_GO_ON))
}

/// A number of bytes in the largest unit that tells it exactly, with two decimals at most.
fn exactly(bytes: u64) -> String {
    for (unit, shift) in [("TiB", 40_u32), ("GiB", 30), ("MiB", 20), ("KiB", 10)] {
        let whole = bytes >> shift;
        // Quarters are what two decimals tell exactly.
        let quarters = (bytes >> (shift - 2)) & 3;
        if whole > 0 && bytes.trailing_zeros() >= shift - 2 {
            let decimals = [" ", ".25 ", ".5 ", ".75 "];
            let decimal = usize::try_from(quarters)
                .ok()
                .and_then(|at| decimals.get(at));
            return format!("{whole}{}{unit}", decimal.unwrap_or(&" "));
        }
    }
    format!("{bytes} B")
}

/// The line that tells what the picture is of.
fn title(subject: &Subject) -> String {
    let info = &subject.info;
    match &subject.since {
        Some(since) => format!("{}, {}, since {since}", info.id, info.volume_size),
        None => format!("{}, {}", info.id, info.volume_size),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_told_exactly_and_as_short_as_that_goes() {
        assert_eq!(exactly(0), "0 B");
        assert_eq!(exactly(512), "512 B");
        assert_eq!(exactly(512 << 10), "512 KiB");
        assert_eq!(exactly(3 << 29), "1.5 GiB");
        assert_eq!(exactly(5 << 28), "1.25 GiB");
        assert_eq!(exactly(9 << 27), "1152 MiB");
        assert_eq!(exactly(64 << 40), "64 TiB");
        assert_eq!(exactly((1 << 30) + 1), "1073741825 B");
    }
}
