//! How many requests are under way at one time: as many as bring something, and as the service takes.
//!
//! It begins with a few and doubles as long as that brings more in the same time: 50 ms away it takes hundreds to
//! fill a processor, and next door a dozen, more of which would only wait for each other. What a service next door gains
//! while it warms up is no reason to: so many are enough as fill the line, by its rate and its shortest round trip, a few
//! times. Then it stays, and adds one at a time where that still helps. A throttle halves it, at most once per round trip: what was sent before the
//! last cut says nothing about the new limit. It recovers one by one, up to where it was (AIMD).

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

/// Enough for the latency of a distant region; the service throttles long before it would fill a 10 Gbit/s line.
pub const MAX: usize = 256;

/// Fewer successes than this do not tell a rate.
const SAMPLE: u32 = 32;

/// How much more must come through for doubling to be worth it.
const DOUBLING_GAIN: f64 = 1.25;
/// And for one more.
const GAIN: f64 = 1.05;
/// How often the line may be filled: round trips are seldom as short as the shortest.
const FILLINGS: f64 = 8.0;
/// What is left of the best rate after each measurement that was lower: an hour ago is not now.
const FADING: f64 = 0.98;

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
    /// Up to here more is known to help, or to have been taken; none: it doubles.
    knee: Option<usize>,
    /// Requests a second, at best.
    best: f64,
    /// What a request took, at best; seconds.
    shortest: f64,
    successes: u32,
    since: Instant,
    /// Whether someone had to wait since then: only then does a rate say something about the limit.
    full: bool,
    cut: Option<Instant>,
}

impl Limiter {
    /// A limit that begins at `start`.
    pub(super) fn new(start: usize) -> Self {
        let limit = start.clamp(1, MAX);
        let state = State {
            limit,
            excess: 0,
            knee: None,
            best: 0.0,
            shortest: f64::INFINITY,
            successes: 0,
            since: Instant::now(),
            full: false,
            cut: None,
        };
        Self {
            free: Semaphore::new(limit),
            state: Mutex::new(state),
        }
    }

    /// Waits for its turn; the request is to begin then.
    pub(super) async fn enter(&self) -> Permit<'_> {
        if self.free.available_permits() == 0 {
            self.state().fill();
        }
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

    /// Sets another limit.
    fn limit_to(&self, state: &mut State, limit: usize) {
        let limit = limit.clamp(1, MAX);
        if limit < state.limit {
            state.excess += state.limit - limit;
            state.excess -= self.free.forget_permits(state.excess);
        } else {
            // Those that were to disappear may stay.
            let more = limit - state.limit;
            let stay = more.min(state.excess);
            state.excess -= stay;
            self.free.add_permits(more - stay);
        }
        if limit != state.limit {
            log::debug!(
                "{limit} requests at one time, after {}; at best {:.0} a second, {:.1} ms",
                state.limit,
                state.best,
                state.shortest * 1000.0
            );
        }
        state.limit = limit;
    }

    #[cfg(test)]
    fn limit(&self) -> usize {
        self.state().limit
    }
}

impl State {
    /// Ends a measurement.
    fn measure(&mut self) {
        self.successes = 0;
        self.since = Instant::now();
        self.full = false;
    }

    /// Somebody has to wait: from here on it is measured how much comes through. Before, there was less to do than may be
    /// done, and a rate over that time would be none of the service's.
    fn fill(&mut self) {
        if !self.full {
            self.measure();
            self.full = true;
        }
    }

    /// After how many successes to look at the limit.
    fn sample(&self) -> u32 {
        let round = u32::try_from(self.limit).unwrap_or(u32::MAX);
        match self.knee {
            // No rate is asked for where it only recovers.
            Some(knee) if self.limit < knee => round,
            _ => round.max(SAMPLE),
        }
    }

    /// Whether those under way fill the line, at that rate, a few times over.
    fn is_full_at(&self, rate: f64) -> bool {
        let under_way = u32::try_from(self.limit).map_or(f64::INFINITY, f64::from);
        under_way > rate * self.shortest * FILLINGS
    }

