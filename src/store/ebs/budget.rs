//! How many retries all calls of a store may make: a stock for bursts, and so many a second after that.
//!
//! It paces and never refuses: in an outage many calls do not ask all at once, and none fails for it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Retries in stock: what a burst of throttles may take.
const STOCK: f64 = 500.0;
/// Retries a second when the stock is used up. With the most requests under way at one time it is as long as
/// the longest pause of a call to its next turn.
const RATE: f64 = 50.0;

/// Retries that may begin at once; the rest waits for its turn.
pub(super) struct Budget {
    /// Guards arithmetic only.
    state: Mutex<State>,
}

struct State {
    /// Below zero: those that wait already.
    retries: f64,
    at: Instant,
}

impl Budget {
    /// A full stock.
    pub(super) fn new() -> Self {
        let state = State {
            retries: STOCK,
            at: Instant::now(),
        };
        Self {
            state: Mutex::new(state),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes one retry, and says how long it has to wait.
    pub(super) fn pace(&self, now: Instant) -> Duration {
        let mut state = self.state();
        let earned = now.saturating_duration_since(state.at).as_secs_f64() * RATE;
        state.at = now;
        state.retries = (state.retries + earned).min(STOCK) - 1.0;
        Duration::from_secs_f64((-state.retries).max(0.0) / RATE)
    }

    /// What succeeds lets others try again: pacing begins where most fails.
    pub(super) fn earn(&self) {
        let mut state = self.state();
        state.retries = (state.retries + 1.0).min(STOCK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_who_fail_at_one_time_are_paced_and_successes_end_that() {
        let (budget, now) = (Budget::new(), Instant::now());
        let waits: Vec<_> = (0..700).map(|_| budget.pace(now)).collect();
        assert_eq!(waits[499], Duration::ZERO);
        assert_eq!(waits[549], Duration::from_secs(1));
        assert_eq!(waits[699], Duration::from_secs(4));
        (0..300).for_each(|_| budget.earn());
        assert_eq!(budget.pace(now), Duration::ZERO);
    }
}
