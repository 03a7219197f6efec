//! What to fetch next: a policy that recognises streams of reads, and the source that obeys it.
//!
//! [`Policy`] is pure: it is told which blocks are read and what became of fetches, and says what to fetch and what
//! to give up. It does no I/O and has no clock. [`ReadAhead`] is a source over a cache that asks it.
//!
//! A *stream* is a run of blocks that grows at one end, upwards or downwards and not quite in order, or runs of equal
//! length at equal distances. Many are followed at one time. One is believed when it has gone on for a while, and is then
//! given a window: blocks fetched and not read yet. The window is bounded
//! - by what the stream has shown: at first a few blocks from an allowance that random reads cannot refill, and then
//!   about twice the blocks that it used of those, six times once it has gone on for long, less if much of what was read ahead
//!   went to waste;
//! - by what the line to the store carries while a fetch is on its way, as measured ([`line`]);
//! - by [`MOST`] and half of the cache, over all streams.
//!
//! Absent blocks take no part: they are passed over as far as they are listed, and what is not listed yet is asked for.

use std::sync::Arc;

use self::line::Line;
use self::map::{Map, Unlisted};
use self::stream::{Stream, Stride};
use crate::block::BlockIndex;
use crate::cache::Outcome;
use crate::store::Listing;

mod line;
mod map;
mod read_ahead;
mod stream;

pub use self::read_ahead::ReadAhead;

/// Blocks fetched and not read yet, at most: as many as are ever under way at one time.
pub const MOST: usize = 256;

/// Streams that are followed; the one that rested longest makes room.
const STREAMS: usize = 64;

/// After so many reads of others a stream is over.
const STALE: u64 = 512;

/// Blocks fetched on trust for a stream, before any of those is read.
const TRUST: usize = 2;

/// What is there for trust at first, and what it may become.
const ALLOWANCE: (u32, u32) = (6 * READS_PER_TRUST, 16 * READS_PER_TRUST);

/// Blocks that must be read for one more on trust. So random reads fetch at most a sixteenth more than they touch.
const READS_PER_TRUST: u32 = 16;

/// The farthest stride that is looked for.
const MAX_STRIDE: u32 = 4096;

/// The longest run of a stride.
const MAX_STRIDE_RUN: u32 = 64;

/// A stream that used so many blocks goes on: most end sooner.
const LONG: u32 = 8;

/// Blocks read ahead after which older ones count half.
const MEMORY: u32 = 256;

/// What is to be done now.
#[derive(Debug, Default, Eq, PartialEq)]
pub struct Plan {
    /// Blocks to fetch, the first one first.
    pub fetch: Vec<BlockIndex>,
    /// Blocks that were to be fetched and will not be read.
    pub give_up: Vec<BlockIndex>,
    /// A block whose listing is needed to go on.
    pub list: Option<BlockIndex>,
}

/// Follows the reads of one disk.
pub struct Policy {
    /// Blocks of the disk.
    count: u32,
    most: usize,
    streams: Vec<Stream>,
    line: Line,
    /// Reads so far.
    reads: u64,
    /// What may still be fetched on trust, in blocks read.
    allowance: u32,
    /// Blocks read ahead that were used, lately, and that were not.
    used: u32,
    wasted: u32,
}

impl Policy {
    /// For a disk of `count` blocks, and a cache that has room for `room` blocks nobody asked for.
    pub fn new(count: u32, room: usize) -> Self {
        Self {
            count,
            most: room.min(MOST),
            streams: vec![],
            line: Line::default(),
            reads: 0,
            allowance: ALLOWANCE.0,
            // A good opinion to begin with.
            used: MEMORY / 4,
            wasted: 0,
        }
    }

