//! One stream of reads: a run of blocks that grows at one end, or runs at equal distances.

use std::collections::VecDeque;

use super::map::{Map, Unlisted};

/// Blocks in a row, or strides of one length after the first, until a stream is believed.
const EVIDENCE: u32 = 3;

/// Within so many reads of others a block must follow the one before: random reads of a small disk meet in rows, too, but
/// not so soon.
const SOON: u64 = 40;

/// How far ahead of its reader a stream looks for blocks that are present.
const REACH: u32 = 16_384;

/// A block that belongs to a run but is so far from its growing end was passed by.
const PASSED: u32 = 16;

/// Runs of `len` blocks, `by` blocks from start to start.
#[derive(Clone, Copy)]
pub(super) struct Stride {
    pub(super) by: i64,
    pub(super) len: u32,
    pub(super) times: u32,
}

/// A run of blocks that were read, and how it goes on.
pub(super) struct Stream {
    /// The run: from here,
    pub(super) start: u32,
    /// to before here.
    pub(super) end: u32,
    /// Which end grows.
    pub(super) up: bool,
    /// Number of the read that began the run.
    pub(super) born: u64,
    /// Number of its latest read.
    pub(super) last: u64,
    pub(super) stride: Option<Stride>,
    /// Blocks by which it grew lately, each soon after the one before.
    steps: u32,
    /// Of those that were to be fetched, blocks read.
    pub(super) used: u32,
    /// Blocks fetched on trust.
    pub(super) drawn: u32,
    /// Blocks to be fetched and not read yet, in the order in which they will be.
    pub(super) unread: VecDeque<u32>,
    /// The latest block looked at for what to fetch.
    front: Option<u32>,
}

impl Stream {
    /// One read, which may follow others by a stride.
    pub(super) fn new(index: u32, stride: Option<Stride>, read: u64) -> Self {
        Self {
            start: index,
            end: index + 1,
            up: true,
            born: read,
            last: read,
            stride,
            steps: 0,
            used: 0,
            drawn: 0,
            unread: VecDeque::new(),
            front: None,
        }
    }

    pub(super) fn len(&self) -> u32 {
        self.end - self.start
    }

    /// Whether it ends just below `index`, absent blocks aside.
    pub(super) fn reaches(&self, index: u32, map: &Map<'_>) -> bool {
        let gap = index.checked_sub(self.end);
        match gap {
            None => false,
            Some(0) => true,
            Some(gap) => {
                gap <= REACH
                    && self.len() >= EVIDENCE
                    && matches!(map.first_from(self.end, index), Ok(None))
            }
        }
    }

    /// Its upper end grows by what was read.
    pub(super) fn grow_to(&mut self, index: u32, read: u64) {
        self.end = index + 1;
        self.up = true;
        self.grown(read);
    }

    /// Its lower end does.
    pub(super) fn grow_down_to(&mut self, index: u32, read: u64) {
        self.start = index;
        self.up = false;
        self.grown(read);
    }

    fn grown(&mut self, read: u64) {
        let soon = read <= self.last + SOON;
        self.steps = if soon { self.steps + 1 } else { 0 };
        self.last = read;
    }

    /// Where its next run begins, if it has a stride.
    pub(super) fn next_start(&self) -> Option<i64> {
        self.stride.map(|stride| i64::from(self.start) + stride.by)
    }

    /// The run at `index` that follows this one by its stride, and goes on with what this one had. This one stays as a
    /// run of its own: it may yet grow.
    pub(super) fn step(&mut self, index: u32, read: u64) -> Self {
        let len = self.len();
        let stride = self.stride.take().map(|stride| Stride {
            // An earlier one may have been cut short.
            len,
            times: stride.times + 1,
            ..stride
        });
        Self {
            used: std::mem::take(&mut self.used),
            drawn: std::mem::take(&mut self.drawn),
            unread: std::mem::take(&mut self.unread),
            front: self.front.take(),
            ..Self::new(index, stride, read)
        }
    }

