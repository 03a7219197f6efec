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

/// What a connection takes, beside the room for the block that it brings: pieces of the answer that it has read, and that wait
/// for each other to be taken. It keeps that room for the next answer.
const CONNECTION: usize = Block::MAX_MEMORY;

/// Connections of which that is not counted: few never fill their buffers for long.
const UNCOUNTED: usize = 8;

/// Fetches that may be under way at one time in a cache of `capacity` bytes: half of it is theirs. One always may.
pub(super) fn fetches_in(capacity: usize) -> usize {
    let many = capacity / 2 / (ROOM + CONNECTION);
    many.max(UNCOUNTED).min(capacity / ROOM).max(1)
}

fn cost(block: &Block) -> usize {
    OVERHEAD + block.memory()
}

/// A block that was read ahead and that nobody has asked for yet, and whom to tell what becomes of it.
struct Unread {
    block: Block,
    origin: Arc<Origin>,
}

/// Blocks by how recently they were used, and the room that is taken.
///
/// What was asked for goes before what was read ahead does: a stream's reader leaves blocks behind that nobody may want again, and
/// those that it will want next came before them.
pub(super) struct Held {
    blocks: LruCache<Key, Block>,
    unread: LruCache<Key, Unread>,
    capacity: usize,
    /// Taken by blocks.
    bytes: usize,
    /// Fetches under way, which take room, too.
    fetches: usize,
    /// As many as there were fetches at one time: they stay, to be used again.
    connections: usize,
    /// Blocks that will be read ahead, and that nobody has asked for yet.
    expected: usize,
}

impl Held {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            blocks: LruCache::unbounded(),
            unread: LruCache::unbounded(),
            capacity,
            bytes: 0,
            fetches: 0,
            connections: 0,
            expected: 0,
        }
    }

    /// Taken by blocks and fetches.
    pub(super) fn bytes(&self) -> usize {
        let connections = self.connections.saturating_sub(UNCOUNTED) * CONNECTION;
        self.bytes + self.fetches * ROOM + connections
    }

    pub(super) fn fetches(&self) -> usize {
        self.fetches
    }

    pub(super) fn contains(&self, key: &Key) -> bool {
        self.blocks.contains(key) || self.unread.contains(key)
    }

    /// A block that somebody asked for.
    pub(super) fn get(&mut self, key: &Key) -> Option<Block> {
        // By far most are here.
        if let Some(block) = self.blocks.get(key) {
            return Some(block.clone());
        }
        let Unread { block, origin } = self.unread.pop(key)?;
        origin.stats.read_ahead_used.add(1);
        self.blocks.put(*key, block.clone());
        Some(block)
    }

    /// A block, without any sign that it was of use.
    pub(super) fn peek(&self, key: &Key) -> Option<Block> {
        let unread = || self.unread.peek(key).map(|unread| &unread.block);
        self.blocks.peek(key).or_else(unread).cloned()
    }

    /// Whether what is read ahead leaves room for one more block: it has half of the cache.
    pub(super) fn has_room_ahead(&self) -> bool {
        (self.expected + self.unread.len() + 1) * ROOM <= self.capacity / 2
    }

    /// Lets what was read ahead of another disk than that of number `source`, and longest ago, make room for one more block if
    /// there is none: nobody may read that disk any more.
    pub(super) fn make_room_ahead(&mut self, source: u32) -> bool {
        if !self.has_room_ahead()
            && let Some((key, _)) = self.unread.peek_lru()
            && key.0 != source
        {
            let key = *key;
            self.give_up(&key);
        }
        self.has_room_ahead()
    }

    /// One more block is to be read ahead.
    pub(super) fn expect_ahead(&mut self) {
        self.expected += 1;
    }

    /// A block to be read ahead is here, was asked for before it was, or will not come.
    pub(super) fn cease_ahead(&mut self) {
        self.expected -= 1;
    }

    /// Makes room for one more fetch.
    pub(super) fn begin(&mut self) {
        self.fetches += 1;
        self.connections = self.connections.max(self.fetches);
        self.shrink();
    }

    /// Gives that room back.
    pub(super) fn end(&mut self) {
        self.fetches -= 1;
    }

    /// Keeps a block.
    pub(super) fn insert(&mut self, key: Key, block: Block) {
        self.remove(&key);
        self.bytes += cost(&block);
        self.blocks.put(key, block);
        self.shrink();
    }

    /// Keeps a block that nobody has asked for yet.
    pub(super) fn insert_unread(&mut self, key: Key, block: Block, origin: Arc<Origin>) {
        self.remove(&key);
        self.bytes += cost(&block);
        self.unread.put(key, Unread { block, origin });
        self.shrink();
    }

    /// The block is not likely to be used soon: others stay before it does.
    pub(super) fn demote(&mut self, key: &Key) {
        self.blocks.demote(key);
    }

    /// Nobody will ask for a block that was read ahead.
    pub(super) fn give_up(&mut self, key: &Key) {
        if let Some(Unread { block, origin }) = self.unread.pop(key) {
            origin.wasted(key.1);
            self.blocks.put(*key, block);
            self.blocks.demote(key);
        }
    }

    /// The blocks held of a source.
    pub(super) fn indexes(&self, source: u32) -> Vec<BlockIndex> {
        let unread = self.unread.iter().map(|(key, _)| *key);
        let keys = self.blocks.iter().map(|(key, _)| *key).chain(unread);
        keys.filter(|(of, _)| *of == source)
            .map(|(_, index)| index)
            .collect()
    }

    /// Makes the blocks `kept` of source `from` those of `to`; the others go.
    pub(super) fn hand_over(&mut self, from: u32, to: &Arc<Origin>, kept: &HashSet<BlockIndex>) {
        let unread: Vec<_> = self.unread.iter().map(|(key, _)| *key).collect();
        // Who reads `to` follows streams of its own.
        let unread = unread.iter().filter(|(source, _)| *source == from);
        unread.for_each(|key| self.give_up(key));
        let held = std::mem::replace(&mut self.blocks, LruCache::unbounded());
        // From the one not used for longest to the last used, and so they are put in again.
        for ((source, index), block) in held {
            if source != from {
                self.blocks.put((source, index), block);
            } else if kept.contains(&index) {
                self.blocks.put((to.number, index), block);
            } else {
                self.bytes -= cost(&block);
            }
        }
    }

    fn remove(&mut self, key: &Key) {
        let unread = |held: &mut Self| held.unread.pop(key).map(|unread| unread.block);
        if let Some(old) = self.blocks.pop(key).or_else(|| unread(self)) {
            self.bytes -= cost(&old);
        }
    }

    fn shrink(&mut self) {
        while self.bytes() > self.capacity {
            let block = if let Some((_, block)) = self.blocks.pop_lru() {
                block
            } else if let Some((key, Unread { block, origin })) = self.unread.pop_lru() {
                origin.wasted(key.1);
                block
            } else {
                break;
            };
            self.bytes -= cost(&block);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_connections_hold_stays_taken_when_their_fetches_have_ended() {
        let mut held = Held::new(100 * ROOM);
        for _ in 0..2 {
            (0..UNCOUNTED + 3).for_each(|_| held.begin());
            assert_eq!(held.bytes(), (UNCOUNTED + 3) * ROOM + 3 * CONNECTION);
            (0..UNCOUNTED + 3).for_each(|_| held.end());
            assert_eq!(held.bytes(), 3 * CONNECTION);
        }
    }
}
