//! Random operations on an overlay over a simulated disk, and what must be read afterwards: a plain array of bytes.
//!
//! The array stands for pages where things change: the ends of blocks, the end of a data file at 1 TiB, and many blocks
//! far apart. A failure prints the smallest operations that show it: keep them below as a test.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use ebsfs::error::ErrorKind;
use ebsfs::overlay::{Commit, Config, Directory, Header, Overlay, PAGE_SIZE};
use ebsfs::snapshot::{NewSnapshot, SnapshotId};
use jiff::Timestamp;
use proptest::prelude::*;

use super::simulated::{Loss, Simulated};
use super::{PAGE, base, read};
use crate::common::{gib, kind};
use crate::images::Random;

/// What may be done, here and by the replay of crashes.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Write {
        place: usize,
        pages: usize,
    },
    Part {
        place: usize,
        within: usize,
        len: usize,
    },
    Discard {
        place: usize,
        pages: usize,
    },
    DiscardAll,
    /// Writes and discards in many blocks, whose record is longer than a sector.
    Scatter {
        from: usize,
        step: usize,
    },
    Sync,
    Seal,
    Accept,
    Finish,
    FoldBack,
    Grow,
    /// The process is killed and comes back.
    Kill,
    /// The power fails.
    Crash {
        seed: u64,
    },
}

use Op::{
    Accept, Crash, Discard, DiscardAll, Finish, FoldBack, Grow, Kill, Part, Scatter, Seal, Sync,
    Write,
};

const TIB_PAGES: u64 = 1 << 28;
/// Runs of pages that are looked at.
const RUNS: [Range<u64>; 3] = [0..4, 124..134, TIB_PAGES - 3..TIB_PAGES + 3];
/// Blocks of which the first page is looked at, too.
const FAR: Range<u64> = 100..140;

/// The pages that are looked at.
pub(crate) fn places() -> Vec<u64> {
    let far = FAR.map(|block| block * 128);
    RUNS.into_iter().flatten().chain(far).collect()
}

pub(crate) fn op() -> impl Strategy<Value = Op> {
    let count = places().len();
    let place = 0..20usize;
    prop_oneof![
        8 => (place.clone(), 1..8usize).prop_map(|(place, pages)| Write { place, pages }),
        4 => (place.clone(), 0..PAGE_SIZE, 1..PAGE_SIZE)
            .prop_map(|(place, within, len)| Part { place, within, len }),
        4 => (place, 1..8usize).prop_map(|(place, pages)| Discard { place, pages }),
        1 => Just(DiscardAll),
        2 => (0..count, 1..4usize).prop_map(|(from, step)| Scatter { from, step }),
        7 => Just(Sync),
        2 => Just(Seal),
        2 => Just(Accept),
        2 => Just(Finish),
        1 => Just(FoldBack),
        1 => Just(Grow),
        1 => Just(Kill),
    ]
}

fn op_or_crash() -> impl Strategy<Value = Op> {
    prop_oneof![12 => op(), 1 => any::<u64>().prop_map(|seed| Crash { seed })]
}

/// So small that every history rewrites the journal now and then.
pub(crate) const CONFIG: Config = Config {
    journal_room: 1500,
    journal_len: 2000,
    journal_ratio: 2,
    slice: 2 * PAGE,
};

/// The bytes of [`places`], one page after the other.
pub(crate) type Bytes = Vec<u8>;

/// What a disk may hold if the power fails: kept as the history goes on, to be asked for any of its moments.
#[derive(Default)]
pub(crate) struct Truth {
    /// From when on it is known that the overlay exists.
    pub(crate) created: usize,
    /// The position after a sync, how many of `values` there were before it, and the disk that it acknowledged.
    pub(crate) synced: Vec<(usize, usize, Bytes)>,
    /// The position before a page was to change, its place, and what it was to become.
    pub(crate) values: Vec<(usize, usize, Bytes)>,
    /// The positions before and after a header was published.
    pub(crate) headers: Vec<(usize, usize, Header)>,
    /// What snapshots hold.
    pub(crate) bases: BTreeMap<SnapshotId, Bytes>,
}