    /// Takes in a run beside it.
    pub(super) fn join(&mut self, other: Self) {
        // Towards the later one it grows.
        self.up = if self.born < other.born {
            self.start < other.start
        } else {
            other.start < self.start
        };
        let front = if self.last > other.last {
            self.front
        } else {
            other.front
        };
        self.front = front.or(self.front).or(other.front);
        self.start = self.start.min(other.start);
        self.end = self.end.max(other.end);
        self.born = self.born.min(other.born);
        self.last = self.last.max(other.last);
        self.stride = None;
        self.steps += other.steps;
        self.used += other.used;
        self.drawn += other.drawn;
        self.unread.extend(other.unread);
    }

    /// Its stride, as long as the run is not longer than those before it.
    fn stride(&self) -> Option<Stride> {
        self.stride.filter(|stride| self.len() <= stride.len)
    }

    pub(super) fn is_believed(&self) -> bool {
        match self.stride() {
            Some(stride) => stride.times >= EVIDENCE,
            None => self.len() >= EVIDENCE && (self.steps + 1 >= EVIDENCE || self.used > 0),
        }
    }

    /// Takes a block from those that were not read.
    pub(super) fn take(&mut self, index: u32) -> bool {
        let at = self.unread.iter().position(|unread| *unread == index);
        at.and_then(|at| self.unread.remove(at)).is_some()
    }

    /// Takes the blocks that its reader passed by, or turned away from.
    pub(super) fn passed(&mut self) -> Vec<u32> {
        let ahead = match self.stride() {
            Some(stride) if stride.by < 0 => 0..self.start.saturating_add(stride.len),
            Some(_) => self.start..u32::MAX,
            None if self.up => self.end.saturating_sub(PASSED).max(self.start)..u32::MAX,
            None => 0..self.start.saturating_add(PASSED).min(self.end),
        };
        let (unread, passed) = self
            .unread
            .drain(..)
            .partition(|index| ahead.contains(index));
        self.unread = unread;
        Vec::from(passed)
    }

    /// The next block that it will read and that is present; none if it ends, or is not looked at any further.
    pub(super) fn next(&mut self, map: &Map<'_>) -> Result<Option<u32>, Unlisted> {
        match self.stride() {
            Some(stride) => self.next_of_stride(stride, map),
            None => self.next_of_run(map),
        }
    }

    fn next_of_run(&mut self, map: &Map<'_>) -> Result<Option<u32>, Unlisted> {
        let found = if self.up {
            let front = self.front.filter(|front| *front >= self.end);
            let from = front.map_or(self.end, |front| front + 1);
            map.first_from(from, self.end.saturating_add(REACH))?
        } else {
            let front = self.front.filter(|front| *front < self.start);
            let Some(from) = front.unwrap_or(self.start).checked_sub(1) else {
                return Ok(None);
            };
            map.last_to(from, self.start.saturating_sub(REACH))?
        };
        self.front = found.or(self.front);
        Ok(found)
    }

    fn next_of_stride(&mut self, stride: Stride, map: &Map<'_>) -> Result<Option<u32>, Unlisted> {
        let (len, start) = (i64::from(stride.len), i64::from(self.start));
        // How many strides after the present run the front is, and where in its run.
        let ahead = self.front.map_or(0, |front| i64::from(front) - start);
        let mut within = ahead.rem_euclid(stride.by.abs());
        let mut times = (ahead - within) / stride.by;
        if times < 0 || within >= len {
            (times, within) = (0, 0);
        }
        if times == 0 {
            within = within.max(i64::from(self.len()) - 1);
        }
        loop {
            within += 1;
            if within >= len {
                (times, within) = (times + 1, 0);
            }
            let at = start + times * stride.by + within;
            let Some(index) = u32::try_from(at)
                .ok()
                .filter(|index| index.abs_diff(self.start) <= REACH)
            else {
                return Ok(None);
            };
            let found = map.first_from(index, index + 1)?;
            self.front = Some(index);
            if found.is_some() {
                return Ok(found);
            }
        }
    }
}
