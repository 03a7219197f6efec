//! The source that reads ahead as the policy says.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use futures_util::future::join;
use tokio::runtime::Handle;

use super::{Plan, Policy};
use crate::block::{Block, BlockIndex, BlockSet, Recent};
use crate::cache::{CachedSource, Outcome};
use crate::error::Result;
use crate::source::BlockSource;
use crate::store::Listing;

/// A cached source of which blocks are fetched before they are asked for. What is read is the same, and no read fails that
/// would not otherwise.
pub struct ReadAhead {
    source: Arc<CachedSource>,
    runtime: Handle,
    recent: Recent,
    /// Held while the policy thinks, and the listings at hand are looked at.
    state: Mutex<State>,
    /// Whether a listing is being fetched.
    lists: Arc<AtomicBool>,
}

struct State {
    policy: Policy,
    outcomes: Receiver<Outcome>,
}

impl ReadAhead {
    /// Over `source`, whose outcomes it takes. Fetches run on `runtime`.
    pub fn new(source: Arc<CachedSource>, runtime: Handle) -> Self {
        let policy = Policy::new(source.count(), source.cache().room_ahead());
        let outcomes = source.outcomes();
        Self {
            source,
            runtime,
            recent: Recent::default(),
            state: Mutex::new(State { policy, outcomes }),
            lists: Arc::default(),
        }
    }

    /// Somebody reads a block.
    fn note(&self, index: BlockIndex, waits: bool) {
        if !self.recent.is_news(index) {
            return;
        }
        let plan = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let State { policy, outcomes } = &mut *state;
            outcomes
                .try_iter()
                .for_each(|outcome| policy.outcome(outcome));
            policy.read(index, waits, &|from| self.source.listed(from))
        };
        if plan != Plan::default() {
            self.obey(plan);
        }
    }

    fn obey(&self, plan: Plan) {
        for index in plan.give_up {
            self.source.give_up(index);
        }
        let _runtime = self.runtime.enter();
        for index in plan.fetch {
            self.source.ahead(index);
        }
        if let Some(index) = plan.list
            && !self.lists.swap(true, Ordering::Relaxed)
        {
            let (source, lists) = (Arc::clone(&self.source), Arc::clone(&self.lists));
            self.runtime.spawn(async move {
                // Whoever needs it will hear why it failed.
                drop(source.present(index).await);
                lists.store(false, Ordering::Relaxed);
            });
        }
    }
}

#[async_trait]
impl BlockSource for ReadAhead {
    fn count(&self) -> u32 {
        self.source.count()
    }

    fn ready(&self, index: BlockIndex) -> Option<Block> {
        let block = self.source.ready(index)?;
        self.note(index, false);
        Some(block)
    }

    fn ahead(&self, index: BlockIndex) {
        self.source.ahead(index);
    }

    fn listed(&self, from: BlockIndex) -> Option<Arc<Listing>> {
        self.source.listed(from)
    }

    async fn kept(&self, run: Range<u32>) -> BlockSet {
        self.source.kept(run).await
    }

    async fn present(&self, from: BlockIndex) -> Result<Arc<Listing>> {
        self.source.present(from).await
    }

    async fn block(&self, index: BlockIndex) -> Result<Block> {
        // What somebody waits for is asked for first.
        let noted = async { self.note(index, true) };
        join(self.source.block(index), noted).await.0
    }
}