/// An overlay and what is known of it.
pub(crate) struct World {
    pub(crate) disk: Simulated,
    wrap: fn(Simulated) -> Arc<dyn Directory>,
    overlay: Option<Overlay>,
    pub(crate) now: Bytes,
    pub(crate) truth: Truth,
    stamp: u32,
}

impl World {
    /// A new overlay on a disk that `wrap` puts something before.
    pub(crate) fn new(wrap: fn(Simulated) -> Arc<dyn Directory>) -> Self {
        let disk = Simulated::new();
        let overlay = Overlay::create_with(wrap(disk.clone()), "s", &base(), gib(1025), CONFIG);
        let mut now = Vec::new();
        for page in places() {
            now.extend([page as u8 | 1; PAGE_SIZE]);
        }
        let mut world = Self {
            disk,
            wrap,
            overlay: Some(overlay.unwrap()),
            truth: Truth {
                bases: BTreeMap::from([(base(), now.clone())]),
                ..Truth::default()
            },
            now,
            stamp: 0,
        };
        world.truth.created = world.disk.position();
        world.truth.synced.push((0, 0, world.now.clone()));
        world.headed(0);
        world
    }

    pub(crate) fn overlay(&self) -> &Overlay {
        self.overlay.as_ref().unwrap()
    }

    /// Notes that `bytes` are durable by now.
    fn synced(&mut self, bytes: Bytes) {
        let (at, values) = (self.disk.position(), self.truth.values.len());
        self.truth.synced.push((at, values, bytes));
    }

    /// Notes the header, which was published after position `before`.
    fn headed(&mut self, before: usize) {
        let header = self.overlay().header();
        let at = self.disk.position();
        self.truth.headers.push((before, at, header));
    }

    /// Bytes that no other write has.
    fn stamp(&mut self, len: usize) -> Bytes {
        self.stamp += 1;
        let stamp = self.stamp.to_le_bytes();
        stamp.into_iter().cycle().take(len).collect()
    }

    /// Notes what a page is to become.
    fn change(&mut self, place: usize, bytes: Bytes) {
        let at = self.disk.position();
        self.now[bytes_of(place)].copy_from_slice(&bytes);
        self.truth.values.push((at, place, bytes));
    }

    pub(crate) fn apply(&mut self, op: &Op) {
        let before = self.disk.position();
        match *op {
            Write { place, pages } => self.write(place, pages),
            Part { place, within, len } => self.part(place, within, len),
            Discard { place, pages } => self.discard(place, pages),
            DiscardAll => {
                for place in 0..places().len() {
                    self.change(place, vec![0; PAGE_SIZE]);
                }
                let size = self.overlay().header().size;
                self.overlay().zero_pages(0..size.bytes()).unwrap();
            }
            Scatter { from, step } => {
                for place in (from..places().len()).step_by(step) {
                    if place % 3 == 0 {
                        self.discard(place, 1);
                    } else {
                        self.write(place, 1);
                    }
                }
            }
            Sync => {
                self.overlay().sync().unwrap();
                self.synced(self.now.clone());
            }
            Seal => self.seal(before),
            Accept => {
                if let Some(commit) = self.overlay().header().commit {
                    let accepted = Commit {
                        snapshot: Some(snapshot_of(&commit)),
                        accepted: true,
                        ..commit
                    };
                    self.overlay().note(accepted).unwrap();
                    self.headed(before);
                }
            }
            Finish => {
                let commit = self.overlay().header().commit;
                if commit.is_some_and(|commit| commit.accepted) {
                    self.overlay().finish().unwrap();
                    self.headed(before);
                } else {
                    assert_eq!(kind(self.overlay().finish()), ErrorKind::Invalid);
                }
            }
            FoldBack => {
                if self.overlay().header().commit.is_some() {
                    self.overlay().fold_back().unwrap();
                    self.synced(self.now.clone());
                    self.headed(before);
                }
            }
            Grow => {
                let size = self.overlay().header().size.gib();
                self.overlay().grow(gib(size + 1)).unwrap();
                self.headed(before);
            }
            Kill => {
                self.overlay = None;
                self.open();
            }
            Crash { seed } => {
                let mut random = Random(seed);
                let loss = [Loss::All, Loss::Nothing, Loss::Some(128)][(seed % 3) as usize];
                let state = self.disk.lose_power(loss, &mut random);
                self.overlay = None;
                self.disk = Simulated::holding(state);
                self.open();
                self.truth.created = 0;
                self.truth.values.clear();
                self.truth.synced = vec![(0, 0, self.now.clone())];
                self.truth.headers = vec![(0, 0, self.overlay().header())];
            }
        }
    }

