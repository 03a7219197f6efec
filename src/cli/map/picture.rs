//! A disk as a grid of cells, each of so many blocks: what is counted, and what a cell looks like for it.
//!
//! It takes the same memory for every disk, whatever is marked and however often.

use std::ops::Range;

use crate::block::{BlockIndex, bytes_of};
use crate::partition::Partition;

/// What there is to be said of a block.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Mark {
    /// The snapshot has it.
    Present,
    /// It is on this machine's disk.
    Cached,
    /// It differs.
    Changed,
}

/// How many blocks were marked.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Counts {
    /// All of them.
    pub(super) blocks: u32,
    pub(super) present: u32,
    pub(super) cached: u32,
    pub(super) changed: u32,
}

/// What a cell looks like: the most telling of what is in it.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) enum Look {
    /// Nothing is there.
    Absent,
    /// Up to a half is present.
    Sparse,
    /// More is.
    Dense,
    /// Of what is present, up to a half is cached.
    PartlyCached,
    /// More is.
    Cached,
    /// Anything has changed.
    Changed,
}

impl Counts {
    fn add(&mut self, mark: Mark, blocks: u32) {
        match mark {
            Mark::Present => self.present += blocks,
            Mark::Cached => self.cached += blocks,
            Mark::Changed => self.changed += blocks,
        }
    }

    pub(super) fn look(&self) -> Look {
        let most = |part: u32, whole: u32| u64::from(part) * 2 > u64::from(whole);
        match self {
            Self { changed: 1.., .. } => Look::Changed,
            Self { cached: 1.., .. } if most(self.cached, self.present) => Look::Cached,
            Self { cached: 1.., .. } => Look::PartlyCached,
            Self { present: 1.., .. } if most(self.present, self.blocks) => Look::Dense,
            Self { present: 1.., .. } => Look::Sparse,
            _ => Look::Absent,
        }
    }
}

/// A partition, and what was marked in the blocks that it touches.
pub(super) struct Part {
    pub(super) partition: Partition,
    pub(super) counts: Counts,
    blocks: Range<u32>,
}

/// The whole disk.
pub(super) struct Picture {
    /// Cells in a row.
    pub(super) columns: usize,
    /// Blocks of a cell: a power of two.
    pub(super) per_cell: u32,
    pub(super) cells: Vec<Counts>,
    pub(super) total: Counts,
    /// By where they begin.
    pub(super) parts: Vec<Part>,
}

impl Picture {
    /// A disk of `count` blocks in rows of `columns` cells, and at most `rows` rows.
    pub(super) fn new(count: u32, columns: usize, rows: usize, partitions: Vec<Partition>) -> Self {
        let columns = columns.max(1);
        let most = u32::try_from(columns.saturating_mul(rows.max(1))).unwrap_or(u32::MAX);
        let per_cell = count.div_ceil(most).max(1).next_power_of_two();
        let blocks_of = |first: u32| Counts {
            blocks: per_cell.min(count - first),
            ..Counts::default()
        };
        let step = usize::try_from(per_cell).unwrap_or(usize::MAX);
        let cells = (0..count).step_by(step).map(blocks_of).collect();
        let part = |partition: Partition| {
            let first = BlockIndex::containing(partition.range.start).get();
            let last = BlockIndex::containing(partition.range.end.saturating_sub(1)).get();
            let blocks = first..last.saturating_add(1).min(count);
            let counts = Counts {
                blocks: blocks.end.saturating_sub(blocks.start),
                ..Counts::default()
            };
            Part {
                partition,
                counts,
                blocks,
            }
        };
        let mut parts: Vec<_> = partitions.into_iter().map(part).collect();
        parts.sort_by_key(|part| part.partition.range.start);
        Self {
            columns,
            per_cell,
            cells,
            total: Counts {
                blocks: count,
                ..Counts::default()
            },
            parts,
        }
    }

