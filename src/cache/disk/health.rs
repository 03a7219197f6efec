//! Whether the disk is worth asking: one that fails again and again, or does not answer, is left alone for a while.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use log::warn;

use crate::error::Error;

/// After so many failures in a row the disk is left alone.
const FAILURES: u32 = 3;
/// For so long.
const PAUSE: Duration = Duration::from_secs(30);

#[derive(Default)]
pub(super) struct Health {
    /// Guards the numbers in it.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    failures: u32,
    /// Until when it is left alone.
    until: Option<Instant>,
}

impl Health {
    /// Whether the disk may be asked.
    pub(super) fn is_good(&self) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.until.is_none_or(|until| until <= Instant::now())
    }

    /// It did what it was asked for.
    pub(super) fn worked(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.failures = 0;
    }

    /// It failed.
    pub(super) fn failed(&self, why: &Error) {
        self.count(1, why);
    }

    /// It did not answer in time; nobody is to wait for that three times.
    pub(super) fn hung(&self, why: &Error) {
        self.count(FAILURES, why);
    }

    fn count(&self, failures: u32, why: &Error) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.failures += failures;
        if state.failures < FAILURES {
            return;
        }
        state.failures = 0;
        let now = Instant::now();
        let told = state.until.is_some_and(|until| until > now);
        state.until = Some(now + PAUSE);
        drop(state);
        if !told {
            let seconds = PAUSE.as_secs();
            warn!("the disk cache is left alone for {seconds} s: {why:#}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn failures_in_a_row_pause_it_and_one_hang_does() {
        let why = Error::new(ErrorKind::Io, "a test");
        let health = Health::default();
        for _ in 0..FAILURES - 1 {
            health.failed(&why);
        }
        health.worked();
        health.failed(&why);
        assert!(health.is_good());
        for _ in 0..FAILURES - 1 {
            health.failed(&why);
        }
        assert!(!health.is_good());
        let health = Health::default();
        health.hung(&why);
        assert!(!health.is_good());
    }
}
