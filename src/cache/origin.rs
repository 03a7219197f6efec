//! Where the blocks of one source come from, and who is told what becomes of them.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::block::BlockIndex;
use crate::source::BlockSource;
use crate::stats::Stats;

/// What became of a block.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// It was fetched.
    Fetched {
        /// Which.
        index: BlockIndex,
        /// When the source was asked.
        begun: Instant,
        /// When the source answered.
        landed: Instant,
    },
    /// The source failed to bring it.
    Failed(BlockIndex),
    /// It was read ahead, and went before anybody asked for it.
    Wasted(BlockIndex),
}

/// One source among those that share a cache.
pub(super) struct Origin {
    pub(super) number: u32,
    pub(super) source: Arc<dyn BlockSource>,
    pub(super) stats: Arc<Stats>,
    /// Guards one pointer.
    told: Mutex<Option<Sender<Outcome>>>,
}

impl Origin {
    pub(super) fn new(number: u32, source: Arc<dyn BlockSource>, stats: Arc<Stats>) -> Self {
        Self {
            number,
            source,
            stats,
            told: Mutex::default(),
        }
    }

    /// What becomes of blocks from now on; earlier receivers hear no more.
    pub(super) fn outcomes(&self) -> Receiver<Outcome> {
        let (tell, told) = channel();
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = Some(tell);
        told
    }

    pub(super) fn tell(&self, outcome: Outcome) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told
            .as_ref()
            .is_some_and(|tell| tell.send(outcome).is_err())
        {
            // Nobody listens any more.
            *told = None;
        }
    }

    /// A block that was read ahead goes unused.
    pub(super) fn wasted(&self, index: BlockIndex) {
        self.stats.read_ahead_wasted.add(1);
        self.tell(Outcome::Wasted(index));
    }
}