    /// Comes back after whatever happened, and takes what is there if it may be.
    fn open(&mut self) {
        let position = usize::MAX;
        let directory = (self.wrap)(self.disk.clone());
        let overlay = Overlay::open_with(directory, CONFIG).unwrap().unwrap();
        self.now = self.truth.check(position, &overlay).unwrap();
        self.overlay = Some(overlay);
    }

    fn write(&mut self, place: usize, pages: usize) {
        let run = run_from(place, pages);
        let bytes = self.stamp(run.len() * PAGE_SIZE);
        for (place, page) in run.clone().zip(bytes.chunks(PAGE_SIZE)) {
            self.change(place, page.to_vec());
        }
        let offset = places()[run.start] * PAGE;
        self.overlay().write_pages(offset, &bytes).unwrap();
    }

    fn part(&mut self, place: usize, within: usize, len: usize) {
        let data = self.stamp(len.min(PAGE_SIZE - within));
        let below = self.truth.bases[&self.overlay().header().base][bytes_of(place)].to_vec();
        let mut page = self.now[bytes_of(place)].to_vec();
        page[within..within + data.len()].copy_from_slice(&data);
        self.change(place, page);
        let offset = places()[place] * PAGE + within as u64;
        if !self.overlay().write_part(offset, &data, None).unwrap() {
            let written = self.overlay().write_part(offset, &data, Some(&below));
            assert!(written.unwrap());
        }
    }

    fn discard(&mut self, place: usize, pages: usize) {
        let run = run_from(place, pages);
        for place in run.clone() {
            self.change(place, vec![0; PAGE_SIZE]);
        }
        let start = places()[run.start];
        let end = start + run.len() as u64;
        self.overlay().zero_pages(start * PAGE..end * PAGE).unwrap();
    }

    fn seal(&mut self, before: usize) {
        let token = format!("token-{}", self.truth.bases.len());
        let commit = Commit {
            new: NewSnapshot {
                client_token: token,
                ..NewSnapshot::new(self.overlay().header().size).unwrap()
            },
            snapshot: None,
            accepted: false,
            sealed: Timestamp::UNIX_EPOCH,
        };
        if self.overlay().header().commit.is_some() {
            assert_eq!(kind(self.overlay().seal(commit)), ErrorKind::Conflict);
            return;
        }
        let snapshot = snapshot_of(&commit);
        self.overlay().seal(commit).unwrap();
        self.truth.bases.insert(snapshot, self.now.clone());
        self.synced(self.now.clone());
        self.headed(before);
    }

    /// Compares all that is read with what must be.
    fn compare(&self) {
        let header = self.overlay().header();
        let bytes = read_all(self.overlay(), &self.truth.bases[&header.base]);
        for place in 0..places().len() {
            let page = places()[place];
            assert!(
                bytes[bytes_of(place)] == self.now[bytes_of(place)],
                "page {page}"
            );
        }
    }
}

