//! Digests of several blocks at one time.
//!
//! One stream of SHA-256 leaves most of a core idle: each of its steps waits for the one before. Four streams side by
//! side take half the time that they take one after the other, and sixteen less still. So blocks that come in while
//! others are hashed wait here for each other, and for a moment also for those that were asked for and are arriving; the
//! threads of this module, one for each core at most, take them together. A block that comes alone is hashed at once.
//!
//! The digest is that of [`Digest::of`]: whether it is, on this processor, is tried once, before it is relied on.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use tape_sha256::hash_many;
use tokio::sync::oneshot;

use super::{Buffer, Digest};
use crate::error::{Error, ErrorKind, Result};

/// Fewer than so many gain nothing by it.
const FEW: usize = 4;

/// More than so many gain little, and the first would have to wait for the last: 5 ms or so.
const MANY: usize = 16;

/// How long blocks wait for others: in this time a few come in at the rate at which one core could hash them alone, and
/// who waits for one of them hardly notices, as requests for so many are under way.
const MOMENT: Duration = Duration::from_millis(3);

/// Blocks that were asked for and are not hashed yet.
static ARRIVING: AtomicUsize = AtomicUsize::new(0);

/// Says that a block will come to be hashed, until it is dropped.
pub(super) struct Arriving(());

impl Default for Arriving {
    fn default() -> Self {
        ARRIVING.fetch_add(1, Ordering::Relaxed);
        Self(())
    }
}

