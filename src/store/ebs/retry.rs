//! The one place where a request is sent again: when, how often, and when to give up.
//!
//! | Failure | What is done |
//! | --- | --- |
//! | throttled, or too slow | sent again after a pause; fewer requests at one time |
//! | a fault of the service or the network | sent again after a pause, until the deadline |
//! | corrupt | sent again, a few times: bytes that are never right are an error of its own |
//! | a block token refused | the caller lists again; a pause only if that did not help |
//! | anything else | final |
//!
//! A pause doubles with each failure of a call, up to five seconds, and is jittered. In an outage all retries of the
//! process together are paced, too; pacing delays a call and never fails it before its deadline. No library below
//! retries anything: there are no nested retries.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout_at};

use super::budget::Budget;
use super::limiter::{Limiter, Permit};
use crate::error::{Error, ErrorKind, Result};
use crate::stats::Remote;

/// What to do about a failure.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Verdict {
    /// Trying again does not help.
    Final,
    /// There were too many requests.
    Throttled,
    /// No answer in time.
    TimedOut,
    /// No answer by the deadline of the call, which left less time than an attempt may take.
    CutShort,
    /// A fault of the service or the network.
    Fault,
    /// Nobody answers at all, which may also mean that the address is wrong.
    Unreachable,
    /// The answer is not what its checksum or format says.
    Corrupt,
    /// The block must be listed again.
    TokenRefused,
}

/// How an attempt failed.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: Error,
    pub(super) verdict: Verdict,
}

impl Failure {
    pub(super) fn last(error: Error) -> Self {
        Self {
            error,
            verdict: Verdict::Final,
        }
    }
}

/// How long a call and each of its attempts may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// From the first attempt to the error.
    pub deadline: Duration,
    /// One attempt, its body included: a stuck one must not take the whole deadline.
    pub attempt: Duration,
}

/// The first pause is up to this.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// No pause is longer, so that an outage that ends is noticed.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Corrupt answers to one call. With one answer in ten corrupt, one call in a hundred million fails.
const CORRUPT_ANSWERS: u32 = 8;
/// How long a call may fail before that is said.
const WARN_AFTER: Duration = Duration::from_secs(5);
/// How often it is said.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// Sends requests again; one for all calls of a store.
pub(super) struct Retry {
    limiter: Limiter,
    budget: Budget,
    warned: Mutex<Option<Instant>>,
    /// What is asked, for warnings.
    service: String,
    counters: Arc<Remote>,
}

impl Retry {
    pub(super) fn new(service: String, concurrency: usize, counters: Arc<Remote>) -> Self {
        Self {
            limiter: Limiter::new(concurrency),
            budget: Budget::new(),
            warned: Mutex::default(),
            service,
            counters,
        }
    }

    /// A call that begins now.
    pub(super) fn call(&self, limits: Limits) -> Call<'_> {
        let start = Instant::now();
        Call {
            retry: self,
            limits,
            start,
            deadline: start + limits.deadline,
            failures: 0,
            corrupt: 0,
            refused: 0,
            last: None,
        }
    }

    /// The result of the first attempt that succeeds; each takes its place among the requests under way.
    pub(super) async fn run<T, F>(
        &self,
        limits: Limits,
        attempt: impl Fn() -> F + Send,
    ) -> Result<T>
    where
        F: Future<Output = Result<T, Failure>> + Send,
    {
        self.call(limits).until_done(true, attempt).await
    }

    /// The same for what others wait for who have their places already: it takes none.
    pub(super) async fn run_first<T, F>(
        &self,
        limits: Limits,
        attempt: impl Fn() -> F + Send,
    ) -> Result<T>
    where
        F: Future<Output = Result<T, Failure>> + Send,
    {
        self.call(limits).until_done(false, attempt).await
    }

    fn warn(&self, error: &Error) {
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        if warned.is_none_or(|last| last.elapsed() >= WARN_EVERY) {
            *warned = Some(Instant::now());
            log::warn!("{}: {error:#}; still trying", self.service);
        }
    }
}

/// One call, from its first attempt to its last.
pub(super) struct Call<'a> {
    retry: &'a Retry,
    limits: Limits,
    start: Instant,
    deadline: Instant,
    failures: u32,
    corrupt: u32,
    refused: u32,
    /// Why the attempt before this one failed.
    last: Option<Error>,
}