    /// What became of a fetch.
    pub fn outcome(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Fetched { begun, landed, .. } => self.line.fetched(begun, landed),
            Outcome::Failed(index) => {
                self.line.failed();
                self.forget(index);
            }
            Outcome::Wasted(index) => {
                self.forget(index);
                self.wasted += 1;
                self.fade();
            }
        }
    }

    /// Somebody reads a block, and has to wait for it or not: what to do about it. `listed` tells what is at hand of
    /// the disk's listings.
    pub fn read(
        &mut self,
        index: BlockIndex,
        waits: bool,
        listed: &dyn Fn(BlockIndex) -> Option<Arc<Listing>>,
    ) -> Plan {
        let map = Map::new(self.count, listed);
        let mut plan = Plan::default();
        let index = index.get();
        self.reads += 1;
        if waits {
            self.allowance = ALLOWANCE.1.min(self.allowance + 1);
        }
        let at = self.follow(index, &map, &mut plan);
        self.take(at, index);
        let passed = self.streams[at].passed();
        plan.give_up.extend(passed.into_iter().map(BlockIndex::new));
        self.extend(at, &map, &mut plan);
        self.give_up_stale(&mut plan);
        plan
    }

    /// Blocks fetched, or to be, and not read yet.
    pub fn outstanding(&self) -> usize {
        self.streams.iter().map(|stream| stream.unread.len()).sum()
    }

    /// Which stream a read belongs to.
    fn follow(&mut self, index: u32, map: &Map<'_>, plan: &mut Plan) -> usize {
        let read = self.reads;
        let within = |stream: &Stream| (stream.start..stream.end).contains(&index);
        if let Some(at) = self.streams.iter().position(within) {
            self.streams[at].last = read;
            return at;
        }
        let below = self
            .streams
            .iter()
            .position(|stream| stream.reaches(index, map));
        let above = self
            .streams
            .iter()
            .position(|stream| stream.start == index + 1);
        match (below, above) {
            (Some(below), None) => {
                self.streams[below].grow_to(index, read);
                below
            }
            (None, Some(above)) => {
                self.streams[above].grow_down_to(index, read);
                above
            }
            (Some(below), Some(above)) => {
                self.streams[below].grow_to(index, read);
                let other = self.streams.swap_remove(above);
                // What was last has moved.
                let below = if below == self.streams.len() {
                    above
                } else {
                    below
                };
                self.streams[below].join(other);
                below
            }
            (None, None) => self.begin(index, plan),
        }
    }

    /// A read that touches no run: the next run of a stride, or the first of something new.
    fn begin(&mut self, index: u32, plan: &mut Plan) -> usize {
        // Where streams go on side by side there are strides from one to the other, too: the shortest is the true one.
        let next = |stream: &&mut Stream| stream.next_start() == Some(index.into());
        let before = self.streams.iter_mut().filter(next);
        let stream = match before.min_by_key(|stream| stream.start.abs_diff(index)) {
            Some(before) => before.step(index, self.reads),
            None => Stream::new(index, self.progression(index), self.reads),
        };
        if self.streams.len() == STREAMS {
            let oldest = (0..STREAMS).min_by_key(|at| self.streams[*at].last);
            if let Some(at) = oldest {
                self.end(at, plan);
            }
        }
        self.streams.push(stream);
        self.streams.len() - 1
    }

    /// The stride by which `index` follows a run that follows another.
    fn progression(&self, index: u32) -> Option<Stride> {
        let follows = |last: &Stream| {
            let by = i64::from(index) - i64::from(last.start);
            let first = i64::from(last.start) - by;
            let is_first = |other: &Stream| {
                i64::from(other.start) == first
                    && other.len() == last.len()
                    && other.born < last.born
            };
            let (len, times) = (last.len(), 2);
            let found = self.streams.iter().any(is_first);
            found.then_some(Stride { by, len, times })
        };
        let near = |stream: &&Stream| {
            stream.start.abs_diff(index) <= MAX_STRIDE && stream.len() <= MAX_STRIDE_RUN
        };
        let found = self.streams.iter().filter(near).filter_map(follows);
        found.min_by_key(|stride| stride.by.abs())
    }

    /// The block is read: nobody waits for it to be.
    fn take(&mut self, at: usize, index: u32) {
        let holds = |stream: &mut Stream| stream.take(index);
        let at = if self.streams[at].take(index) {
            at
        } else if let Some(at) = self.streams.iter_mut().position(holds) {
            at
        } else {
            return;
        };
        let stream = &mut self.streams[at];
        stream.used += 1;
        // It has earned the trust.
        self.allowance = ALLOWANCE
            .1
            .min(self.allowance + stream.drawn * READS_PER_TRUST);
        stream.drawn = 0;
        self.used += 1;
        self.fade();
    }

    /// Fetches what a stream will read, as far as its window goes.
    fn extend(&mut self, at: usize, map: &Map<'_>, plan: &mut Plan) {
        if !self.streams[at].is_believed() {
            return;
        }
        let window = self.window(&self.streams[at]);
        let mut room = self.most.saturating_sub(self.outstanding());
        while room > 0 && self.streams[at].unread.len() < window {
            let stream = &mut self.streams[at];
            let on_trust = stream.used == 0;
            if on_trust && self.allowance < READS_PER_TRUST {
                return;
            }
            match stream.next(map) {
                Ok(Some(index)) => {
                    if on_trust {
                        self.allowance -= READS_PER_TRUST;
                        stream.drawn += 1;
                    }
                    stream.unread.push_back(index);
                    plan.fetch.push(BlockIndex::new(index));
                    room -= 1;
                }
                Ok(None) => return,
                Err(Unlisted(index)) => {
                    plan.list = Some(index);
                    return;
                }
            }
        }
    }

    fn window(&self, stream: &Stream) -> usize {
        if stream.used == 0 {
            return TRUST.min(self.most);
        }
        let active = |other: &&Stream| other.used > 0 && other.last + STALE / 8 > self.reads;
        let active = self.streams.iter().filter(active).count().max(1);
        // Twice what it used, and more once it is a long one, in proportion to what was of use to all so far.
        let times = if stream.used < LONG { 2 } else { 6 };
        let shown = u64::from(stream.used) * times * u64::from(self.used)
            / u64::from(self.used + self.wasted).max(1);
        let shown = usize::try_from(shown).map_or(MOST, |shown| shown + TRUST);
        (self.line.window() / active).max(2).min(shown)
    }

    /// What nobody has read for long will not be read.
    fn give_up_stale(&mut self, plan: &mut Plan) {
        let is_stale =
            |stream: &Stream| !stream.unread.is_empty() && stream.last + STALE < self.reads;
        if let Some(at) = self.streams.iter().position(is_stale) {
            self.end(at, plan);
        }
    }

    fn end(&mut self, at: usize, plan: &mut Plan) {
        let stream = self.streams.swap_remove(at);
        plan.give_up
            .extend(stream.unread.into_iter().map(BlockIndex::new));
    }

    fn forget(&mut self, index: BlockIndex) {
        for stream in &mut self.streams {
            stream.take(index.get());
        }
    }

    fn fade(&mut self) {
        if self.used + self.wasted > MEMORY {
            self.used /= 2;
            self.wasted /= 2;
        }
    }
}
