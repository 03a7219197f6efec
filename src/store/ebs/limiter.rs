//! How many requests are under way at one time: as many as the service takes without throttling (AIMD).
//!
//! A throttle halves the limit, at most once per round trip: what was sent before the last cut says nothing about
//! the new limit. As many successes as the limit add one to it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

/// Enough for the latency of a distant region; the service throttles long before it would fill a 10 Gbit/s line.
const MAX: usize = 256;

/// A limit that follows what the service takes.
pub(super) struct Limiter {
    free: Semaphore,
    /// Guards arithmetic only.
    state: Mutex<State>,
}

struct State {
    limit: usize,
    /// Permits still out that are to disappear when they come back.
    excess: usize,
    successes: usize,
    cut: Option<Instant>,
}

impl Limiter {
    /// A limit that begins at `start`.
    pub(super) fn new(start: usize) -> Self {
        let limit = start.clamp(1, MAX);
        let state = State {
            limit,
            excess: 0,
            successes: 0,
            cut: None,
        };
        Self {
            free: Semaphore::new(limit),
            state: Mutex::new(state),
        }
    }

    /// Waits for its turn; the request is to begin then.
    pub(super) async fn enter(&self) -> Permit<'_> {
        Permit {
            limiter: self,
            // The semaphore is never closed.
            place: self.free.acquire().await.ok(),
            since: Instant::now(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    fn limit(&self) -> usize {
        self.state().limit
    }
}

/// The right to have one request under way.
pub(super) struct Permit<'a> {
    limiter: &'a Limiter,
    place: Option<SemaphorePermit<'a>>,
    since: Instant,
}

impl Permit<'_> {
    /// The service answered as it should.
    pub(super) fn succeeded(self) {
        let mut state = self.limiter.state();
        state.successes += 1;
        if state.successes < state.limit {
            return;
        }
        state.successes = 0;
        if state.limit < MAX {
            state.limit += 1;
            match state.excess.checked_sub(1) {
                Some(fewer) => state.excess = fewer,
                None => self.limiter.free.add_permits(1),
            }
        }
    }

    /// The service, or the way to it, has too much to do.
    pub(super) fn throttled(self) {
        let mut state = self.limiter.state();
        if state.cut.is_some_and(|cut| self.since < cut) {
            return;
        }
        let less = state.limit / 2;
        state.limit -= less;
        state.excess += less;
        state.successes = 0;
        state.cut = Some(Instant::now());
        let taken = self.limiter.free.forget_permits(state.excess);
        state.excess -= taken;
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        let mut state = self.limiter.state();
        if let Some(fewer) = state.excess.checked_sub(1)
            && let Some(place) = self.place.take()
        {
            state.excess = fewer;
            place.forget();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::advance;

    use super::*;

    /// A runtime whose time passes only when all wait.
    fn in_paused_time(test: impl Future<Output = ()>) {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_all().start_paused(true).build().unwrap();
        runtime.block_on(test);
    }

    #[test]
    fn throttles_of_one_round_trip_halve_the_limit_once() {
        in_paused_time(async {
            let limiter = Limiter::new(64);
            let mut under_way = Vec::new();
            for _ in 0..64 {
                under_way.push(limiter.enter().await);
            }
            advance(Duration::from_millis(1)).await;
            under_way.drain(..10).for_each(Permit::throttled);
            assert_eq!(limiter.limit(), 32);
            assert_eq!(limiter.free.available_permits(), 0);
            drop(under_way);
            assert_eq!(limiter.free.available_permits(), 32);
            advance(Duration::from_millis(1)).await;
            limiter.enter().await.throttled();
            assert_eq!(limiter.limit(), 16);
            assert_eq!(limiter.free.available_permits(), 16);
        });
    }

    #[test]
    fn a_limit_of_successes_adds_one_and_it_recovers_to_the_maximum() {
        in_paused_time(async {
            let limiter = Limiter::new(4);
            for _ in 0..4 {
                limiter.enter().await.succeeded();
            }
            assert_eq!(limiter.limit(), 5);
            for _ in 0..MAX * MAX {
                limiter.enter().await.succeeded();
            }
            assert_eq!(limiter.limit(), MAX);
            assert_eq!(limiter.free.available_permits(), MAX);
        });
    }

    #[test]
    fn one_request_is_always_permitted() {
        in_paused_time(async {
            let limiter = Limiter::new(4);
            for _ in 0..10 {
                advance(Duration::from_millis(1)).await;
                limiter.enter().await.throttled();
            }
            assert_eq!(limiter.limit(), 1);
            assert_eq!(limiter.free.available_permits(), 1);
        });
    }

    #[test]
    fn an_abandoned_request_gives_its_place_back() {
        in_paused_time(async {
            let limiter = Limiter::new(2);
            drop((limiter.enter().await, limiter.enter().await));
            assert_eq!(limiter.free.available_permits(), 2);
            assert_eq!(limiter.limit(), 2);
        });
    }
}
