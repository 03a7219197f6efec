//! SIGINT, SIGTERM and SIGHUP: work stops between two steps and says how to go on with it.

use futures_util::future::{Either, select};
use futures_util::pin_mut;
use tokio::signal::unix::{SignalKind, signal};

use super::{Outcome, Stop};
use crate::error::{Error, Result};

/// The result of `work`, or `Interrupted` with `how_to_go_on` when a signal comes first.
pub(super) async fn unless_interrupted<T>(
    work: impl Future<Output = Result<T>>,
    how_to_go_on: &str,
) -> Outcome<T> {
    let cannot = |e: std::io::Error| Error::from(e).context("cannot watch for signals");
    let mut interrupt = signal(SignalKind::interrupt()).map_err(cannot)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(cannot)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(cannot)?;
    let (interrupted, terminated, hung_up) = (interrupt.recv(), terminate.recv(), hangup.recv());
    pin_mut!(work, interrupted, terminated, hung_up);
    match select(work, select(interrupted, select(terminated, hung_up))).await {
        Either::Left((done, _)) => Ok(done?),
        Either::Right(_) => Err(Stop::Interrupted(how_to_go_on.to_owned())),
    }
}
