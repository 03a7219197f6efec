//! Which pages of a disk are written or zero: a map as small as the extents are few.
//!
//! | Run of blocks | Is kept as |
//! | --- | --- |
//! | all pages of all blocks written | one entry, whatever its length |
//! | all pages of all blocks zero | one entry, whatever its length |
//! | a block with pages in different states | an entry of its own, with two bits for each page |
//! | no page of any block written or zero | nothing |
//!
//! So a discard of 64 TiB is one entry. The same type holds a layer's states and the changes that a journal has not
//! noted yet. It does no I/O and knows nothing of files.

use std::collections::BTreeMap;
use std::ops::Range;

use super::{Amount, Change, State};
use crate::block::BLOCK_PAGES;

/// The pages of a block, a bit for each, the first page's the lowest. No page is both; one that is neither is base.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Pages {
    pub(super) written: u128,
    pub(super) zero: u128,
}

impl Pages {
    const WRITTEN: Self = Self {
        written: u128::MAX,
        zero: 0,
    };
    const ZERO: Self = Self {
        written: 0,
        zero: u128::MAX,
    };

    /// Whether all pages are in one state that is not base. Only such blocks share an entry.
    pub(super) fn is_uniform(self) -> bool {
        self == Self::WRITTEN || self == Self::ZERO
    }

    /// Whether it says anything, and nothing twice.
    pub(super) fn is_sound(self) -> bool {
        self.written & self.zero == 0 && self.written | self.zero != 0
    }

    /// These, and over them what `over` says.
    fn under(self, over: Self) -> Self {
        Self {
            written: (self.written & !over.zero) | over.written,
            zero: (self.zero & !over.written) | over.zero,
        }
    }

    fn change(self) -> Change {
        match (self.written, self.zero) {
            (0, u128::MAX) => Change::Zero,
            (written, zero) if written | zero == u128::MAX => Change::Whole,
            _ => Change::Part,
        }
    }

    /// The state of page `bit`, and how many pages from it on are in the same.
    fn state(self, bit: u32) -> (State, u32) {
        let base = !(self.written | self.zero);
        [
            (State::Written, self.written),
            (State::Zero, self.zero),
            (State::Base, base),
        ]
        .into_iter()
        .map(|(state, bits)| (state, (bits >> bit).trailing_ones()))
        .find(|(_, pages)| *pages > 0)
        .unwrap_or((State::Base, BLOCK_PAGES - bit))
    }
}

/// What a page can become.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Mark {
    Written,
    Zero,
}

impl Mark {
    fn pages(self, bits: u128) -> Pages {
        match self {
            Self::Written => Pages {
                written: bits,
                zero: 0,
            },
            Self::Zero => Pages {
                written: 0,
                zero: bits,
            },
        }
    }
}

/// The end of a run of blocks, and the pages of each of them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Run {
    end: u32,
    pages: Pages,
}

/// How many entries may be looked at to tell of one change.
const CHANGE_ENTRIES: usize = 64;

/// The map. Blocks are numbered below [`MAX_BLOCKS`](crate::block::MAX_BLOCKS), pages accordingly.
#[derive(Clone, Debug, Default)]
pub(super) struct PageMap {
    /// By first block.
    runs: BTreeMap<u32, Run>,
    /// Of all runs.
    amount: Amount,
}

impl PageMap {
    /// How many entries one [`mark`](Self::mark) adds at most: a head, a middle and a tail, and one existing entry
    /// that falls into two.
    pub(super) const GROWTH: usize = 4;

    /// How many entries it has.
    pub(super) fn len(&self) -> usize {
        self.runs.len()
    }

    /// Whether all pages are base.
    pub(super) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    pub(super) fn amount(&self) -> Amount {
        self.amount
    }

