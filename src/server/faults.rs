//! Misbehaviour on request, so that users can rehearse failures: what befalls the next request, by a seed.
//!
//! A pure policy: it draws lots and sleeps nowhere, sends nothing. The same settings and seed give the same
//! sequence of [`Fate`]s, one for each request in the order in which they come.

use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use fastrand::Rng;
use jiff::SignedDuration;

use crate::error::{Error, ErrorKind, Result};

/// What goes wrong, and how often. Rates are shares of all requests that are properly signed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Faults {
    /// How much later every answer comes.
    pub latency: Duration,
    /// 500 InternalServerException instead of doing it.
    pub error: f64,
    /// A throttle instead of doing it.
    pub throttle: f64,
    /// One bit of a block is flipped on its way out.
    pub corrupt: f64,
    /// The answer ends early, and the connection with it.
    pub truncate: f64,
    /// The connection is closed instead of an answer, half of the times after it was done.
    pub reset: f64,
    /// How long a completed snapshot stays `pending`.
    pub complete_after: Duration,
    /// How long block tokens are good; none: seven days.
    pub token_ttl: Option<Duration>,
    /// Whether each listing of a snapshot voids the block tokens of all before it.
    pub rotate_tokens: bool,
    /// Where the lots begin.
    pub seed: u64,
}

impl FromStr for Faults {
    type Err = Error;

    /// `latency=50ms,error=0.02,rotate-tokens,seed=7`
    fn from_str(text: &str) -> Result<Self> {
        let mut faults = Self::default();
        for setting in text.split(',').map(str::trim) {
            let (name, value) = match setting.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (setting, None),
            };
            faults
                .set(name, value)
                .map_err(|e| Error::new(ErrorKind::Invalid, format!("{setting:?}: {e}")))?;
        }
        Ok(faults)
    }
}

impl Faults {
    fn set(&mut self, name: &str, value: Option<&str>) -> Result<(), &'static str> {
        let rate = |to: &mut f64| {
            let rate = value.and_then(|value| value.parse().ok());
            *to = rate
                .filter(|rate| (0.0..=1.0).contains(rate))
                .ok_or("it needs a share from 0 to 1, as in error=0.02")?;
            Ok(())
        };
        let span = |to: &mut Duration| {
            let span = value.and_then(|value| value.parse::<SignedDuration>().ok());
            *to = span
                .and_then(|span| Duration::try_from(span).ok())
                .ok_or("it needs a duration, as in latency=50ms")?;
            Ok(())
        };
        match name {
            "latency" => span(&mut self.latency),
            "error" => rate(&mut self.error),
            "throttle" => rate(&mut self.throttle),
            "corrupt" => rate(&mut self.corrupt),
            "truncate" => rate(&mut self.truncate),
            "reset" => rate(&mut self.reset),
            "complete-after" => span(&mut self.complete_after),
            "token-ttl" => span(self.token_ttl.insert(Duration::ZERO)),
            "rotate-tokens" if value.is_none() => {
                self.rotate_tokens = true;
                Ok(())
            }
            "rotate-tokens" => Err("it takes no value"),
            "seed" => {
                let seed = value.and_then(|value| value.parse().ok());
                self.seed = seed.ok_or("it needs a number, as in seed=7")?;
                Ok(())
            }
            _ => Err("no such fault; `ebsfs help serve` names them"),
        }
    }
}

/// What befalls one request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Fate {
    /// Nothing.
    Spared,
    /// It is refused with an internal error.
    Error,
    /// It is refused for coming too fast, in the way of this number.
    Throttle(u8),
    /// Its connection is closed, and it is not done.
    ResetBefore,
    /// It is done, and its connection is closed without an answer.
    ResetAfter,
    /// It is done, and its answer is cut short.
    Truncate,
    /// It is done, and this bit of the block is flipped, counted modulo the bits of a block.
    Corrupt(u32),
}

