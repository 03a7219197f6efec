//! `ebsfs warm`: has a mount's daemon fetch what is not at hand yet, after telling what that takes.

use std::io::{self, IsTerminal as _};
use std::num::NonZeroU64;
use std::ops::Range;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use clap::Args;
use indicatif::HumanBytes;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::counted::counted;
use super::mounted::Mounted;
use super::progress::Progress;
use super::{Outcome, Stop, agreed, parse_bytes, prices, print, print_json, stack, tell};
use crate::block::bytes_of;
use crate::commit::Spent;
use crate::error::{Error, ErrorKind, Result};
use crate::fuse::mountpoint::{FS_TYPE, canonical};
use crate::image::Image;
use crate::partition::read_table;
use crate::session::{WARM, WarmOptions, Warmed};
use crate::snapshot::SnapshotId;
use crate::source::RawSource;
use crate::warm::{Done, Estimate, Event, Wish};

#[derive(Args)]
pub(super) struct Warm {
    /// Where it is mounted
    mountpoint: PathBuf,

    /// Which of the mounted snapshots [default: the only one]
    #[arg(long, value_name = "SNAPSHOT")]
    snapshot: Option<SnapshotId>,

    /// Only these bytes: 0-1GiB, 1GiB- to the end, or p1 for partition 1; may be given several times
    #[arg(long = "range", value_name = "RANGE")]
    ranges: Vec<Part>,

    /// Bytes a second at most
    #[arg(long, value_name = "BYTES", value_parser = parse_rate)]
    rate: Option<NonZeroU64>,

    /// Only tell what would be fetched, and what that costs
    #[arg(long)]
    dry_run: bool,

    /// Do not ask; without a terminal nobody is asked anyway
    #[arg(short, long)]
    yes: bool,

    /// For programs
    #[arg(long)]
    json: bool,
}

/// A part of a disk, as typed.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Part {
    Bytes(Range<u64>),
    Partition(u32),
}

impl FromStr for Part {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(number) = text.strip_prefix('p') {
            let number = number.parse().ok();
            return number
                .map(Self::Partition)
                .ok_or_else(|| "a partition is named p1".into());
        }
        let (start, end) = text
            .split_once('-')
            .ok_or("write for example 0-1GiB, 1GiB- or p1")?;
        let bytes = |text| {
            let bytes = parse_bytes(text)?;
            u64::try_from(bytes).map_err(|e| e.to_string())
        };
        let end = match end {
            "" => u64::MAX,
            end => bytes(end)?,
        };
        Ok(Self::Bytes(bytes(start)?..end))
    }
}

fn parse_rate(text: &str) -> Result<NonZeroU64, String> {
    let bytes = u64::try_from(parse_bytes(text)?).ok();
    bytes
        .and_then(NonZeroU64::new)
        .ok_or_else(|| "at least one byte a second".into())
}

impl Warm {
    pub(super) fn run(self) -> Outcome {
        let path = canonical(&self.mountpoint)?;
        let mounted = Mounted::at(&path)?.ok_or_else(|| {
            let what = format!(
                "{} is no mount of ebsfs: `findmnt -t {FS_TYPE}` shows those",
                path.display()
            );
            Error::new(ErrorKind::NotFound, what)
        })?;
        let runtime = stack::runtime()?;
        if let Some(id) = &self.snapshot {
            // Whoever looks at a file opens its snapshot.
            drop(std::fs::metadata(path.join(format!("{id}.img"))));
        }
        let wish = self.wish(&runtime, &mounted)?;
        let estimate = match self.ask(&runtime, &mounted, &wish, None)? {
            Warmed::Estimate(estimate) => estimate,
            Warmed::Done(_) => return Err(nonsense().into()),
        };
        let cost = cost(&mounted, estimate.fetches);
        if self.dry_run {
            return self.show(&estimate, cost);
        }
        estimate.check_room()?;
        if !self.json {
            tell(&described(&estimate, cost));
        }
        let asks = cost > 0.0 && !self.yes && io::stdin().is_terminal();
        if asks && !agreed("Fetch them?")? {
            return Err(Error::new(ErrorKind::Invalid, "nothing was fetched").into());
        }
        let progress = Progress::new("warm", estimate.bytes);
        let warmed = self.ask(&runtime, &mounted, &wish, Some(progress));
        match warmed.map_err(|stop| how_to_go_on(stop, &mounted))? {
            Warmed::Done(done) => self.finish(&mounted, &done),
            Warmed::Estimate(_) => Err(nonsense().into()),
        }
    }

    fn wish(&self, runtime: &Runtime, mounted: &Mounted) -> Result<Wish> {
        let ranges = self.ranges.iter().map(|part| match part {
            Part::Bytes(range) => Ok(range.clone()),
            Part::Partition(number) => self.partition(runtime, mounted, *number),
        });
        Ok(Wish {
            snapshot: self.snapshot.clone(),
            ranges: ranges.collect::<Result<_>>()?,
            rate: self.rate,
        })
    }

