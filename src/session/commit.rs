//! Commits of a mounted disk, and settling those that a store has accepted.
//!
//! A commit runs as long as who asked for it stays; interrupted, it is gone on with by the next one. Once the store has
//! accepted it, it is settled here whoever is there or not, also if that was in an earlier life of the daemon.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use log::{error, info, warn};
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use super::Seldom;
use crate::commit::{Accepted, Commits, Depth, Event, Plan, Settled, Wish};
use crate::control::Events;
use crate::error::{Error, ErrorKind, Result};
use crate::snapshot::SnapshotId;

/// The command that commits.
pub const COMMIT: &str = "commit";

/// How a commit is asked for; what is not said is the default.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct CommitOptions {
    /// What is wanted.
    pub wish: Wish,
    /// How much of it is verified.
    pub depth: Depth,
    /// Whether to wait until it is settled.
    pub wait: bool,
    /// Only tell what would be done.
    pub dry_run: bool,
}

/// What a commit answers.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// It was only planned.
    Plan(Plan),
    /// The store has it.
    Accepted(Accepted),
}

/// How far the commit that the store has accepted is.
#[derive(Clone, Debug)]
enum Progress {
    /// There is none, or it is not settled yet.
    Open,
    /// It is the base.
    Done(SnapshotId),
    /// It could not be settled.
    Failed(SnapshotId, Error),
}

/// The commits of one daemon.
pub(super) struct Committing {
    commits: Commits,
    /// Held while a commit runs or is settled.
    turn: tokio::sync::Mutex<()>,
    progress: watch::Sender<Progress>,
    /// Says that there may be something to settle.
    accepted: Notify,
    /// The snapshot of which all is to be verified. Guards itself only.
    thorough: Mutex<Option<SnapshotId>>,
}

/// How often a store that is not there is asked again about what it has accepted, and whether there is anything to ask.
const RETRY: Duration = Duration::from_secs(5);

impl Committing {
    /// What the store had accepted before is settled on `runtime` from now on.
    pub(super) fn new(commits: Commits, runtime: &Handle) -> Arc<Self> {
        let committing = Arc::new(Self {
            commits,
            turn: tokio::sync::Mutex::default(),
            progress: watch::Sender::new(Progress::Open),
            accepted: Notify::new(),
            thorough: Mutex::default(),
        });
        runtime.spawn(settle_all(Arc::downgrade(&committing)));
        committing
    }

    pub(super) async fn run(&self, options: CommitOptions, events: &Events) -> Result<Answer> {
        let commits = &self.commits;
        let busy = || {
            let what = "another commit of this mount is under way, or is just being verified: wait for its end";
            Error::new(ErrorKind::Conflict, what)
        };
        let turn = self.turn.try_lock().map_err(|_| busy())?;
        if !options.wish.restart {
            self.check_settled()?;
        }
        if options.dry_run {
            return commits.plan().await.map(Answer::Plan);
        }
        let seldom = Seldom::default();
        let tell = |event| {
            if !matches!(event, Event::Progress { .. }) || seldom.is_time() {
                events.tell(&event);
            }
        };
        self.progress.send_replace(Progress::Open);
        let accepted = commits.run(&options.wish, &tell).await?;
        let id = &accepted.id;
        info!(
            "{id}: accepted, {} blocks put, child of {}",
            accepted.blocks, accepted.parent
        );
        if options.depth == Depth::All {
            *self.thorough.lock().unwrap_or_else(PoisonError::into_inner) = Some(id.clone());
        }
        drop(turn);
        self.accepted.notify_one();
        if options.wait {
            self.until_settled(id).await?;
            events.tell(&Event::Settled { id: id.clone() });
        }
        Ok(Answer::Accepted(accepted))
    }

    /// Says why a commit that was accepted is in the way of another, if one is.
    fn check_settled(&self) -> Result<()> {
        let (Some((_, id)), Progress::Failed(failed, why)) =
            (self.commits.accepted(), &*self.progress.borrow())
        else {
            return Ok(());
        };
        match id == *failed {
            true => Err(why
                .clone()
                .context("the last commit could not be settled; --restart gives it up")),
            false => Ok(()),
        }
    }

    async fn until_settled(&self, id: &SnapshotId) -> Result<()> {
        let mut progress = self.progress.subscribe();
        let ended = |progress: &Progress| match progress {
            Progress::Open => false,
            Progress::Done(which) | Progress::Failed(which, _) => which == id,
        };
        let progress = progress.wait_for(ended).await;
        match progress.as_deref() {
            Ok(Progress::Failed(_, why)) => Err(why.clone()),
            // The sender is this session's own.
            Ok(Progress::Done(_) | Progress::Open) | Err(_) => Ok(()),
        }
    }

    /// Settles what is accepted, if anything is.
    async fn settle(&self) {
        let commits = &self.commits;
        let Some((_, id)) = commits.accepted() else {
            return;
        };
        let failed = match &*self.progress.borrow() {
            Progress::Failed(failed, why) if *failed == id => Some(why.kind()),
            _ => None,
        };
        if failed.is_some_and(is_final) {
            return;
        }
        // Without the turn: the commit may be given up meanwhile, and a store may take hours.
        let completed = commits.completed().await;
        let _turn = self.turn.lock().await;
        if commits.accepted().is_none_or(|(_, now)| now != id) {
            return;
        }
        let thorough = self
            .thorough
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let depth = match thorough.as_ref() == Some(&id) {
            true => Depth::All,
            false => Depth::Sample,
        };
        let settled = match completed {
            Ok(()) => commits.settle(depth).await,
            Err(e) => Err(e),
        };
        match settled {
            Ok(Settled::Done(id)) => drop(self.progress.send_replace(Progress::Done(id))),
            Ok(Settled::NotYet(_) | Settled::Nothing) => {}
            Err(e) if e.kind() == ErrorKind::Unavailable => {
                warn!("{id}: not settled yet: {e:#}");
            }
            Err(e) => {
                if failed != Some(e.kind()) {
                    error!("{id}: the commit cannot be settled: {e:#}");
                }
                self.progress.send_replace(Progress::Failed(id, e));
            }
        }
    }
}

/// Whether trying again will not settle it. Credentials that have expired, say, may be renewed.
fn is_final(kind: ErrorKind) -> bool {
    match kind {
        ErrorKind::Corrupt | ErrorKind::Invalid | ErrorKind::NotFound => true,
        ErrorKind::Unavailable
        | ErrorKind::Denied
        | ErrorKind::ReadOnly
        | ErrorKind::NoSpace
        | ErrorKind::Conflict
        | ErrorKind::Unsupported
        | ErrorKind::Io => false,
    }
}

/// Settles whatever is accepted, as long as the session is there.
async fn settle_all(committing: Weak<Committing>) {
    while let Some(committing) = committing.upgrade() {
        committing.settle().await;
        // Now and then even if nobody says so: who asked may have gone at the very moment.
        drop(timeout(RETRY, committing.accepted.notified()).await);
    }
}