/// The ways to be throttled.
pub(super) const THROTTLES: u8 = 3;

/// Draws lots.
pub(super) struct Lots {
    faults: Faults,
    /// Guards a few multiplications.
    rng: Mutex<Rng>,
}

impl Lots {
    pub(super) fn new(faults: Faults) -> Self {
        let rng = Mutex::new(Rng::with_seed(faults.seed));
        Self { faults, rng }
    }

    /// What befalls the next request.
    pub(super) fn draw(&self) -> Fate {
        let mut rng = self.rng.lock().unwrap_or_else(PoisonError::into_inner);
        // One lot for all, so that rates add up to what was asked for; the others are drawn in any case, so that
        // they do not shift the sequence.
        let mut lot = rng.f64();
        let (way, half, bit) = (rng.u8(0..THROTTLES), rng.bool(), rng.u32(..));
        let reset = if half {
            Fate::ResetBefore
        } else {
            Fate::ResetAfter
        };
        for (rate, fate) in [
            (self.faults.error, Fate::Error),
            (self.faults.throttle, Fate::Throttle(way)),
            (self.faults.reset, reset),
            (self.faults.truncate, Fate::Truncate),
            (self.faults.corrupt, Fate::Corrupt(bit)),
        ] {
            if lot < rate {
                return fate;
            }
            lot -= rate;
        }
        Fate::Spared
    }

    /// How much later an answer comes.
    pub(super) fn latency(&self) -> Duration {
        self.faults.latency
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: &str = "latency=50ms,error=0.02,throttle=0.05,corrupt=0.01,truncate=0.01,reset=0.01,complete-after=5s,token-ttl=5s,rotate-tokens,seed=3";

    #[test]
    fn faults_are_read_as_help_shows_them() {
        let wanted = Faults {
            latency: Duration::from_millis(50),
            error: 0.02,
            throttle: 0.05,
            corrupt: 0.01,
            truncate: 0.01,
            reset: 0.01,
            complete_after: Duration::from_secs(5),
            token_ttl: Some(Duration::from_secs(5)),
            rotate_tokens: true,
            seed: 3,
        };
        assert_eq!(ALL.parse::<Faults>().unwrap(), wanted);
        for bad in [
            "",
            "error",
            "error=2",
            "error=-0.1",
            "error=x",
            "error=NaN",
            "latency=5",
            "latency=-5s",
            "rotate-tokens=1",
            "seed=",
            "errors=0.1",
            "error=0.1,",
        ] {
            let error = bad.parse::<Faults>().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{bad}");
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_sequence() {
        let draw = |text: &str| -> Vec<Fate> {
            let lots = Lots::new(text.parse().unwrap());
            (0..1000).map(|_| lots.draw()).collect()
        };
        assert_eq!(draw(ALL), draw(ALL));
        assert_ne!(draw(ALL), draw(&ALL.replace("seed=3", "seed=4")));
        assert!(draw("seed=1").iter().all(|fate| *fate == Fate::Spared));
        assert!(draw("error=1").iter().all(|fate| *fate == Fate::Error));
    }

    #[test]
    fn rates_are_kept() {
        let lots = Lots::new(
            "error=0.1,throttle=0.1,reset=0.1,truncate=0.1,corrupt=0.1"
                .parse()
                .unwrap(),
        );
        let mut counts = [0_u32; 5];
        for _ in 0..10_000 {
            match lots.draw() {
                Fate::Spared => {}
                Fate::Error => counts[0] += 1,
                Fate::Throttle(way) => {
                    assert!(way < THROTTLES);
                    counts[1] += 1;
                }
                Fate::ResetBefore | Fate::ResetAfter => counts[2] += 1,
                Fate::Truncate => counts[3] += 1,
                Fate::Corrupt(_) => counts[4] += 1,
            }
        }
        assert!(
            counts.iter().all(|count| (850..1150).contains(count)),
            "{counts:?}"
        );
    }
}
