//! The power fails at every moment of many histories: whatever the disk then holds, the overlay opens, has what was
//! acknowledged, and goes on.
//!
//! That this finds anything is shown by disks that break one promise each.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use ebsfs::block::Digest;
use ebsfs::error::Result;
use ebsfs::overlay::{Directory, File, Overlay, PAGE_SIZE};
use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::PAGE;
use super::model::{CONFIG, Op, World, bytes_of, op, places};
use super::simulated::{Loss, Simulated, State};
use crate::images::Random;

/// What a replay found.
#[derive(Default)]
struct Found {
    /// Distinct states of the disk that were opened.
    states: usize,
    violations: Vec<String>,
}

const LOSSES: [Loss; 7] = [
    Loss::Nothing,
    Loss::All,
    Loss::Some(16),
    Loss::Some(64),
    Loss::Some(128),
    Loss::Some(192),
    Loss::Some(240),
];

/// Histories of a seed: the same at every run.
fn histories(count: u8) -> Vec<Vec<Op>> {
    let history = |seed: u8| {
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]);
        let mut runner = TestRunner::new_with_rng(Config::default(), rng);
        let ops = proptest::collection::vec(op(), 40);
        ops.new_tree(&mut runner).unwrap().current()
    };
    (0..count).map(history).collect()
}

/// Lets the power fail at every moment of `histories` on a disk with `wrap` before it; `harm` is done to what is then
/// on the disk.
fn replay(
    histories: &[Vec<Op>],
    wrap: fn(Simulated) -> Arc<dyn Directory>,
    harm: fn(&mut State),
) -> Found {
    let mut found = Found::default();
    for (number, ops) in (0..).zip(histories) {
        let mut world = World::new(wrap);
        for op in ops {
            world.apply(op);
        }
        let mut random = Random(number);
        let mut seen = HashSet::new();
        world.disk.moments(|position, moment| {
            for loss in LOSSES {
                let mut state = moment.lose_power(loss, &mut random);
                harm(&mut state);
                if !seen.insert(state.digest()) {
                    continue;
                }
                found.states += 1;
                if let Err(why) = check(&world, position, state) {
                    let what = format!("history {number}, {loss:?} after {position} steps: {why}");
                    found.violations.push(what);
                }
            }
        });
    }
    found
}

/// Opens what was left, looks at it, works with it, and lets the power fail once more.
fn check(world: &World, position: usize, state: State) -> Result<(), String> {
    let disk = Simulated::holding(state);
    let open = |disk: &Simulated| Overlay::open_with(Arc::new(disk.clone()), CONFIG);
    let Some(overlay) = open(&disk).map_err(|e| format!("{e:#}"))? else {
        let may_be = position < world.truth.created;
        return may_be.then_some(()).ok_or_else(|| "it is gone".into());
    };
    let mut expected = world.truth.check(position, &overlay)?;
    let went_on = || -> Result<()> {
        let place = position % (places().len() - 1);
        let (first, second) = (places()[place], places()[place + 1]);
        overlay.write_pages(first * PAGE, &[0xEE; PAGE_SIZE])?;
        overlay.zero_pages(second * PAGE..(second + 1) * PAGE)?;
        expected[bytes_of(place)].fill(0xEE);
        expected[bytes_of(place + 1)].fill(0);
        match overlay.header().commit {
            Some(commit) if commit.accepted => overlay.finish()?,
            Some(_) if position.is_multiple_of(2) => overlay.fold_back()?,
            _ => {}
        }
        overlay.sync()
    };
    let header = { went_on }().map(|()| overlay.header());
    let header = header.map_err(|e| format!("cannot go on: {e:#}"))?;
    let state = disk.lose_power(Loss::All, &mut Random(0));
    let again = open(&Simulated::holding(state)).map_err(|e| format!("again: {e:#}"))?;
    let again = again.ok_or("it is gone the second time")?;
    if again.header() != header {
        return Err("another header the second time".into());
    }
    let bytes = super::model::read_all(&again, &world.truth.bases[&header.base]);
    let differs = |place: &usize| bytes[bytes_of(*place)] != expected[bytes_of(*place)];
    match (0..places().len()).find(differs) {
        Some(place) => Err(format!("page {} is lost the second time", places()[place])),
        None => Ok(()),
    }
}

fn honest(disk: Simulated) -> Arc<dyn Directory> {
    Arc::new(disk)
}

fn unharmed(_: &mut State) {}

