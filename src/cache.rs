//! A bounded cache of blocks over any source, and one fetch per missing block, whoever asks.
//!
//! One [`BlockCache`] serves all snapshots of a process. It holds at most its capacity, blocks being fetched
//! included, and gives up those not used for longest. The search for a block and the decision to fetch it are
//! one step, so two readers can never fetch the same block. A fetch is a task's and not its reader's: a reader that
//! goes away strands nobody. A failed fetch is told to everyone who waits for it and then forgotten.
//!
//! A bounded number of fetches is under way; the others wait by [`Priority`], and who asks more urgently for a
//! block that waits promotes it. What is fetched before anybody asks for it takes at most half of the cache until
//! somebody does. Its failure is nobody's: who waits for a block that was begun less urgently has it fetched anew. What
//! to fetch ahead is not decided here.

use std::ops::Range;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use tokio::time::timeout;

use self::flight::{Job, ended_early, fly};
use self::held::{ROOM, fetches_in};
use self::origin::Origin;
use self::state::{Found, State};
use crate::block::{Block, BlockIndex, BlockSet};
use crate::error::Result;
use crate::read_at::{DEADLINE, too_late};
use crate::source::BlockSource;
use crate::stats::Stats;
use crate::store::Listing;

pub mod disk;
mod flight;
mod held;
mod origin;
mod queue;
mod state;

pub use self::origin::Outcome;
pub use self::queue::Priority;

/// Blocks in memory, for any number of sources.
pub struct BlockCache {
    capacity: usize,
    /// Guards map operations only.
    state: Mutex<State>,
}

/// Number of the source, index.
type Key = (u32, BlockIndex);

impl BlockCache {
    /// 512 blocks: the working set of a file-system walk, and small beside what a machine with disks has.
    pub const DEFAULT_CAPACITY: usize = 256 << 20;

    /// As many fill 1.5 GiB/s to a service 80 ms away.
    pub const MAX_FETCHES: usize = 256;

    /// An empty cache of `capacity` bytes; one block at a time is fetched even with less room than that takes.
    pub fn new(capacity: usize) -> Self {
        // What they bring has room in the cache.
        let fetches = fetches_in(capacity).min(Self::MAX_FETCHES);
        Self {
            capacity,
            state: Mutex::new(State::new(capacity, fetches)),
        }
    }

    /// Bytes held now, for blocks and fetches.
    pub fn bytes(&self) -> usize {
        self.lock().held.bytes()
    }

    /// Bytes held at most.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Blocks of data that it holds at most.
    pub fn blocks(&self) -> usize {
        self.capacity / ROOM
    }

    /// Blocks that may be read ahead before one of them is asked for.
    pub fn room_ahead(&self) -> usize {
        self.capacity / 2 / ROOM
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No user code runs under it, so nobody panics half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a fetch. Without the lock: a runtime that is shutting down drops the task, which takes it, at once.
    fn begin(self: &Arc<Self>, fetch: Option<(Priority, Job)>) {
        if let Some(fetch) = fetch {
            tokio::spawn(fly(Arc::clone(self), fetch));
        }
    }
}

/// A source through a cache.
pub struct CachedSource {
    cache: Arc<BlockCache>,
    origin: Arc<Origin>,
}

impl CachedSource {
    /// `source` through `cache`, counting in `stats`.
    pub fn new(source: Arc<dyn BlockSource>, cache: Arc<BlockCache>, stats: Arc<Stats>) -> Self {
        let number = {
            let mut state = cache.lock();
            state.sources += 1;
            state.sources
        };
        let origin = Arc::new(Origin::new(number, source, stats));
        Self { cache, origin }
    }

    /// The same cache over `source`, which differs from this one's at most in the blocks that `differs` tells: the others
    /// that are held become the new source's and stay as recently used as they were. Blocks that are on their way to
    /// this source's readers still reach them.
    pub fn succeeding(
        &self,
        source: Arc<dyn BlockSource>,
        differs: &dyn Fn(BlockIndex) -> bool,
    ) -> Self {
        let (cache, stats) = (Arc::clone(&self.cache), Arc::clone(&self.origin.stats));
        let next = Self::new(source, cache, stats);
        let held = self.cache.lock().held.indexes(self.origin.number);
        // Asked without the lock. What lands meanwhile is fetched once more.
        let kept = held.into_iter().filter(|index| !differs(*index)).collect();
        let mut state = self.cache.lock();
        state
            .held
            .hand_over(self.origin.number, &next.origin, &kept);
        drop(state);
        next
    }