    /// The entries, ascending.
    pub(super) fn entries(&self) -> impl Iterator<Item = (Range<u32>, Pages)> + '_ {
        self.runs
            .iter()
            .map(|(start, run)| (*start..run.end, run.pages))
    }

    /// Makes a range of pages, which is not empty, written or zero.
    pub(super) fn mark(&mut self, pages: Range<u64>, mark: Mark) {
        let (first, from) = place(pages.start);
        let (last, to) = place(pages.end);
        if first == last {
            self.put(first..first + 1, mark.pages(bits(from..to)));
            return;
        }
        let mut middle = first;
        if from > 0 {
            self.put(first..first + 1, mark.pages(bits(from..BLOCK_PAGES)));
            middle += 1;
        }
        if middle < last {
            self.put(middle..last, mark.pages(u128::MAX));
        }
        if to > 0 {
            self.put(last..last + 1, mark.pages(bits(0..to)));
        }
    }

    /// Puts `over` over each of `blocks`, which are one if `over` is not uniform.
    pub(super) fn put(&mut self, blocks: Range<u32>, over: Pages) {
        debug_assert!(over.is_uniform() || blocks.len() == 1);
        let under = if over.is_uniform() {
            Pages::default()
        } else {
            self.run_at(blocks.start)
                .map(|(_, pages)| pages)
                .unwrap_or_default()
        };
        self.carve(blocks.clone());
        let run = Run {
            end: blocks.end,
            pages: under.under(over),
        };
        self.insert(blocks.start, run);
        self.join(blocks.start);
        // Longer maps are looked through by the tests now and then: at every step that would take for ever.
        if cfg!(debug_assertions) && self.runs.len() <= 64 {
            self.check();
        }
    }

    /// The state of `page`, and the end of the run of pages in this state, or an earlier one.
    pub(super) fn state(&self, page: u64) -> (State, u64) {
        let (block, bit) = place(page);
        let Some((blocks, pages)) = self.run_from(block) else {
            return (State::Base, u64::MAX);
        };
        if block < blocks.start {
            return (State::Base, first_page(blocks.start));
        }
        let (state, count) = pages.state(bit);
        if pages.is_uniform() {
            (state, first_page(blocks.end))
        } else {
            (state, page + u64::from(count))
        }
    }

    /// The runs of pages in one state that make up `pages`, ascending.
    pub(super) fn states(&self, pages: Range<u64>) -> impl Iterator<Item = (State, Range<u64>)> {
        let mut at = pages.start;
        std::iter::from_fn(move || {
            if at >= pages.end {
                return None;
            }
            let (state, end) = self.state(at);
            let run = at..end.min(pages.end);
            at = run.end;
            Some((state, run))
        })
    }

    /// Whether all of `pages` are in `state`.
    pub(super) fn all(&self, pages: Range<u64>, state: State) -> bool {
        self.states(pages).all(|(other, _)| other == state)
    }

    /// The next run of blocks from `from` on that changed in one way. It may go on where it ends.
    pub(super) fn changed(&self, from: u32) -> Option<(Range<u32>, Change)> {
        let (blocks, pages) = self.run_from(from)?;
        let change = pages.change();
        let mut end = blocks.end;
        for (start, run) in self.runs.range(end..).take(CHANGE_ENTRIES) {
            if *start != end || run.pages.change() != change {
                break;
            }
            end = run.end;
        }
        Some((blocks.start.max(from)..end, change))
    }

    /// The entry that holds `block`.
    fn run_at(&self, block: u32) -> Option<(Range<u32>, Pages)> {
        self.run_from(block)
            .filter(|(blocks, _)| blocks.start <= block)
    }

    /// The first entry that does not end before or at `block`.
    fn run_from(&self, block: u32) -> Option<(Range<u32>, Pages)> {
        let before = self.runs.range(..=block).next_back();
        let (start, run) = before
            .filter(|(_, run)| run.end > block)
            .or_else(|| self.runs.range(block..).next())?;
        Some((*start..run.end, run.pages))
    }

    /// Makes `blocks` base.
    fn carve(&mut self, blocks: Range<u32>) {
        while let Some((hit, pages)) = self.run_from(blocks.start) {
            if hit.start >= blocks.end {
                break;
            }
            self.remove(hit.start);
            let outside = [
                hit.start..blocks.start.max(hit.start),
                blocks.end.min(hit.end)..hit.end,
            ];
            for rest in outside.into_iter().filter(|rest| !rest.is_empty()) {
                let end = rest.end;
                self.insert(rest.start, Run { end, pages });
            }
        }
    }

    /// Makes one entry of the one at `start` and its neighbours, where they are alike.
    fn join(&mut self, start: u32) {
        let Some(mut run) = self.runs.get(&start).copied() else {
            return;
        };
        if !run.pages.is_uniform() {
            return;
        }
        if let Some(next) = self.runs.get(&run.end).copied()
            && next.pages == run.pages
        {
            self.remove(run.end);
            self.remove(start);
            run.end = next.end;
            self.insert(start, run);
        }
        let before = self.runs.range(..start).next_back();
        if let Some((first, before)) = before.map(|(first, before)| (*first, *before))
            && before.end == start
            && before.pages == run.pages
        {
            self.remove(start);
            self.remove(first);
            self.insert(first, run);
        }
    }

    fn insert(&mut self, start: u32, run: Run) {
        let part = weigh(start, run);
        self.amount.written += part.written;
        self.amount.zero += part.zero;
        self.amount.blocks += part.blocks;
        self.runs.insert(start, run);
    }

    fn remove(&mut self, start: u32) {
        if let Some(run) = self.runs.remove(&start) {
            let part = weigh(start, run);
            self.amount.written -= part.written;
            self.amount.zero -= part.zero;
            self.amount.blocks -= part.blocks;
        }
    }

    /// Panics unless the table at the top of this file holds.
    pub(super) fn check(&self) {
        let mut amount = Amount::default();
        let mut before: Option<(u32, Pages)> = None;
        for (start, run) in &self.runs {
            assert!(*start < run.end, "a run is not empty");
            assert!(run.pages.is_sound(), "a page is in one state");
            assert!(
                run.pages.is_uniform() || run.end - start == 1,
                "a mixed block stands alone"
            );
            if let Some((end, pages)) = before {
                assert!(end <= *start, "runs are disjoint");
                let joined = end == *start && pages == run.pages && pages.is_uniform();
                assert!(!joined, "neighbours that are alike are one");
            }
            before = Some((run.end, run.pages));
            let part = weigh(*start, *run);
            amount.written += part.written;
            amount.zero += part.zero;
            amount.blocks += part.blocks;
        }
        assert_eq!(amount, self.amount, "the totals are those of the runs");
    }
}

