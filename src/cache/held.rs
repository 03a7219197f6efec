//! The blocks in memory: which are held, what they take, and which of them nobody has asked for yet.

use std::collections::HashSet;
use std::sync::Arc;

use lru::LruCache;

use super::Key;
use super::origin::Origin;
use crate::block::{Block, BlockIndex};

/// What an entry takes beside the bytes of its block.
const OVERHEAD: usize = 128;

/// What the largest entry takes.
pub(super) const ROOM: usize = OVERHEAD + Block::MAX_MEMORY;

/// What a fetch takes beside the room for its block: what its connection has read and nobody has taken yet.
const CONNECTION: usize = 256 << 10;

/// Fetches of which that is not counted: they never fill a connection's buffer for long.
const UNCOUNTED: usize = 8;

/// What `fetches` under way take.
fn cost_of(fetches: usize) -> usize {
    fetches * ROOM + fetches.saturating_sub(UNCOUNTED) * CONNECTION
}

/// Fetches that may be under way at one time in a cache of `capacity` bytes; one always may.
pub(super) fn fetches_in(capacity: usize) -> usize {
    let counted = capacity.saturating_sub(UNCOUNTED * ROOM) / (ROOM + CONNECTION);
    (capacity / ROOM).min(UNCOUNTED + counted).max(1)
}

fn cost(block: &Block) -> usize {
    OVERHEAD + block.memory()
}

struct Entry {
    block: Block,
    /// Who read it ahead, until someone asks for it.
    ahead: Option<Arc<Origin>>,
}

/// Blocks by how recently they were used, and the room that is taken.
pub(super) struct Held {
    blocks: LruCache<Key, Entry>,
    capacity: usize,
    /// Taken by blocks.
    bytes: usize,
    /// Fetches under way, which take room, too.
    fetches: usize,
    /// Blocks that were read ahead, or will be, and that nobody has asked for yet.
    ahead: usize,
}

impl Held {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            blocks: LruCache::unbounded(),
            capacity,
            bytes: 0,
            fetches: 0,
            ahead: 0,
        }
    }

    /// Taken by blocks and fetches.
    pub(super) fn bytes(&self) -> usize {
        self.bytes + cost_of(self.fetches)
    }

    pub(super) fn fetches(&self) -> usize {
        self.fetches
    }

    pub(super) fn contains(&self, key: &Key) -> bool {
        self.blocks.contains(key)
    }

    /// A block that somebody asked for.
    pub(super) fn get(&mut self, key: &Key) -> Option<Block> {
        let entry = self.blocks.get_mut(key)?;
        if let Some(origin) = entry.ahead.take() {
            self.ahead -= 1;
            origin.stats.read_ahead_used.add(1);
        }
        Some(entry.block.clone())
    }

    /// A block, without any sign that it was of use.
    pub(super) fn peek(&self, key: &Key) -> Option<Block> {
        self.blocks.peek(key).map(|entry| entry.block.clone())
    }

    /// Whether what is read ahead leaves room for one more block: it has half of the cache.
    pub(super) fn has_room_ahead(&self) -> bool {
        (self.ahead + 1) * ROOM <= self.capacity / 2
    }

    /// One more block is to be read ahead.
    pub(super) fn expect_ahead(&mut self) {
        self.ahead += 1;
    }

    /// A block to be read ahead was asked for before it was here, or will not come.
    pub(super) fn cease_ahead(&mut self) {
        self.ahead -= 1;
    }

    /// Makes room for one more fetch.
    pub(super) fn begin(&mut self) {
        self.fetches += 1;
        self.shrink();
    }

    /// Gives that room back.
    pub(super) fn end(&mut self) {
        self.fetches -= 1;
    }

    /// Keeps a block; one that was expected ahead, with whom to tell what becomes of it.
    pub(super) fn insert(&mut self, key: Key, block: Block, ahead: Option<Arc<Origin>>) {
        self.bytes += cost(&block);
        if let Some(old) = self.blocks.put(key, Entry { block, ahead }) {
            self.gone(&key, &old);
        }
        self.shrink();
    }

    /// The block is not likely to be used soon: others stay before it does.
    pub(super) fn demote(&mut self, key: &Key) {
        self.blocks.demote(key);
    }

    /// Nobody will ask for a block that was read ahead.
    pub(super) fn give_up(&mut self, key: &Key) {
        if let Some(entry) = self.blocks.peek_mut(key)
            && let Some(origin) = entry.ahead.take()
        {
            self.ahead -= 1;
            origin.wasted(key.1);
            self.blocks.demote(key);
        }
    }

    /// The blocks held of a source.
    pub(super) fn indexes(&self, source: u32) -> Vec<BlockIndex> {
        let keys = self.blocks.iter().map(|(key, _)| *key);
        keys.filter(|(of, _)| *of == source)
            .map(|(_, index)| index)
            .collect()
    }

    /// Makes the blocks `kept` of source `from` those of `to`; the others go.
    pub(super) fn hand_over(&mut self, from: u32, to: &Arc<Origin>, kept: &HashSet<BlockIndex>) {
        let held = std::mem::replace(&mut self.blocks, LruCache::unbounded());
        // From the one not used for longest to the last used, and so they are put in again.
        for ((source, index), mut entry) in held {
            if source != from {
                self.blocks.put((source, index), entry);
            } else if kept.contains(&index) {
                entry.ahead = entry.ahead.map(|_| Arc::clone(to));
                self.blocks.put((to.number, index), entry);
            } else {
                self.gone(&(source, index), &entry);
            }
        }
    }

    fn shrink(&mut self) {
        while self.bytes() > self.capacity {
            let Some((key, entry)) = self.blocks.pop_lru() else {
                break;
            };
            self.gone(&key, &entry);
        }
    }

    fn gone(&mut self, key: &Key, entry: &Entry) {
        self.bytes -= cost(&entry.block);
        if let Some(origin) = &entry.ahead {
            self.ahead -= 1;
            origin.wasted(key.1);
        }
    }
}