    /// Where a partition lies on its disk.
    fn partition(&self, runtime: &Runtime, mounted: &Mounted, number: u32) -> Result<Range<u64>> {
        let file = match &self.snapshot {
            Some(id) => mounted.mountpoint.join(format!("{id}.img")),
            None => only_disk(mounted)?,
        };
        let image = Image::new(Arc::new(RawSource::open(&file)?), runtime.handle().clone());
        let found = read_table(&image)?.partitions;
        let found = found
            .into_iter()
            .find(|partition| partition.number == number);
        found.map(|partition| partition.range).ok_or_else(|| {
            let what = format!("{} has no partition {number}", file.display());
            Error::new(ErrorKind::NotFound, what)
        })
    }

    /// An estimate, unless there is somebody to tell how far it is.
    fn ask(
        &self,
        runtime: &Runtime,
        mounted: &Mounted,
        wish: &Wish,
        progress: Option<Progress>,
    ) -> Outcome<Warmed> {
        let options = WarmOptions {
            wish: wish.clone(),
            dry_run: progress.is_none(),
        };
        let told = move |Event::Progress { done, .. }| {
            if let Some(progress) = &progress {
                progress.done(bytes_of(done));
            }
        };
        mounted.ask(runtime, WARM, json!(options), told)
    }

    fn show(&self, estimate: &Estimate, cost: f64) -> Outcome {
        if self.json {
            return print_json(&with_cost(json!(estimate), cost));
        }
        print(&(described(estimate, cost) + "\n"))?;
        if let Err(e) = estimate.check_room() {
            tell(&e.to_string());
        }
        Ok(())
    }

    fn finish(&self, mounted: &Mounted, done: &Done) -> Outcome {
        let cost = cost(mounted, done.fetches);
        if self.json {
            return print_json(&with_cost(json!(done), cost));
        }
        tell(&format!(
            "fetched {}, {}, in {:.1} s; {}",
            counted(done.fetches, "block"),
            HumanBytes(done.bytes),
            done.seconds,
            prices::shown(cost)
        ));
        if done.lost > 0 {
            tell(&format!(
                "{} of them had to go again: the cache holds blocks that are read; mount with a larger one",
                done.lost
            ));
        }
        Ok(())
    }
}

/// The file of the whole disk, where only one is shown.
fn only_disk(mounted: &Mounted) -> Result<PathBuf> {
    let dir = &mounted.mountpoint;
    let entries = std::fs::read_dir(dir).map_err(|e| Error::io(e, "read", dir))?;
    let mut disks = entries.flatten().map(|entry| entry.path()).filter(|path| {
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        stem.is_some_and(|stem| stem.parse::<SnapshotId>().is_ok())
    });
    match (disks.next(), disks.next()) {
        (Some(disk), None) => Ok(disk),
        _ => Err(Error::new(
            ErrorKind::Invalid,
            "several snapshots are mounted: name one with --snapshot",
        )),
    }
}

fn cost(mounted: &Mounted, fetches: u64) -> f64 {
    let spent = Spent {
        listings: 0,
        gets: fetches,
        puts: 0,
        others: 0,
    };
    prices::dollars(&mounted.store, &spent)
}

fn described(estimate: &Estimate, cost: f64) -> String {
    format!(
        "{}: {} of data, {} of them at hand; {} to fetch {}, {}",
        estimate.snapshot,
        counted(estimate.blocks, "block"),
        estimate.kept,
        counted(estimate.fetches, "request"),
        HumanBytes(estimate.bytes),
        prices::shown(cost)
    )
}

fn with_cost(mut value: Value, cost: f64) -> Value {
    value["cost"] = Value::from(cost);
    value
}

fn nonsense() -> Error {
    let what =
        "the daemon answers something else than it was asked for: mount again with this program";
    Error::new(ErrorKind::Unsupported, what)
}

fn how_to_go_on(stop: Stop, mounted: &Mounted) -> Stop {
    let again = format!("`ebsfs warm {}`", mounted.mountpoint.display());
    match stop {
        Stop::Interrupted(_) => Stop::Interrupted(format!(
            "what was fetched stays; {again} goes on with the rest"
        )),
        Stop::Failed(e) if e.kind() == ErrorKind::Unavailable => {
            Stop::Failed(e.context(format!("what was fetched stays, and {again} goes on")))
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_ranges_with_units_or_partitions() {
        let part = str::parse::<Part>;
        assert_eq!(part("0-1GiB"), Ok(Part::Bytes(0..1 << 30)));
        assert_eq!(part("512k-"), Ok(Part::Bytes(512 << 10..u64::MAX)));
        assert_eq!(part("p12"), Ok(Part::Partition(12)));
        for bad in ["", "5", "-", "-5", "p", "px", "1-2-3", "a-b", "1GiB-x"] {
            assert!(part(bad).is_err(), "{bad}");
        }
        assert!(parse_rate("0").is_err());
        assert_eq!(parse_rate("1M").map(NonZeroU64::get), Ok(1 << 20));
    }
}
