//! Blocks brought to this machine before anybody reads them: a snapshot's, or those of some ranges of it.
//!
//! [`Warm`] knows the disks of one daemon. It [estimates](Warm::estimate) what is to be fetched, and
//! [does](Warm::run) it behind all readers, as fast as it may. Whatever is at hand is passed over, so that interrupted
//! work goes on by being asked for again; it is interrupted by being dropped, and keeps no notes.
//!
//! It refuses what the caches cannot hold: fetched in vain is paid in vain. A block that is damaged in the store is told in
//! the end, and hinders no other; any other failure ends the work.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{iter, slice};

use futures_util::{Stream, StreamExt as _, TryStreamExt as _, stream};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep_until};

use crate::block::{BlockIndex, BlockSet, bytes_of};
use crate::cache::{CachedSource, Priority};
use crate::error::{Error, ErrorKind, Result};
use crate::snapshot::SnapshotId;
use crate::source::{BlockSource as _, runs_within};

/// Blocks under way at one time: 640 MiB/s at 50 ms, and most of what a store takes at one time stays for readers.
const AT_ONCE: usize = 64;

/// Blocks that are looked for in the caches at one time.
const LOOK: u32 = 4096;

/// What is to be warm.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Wish {
    /// Of which snapshot; not needed where there is only one.
    pub snapshot: Option<SnapshotId>,
    /// Which bytes of it, rounded to blocks; none: all.
    pub ranges: Vec<Range<u64>>,
    /// Bytes a second at most.
    pub rate: Option<NonZeroU64>,
}

/// What it takes.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Estimate {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// Blocks of the ranges that hold data.
    pub blocks: u64,
    /// Of these, blocks that are at hand.
    pub kept: u64,
    /// Blocks to be fetched, each by one request.
    pub fetches: u64,
    /// Bytes of these.
    pub bytes: u64,
    /// Blocks that the caches hold at most.
    pub room: u64,
}

/// What was done.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Done {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// Blocks fetched.
    pub fetches: u64,
    /// Bytes of these.
    pub bytes: u64,
    /// Blocks that were at hand before.
    pub kept: u64,
    /// Blocks of the ranges that are not at hand any more: the cache holds others, which readers use.
    pub lost: u64,
    /// How long it took.
    pub seconds: f64,
}

/// How far it is.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Event {
    /// Blocks fetched by now, and in the end.
    Progress {
        /// By now.
        done: u64,
        /// In the end.
        of: u64,
    },
}

#[derive(Clone)]
struct Disk {
    source: Arc<CachedSource>,
    room: u64,
}

/// The disks of a daemon that can be warmed.
#[derive(Default)]
pub struct Warm {
    /// Guards map operations only.
    disks: Mutex<BTreeMap<SnapshotId, Disk>>,
}

impl Warm {
    fn disks(&self) -> MutexGuard<'_, BTreeMap<SnapshotId, Disk>> {
        self.disks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on the disk that is shown as `snapshot` is read through `source`, whose caches hold so many blocks.
    pub fn register(&self, snapshot: &SnapshotId, source: Arc<CachedSource>, room: u64) {
        self.disks().insert(snapshot.clone(), Disk { source, room });
    }

