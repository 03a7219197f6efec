//! SIGINT, SIGTERM and SIGHUP: work stops between two steps and says how to go on with it.

use std::time::Duration;

use futures_util::future::{Either, select};
use futures_util::pin_mut;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::timeout;

use super::{Outcome, Stop};
use crate::error::{Error, Result};

/// The signals that ask this program to end. As long as it lives, and after that, none of them ends it by itself.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    /// From now on; on the runtime.
    pub(super) fn watch() -> Result<Self> {
        let watch =
            |kind| signal(kind).map_err(|e| Error::from(e).context("cannot watch for signals"));
        Ok(Self {
            interrupt: watch(SignalKind::interrupt())?,
            terminate: watch(SignalKind::terminate())?,
            hangup: watch(SignalKind::hangup())?,
        })
    }

    /// Waits for the next one.
    pub(super) async fn next(&mut self) {
        let (interrupt, terminate) = (self.interrupt.recv(), self.terminate.recv());
        let hangup = self.hangup.recv();
        pin_mut!(interrupt, terminate, hangup);
        select(interrupt, select(terminate, hangup)).await;
    }

    /// Whether one has come that nobody has waited for.
    pub(super) async fn has_come(&mut self) -> bool {
        timeout(Duration::ZERO, self.next()).await.is_ok()
    }
}

/// The result of `work`, or `Interrupted` with `how_to_go_on` when a signal comes first.
pub(super) async fn unless_interrupted<T>(
    work: impl Future<Output = Result<T>>,
    how_to_go_on: &str,
) -> Outcome<T> {
    let mut signals = Signals::watch()?;
    let signalled = signals.next();
    pin_mut!(work, signalled);
    match select(work, signalled).await {
        Either::Left((done, _)) => Ok(done?),
        Either::Right(_) => Err(Stop::Interrupted(how_to_go_on.to_owned())),
    }
}