/// What a run holds.
fn weigh(start: u32, run: Run) -> Amount {
    let blocks = u64::from(run.end - start);
    Amount {
        written: blocks * u64::from(run.pages.written.count_ones()),
        zero: blocks * u64::from(run.pages.zero.count_ones()),
        blocks,
    }
}

/// The block of a page, and which of its pages it is; past every volume all pages are in one block.
fn place(page: u64) -> (u32, u32) {
    let pages = u64::from(BLOCK_PAGES);
    let block = u32::try_from(page / pages).unwrap_or(u32::MAX);
    let bit = u32::try_from(page % pages).unwrap_or(0);
    (block, bit)
}

fn first_page(block: u32) -> u64 {
    u64::from(block) * u64::from(BLOCK_PAGES)
}

/// A bit for each page of `pages`, which are of one block.
fn bits(pages: Range<u32>) -> u128 {
    let count = pages.end.saturating_sub(pages.start);
    let all = u128::MAX.checked_shr(BLOCK_PAGES - count).unwrap_or(0);
    all.checked_shl(pages.start).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::as_conversions)]

    use proptest::prelude::*;

    use super::*;

    const BLOCKS: u32 = 8;
    const PAGES: u64 = 8 * 128;

    /// Compares with a state for each page.
    fn compare(map: &PageMap, naive: &[State]) {
        map.check();
        for (page, expected) in (0..).zip(naive) {
            let (state, end) = map.state(page);
            assert_eq!(state, *expected, "page {page}");
            let run = naive.iter().skip(page as usize);
            let same = run.take_while(|other| *other == expected).count() as u64;
            assert!(end > page && (end <= page + same || page + same == PAGES));
        }
        let count = |state| naive.iter().filter(|page| **page == state).count() as u64;
        assert_eq!(map.amount().written, count(State::Written));
        assert_eq!(map.amount().zero, count(State::Zero));
        let changes: Vec<_> = naive
            .chunks(128)
            .map(|pages| {
                let count = |state| pages.iter().filter(|page| **page == state).count();
                match (count(State::Base), count(State::Zero)) {
                    (128, _) => None,
                    (0, 128) => Some(Change::Zero),
                    (0, _) => Some(Change::Whole),
                    _ => Some(Change::Part),
                }
            })
            .collect();
        assert_eq!(map.amount().blocks, changes.iter().flatten().count() as u64);
        for from in 0..BLOCKS {
            let mut told = vec![None; BLOCKS as usize];
            let mut at = from;
            while let Some((blocks, change)) = map.changed(at) {
                assert!(blocks.start >= at && !blocks.is_empty());
                told[blocks.start as usize..blocks.end as usize].fill(Some(change));
                at = blocks.end;
            }
            assert_eq!(told[from as usize..], changes[from as usize..]);
        }
    }

    fn range() -> impl Strategy<Value = Range<u64>> {
        let edge = prop_oneof![
            0..PAGES,
            (0..u64::from(BLOCKS)).prop_map(|block| block * 128)
        ];
        (edge.clone(), edge).prop_map(|(a, b)| a.min(b)..a.max(b).max(a.min(b) + 1))
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::default()
        })]
        #[test]
        fn a_map_does_as_an_array(ops in prop::collection::vec((range(), any::<bool>()), 1..30)) {
            let mut map = PageMap::default();
            let mut replayed = PageMap::default();
            let mut naive = vec![State::Base; PAGES as usize];
            for (pages, zero) in ops {
                let (mark, state) = if zero {
                    (Mark::Zero, State::Zero)
                } else {
                    (Mark::Written, State::Written)
                };
                let mut changes = PageMap::default();
                let before = map.len();
                map.mark(pages.clone(), mark);
                assert!(map.len() <= before + PageMap::GROWTH);
                naive[pages.start as usize..pages.end as usize].fill(state);
                compare(&map, &naive);
                changes.mark(pages, mark);
                for (blocks, pages) in changes.entries() {
                    replayed.put(blocks, pages);
                }
                compare(&replayed, &naive);
            }
        }
    }

    #[test]
    fn a_discard_of_the_largest_volume_is_one_entry() {
        let mut map = PageMap::default();
        map.mark(0..1 << 34, Mark::Zero);
        assert_eq!(map.len(), 1);
        assert_eq!(map.amount().zero, 1 << 34);
        map.mark(1 << 33..(1 << 33) + 1, Mark::Written);
        assert_eq!(map.len(), 3);
        assert_eq!(map.state(1 << 33), (State::Written, (1 << 33) + 1));
        map.mark(0..1 << 34, Mark::Zero);
        assert_eq!(map.len(), 1);
    }
}