    fn find(&self, named: Option<&SnapshotId>) -> Result<(SnapshotId, Disk)> {
        let disks = self.disks();
        let shown = || {
            let names: Vec<_> = disks.keys().map(SnapshotId::as_str).collect();
            names.join(", ")
        };
        let found = match (named, disks.len()) {
            (Some(id), _) => disks.get_key_value(id).ok_or_else(|| {
                let what = format!("{id} is not open in this mount; open are: {}", shown());
                Error::new(ErrorKind::NotFound, what)
            }),
            (None, 0 | 1) => disks.first_key_value().ok_or_else(|| {
                let what = "no snapshot is open in this mount: name one with --snapshot";
                Error::new(ErrorKind::NotFound, what)
            }),
            (None, _) => Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "name one of the mounted snapshots with --snapshot: {}",
                    shown()
                ),
            )),
        };
        found.map(|(id, disk)| (id.clone(), disk.clone()))
    }

    /// What it takes to have the wish fulfilled. Lists what is not listed yet, and fetches nothing.
    pub async fn estimate(&self, wish: &Wish) -> Result<Estimate> {
        let (snapshot, disk) = self.find(wish.snapshot.as_ref())?;
        let spans = spans(&wish.ranges, disk.source.count())?;
        survey(snapshot, &disk, &spans).await
    }

    /// Fetches what is missing. `Invalid` if the caches cannot hold all of the ranges.
    pub async fn run(&self, wish: &Wish, tell: &(dyn Fn(Event) + Send + Sync)) -> Result<Done> {
        let began = Instant::now();
        let (snapshot, disk) = self.find(wish.snapshot.as_ref())?;
        let spans = spans(&wish.ranges, disk.source.count())?;
        let estimate = survey(snapshot, &disk, &spans).await?;
        estimate.check_room()?;
        let Estimate {
            snapshot,
            fetches: of,
            kept,
            ..
        } = estimate;
        let (source, pace) = (&disk.source, &Pace::new(wish.rate));
        let missing = surveyed(source, &spans)
            .map_ok(|(run, kept)| {
                let missing = run.map(BlockIndex::new).filter(move |i| !kept.contains(*i));
                stream::iter(missing.map(Ok))
            })
            .try_flatten()
            .map_ok(|index| async move {
                pace.turn().await;
                match source.fetch(index, Priority::Background).await {
                    Ok(_) => Ok(None),
                    Err(e) if e.kind() == ErrorKind::Corrupt => Ok(Some(e)),
                    Err(e) => Err(e),
                }
            });
        let mut ended = std::pin::pin!(missing.try_buffer_unordered(AT_ONCE));
        let (mut fetches, mut damaged) = (0, Vec::new());
        while let Some(damage) = ended.try_next().await? {
            match damage {
                Some(e) => damaged.push(e),
                None => fetches += 1,
            }
            tell(Event::Progress { done: fetches, of });
        }
        if let Some(first) = damaged.pop() {
            let others = match damaged.len() {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            return Err(first.context(format!(
                "{snapshot}: this block{others} cannot be had; the others are at hand"
            )));
        }
        let lost = survey(snapshot.clone(), &disk, &spans).await?.fetches;
        Ok(Done {
            snapshot,
            fetches,
            bytes: bytes_of(fetches),
            kept,
            lost,
            seconds: began.elapsed().as_secs_f64(),
        })
    }
}

impl Estimate {
    /// `Invalid` if the caches cannot hold it.
    pub fn check_room(&self) -> Result<()> {
        if self.blocks <= self.room {
            return Ok(());
        }
        let mib = |blocks| bytes_of(blocks) >> 20;
        let (all, room) = (mib(self.blocks), mib(self.room));
        Err(Error::new(
            ErrorKind::Invalid,
            format!(
                "{all} MiB are to be warm, and the caches of this mount hold {room} MiB: name a smaller --range, or mount with larger caches"
            ),
        ))
    }
}

/// The blocks of byte ranges of a disk of `count` blocks: ascending and apart.
fn spans(ranges: &[Range<u64>], count: u32) -> Result<Vec<Range<u32>>> {
    let size = bytes_of(count.into());
    let whole = 0..size;
    let ranges = match ranges {
        [] => slice::from_ref(&whole),
        said => said,
    };
    let mut spans = Vec::new();
    for Range { start, end } in ranges {
        let invalid = |what: &str| {
            let what = format!("the range from {start} to {end} {what}");
            Err(Error::new(ErrorKind::Invalid, what))
        };
        if start >= end {
            return invalid("is empty");
        }
        if *start >= size {
            return invalid(&format!("begins past the disk's end, which is at {size}"));
        }
        let last = BlockIndex::containing((*end).min(size) - 1);
        spans.push(BlockIndex::containing(*start).get()..last.get() + 1);
    }
    spans.sort_by_key(|span| span.start);
    let mut apart: Vec<Range<u32>> = Vec::new();
    for span in spans {
        match apart.last_mut() {
            Some(last) if span.start <= last.end => last.end = last.end.max(span.end),
            _ => apart.push(span),
        }
    }
    Ok(apart)
}