    /// The limit that a measured rate asks for.
    fn next(&mut self, rate: f64) -> usize {
        let gain = |factor| rate > self.best * factor;
        let limit = match self.knee {
            None if gain(DOUBLING_GAIN) && self.limit < MAX && !self.is_full_at(rate) => {
                self.limit * 2
            }
            None => {
                // The last doubling brought little; more would bring nothing.
                self.knee = Some(self.limit);
                self.limit
            }
            Some(knee) if self.limit < knee || gain(GAIN) => self.limit + 1,
            Some(_) => self.limit,
        };
        self.best = rate.max(self.best * FADING);
        limit
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
        state.shortest = self.since.elapsed().as_secs_f64().min(state.shortest);
        if state.successes < state.sample() {
            return;
        }
        if state.full {
            let rate = f64::from(state.successes) / state.since.elapsed().as_secs_f64().max(1e-6);
            let limit = state.next(rate);
            self.limiter.limit_to(&mut state, limit);
        }
        state.measure();
    }

    /// The service, or the way to it, has too much to do.
    pub(super) fn throttled(self) {
        let mut state = self.limiter.state();
        if state.cut.is_some_and(|cut| self.since < cut) {
            return;
        }
        // It was taken so far; how much more would be is found out one by one.
        state.knee = Some(state.limit.max(state.knee.unwrap_or(0)));
        let half = state.limit.div_ceil(2);
        self.limiter.limit_to(&mut state, half);
        state.measure();
        state.cut = Some(Instant::now());
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

    use futures_util::{StreamExt as _, stream};
    use tokio::time::{advance, sleep};

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

    /// Requests to a service that answers after `latency`, and one in two milliseconds at most.
    async fn use_service(limiter: &Limiter, requests: usize, latency: Duration) {
        let turns = tokio::sync::Mutex::new(());
        let one = |_| async {
            let permit = limiter.enter().await;
            sleep(latency).await;
            let turn = turns.lock().await;
            sleep(Duration::from_millis(2)).await;
            drop(turn);
            permit.succeeded();
        };
        // More want to than ever can.
        stream::iter(0..requests)
            .for_each_concurrent(2 * MAX, one)
            .await;
    }

    #[test]
    fn a_distant_service_gets_as_many_as_fill_the_line() {
        in_paused_time(async {
            let limiter = Limiter::new(16);
            use_service(&limiter, 3000, Duration::from_millis(300)).await;
            // 150 are answered while one is on its way.
            assert!(limiter.limit() >= 128, "{}", limiter.limit());
        });
    }

    #[test]
    fn an_idle_time_before_does_not_count() {
        in_paused_time(async {
            let limiter = Limiter::new(32);
            for _ in 0..20 {
                let permit = limiter.enter().await;
                sleep(Duration::from_millis(50)).await;
                permit.succeeded();
                advance(Duration::from_secs(1)).await;
            }
            use_service(&limiter, 1000, Duration::from_millis(50)).await;
            assert!(limiter.limit() >= 64, "{}", limiter.limit());
        });
    }

    #[test]
    fn one_next_door_gets_a_few() {
        in_paused_time(async {
            let limiter = Limiter::new(16);
            use_service(&limiter, 10_000, Duration::from_millis(1)).await;
            assert!(limiter.limit() <= 40, "{}", limiter.limit());
        });
    }

    #[test]
    fn it_recovers_from_a_throttle_one_by_one() {
        in_paused_time(async {
            let limiter = Limiter::new(64);
            limiter.enter().await.throttled();
            assert_eq!(limiter.limit(), 32);
            use_service(&limiter, 33, Duration::from_millis(1)).await;
            assert_eq!(limiter.limit(), 33);
            use_service(&limiter, 3000, Duration::from_millis(1)).await;
            assert!((64..80).contains(&limiter.limit()), "{}", limiter.limit());
        });
    }

    #[test]
    fn who_asks_for_little_changes_nothing() {
        in_paused_time(async {
            let limiter = Limiter::new(16);
            for _ in 0..1000 {
                let permit = limiter.enter().await;
                sleep(Duration::from_millis(1)).await;
                permit.succeeded();
            }
            assert_eq!(limiter.limit(), 16);
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
