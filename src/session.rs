//! What a mounted daemon does for its user beside showing files: the commands of its control socket.
//!
//! Here is which commands there are; each has a file of its own, with the form of its options and answers.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::runtime::Handle;

use crate::commit::Commits;
use crate::control::{Commands, Events, Request};
use crate::error::{Error, ErrorKind, Result};

mod commit;
mod warm;

use self::commit::Committing;
pub use self::commit::{Answer, COMMIT, CommitOptions};
pub use self::warm::{WARM, WarmOptions, Warmed};
use crate::warm::Warm;

/// A mounted daemon, for its user.
pub struct Session {
    warm: Arc<Warm>,
    /// None: nothing can be written.
    committing: Option<Arc<Committing>>,
}

impl Session {
    /// Of a mount that cannot be written to.
    pub fn read_only(warm: Arc<Warm>) -> Arc<Self> {
        Arc::new(Self {
            warm,
            committing: None,
        })
    }

    /// Of a mount with an overlay. What the store had accepted before is settled on `runtime` from now on.
    pub fn new(warm: Arc<Warm>, commits: Commits, runtime: &Handle) -> Arc<Self> {
        let committing = Some(Committing::new(commits, runtime));
        Arc::new(Self { warm, committing })
    }

    async fn commit(&self, options: CommitOptions, events: &Events) -> Result<Answer> {
        let read_only = || {
            let what = "this mount has no overlay, so there is nothing to commit: mount with --overlay DIR to edit";
            Error::new(ErrorKind::ReadOnly, what)
        };
        let committing = self.committing.as_ref().ok_or_else(read_only)?;
        committing.run(options, events).await
    }
}

#[async_trait]
impl Commands for Session {
    async fn run(&self, request: Request, events: &Events) -> Result<Value> {
        match &*request.command {
            COMMIT => answer(self.commit(options(request)?, events).await),
            WARM => answer(warm::run(&self.warm, options(request)?, events).await),
            unknown => Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "this daemon is version {} and does not know {unknown:?}: mount again with the new program",
                    env!("CARGO_PKG_VERSION"),
                ),
            )),
        }
    }
}

/// What a request says beside its command.
fn options<T: Default + DeserializeOwned>(request: Request) -> Result<T> {
    match request.options {
        Value::Null => Ok(T::default()),
        said => serde_json::from_value(said).map_err(|e| {
            Error::new(ErrorKind::Invalid, e.to_string()).context("the options make no sense")
        }),
    }
}

fn answer(done: Result<impl Serialize>) -> Result<Value> {
    done.map(|answer| json!(answer))
}

/// How often a client is told how far its work is.
const TELL: Duration = Duration::from_millis(100);

/// Lets some events through, and leaves out those that come too soon after.
struct Seldom(Mutex<Instant>);

impl Default for Seldom {
    fn default() -> Self {
        Self(Mutex::new(Instant::now()))
    }
}

impl Seldom {
    fn is_time(&self) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_time = last.elapsed() >= TELL;
        if is_time {
            *last = Instant::now();
        }
        is_time
    }
}