impl<'a> Call<'a> {
    /// Makes attempts until one succeeds, or there is to be none.
    async fn until_done<T, F>(
        mut self,
        takes_place: bool,
        attempt: impl Fn() -> F + Send,
    ) -> Result<T>
    where
        F: Future<Output = Result<T, Failure>> + Send,
    {
        loop {
            let place = match takes_place {
                true => Some(self.enter().await?),
                false => None,
            };
            match self.attempt(place, attempt()).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => self.again(failure).await?,
            }
        }
    }

    /// Waits until there may be another request.
    pub(super) async fn enter(&mut self) -> Result<Permit<'a>> {
        let entered = timeout_at(self.deadline, self.retry.limiter.enter()).await;
        entered.map_err(|_| match self.last.take() {
            Some(last) => self.gave_up(last),
            None => too_slow(self.limits.deadline),
        })
    }

    /// Makes one attempt.
    pub(super) async fn attempt<T>(
        &self,
        place: Option<Permit<'_>>,
        work: impl Future<Output = Result<T, Failure>> + Send,
    ) -> Result<T, Failure> {
        let counters = &self.retry.counters;
        counters.requests.add(1);
        let begin = Instant::now();
        let most = self.limits.attempt;
        let (left, verdict) = match self.deadline - begin {
            left if left < most => (left, Verdict::CutShort),
            _ => (most, Verdict::TimedOut),
        };
        let result = timeout_at(begin + left, work).await.unwrap_or_else(|_| {
            let error = too_slow(left);
            Err(Failure { error, verdict })
        });
        let verdict = result.as_ref().err().map(|failure| failure.verdict);
        match verdict {
            None => self.retry.budget.earn(),
            Some(Verdict::Throttled) => counters.throttles.add(1),
            Some(Verdict::TimedOut | Verdict::CutShort) => counters.timeouts.add(1),
            Some(Verdict::Corrupt) => counters.corrupt.add(1),
            Some(Verdict::TokenRefused) => counters.relistings.add(1),
            Some(Verdict::Final | Verdict::Fault | Verdict::Unreachable) => {}
        }
        match (place, verdict) {
            (Some(place), None) => place.succeeded(),
            // What is too slow may be so because there is too much of it.
            (Some(place), Some(Verdict::Throttled | Verdict::TimedOut)) => place.throttled(),
            _ => {}
        }
        result
    }

    /// The error of a call whose time is up.
    fn gave_up(&self, error: Error) -> Error {
        let (attempts, seconds) = (self.failures, self.start.elapsed().as_secs());
        let error = match error.kind() {
            // The service refused tokens to the end: another client's listings void them, say.
            ErrorKind::Invalid => Error::new(ErrorKind::Unavailable, format!("{error:#}")),
            _ => error,
        };
        error.context(format!("gave up after {attempts} attempts in {seconds} s"))
    }

    /// Returns when the next attempt may begin; the error if there is to be none.
    pub(super) async fn again(&mut self, failure: Failure) -> Result<()> {
        let Failure { error, verdict } = failure;
        self.failures += 1;
        // What had no time to be answered says less than what was.
        let error = match self.last.take() {
            Some(last) if verdict == Verdict::CutShort => last,
            _ => error,
        };
        match verdict {
            Verdict::Final => return Err(error),
            Verdict::Corrupt => self.corrupt += 1,
            Verdict::TokenRefused => self.refused += 1,
            Verdict::Unreachable | Verdict::TimedOut => self.retry.warn(&error),
            // Now and then they are nothing to speak of.
            Verdict::Throttled | Verdict::Fault if self.start.elapsed() >= WARN_AFTER => {
                self.retry.warn(&error);
            }
            Verdict::Throttled | Verdict::Fault | Verdict::CutShort => {}
        }
        if self.corrupt >= CORRUPT_ANSWERS {
            return Err(error.context(format!("{} corrupt answers", self.corrupt)));
        }
        log::debug!("attempt {} failed: {error:#}", self.failures);
        let now = Instant::now();
        // New tokens nearly always help at once.
        if verdict != Verdict::TokenRefused || self.refused > 1 {
            let wait = pause(self.failures).max(self.retry.budget.pace(now));
            sleep_until(self.deadline.min(now + wait)).await;
        }
        if Instant::now() >= self.deadline {
            return Err(self.gave_up(error));
        }
        self.last = Some(error);
        self.retry.counters.retries.add(1);
        Ok(())
    }
}

fn too_slow(limit: Duration) -> Error {
    let what = format!("no answer within {} s", limit.as_secs_f32());
    Error::new(ErrorKind::Unavailable, what)
}