/// The blocks of `spans` that hold data, in runs of at most [`LOOK`], and which of each run are at hand.
fn surveyed<'a>(
    source: &'a CachedSource,
    spans: &'a [Range<u32>],
) -> impl Stream<Item = Result<(Range<u32>, BlockSet)>> + 'a {
    let cut = |run: Range<u32>| {
        let mut from = run.start;
        iter::from_fn(move || {
            let start = from;
            from = run.end.min(from.saturating_add(LOOK));
            (start < from).then_some(start..from)
        })
    };
    stream::iter(spans)
        .flat_map(|span| runs_within(source, span.clone()))
        .map_ok(move |run| stream::iter(cut(run).map(Ok)))
        .try_flatten()
        .and_then(async |run: Range<u32>| Ok((run.clone(), source.kept(run).await)))
}

async fn survey(snapshot: SnapshotId, disk: &Disk, spans: &[Range<u32>]) -> Result<Estimate> {
    let count = async |(blocks, kept), (run, of_it): (Range<u32>, BlockSet)| {
        Ok((blocks + u64::from(run.end - run.start), kept + of_it.len()))
    };
    let (blocks, kept) = surveyed(&disk.source, spans)
        .try_fold((0, 0), count)
        .await?;
    Ok(Estimate {
        snapshot,
        blocks,
        kept,
        fetches: blocks - kept,
        bytes: bytes_of(blocks - kept),
        room: disk.room,
    })
}

/// Begins blocks at even distances, so that no more than a rate comes of it.
struct Pace {
    distance: Duration,
    /// When the next may begin. Guards itself only.
    next: Mutex<Instant>,
}

impl Pace {
    fn new(rate: Option<NonZeroU64>) -> Self {
        let nanos = |rate: NonZeroU64| bytes_of(1_000_000_000) / rate;
        Self {
            distance: Duration::from_nanos(rate.map_or(0, nanos)),
            next: Mutex::new(Instant::now()),
        }
    }

    /// Returns when it is the caller's turn.
    async fn turn(&self) {
        let turn = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            // What was missed, say for a listing, is not made up for by a burst.
            let turn = (*next).max(Instant::now());
            *next = turn + self.distance;
            turn
        };
        if !self.distance.is_zero() {
            sleep_until(turn).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: u64 = 512 << 10;

    #[test]
    fn ranges_become_whole_blocks_once_each() {
        assert_eq!(spans(&[], 2048).unwrap().pop(), Some(0..2048));
        let ranges = [
            10 * BLOCK - 1..10 * BLOCK + 1,
            0..1,
            BLOCK..3 * BLOCK,
            11 * BLOCK..12 * BLOCK,
            2047 * BLOCK..u64::MAX,
        ];
        assert_eq!(spans(&ranges, 2048).unwrap(), [0..3, 9..12, 2047..2048]);
        let backward = Range { start: 6, end: 5 };
        for bad in [5..5, backward, 2048 * BLOCK..u64::MAX] {
            assert_eq!(spans(&[bad], 2048).unwrap_err().kind(), ErrorKind::Invalid);
        }
    }

    #[test]
    fn a_rate_is_kept_and_what_was_missed_is_not_made_up_for() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let rate = NonZeroU64::new(10 * BLOCK);
            let (pace, began) = (Pace::new(rate), Instant::now());
            for _ in 0..=20 {
                pace.turn().await;
            }
            assert_eq!(began.elapsed().as_secs(), 2);
            tokio::time::sleep(Duration::from_secs(60)).await;
            let began = Instant::now();
            for _ in 0..=20 {
                pace.turn().await;
            }
            assert_eq!(began.elapsed().as_secs(), 2);
            let (unbound, began) = (Pace::new(None), Instant::now());
            for _ in 0..1000 {
                unbound.turn().await;
            }
            assert_eq!(began.elapsed(), Duration::ZERO);
        });
    }
}