    /// The cache that this source shares with others.
    pub fn cache(&self) -> &Arc<BlockCache> {
        &self.cache
    }

    /// What becomes of blocks from now on, those of [`Priority::Background`] aside. There is one listener: earlier ones
    /// hear no more.
    pub fn outcomes(&self) -> Receiver<Outcome> {
        self.origin.outcomes()
    }

    /// Queues the fetch of a block that nobody waits for yet; false if it is held, queued, under way, known to be
    /// absent, or there is no room for it in the read-ahead's half of the cache. To be called in a runtime.
    pub fn ahead(&self, index: BlockIndex) -> bool {
        let source = &self.origin.source;
        if index.get() >= source.count() || source.ready(index).is_some() {
            return false;
        }
        let mut state = self.cache.lock();
        if !state.lacks(&self.origin, index) {
            return false;
        }
        let (_, fetch) = state.add(&self.origin, index, Priority::Ahead);
        drop(state);
        self.cache.begin(fetch);
        true
    }

    /// Whether the block is in memory; it does not count as used.
    pub fn holds(&self, index: BlockIndex) -> bool {
        let key = (self.origin.number, index);
        self.cache.lock().held.contains(&key)
    }

    /// Takes back [`ahead`](Self::ahead): nobody will ask for that block. What was fetched goes before other blocks do.
    pub fn give_up(&self, index: BlockIndex) {
        let job = self.cache.lock().give_up(&self.origin, index);
        // Without the lock.
        drop(job);
    }

    /// The block, fetched with that priority if it is not held; one flight for all who ask. What is fetched for
    /// [`Priority::Background`] goes before other blocks do. Ends within [`DEADLINE`].
    pub async fn fetch(&self, index: BlockIndex, priority: Priority) -> Result<Block> {
        // Absent blocks need neither a fetch nor room.
        if let Some(block) = self.origin.source.ready(index) {
            return Ok(block);
        }
        // Behind many others a fetch may begin late; its readers wait no longer for that.
        timeout(DEADLINE, self.land(index, priority))
            .await
            .unwrap_or_else(|_| Err(too_late().context(format!("block {index}"))))
    }

    async fn land(&self, index: BlockIndex, priority: Priority) -> Result<Block> {
        loop {
            let (found, fetch) = self.cache.lock().find(&self.origin, index, priority);
            self.cache.begin(fetch);
            let (mut landing, less_urgent) = match found {
                Found::Block(block) => {
                    if priority == Priority::Demand {
                        self.origin.stats.hits.add(1);
                    }
                    return Ok(block);
                }
                Found::Flight {
                    landing,
                    less_urgent,
                } => (landing, less_urgent),
            };
            let landed = landing.wait_for(Option::is_some).await;
            match landed.as_deref() {
                // It may have used up its time before it was asked for in earnest.
                Ok(Some(Err(_))) if less_urgent => {}
                Ok(Some(result)) => return result.clone(),
                Ok(None) | Err(_) => return Err(ended_early(index)),
            }
        }
    }
}

#[async_trait]
impl BlockSource for CachedSource {
    fn count(&self) -> u32 {
        self.origin.source.count()
    }

    fn ready(&self, index: BlockIndex) -> Option<Block> {
        let hit = self.cache.lock().held.get(&(self.origin.number, index));
        if hit.is_some() {
            self.origin.stats.hits.add(1);
        }
        hit.or_else(|| self.origin.source.ready(index))
    }

    fn ahead(&self, index: BlockIndex) {
        Self::ahead(self, index);
    }

    async fn kept(&self, run: Range<u32>) -> BlockSet {
        let below = self.origin.source.kept(run.clone()).await;
        let number = self.origin.number;
        let state = self.cache.lock();
        let is_kept =
            |index: &BlockIndex| below.contains(*index) || state.held.contains(&(number, *index));
        run.map(BlockIndex::new).filter(is_kept).collect()
    }

    fn listed(&self, from: BlockIndex) -> Option<Arc<Listing>> {
        self.origin.source.listed(from)
    }

    async fn present(&self, from: BlockIndex) -> Result<Arc<Listing>> {
        self.origin.source.present(from).await
    }

    async fn block(&self, index: BlockIndex) -> Result<Block> {
        self.fetch(index, Priority::Demand).await
    }
}
