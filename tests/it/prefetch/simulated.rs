//! A reader and a line to a store, in simulated time: nothing here waits, and every run is the same.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ebsfs::block::{BlockIndex, BlockSet};
use ebsfs::cache::Outcome;
use ebsfs::prefetch::{MOST, Policy};
use ebsfs::snapshot::VolumeSize;
use ebsfs::store::Listing;

/// The next door: half a millisecond, and 1.5 GiB/s.
pub(super) const NEAR: Line = Line {
    latency: Duration::from_micros(500),
    each: Duration::from_micros(330),
};

/// Another region.
pub(super) const FAR: Line = Line {
    latency: Duration::from_millis(50),
    ..NEAR
};

/// What a fetch takes: a way there and back, and its turn among the others.
#[derive(Clone, Copy)]
pub(super) struct Line {
    pub(super) latency: Duration,
    pub(super) each: Duration,
}

pub(super) struct World {
    pub(super) policy: Policy,
    pub(super) line: Line,
    listings: Vec<Arc<Listing>>,
    pub(super) now: Instant,
    busy_until: Instant,
    held: BTreeSet<u32>,
    /// When it was begun, and when it lands.
    under_way: BTreeMap<u32, (Instant, Instant)>,
    pub(super) touched: BTreeSet<u32>,
    /// How often somebody waited.
    pub(super) waits: usize,
    pub(super) most_under_way: usize,
    /// Blocks in the order in which they were fetched.
    pub(super) fetched: Vec<u32>,
    /// What the policy gave up.
    pub(super) given_up: Vec<BlockIndex>,
}

impl World {
    /// A disk of `gib` GiB without holes.
    pub(super) fn dense(gib: u32, line: Line) -> Self {
        let size = VolumeSize::from_gib(gib).unwrap();
        Self::new(gib, (0..size.blocks()).map(BlockIndex::new).collect(), line)
    }

    pub(super) fn new(gib: u32, set: BlockSet, line: Line) -> Self {
        let volume_size = VolumeSize::from_gib(gib).unwrap();
        let covered = 0..volume_size.blocks();
        let listing = Listing {
            set,
            covered,
            volume_size,
        };
        let now = Instant::now();
        Self {
            policy: Policy::new(volume_size.blocks(), MOST),
            line,
            listings: vec![Arc::new(listing)],
            now,
            busy_until: now,
            held: BTreeSet::new(),
            under_way: BTreeMap::new(),
            touched: BTreeSet::new(),
            waits: 0,
            most_under_way: 0,
            fetched: vec![],
            given_up: vec![],
        }
    }

    /// Nothing is listed any more from `index` on.
    pub(super) fn listed_to(&mut self, index: u32) {
        let listing = Arc::make_mut(&mut self.listings[0]);
        let set = listing.set.iter().take_while(|at| at.get() < index);
        listing.set = set.collect();
        listing.covered.end = index;
    }

    fn present(&self, index: u32) -> bool {
        self.listings[0].set.contains(BlockIndex::new(index))
    }

    fn begin(&mut self, index: u32) {
        if !self.present(index) || self.held.contains(&index) || self.under_way.contains_key(&index)
        {
            return;
        }
        let landing = (self.now + self.line.latency).max(self.busy_until) + self.line.each;
        self.busy_until = landing;
        self.under_way.insert(index, (self.now, landing));
        self.most_under_way = self.most_under_way.max(self.under_way.len());
        self.fetched.push(index);
    }

    fn pass(&mut self, until: Instant) {
        self.now = self.now.max(until);
        let mut landed: Vec<_> = self
            .under_way
            .iter()
            .filter(|(_, (_, landing))| *landing <= self.now)
            .map(|(index, (begun, landing))| (*landing, *index, *begun))
            .collect();
        landed.sort();
        for (landed, index, begun) in landed {
            self.under_way.remove(&index);
            self.held.insert(index);
            let index = BlockIndex::new(index);
            self.policy.outcome(Outcome::Fetched {
                index,
                begun,
                landed,
            });
        }
    }

    /// Somebody reads a block, and goes on when it is there. What the policy says to list.
    pub(super) fn read(&mut self, index: u32) -> Option<BlockIndex> {
        self.pass(self.now);
        let waits = self.present(index) && !self.held.contains(&index);
        if waits {
            self.begin(index);
            self.waits += 1;
        }
        self.touched.insert(index);
        let listings = self.listings.clone();
        let listed = |from: BlockIndex| {
            let tells = |listing: &&Arc<Listing>| listing.covered.contains(&from.get());
            listings.iter().find(tells).cloned()
        };
        let plan = self.policy.read(BlockIndex::new(index), waits, &listed);
        assert!(self.policy.outstanding() <= MOST);
        self.given_up.extend(plan.give_up);
        for block in plan.fetch {
            assert!(self.present(block.get()), "{block} is absent");
            self.begin(block.get());
        }
        if let Some((_, landing)) = self.under_way.get(&index).copied() {
            self.pass(landing);
        }
        plan.list
    }

    pub(super) fn read_all(&mut self, indexes: impl IntoIterator<Item = u32>) -> Duration {
        let begun = self.now;
        for index in indexes {
            self.read(index);
        }
        self.now - begun
    }

    /// What was fetched and never read.
    pub(super) fn unread(&self) -> usize {
        let unread = |index: &&u32| !self.touched.contains(index);
        self.fetched.iter().filter(unread).count()
    }
}
