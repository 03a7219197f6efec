//! Warming by the socket: how it is asked for, and who is told what.

use serde::{Deserialize, Serialize};

use super::Seldom;
use crate::control::Events;
use crate::error::Result;
use crate::warm::{Done, Estimate, Warm, Wish};

/// The command that warms.
pub const WARM: &str = "warm";

/// How it is asked for; what is not said is the default.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct WarmOptions {
    /// What is wanted.
    pub wish: Wish,
    /// Only tell what would be fetched.
    pub dry_run: bool,
}

/// What is answered.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Warmed {
    /// It was only estimated.
    Estimate(Estimate),
    /// It is at hand.
    Done(Done),
}

pub(super) async fn run(warm: &Warm, options: WarmOptions, events: &Events) -> Result<Warmed> {
    let wish = &options.wish;
    if options.dry_run {
        return warm.estimate(wish).await.map(Warmed::Estimate);
    }
    let seldom = Seldom::default();
    let tell = |event| {
        if seldom.is_time() {
            events.tell(&event);
        }
    };
    let done = warm.run(wish, &tell).await?;
    log::info!("{}: {} blocks were warmed", done.snapshot, done.fetches);
    Ok(Warmed::Done(done))
}