    /// Marks blocks, each at most once with the same mark. What is past the end is left out.
    pub(super) fn mark(&mut self, mark: Mark, run: Range<u32>) {
        let run = run.start..run.end.min(self.total.blocks);
        if run.is_empty() {
            return;
        }
        self.total.add(mark, run.end - run.start);
        for part in &mut self.parts {
            let (start, end) = (
                run.start.max(part.blocks.start),
                run.end.min(part.blocks.end),
            );
            part.counts.add(mark, end.saturating_sub(start));
        }
        let mut at = run.start;
        while at < run.end {
            let number = at / self.per_cell;
            let end = run.end.min((number + 1).saturating_mul(self.per_cell));
            let cell = usize::try_from(number).ok();
            if let Some(cell) = cell.and_then(|number| self.cells.get_mut(number)) {
                cell.add(mark, end - at);
            }
            at = end;
        }
    }

    /// Bytes of a cell.
    pub(super) fn cell_bytes(&self) -> u64 {
        bytes_of(self.per_cell.into())
    }

    /// Where each row begins, and its cells.
    pub(super) fn rows(&self) -> impl Iterator<Item = (u64, &[Counts])> {
        let bytes = self.cell_bytes();
        let rows = self.cells.chunks(self.columns);
        let starts = std::iter::successors(Some(0_u64), move |start| {
            let row = u64::try_from(self.columns).ok()?.checked_mul(bytes)?;
            start.checked_add(row)
        });
        starts.zip(rows)
    }

    /// The partitions that lie in these bytes, in order.
    pub(super) fn parts_in(&self, bytes: Range<u64>) -> impl Iterator<Item = &Part> {
        self.parts.iter().filter(move |part| {
            let range = &part.partition.range;
            range.start < bytes.end && bytes.start < range.end
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition(number: u32, range: Range<u64>) -> Partition {
        Partition {
            number,
            range,
            kind: String::new(),
            name: String::new(),
        }
    }

    #[test]
    fn every_block_of_every_size_lies_in_one_cell() {
        for (count, columns, rows) in [
            (2048, 64, 16),
            (2048 * 3, 64, 16),
            (1 << 27, 32, 8),
            (7, 64, 16),
        ] {
            let mut picture = Picture::new(count, columns, rows, vec![]);
            assert!(picture.cells.len() <= columns * rows);
            let blocks: u32 = picture.cells.iter().map(|cell| cell.blocks).sum();
            assert_eq!(blocks, count);
            picture.mark(Mark::Present, 0..count);
            picture.mark(Mark::Changed, count - 1..count + 100);
            assert!(picture.cells.iter().all(|cell| cell.present == cell.blocks));
            assert_eq!((picture.total.present, picture.total.changed), (count, 1));
            let changed: u32 = picture.cells.iter().map(|cell| cell.changed).sum();
            assert_eq!(changed, 1);
        }
    }

    #[test]
    fn a_cell_looks_like_the_most_telling_of_its_blocks() {
        let look = |present, cached, changed| {
            let counts = Counts {
                blocks: 8,
                present,
                cached,
                changed,
            };
            counts.look()
        };
        assert_eq!(look(0, 0, 0), Look::Absent);
        assert_eq!(look(4, 0, 0), Look::Sparse);
        assert_eq!(look(5, 0, 0), Look::Dense);
        assert_eq!(look(8, 4, 0), Look::PartlyCached);
        assert_eq!(look(2, 2, 0), Look::Cached);
        assert_eq!(look(8, 8, 1), Look::Changed);
        // What is gone has changed, too.
        assert_eq!(look(0, 0, 1), Look::Changed);
    }

    #[test]
    fn partitions_count_the_blocks_that_they_touch() {
        let mib = 1 << 20;
        let parts = vec![partition(2, 3 * mib..9 * mib), partition(1, mib..3 * mib)];
        let mut picture = Picture::new(2048, 64, 16, parts);
        picture.mark(Mark::Present, 0..7);
        let told: Vec<_> = picture
            .parts
            .iter()
            .map(|part| {
                (
                    part.partition.number,
                    part.counts.blocks,
                    part.counts.present,
                )
            })
            .collect();
        assert_eq!(told, [(1, 4, 4), (2, 12, 1)]);
        let numbers = |bytes| {
            let parts = picture.parts_in(bytes);
            parts.map(|part| part.partition.number).collect::<Vec<_>>()
        };
        assert_eq!(numbers(0..mib), [0; 0]);
        assert_eq!(numbers(0..4 * mib), [1, 2]);
        assert_eq!(numbers(3 * mib..4 * mib), [2]);
    }
}
