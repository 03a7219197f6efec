//! A bounded cache of blocks over any source, and one fetch per missing block, whoever asks.
//!
//! One [`BlockCache`] serves all snapshots of a process. It holds at most its capacity, blocks being fetched
//! included, and gives up those not used for longest. The search for a block and the decision to fetch it are
//! one step, so two readers can never fetch the same block. A fetch is a task of its own: a reader that goes
//! away strands nobody. A failed fetch is told to everyone who waits for it and then forgotten.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use lru::LruCache;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use crate::block::{Block, BlockIndex};
use crate::error::{Error, ErrorKind, Result};
use crate::read_at::{DEADLINE, too_late};
use crate::source::BlockSource;
use crate::stats::Stats;
use crate::store::Listing;

pub mod disk;

/// Blocks in memory, for any number of sources.
pub struct BlockCache {
    capacity: usize,
    /// Fetches under way at one time; what they bring has room in the cache.
    fetches: Semaphore,
    /// Guards map operations only.
    state: Mutex<State>,
}

/// Number of the source, index.
type Key = (u32, BlockIndex);

/// What a fetch will have brought, once it has.
type Flight = watch::Receiver<Option<Result<Block>>>;

struct State {
    blocks: LruCache<Key, Block>,
    /// Charged for `blocks` and `flights` together.
    bytes: usize,
    flights: HashMap<Key, Flight>,
    sources: u32,
}

/// What an entry takes beside the bytes of its block.
const OVERHEAD: usize = 128;

/// What the largest entry takes.
const ROOM: usize = OVERHEAD + Block::MAX_MEMORY;

fn cost(block: &Block) -> usize {
    OVERHEAD + block.memory()
}

impl BlockCache {
    /// 512 blocks: the working set of a file-system walk, and small beside what a machine with disks has.
    pub const DEFAULT_CAPACITY: usize = 256 << 20;

    /// More fetches at one time than this bring nothing from a local disk.
    const MAX_FETCHES: usize = 64;

    /// An empty cache of `capacity` bytes; one block at a time is fetched even with less room than that takes.
    pub fn new(capacity: usize) -> Self {
        let fetches = (capacity / ROOM).clamp(1, Self::MAX_FETCHES);
        let state = State {
            blocks: LruCache::unbounded(),
            bytes: 0,
            flights: HashMap::new(),
            sources: 0,
        };
        Self {
            capacity,
            fetches: Semaphore::new(fetches),
            state: Mutex::new(state),
        }
    }

    /// Bytes held now, for blocks and fetches.
    pub fn bytes(&self) -> usize {
        self.lock().bytes
    }

    /// Bytes held at most.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No user code runs under it, so nobody panics half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn insert(&mut self, key: Key, block: Block) {
        self.bytes += cost(&block);
        if let Some(old) = self.blocks.put(key, block) {
            self.bytes -= cost(&old);
        }
    }

    /// The blocks held of a source.
    fn indexes(&self, source: u32) -> Vec<BlockIndex> {
        let keys = self.blocks.iter().map(|(key, _)| *key);
        keys.filter(|(of, _)| *of == source)
            .map(|(_, index)| index)
            .collect()
    }

    /// Makes the blocks `kept` of source `from` those of source `to`; the others go.
    fn hand_over(&mut self, from: u32, to: u32, kept: &HashSet<BlockIndex>) {
        let held = std::mem::replace(&mut self.blocks, LruCache::unbounded());
        // From the one not used for longest to the last used, and so they are put in again.
        for ((source, index), block) in held {
            if source != from {
                self.blocks.put((source, index), block);
            } else if kept.contains(&index) {
                self.blocks.put((to, index), block);
            } else {
                self.bytes -= cost(&block);
            }
        }
    }

    fn shrink(&mut self, capacity: usize) {
        while self.bytes > capacity {
            let Some((_, block)) = self.blocks.pop_lru() else {
                break;
            };
            self.bytes -= cost(&block);
        }
    }
}

/// A source through a cache.
pub struct CachedSource {
    source: Arc<dyn BlockSource>,
    cache: Arc<BlockCache>,
    number: u32,
    stats: Arc<Stats>,
}

impl CachedSource {
    /// `source` through `cache`, counting in `stats`.
    pub fn new(source: Arc<dyn BlockSource>, cache: Arc<BlockCache>, stats: Arc<Stats>) -> Self {
        let number = {
            let mut state = cache.lock();
            state.sources += 1;
            state.sources
        };
        Self {
            source,
            cache,
            number,
            stats,
        }
    }