impl Arriving {
    /// Whether too few others arrive to be hashed with.
    pub(super) fn is_alone(&self) -> bool {
        ARRIVING.load(Ordering::Relaxed) < FEW
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        ARRIVING.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Bytes to hash, and who is to have them back with their digest.
struct Job {
    bytes: Buffer,
    tell: oneshot::Sender<(Buffer, Digest)>,
}

#[derive(Default)]
struct Jobs {
    waiting: VecDeque<Job>,
    /// Threads that hash, and threads there are.
    busy: usize,
    threads: usize,
    /// Whether a thread waits for those that are arriving.
    gathering: bool,
}

struct Hashing {
    /// Guards push and pop.
    jobs: Mutex<Jobs>,
    changed: Condvar,
    cores: usize,
}

/// The digest of `bytes`, which come back with it. `bytes` of several callers must be of one length to be taken together.
pub(super) async fn digest(bytes: Buffer) -> Result<(Buffer, Digest)> {
    static HASHING: OnceLock<Hashing> = OnceLock::new();
    let (tell, told) = oneshot::channel();
    HASHING.get_or_init(Hashing::new).add(Job { bytes, tell })?;
    told.await.map_err(|_| {
        let what = "the hashing of a block ended early";
        Error::new(ErrorKind::Io, what)
    })
}

impl Hashing {
    fn new() -> Self {
        Self {
            jobs: Mutex::default(),
            changed: Condvar::new(),
            cores: thread::available_parallelism().map_or(1, usize::from),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Jobs> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a thread take `job`, started if there are too few: those at work come back soon, so another one is only
    /// worth waking for as many as gain by being together.
    fn add(&'static self, job: Job) -> Result<()> {
        let mut jobs = self.lock();
        jobs.waiting.push_back(job);
        if jobs.are_looked_at_soon() && (jobs.waiting.len() < FEW || jobs.busy == self.cores) {
            return Ok(());
        }
        if jobs.busy == jobs.threads && jobs.threads < self.cores {
            let name = format!("hash-{}", jobs.threads);
            let started = thread::Builder::new().name(name).spawn(|| self.work());
            match started {
                Ok(_) => jobs.threads += 1,
                // Those that there are do it all.
                Err(_) if jobs.threads > 0 => {}
                Err(e) => {
                    jobs.waiting.clear();
                    return Err(Error::from(e).context("cannot start a thread"));
                }
            }
        }
        drop(jobs);
        self.changed.notify_one();
        Ok(())
    }

    fn work(&self) {
        let mut jobs = self.lock();
        loop {
            if jobs.are_few() {
                // Others that are about to come may come first.
                drop(jobs);
                thread::yield_now();
                jobs = self.lock();
            }
            if jobs.are_worth_waiting_for() {
                jobs.gathering = true;
                let waited = self
                    .changed
                    .wait_timeout_while(jobs, MOMENT, |jobs| jobs.are_few());
                (jobs, _) = waited.unwrap_or_else(PoisonError::into_inner);
                jobs.gathering = false;
            }
            // Whoever is hashing looks for more before it waits here.
            let taken = jobs.take();
            if taken.is_empty() {
                jobs = self
                    .changed
                    .wait(jobs)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            jobs.busy += 1;
            drop(jobs);
            // Whoever waits hears of a panic by what is dropped in it; the thread stays.
            drop(catch_unwind(AssertUnwindSafe(|| hash(taken))));
            jobs = self.lock();
            jobs.busy -= 1;
        }
    }
}

impl Jobs {
    /// Whether some wait, and fewer than gain by being together.
    fn are_few(&self) -> bool {
        (1..FEW).contains(&self.waiting.len())
    }

    /// Whether so many are arriving that those which wait become enough with them.
    fn are_worth_waiting_for(&self) -> bool {
        let arriving = ARRIVING.load(Ordering::Relaxed);
        !self.gathering && self.are_few() && self.waiting.len() + arriving >= FEW
    }

    /// Whether a thread will look at what waits soon, without being woken.
    fn are_looked_at_soon(&self) -> bool {
        self.busy > 0 || self.gathering
    }

    /// The next jobs: as many as are hashed well together; fewer only if nobody comes back soon who takes them with others.
    fn take(&mut self) -> Vec<Job> {
        let count = match self.waiting.len() {
            0..FEW if self.are_looked_at_soon() => 0,
            few @ 0..FEW => few.min(1),
            more => more.min(MANY) / FEW * FEW,
        };
        self.waiting.drain(..count).collect()
    }
}

fn hash(jobs: Vec<Job>) {
    let bytes: Vec<&[u8]> = jobs.iter().map(|job| &*job.bytes).collect();
    let digests = digests(&bytes);
    for (job, digest) in jobs.into_iter().zip(digests) {
        // Who went away needs no answer.
        drop(job.tell.send((job.bytes, digest)));
    }
}

fn digests(bytes: &[&[u8]]) -> Vec<Digest> {
    static RIGHT: OnceLock<bool> = OnceLock::new();
    if bytes.len() < FEW || !RIGHT.get_or_init(many_are_right) {
        return bytes.iter().map(|bytes| Digest::of(bytes)).collect();
    }
    many(bytes)
}

fn many(bytes: &[&[u8]]) -> Vec<Digest> {
    let mut digests = vec![[0; Digest::LEN]; bytes.len()];
    hash_many(bytes, &mut digests);
    digests.into_iter().map(Digest::from_bytes).collect()
}

/// Whether digests made together are what they are alone, for every number that is taken.
fn many_are_right() -> bool {
    let message = |seed: u8| (0..=255).map(|i| seed.wrapping_mul(i)).collect::<Vec<u8>>();
    let messages: Vec<_> = (1..).map(message).take(MANY).collect();
    let messages: Vec<&[u8]> = messages.iter().map(Vec::as_slice).collect();
    let right = (FEW..=MANY).step_by(FEW).all(|count| {
        let some = &messages[..count];
        let alone = some.iter().map(|message| Digest::of(message));
        many(some).into_iter().eq(alone)
    });
    if !right {
        log::warn!(
            "SHA-256 of several blocks at one time is wrong on this processor: one by one then"
        );
    }
    right
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;

    use super::*;

    #[test]
    fn digests_made_together_are_those_made_alone() {
        assert!(many_are_right());
        let block = |seed: u32| -> Vec<u8> {
            let bytes = (0..100_003u32).map(|i| i.wrapping_mul(seed).to_le_bytes()[2]);
            bytes.collect()
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        for count in [1, 3, 4, 5, 16, 50] {
            let blocks: Vec<_> = (1..=count).map(block).collect();
            let all = join_all(blocks.iter().map(|block| digest(block.clone().into())));
            for (block, made) in blocks.iter().zip(runtime.block_on(all)) {
                let (bytes, digest) = made.unwrap();
                assert!(*bytes == block[..]);
                assert_eq!(digest, Digest::of(block));
            }
        }
    }

    #[test]
    fn who_goes_away_keeps_nobody_waiting() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(async {
            for _ in 0..20 {
                let gone = digest(vec![7; 1000].into());
                let _ = futures_util::poll!(std::pin::pin!(gone));
            }
            assert!(digest(vec![7; 1000].into()).await.is_ok());
        });
    }

    #[test]
    fn those_that_are_arriving_are_waited_for_once() {
        let job = || Job {
            bytes: vec![].into(),
            tell: oneshot::channel().0,
        };
        let mut jobs = Jobs::default();
        let _arriving = [(); FEW].map(|()| Arriving::default());
        assert!(!jobs.are_worth_waiting_for(), "nobody waits for them");
        jobs.waiting.push_back(job());
        assert!(jobs.are_worth_waiting_for());
        jobs.gathering = true;
        assert!(!jobs.are_worth_waiting_for());
        assert_eq!(jobs.take().len(), 0, "left to the thread that waits");
        jobs.waiting.extend([job(), job(), job()]);
        assert_eq!(jobs.take().len(), FEW);
    }

    #[test]
    fn as_many_are_taken_as_are_hashed_well_together() {
        let taken = |waiting: usize| {
            let job = || Job {
                bytes: vec![].into(),
                tell: oneshot::channel().0,
            };
            let waiting = std::iter::repeat_with(job).take(waiting).collect();
            let mut jobs = Jobs {
                waiting,
                ..Jobs::default()
            };
            jobs.take().len()
        };
        let counts = [0, 1, 3, 4, 7, 8, 15, 16, 40].map(taken);
        assert_eq!(counts, [0, 1, 1, 4, 4, 8, 12, 16, 16]);
    }
}