#[test]
fn nothing_acknowledged_is_lost_wherever_the_power_fails() {
    let found = replay(&histories(40), honest, unharmed);
    assert!(
        found.violations.is_empty(),
        "{} of {} states:\n{}",
        found.violations.len(),
        found.states,
        found.violations.join("\n")
    );
    assert!(found.states >= 2000, "only {} states", found.states);
}

#[track_caller]
fn assert_found(wrap: fn(Simulated) -> Arc<dyn Directory>, harm: fn(&mut State)) {
    let found = replay(&histories(8), wrap, harm);
    assert!(
        !found.violations.is_empty(),
        "{} states, and the fault was not found",
        found.states
    );
}

/// What a disk does not do that it says it does.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Lie {
    DataSync,
    DirectorySync,
    /// Data is made durable only after the journal.
    Order,
}

struct Liar {
    disk: Simulated,
    lie: Lie,
    /// Files whose sync was put off. Guards pushes and pops.
    late: Arc<Mutex<Vec<Arc<dyn File>>>>,
}

struct LiarFile {
    file: Arc<dyn File>,
    is_data: bool,
    lie: Lie,
    late: Arc<Mutex<Vec<Arc<dyn File>>>>,
}

fn liar(disk: Simulated, lie: Lie) -> Arc<dyn Directory> {
    let late = Arc::default();
    Arc::new(Liar { disk, lie, late })
}

impl Directory for Liar {
    fn open(&self, name: &str, create: bool) -> Result<Option<Arc<dyn File>>> {
        let opened = self.disk.open(name, create)?;
        Ok(opened.map(|file| -> Arc<dyn File> {
            Arc::new(LiarFile {
                file,
                is_data: name.contains(".data-"),
                lie: self.lie,
                late: Arc::clone(&self.late),
            })
        }))
    }

    fn names(&self) -> Result<Vec<String>> {
        self.disk.names()
    }

    fn publish(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.disk.publish(name, bytes)
    }

    fn remove(&self, name: &str) -> Result<()> {
        self.disk.remove(name)
    }

    fn sync(&self) -> Result<()> {
        match self.lie {
            Lie::DirectorySync => Ok(()),
            Lie::DataSync | Lie::Order => self.disk.sync(),
        }
    }

    fn display(&self, name: &str) -> String {
        self.disk.display(name)
    }
}

impl File for LiarFile {
    fn length(&self) -> Result<u64> {
        self.file.length()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.file.read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.file.write_at(offset, data)
    }

    fn reserve(&self, range: Range<u64>) -> Result<()> {
        self.file.reserve(range)
    }

    fn punch(&self, range: Range<u64>) -> Result<()> {
        self.file.punch(range)
    }

    fn truncate(&self, length: u64) -> Result<()> {
        self.file.truncate(length)
    }

    fn sync(&self) -> Result<()> {
        match self.lie {
            Lie::DataSync if self.is_data => Ok(()),
            Lie::Order if self.is_data => {
                self.late.lock().unwrap().push(Arc::clone(&self.file));
                Ok(())
            }
            Lie::Order => {
                self.file.sync()?;
                let late = std::mem::take(&mut *self.late.lock().unwrap());
                late.iter().try_for_each(|file| file.sync())
            }
            Lie::DataSync | Lie::DirectorySync => self.file.sync(),
        }
    }
}

#[test]
fn a_disk_that_does_not_sync_data_is_found_out() {
    assert_found(|disk| liar(disk, Lie::DataSync), unharmed);
}

#[test]
fn a_disk_that_does_not_sync_its_directory_is_found_out() {
    assert_found(|disk| liar(disk, Lie::DirectorySync), unharmed);
}

#[test]
fn a_disk_that_syncs_the_journal_before_the_data_is_found_out() {
    assert_found(|disk| liar(disk, Lie::Order), unharmed);
}

#[test]
fn a_journal_without_checksums_is_found_out() {
    assert_found(honest, |state| state.edit(".journal", repair_checksums));
}

/// Gives every record the checksum of what is there, torn or not: as if there were none.
fn repair_checksums(journal: &mut [u8]) {
    const HEADER: usize = 56;
    let mut at = HEADER;
    while let Some(start) = journal.get(at..at + 12) {
        let count = u32::from_le_bytes(start[..4].try_into().unwrap()) as usize;
        let end = at + 12 + count * 40;
        if count == 0 || end + 8 > journal.len() {
            return;
        }
        let offset = (at as u64).to_le_bytes();
        let bound = [&journal[..HEADER], &offset, &journal[at..end]].concat();
        let sum = Digest::of(&bound);
        journal[end..end + 8].copy_from_slice(&sum.as_bytes()[..8]);
        at = end + 8;
    }
}