    /// The same cache over `source`, which differs from this one's at most in the blocks that `differs` tells: the others
    /// that are held become the new source's and stay as recently used as they were. Blocks that are on their way to
    /// this source's readers still reach them.
    pub fn succeeding(
        &self,
        source: Arc<dyn BlockSource>,
        differs: &dyn Fn(BlockIndex) -> bool,
    ) -> Self {
        let (cache, stats) = (Arc::clone(&self.cache), Arc::clone(&self.stats));
        let next = Self::new(source, cache, stats);
        let held = self.cache.lock().indexes(self.number);
        // Asked without the lock. What lands meanwhile is fetched once more.
        let kept = held.into_iter().filter(|index| !differs(*index)).collect();
        self.cache.lock().hand_over(self.number, next.number, &kept);
        next
    }

    /// The block, or the fetch that brings it; starts one if there is none.
    fn find(&self, index: BlockIndex) -> Result<Block, Flight> {
        let key = (self.number, index);
        let mut state = self.cache.lock();
        if let Some(block) = state.blocks.get(&key) {
            self.stats.hits.add(1);
            return Ok(block.clone());
        }
        if let Some(flight) = state.flights.get(&key) {
            return Err(flight.clone());
        }
        let (land, flight) = watch::channel(None);
        state.flights.insert(key, flight.clone());
        // A runtime that is shutting down drops the task, and with it the landing, at once.
        drop(state);
        let landing = Landing {
            cache: Arc::clone(&self.cache),
            key,
            land,
        };
        tokio::spawn(fetch(
            Arc::clone(&self.source),
            index,
            Arc::clone(&self.stats),
            landing,
        ));
        Err(flight)
    }
}

/// The task that fetches one block.
async fn fetch(
    source: Arc<dyn BlockSource>,
    index: BlockIndex,
    stats: Arc<Stats>,
    landing: Landing,
) {
    let fetched = {
        let cache = Arc::clone(&landing.cache);
        // The semaphore is never closed; without a permit the fetch is merely not bounded.
        let _permit = cache.fetches.acquire().await.ok();
        let _charge = Charge::new(&cache);
        source.block(index).await
    };
    stats.fetches.add(1);
    match &fetched {
        Ok(block) => {
            stats
                .fetched_bytes
                .add(u64::try_from(block.bytes().len()).unwrap_or(0));
        }
        Err(_) => stats.failed_fetches.add(1),
    }
    landing.finish(fetched);
}

/// Room for a block that is on its way.
struct Charge<'a>(&'a BlockCache);

impl<'a> Charge<'a> {
    fn new(cache: &'a BlockCache) -> Self {
        let mut state = cache.lock();
        state.bytes += ROOM;
        state.shrink(cache.capacity);
        Self(cache)
    }
}

impl Drop for Charge<'_> {
    fn drop(&mut self) {
        self.0.lock().bytes -= ROOM;
    }
}

/// Takes a fetch off the list however it ends, also by a panic, and only then lets those who wait go on: one
/// who asks again must find the block, or start another fetch.
struct Landing {
    cache: Arc<BlockCache>,
    key: Key,
    land: watch::Sender<Option<Result<Block>>>,
}

impl Landing {
    fn finish(self, fetched: Result<Block>) {
        {
            let mut state = self.cache.lock();
            if let Ok(block) = &fetched {
                state.insert(self.key, block.clone());
                state.shrink(self.cache.capacity);
            }
            state.flights.remove(&self.key);
        }
        self.land.send_replace(Some(fetched));
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        // `land` is dropped after this, which wakes those who wait if they were not told.
        let closed = self.land.borrow().is_none();
        if closed {
            self.cache.lock().flights.remove(&self.key);
        }
    }
}

#[async_trait]
impl BlockSource for CachedSource {
    fn count(&self) -> u32 {
        self.source.count()
    }

    fn ready(&self, index: BlockIndex) -> Option<Block> {
        let hit = self.cache.lock().blocks.get(&(self.number, index)).cloned();
        if hit.is_some() {
            self.stats.hits.add(1);
        }
        hit.or_else(|| self.source.ready(index))
    }

    fn listed(&self, from: BlockIndex) -> Option<Arc<Listing>> {
        self.source.listed(from)
    }

    async fn present(&self, from: BlockIndex) -> Result<Arc<Listing>> {
        self.source.present(from).await
    }

    async fn block(&self, index: BlockIndex) -> Result<Block> {
        // Absent blocks need neither a fetch nor room.
        if let Some(block) = self.source.ready(index) {
            return Ok(block);
        }
        let mut flight = match self.find(index) {
            Ok(block) => return Ok(block),
            Err(flight) => flight,
        };
        // Behind many others a fetch may begin late; its readers wait no longer for that.
        let landed = timeout(DEADLINE, flight.wait_for(Option::is_some)).await;
        let landed = landed.map_err(|_| too_late().context(format!("block {index}")))?;
        match landed.as_deref() {
            Ok(Some(result)) => result.clone(),
            Ok(None) | Err(_) => {
                let what = format!("the fetch of block {index} ended early");
                Err(Error::new(ErrorKind::Unavailable, what))
            }
        }
    }
}
