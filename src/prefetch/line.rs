//! What the line to the store carries: how long a fetch takes at least, and how many blocks come in a second at best.
//!
//! As many blocks must be under way as come while one is on its way. Both numbers are measured as congestion control does:
//! the latency is a minimum and the rate a maximum over a while, so that neither what waits for others makes the line look long,
//! nor a slow reader makes it look thin. After a while the latency is measured anew, with little under way: otherwise a
//! queue of our own making would count as distance.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Blocks under way that no measurement is asked for: enough to measure by, and a few milliseconds' worth of a fast line.
const LEAST: f64 = 16.0;

/// How many times what is just enough is under way: it finds out whether more would come, and doubles in each round trip
/// as long as more does.
const GAIN: f64 = 2.0;

/// For so long the best rate counts, and then as long again as the best before.
const RATE_AGE: Duration = Duration::from_secs(1);

/// For so long a latency is believed.
const LATENCY_AGE: Duration = Duration::from_secs(10);

/// Fetches by which the latency is measured anew.
const PROBES: usize = 8;

/// Blocks under way meanwhile.
const PROBE: f64 = 4.0;

/// No failure: above all that is ever under way.
const MOST_CAP: f64 = 512.0;

/// Landings that are remembered: more than are ever under way.
const LANDINGS: usize = 512;

/// What was measured.
pub(super) struct Line {
    /// When the latest blocks came.
    landings: VecDeque<Instant>,
    latency: Option<Latency>,
    /// Blocks a second at best, in this age and in the one before.
    rates: [f64; 2],
    rate_since: Option<Instant>,
    /// What failures left of the window: halved by each, and one more in each round trip.
    cap: f64,
}

struct Latency {
    least: Duration,
    since: Instant,
    probe: Option<Probe>,
}

/// A measurement of the latency.
struct Probe {
    begun: Instant,
    least: Duration,
    left: usize,
}

impl Default for Line {
    fn default() -> Self {
        Self {
            landings: VecDeque::new(),
            latency: None,
            rates: [0.0; 2],
            rate_since: None,
            cap: MOST_CAP,
        }
    }
}

impl Line {
    /// A block has come.
    pub(super) fn fetched(&mut self, begun: Instant, landed: Instant) {
        let took = landed.saturating_duration_since(begun);
        if self.landings.len() == LANDINGS {
            self.landings.pop_front();
        }
        self.landings.push_back(landed);
        let during = self.landings.iter().rev().take_while(|at| **at > begun);
        let blocks = u32::try_from(during.count()).unwrap_or(u32::MAX);
        self.rate(f64::from(blocks) / took.as_secs_f64().max(1e-6), landed);
        self.latency(begun, landed, took);
        self.cap = MOST_CAP.min(self.cap + 1.0 / self.cap);
    }

    fn rate(&mut self, rate: f64, now: Instant) {
        let since = *self.rate_since.get_or_insert(now);
        if now.saturating_duration_since(since) > RATE_AGE {
            self.rates = [0.0, self.rates[0]];
            self.rate_since = Some(now);
        }
        self.rates[0] = rate.max(self.rates[0]);
    }

    fn latency(&mut self, begun: Instant, landed: Instant, took: Duration) {
        let latency = self.latency.get_or_insert(Latency {
            least: took,
            since: landed,
            probe: None,
        });
        latency.least = latency.least.min(took);
        match &mut latency.probe {
            None if landed.saturating_duration_since(latency.since) > LATENCY_AGE => {
                latency.probe = Some(Probe {
                    begun: landed,
                    least: Duration::MAX,
                    left: PROBES,
                });
            }
            Some(probe) if begun >= probe.begun => {
                probe.least = probe.least.min(took);
                probe.left -= 1;
                if probe.left == 0 {
                    *latency = Latency {
                        least: probe.least,
                        since: landed,
                        probe: None,
                    };
                }
            }
            _ => {}
        }
    }

    /// The store failed, after all its client's retries: it has too much to do.
    pub(super) fn failed(&mut self) {
        self.cap = (self.blocks().min(self.cap) / 2.0).max(1.0);
    }

    /// Blocks to have under way, as far as the line is concerned.
    pub(super) fn window(&self) -> usize {
        let blocks = self.blocks().min(self.cap).ceil();
        // A duration rounds as a cast would.
        let blocks = Duration::try_from_secs_f64(blocks).map_or(0, |blocks| blocks.as_secs());
        usize::try_from(blocks).unwrap_or(usize::MAX)
    }

    fn blocks(&self) -> f64 {
        let Some(latency) = &self.latency else {
            return LEAST;
        };
        if latency.probe.is_some() {
            return PROBE;
        }
        let rate = self.rates[0].max(self.rates[1]);
        (GAIN * rate * latency.least.as_secs_f64()).max(LEAST)
    }
}
