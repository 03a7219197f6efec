//! A fetch from its start to its landing.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use futures_util::FutureExt as _;
use tokio::sync::watch;

use super::origin::{Origin, Outcome};
use super::queue::{Place, Priority};
use super::{BlockCache, Key};
use crate::block::{Block, BlockIndex};
use crate::error::{Error, ErrorKind, Result};

/// What a fetch will have brought, once it has.
pub(super) type Landing = watch::Receiver<Option<Result<Block>>>;

/// A fetch that waits or is under way.
pub(super) struct Flight {
    pub(super) landing: Landing,
    pub(super) stage: Stage,
    /// By the most urgent of those who asked.
    pub(super) wanted: Priority,
}

pub(super) enum Stage {
    /// In the queue.
    Waiting(Place),
    /// The source was asked, with this priority.
    UnderWay(Priority),
}

/// What it takes to make a fetch.
pub(super) struct Job {
    pub(super) origin: Arc<Origin>,
    pub(super) index: BlockIndex,
    pub(super) land: watch::Sender<Option<Result<Block>>>,
}

impl Job {
    pub(super) fn key(&self) -> Key {
        (self.origin.number, self.index)
    }
}

/// Takes a fetch off the list however it ends, and only then lets those who wait go on: one who asks again must
/// find the block, or start another fetch.
struct Crew {
    cache: Arc<BlockCache>,
    /// None once it has landed.
    job: Option<Job>,
}

impl Crew {
    /// Ends the fetch; what is to be fetched next, if something waits. The outcome is told once the block is held, so that
    /// who hears of it can give it up, and before that next fetch begins.
    fn land(mut self, fetched: Result<Block>, outcome: Option<Outcome>) -> Option<(Priority, Job)> {
        let job = self.job.take()?;
        let next = self.cache.lock().landed(&job, fetched.as_ref().ok());
        if let Some(outcome) = outcome {
            job.origin.tell(outcome);
        }
        job.land.send_replace(Some(fetched));
        next
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        if let Some(job) = self.job.take() {
            let waiting = self.cache.lock().abandon(&job);
            // Wakes those who wait, and is done without the lock.
            drop((job, waiting));
        }
    }
}

/// The task that makes a fetch, and then one after another of those that wait, until none does.
pub(super) async fn fly(cache: Arc<BlockCache>, first: (Priority, Job)) {
    let mut next = Some(first);
    while let Some((priority, job)) = next {
        let (origin, index) = (Arc::clone(&job.origin), job.index);
        let crew = Crew {
            cache: Arc::clone(&cache),
            job: Some(job),
        };
        let begun = Instant::now();
        let fetched = fetch(&origin, index).await;
        let outcome = match (&fetched, priority) {
            // Nobody who reads needs to know of these, and there may be many.
            (_, Priority::Background) => None,
            (Ok(_), _) => Some(Outcome::Fetched {
                index,
                begun,
                landed: Instant::now(),
            }),
            (Err(_), _) => Some(Outcome::Failed(index)),
        };
        next = crew.land(fetched, outcome);
    }
}

async fn fetch(origin: &Origin, index: BlockIndex) -> Result<Block> {
    // A panic is told to those who wait, and the fetches behind this one go on.
    let fetched = AssertUnwindSafe(async { origin.source.block(index).await })
        .catch_unwind()
        .await
        .unwrap_or_else(|_| Err(ended_early(index)));
    let stats = &origin.stats;
    stats.fetches.add(1);
    match &fetched {
        Ok(block) => {
            let bytes = u64::try_from(block.bytes().len()).unwrap_or(0);
            stats.fetched_bytes.add(bytes);
        }
        Err(_) => stats.failed_fetches.add(1),
    }
    fetched
}

/// `Unavailable`: nobody knows what became of it.
pub(super) fn ended_early(index: BlockIndex) -> Error {
    let what = format!("the fetch of block {index} ended early");
    Error::new(ErrorKind::Unavailable, what)
}
