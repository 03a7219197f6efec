//! A source whose readers' touches are noted, and its profile followed.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use async_trait::async_trait;
use tokio::runtime::Handle;

use super::files::Files;
use super::follow::{Follower, WINDOW};
use super::record::{MOST, Owner, Profile};
use crate::block::{Block, BlockIndex, BlockSet, Recent};
use crate::cache::CachedSource;
use crate::error::Result;
use crate::source::BlockSource;
use crate::stats::Stats;
use crate::store::Listing;

/// A source whose readers' touches are noted.
pub struct Profiled {
    source: Arc<dyn BlockSource>,
    recorder: Arc<Recorder>,
}

impl Profiled {
    pub(super) fn new(source: Arc<dyn BlockSource>, recorder: Arc<Recorder>) -> Self {
        Self { source, recorder }
    }

    /// Who reads from now on is a reader: what the program has to read for itself, as partition tables, is read.
    pub fn begin(&self) {
        self.recorder.begun.store(true, Ordering::Relaxed);
    }
}

/// What was touched of one snapshot since it was opened.
pub(super) struct Recorder {
    owner: Owner,
    files: Arc<Files>,
    cached: Arc<CachedSource>,
    runtime: Handle,
    stats: Arc<Stats>,
    begun: AtomicBool,
    recent: Recent,
    /// What earlier mounts touched; read when the first block is touched.
    before: OnceLock<Profile>,
    /// Guards itself only; nothing is fetched or read under it.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// In the order of their first touch.
    touched: Vec<BlockIndex>,
    seen: HashSet<BlockIndex>,
    /// How many of them are in the file.
    saved: usize,
    /// None before the profile is read, or when there is none.
    follower: Option<Follower>,
}

impl Recorder {
    pub(super) fn new(
        owner: Owner,
        files: Arc<Files>,
        cached: Arc<CachedSource>,
        runtime: Handle,
        stats: Arc<Stats>,
    ) -> Self {
        Self {
            owner,
            files,
            cached,
            runtime,
            stats,
            begun: AtomicBool::new(false),
            recent: Recent::default(),
            before: OnceLock::new(),
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A reader asked for a block that is not known to be absent.
    fn touch(self: &Arc<Self>, index: BlockIndex) {
        if !self.begun.load(Ordering::Relaxed) || !self.recent.is_news(index) {
            return;
        }
        let mut state = self.state();
        if state.touched.len() == MOST || !state.seen.insert(index) {
            return;
        }
        state.touched.push(index);
        let is_first = state.touched.len() == 1;
        let step = state.follower.as_mut().map(|f| f.touched(index));
        drop(state);
        if is_first {
            let recorder = Arc::clone(self);
            self.runtime.spawn_blocking(move || recorder.follow());
        }
        let Some(step) = step else { return };
        if step.used {
            self.stats.profile_hits.add(1);
        }
        self.fetch(&step.wanted);
    }

    /// Reads the profile, and follows it from where the reader is by now.
    fn follow(&self) {
        // Most of the cache stays for what was read: it is read again, as files share blocks.
        let window = (self.cached.cache().blocks() / 4).clamp(1, WINDOW);
        let mut follower = Follower::new(self.before().blocks(), window);
        let mut wanted = Vec::new();
        let mut state = self.state();
        for index in &state.touched {
            wanted.extend(follower.touched(*index).wanted);
        }
        state.follower = Some(follower);
        drop(state);
        self.fetch(&wanted);
    }

    fn before(&self) -> &Profile {
        self.before
            .get_or_init(|| self.files.load(&self.owner).unwrap_or_default())
    }

    fn fetch(&self, wanted: &[BlockIndex]) {
        // Fetches are tasks, and a reader's thread need not be the runtime's.
        let _context = self.runtime.enter();
        for index in wanted {
            if self.cached.ahead(*index) {
                self.stats.profile_fetches.add(1);
                continue;
            }
            let at_hand = self.cached.holds(*index);
            if let Some(follower) = &mut self.state().follower {
                follower.refused(*index, at_hand);
            }
        }
    }

    /// Writes down what was touched, if anything was since the last time; by its file's date it is known to be in use.
    pub(super) fn save(&self) {
        let state = self.state();
        if state.touched.len() == state.saved {
            return;
        }
        let touched = state.touched.clone();
        drop(state);
        let profile = self.before().renewed(&touched);
        self.files.save(&self.owner, &profile);
        self.state().saved = touched.len();
    }
}

#[async_trait]
impl BlockSource for Profiled {
    fn count(&self) -> u32 {
        self.source.count()
    }

    fn ready(&self, index: BlockIndex) -> Option<Block> {
        let block = self.source.ready(index)?;
        // Zeros are mostly absent; where they are not they cost as little.
        if matches!(block, Block::Data(_)) {
            self.recorder.touch(index);
        }
        Some(block)
    }

    fn ahead(&self, index: BlockIndex) {
        self.source.ahead(index);
    }

    async fn kept(&self, run: Range<u32>) -> BlockSet {
        self.source.kept(run).await
    }

    fn listed(&self, from: BlockIndex) -> Option<Arc<Listing>> {
        self.source.listed(from)
    }

    async fn present(&self, from: BlockIndex) -> Result<Arc<Listing>> {
        self.source.present(from).await
    }

    async fn block(&self, index: BlockIndex) -> Result<Block> {
        let listing = self.source.listed(index);
        if listing.is_none_or(|listing| listing.set.contains(index)) {
            self.recorder.touch(index);
        }
        self.source.block(index).await
    }
}