impl Truth {
    /// What `overlay` holds, which was opened after the power failed at `position`; the reason if it may not.
    pub(crate) fn check(&self, position: usize, overlay: &Overlay) -> Result<Bytes, String> {
        let header = overlay.header();
        let known = |(_, after, _): &&(usize, usize, Header)| *after <= position;
        let last = self.headers.iter().filter(known).count().saturating_sub(1);
        let mut possible = self.headers[last..].iter();
        if !possible.any(|(before, _, other)| *before < position && *other == header) {
            return Err(format!("a header of another time: {header:?}"));
        }
        let Some(base) = self.bases.get(&header.base) else {
            return Err(format!("a base that never was: {header:?}"));
        };
        let bytes = read_all(overlay, base);
        let mut synced = self.synced.iter().filter(|(at, ..)| *at <= position);
        let (_, values, acknowledged) = synced.next_back().ok_or("nothing was synced yet")?;
        for (place, page) in (0..).zip(places()) {
            let found = &bytes[bytes_of(place)];
            let later = self.values[*values..]
                .iter()
                .filter(|(at, other, _)| *at < position && *other == place)
                .any(|(_, _, value)| value == found);
            if !later && acknowledged[bytes_of(place)] != *found {
                return Err(format!(
                    "page {page} is neither as synced nor as later written"
                ));
            }
        }
        Ok(bytes)
    }
}

/// All places, over a base that holds `base` there.
pub(crate) fn read_all(overlay: &Overlay, base: &[u8]) -> Bytes {
    let view = overlay.view();
    let mut all = Vec::new();
    for (place, page) in (0..).zip(places()) {
        let mut bytes = vec![0x55; PAGE_SIZE];
        let mut missing = Vec::new();
        view.read(page * PAGE, &mut bytes, &mut missing).unwrap();
        for range in missing {
            let below = &base[bytes_of(place)];
            bytes[range.clone()].copy_from_slice(&below[range]);
        }
        all.extend(bytes);
    }
    all
}

/// Where the bytes of a place stand among all.
pub(crate) fn bytes_of(place: usize) -> Range<usize> {
    place * PAGE_SIZE..(place + 1) * PAGE_SIZE
}

/// At most `pages` places from `place` on whose pages follow on one another.
fn run_from(place: usize, pages: usize) -> Range<usize> {
    let all = places();
    let follow = |at: &usize| all.get(place + at) == Some(&(all[place] + *at as u64));
    place..place + (0..pages).take_while(follow).count()
}

fn snapshot_of(commit: &Commit) -> SnapshotId {
    let number: u32 = commit.new.client_token[6..].parse().unwrap();
    format!("snap-{number:08x}").parse().unwrap()
}

fn replay(ops: &[Op]) {
    let mut world = World::new(|disk| Arc::new(disk));
    for op in ops {
        world.apply(op);
        world.compare();
    }
    world.apply(&Sync);
    world.apply(&Crash { seed: 0 });
    world.compare();
}

#[test]
fn an_overlay_does_as_an_array_of_bytes() {
    let config = ProptestConfig {
        cases: 300,
        failure_persistence: None,
        max_shrink_iters: 3000,
        ..ProptestConfig::default()
    };
    proptest!(config, |(ops in prop::collection::vec(op_or_crash(), 1..60))| replay(&ops));
}

#[test]
fn reads_of_any_length_at_any_offset_are_put_together() {
    let mut world = World::new(|disk| Arc::new(disk));
    world.apply(&Write { place: 5, pages: 2 });
    world.apply(&Seal);
    world.apply(&Part {
        place: 5,
        within: 7,
        len: 9,
    });
    world.apply(&Discard { place: 7, pages: 1 });
    let view = world.overlay().view();
    let whole = read(&view, 124 * PAGE, 10 * PAGE_SIZE, 0x77);
    for (from, to) in [
        (0, 40960),
        (1, 2),
        (4095, 4097),
        (4100, 20000),
        (12287, 12289),
    ] {
        let part = read(&view, 124 * PAGE + from as u64, to - from, 0x77);
        assert!(part == whole[from..to], "{from} to {to}");
    }
}