/// A pause before attempt `failures + 1`: random between half of it and the whole.
fn pause(failures: u32) -> Duration {
    let doubled = FIRST_PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(16));
    doubled
        .min(LONGEST_PAUSE)
        .mul_f64(0.5 + fastrand::f64() / 2.0)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    const LIMITS: Limits = Limits {
        deadline: Duration::from_secs(120),
        attempt: Duration::from_secs(30),
    };

    /// A runtime whose time passes only when all wait.
    fn in_paused_time(test: impl Future<Output = ()>) {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_all().start_paused(true).build().unwrap();
        runtime.block_on(test);
    }

    fn retry() -> Retry {
        Retry::new("the service".into(), 64, Arc::default())
    }

    fn failure(verdict: Verdict) -> Failure {
        let kind = match verdict {
            Verdict::Corrupt => ErrorKind::Corrupt,
            Verdict::Final => ErrorKind::Denied,
            Verdict::TokenRefused => ErrorKind::Invalid,
            _ => ErrorKind::Unavailable,
        };
        Failure {
            error: Error::new(kind, "so it is"),
            verdict,
        }
    }

    /// Fails `times`, then succeeds. Returns the result, the attempts, and the time it took.
    async fn tried(retry: &Retry, verdict: Verdict, times: u32) -> (Result<()>, u32, Duration) {
        let attempts = AtomicU32::new(0);
        let begin = Instant::now();
        let attempt = || async {
            match attempts.fetch_add(1, Ordering::SeqCst) < times {
                true => Err(failure(verdict)),
                false => Ok(()),
            }
        };
        let result = retry.run(LIMITS, attempt).await;
        (result, attempts.load(Ordering::SeqCst), begin.elapsed())
    }

    #[test]
    fn what_is_final_is_not_tried_again() {
        in_paused_time(async {
            let (result, attempts, took) = tried(&retry(), Verdict::Final, 1).await;
            assert_eq!(result.unwrap_err().kind(), ErrorKind::Denied);
            assert_eq!((attempts, took), (1, Duration::ZERO));
        });
    }

    #[test]
    fn an_outage_of_a_minute_delays_and_an_endless_one_ends_with_the_deadline() {
        in_paused_time(async {
            let retry = retry();
            let begin = Instant::now();
            let attempt = || async {
                match begin.elapsed() < Duration::from_secs(60) {
                    true => Err(failure(Verdict::Unreachable)),
                    false => Ok(()),
                }
            };
            retry.run(LIMITS, attempt).await.unwrap();
            // Its end is noticed soon.
            assert!(begin.elapsed() <= Duration::from_secs(65));

            let (result, attempts, took) = tried(&retry, Verdict::Fault, u32::MAX).await;
            let error = result.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unavailable);
            assert!(format!("{error:#}").contains("so it is"));
            assert!((24..70).contains(&attempts), "{attempts}");
            assert!(took >= LIMITS.deadline && took < LIMITS.deadline + LONGEST_PAUSE);
        });
    }

    #[test]
    fn corrupt_answers_are_an_error_of_their_own_after_a_few() {
        in_paused_time(async {
            let (result, attempts, _) = tried(&retry(), Verdict::Corrupt, u32::MAX).await;
            assert_eq!(result.unwrap_err().kind(), ErrorKind::Corrupt);
            assert_eq!(attempts, CORRUPT_ANSWERS);
            let (result, ..) = tried(&retry(), Verdict::Corrupt, CORRUPT_ANSWERS - 1).await;
            result.unwrap();
        });
    }

    #[test]
    fn a_refused_token_is_tried_again_at_once_and_then_with_pauses() {
        in_paused_time(async {
            let (_, _, took) = tried(&retry(), Verdict::TokenRefused, 1).await;
            assert_eq!(took, Duration::ZERO);
            let (_, _, took) = tried(&retry(), Verdict::TokenRefused, 4).await;
            assert!(took > Duration::ZERO);
        });
    }

    #[test]
    fn what_the_deadline_cuts_short_hides_no_reason() {
        in_paused_time(async {
            let attempts = AtomicU32::new(0);
            let attempt = || async {
                match attempts.fetch_add(1, Ordering::SeqCst) {
                    0 => Err(failure(Verdict::Corrupt)),
                    _ => std::future::pending().await,
                }
            };
            let limits = |deadline| Limits {
                deadline: Duration::from_secs(deadline),
                ..LIMITS
            };
            let failed = |result: Result<()>| result.unwrap_err();
            let error = failed(retry().run(limits(20), attempt).await);
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:#}");
            assert!(format!("{error:#}").contains("2 attempts"), "{error:#}");

            // What had all the time that an attempt may take is the reason itself.
            attempts.store(0, Ordering::SeqCst);
            let error = failed(retry().run(limits(31), attempt).await);
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:#}");
            attempts.store(1, Ordering::SeqCst);
            let error = failed(retry().run(limits(20), attempt).await);
            assert!(format!("{error:#}").contains("within 20 s"), "{error:#}");

            // Nor does the wait for a place.
            let retry = Retry::new("the service".into(), 1, Arc::default());
            let mut call = retry.call(limits(20));
            call.again(failure(Verdict::Corrupt)).await.unwrap();
            let _place = retry.limiter.enter().await;
            let error = call.enter().await.map(drop).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:#}");
        });
    }

    #[test]
    fn a_stuck_attempt_does_not_take_the_whole_deadline() {
        in_paused_time(async {
            let begin = Instant::now();
            let attempts = AtomicU32::new(0);
            let attempt = || async {
                if attempts.fetch_add(1, Ordering::SeqCst) == 0 {
                    std::future::pending::<()>().await;
                }
                Ok(())
            };
            retry().run(LIMITS, attempt).await.unwrap();
            assert!(begin.elapsed() < LIMITS.attempt + LONGEST_PAUSE);
        });
    }

    #[test]
    fn pauses_double_up_to_five_seconds_and_differ() {
        for failures in 1..40 {
            let whole = FIRST_PAUSE * (1 << (failures - 1).min(16));
            let whole = whole.min(LONGEST_PAUSE);
            for _ in 0..20 {
                let pause = pause(failures);
                assert!(
                    pause >= whole / 2 && pause <= whole,
                    "{failures}: {pause:?}"
                );
            }
        }
        assert!((0..20).any(|_| pause(9) != pause(9)));
    }
}
