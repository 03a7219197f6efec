//! An overlay becomes a new snapshot: a child of its base that holds exactly the edited disk.
//!
//! ```text
//! seal      the top layer stands fixed; its commit is noted in the overlay's header, with a client token
//! start     a pending snapshot, the same one however often it is started; its id is noted
//! upload    what differs from the base is put, each put noted in the file `puts` of the overlay's directory
//! complete  the store has it all; noted as accepted, and the user is told the id
//! settle    once the store has completed it: verified, made the base, and the sealed layer goes
//! ```
//! [`Commits::run`] goes as far as to the id, [`Commits::settle`] the rest of the way, maybe much later and in another
//! process. Each may be cut off anywhere, by being dropped or with the process: what it had done is found again,
//! and at most one pending snapshot is ever left. What was sealed stays until its snapshot is known to hold it.
//!
//! This module decides what is put and when. How a layer is kept is the overlay's affair, how blocks travel the
//! store's, and who reads through the overlay meanwhile is behind [`Below`].

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use log::warn;
use tokio::sync::Mutex;

use crate::block::{Block, BlockIndex, bytes_of};
use crate::blocking::blocking;
use crate::durable;
use crate::error::{Error, ErrorKind, Result};
use crate::overlay::{Commit, Layer, Overlay};
use crate::snapshot::{NewSnapshot, SnapshotId, SnapshotInfo, Status};
use crate::source::BlockSource;
use crate::stats::Requests;
use crate::store::Store;
use crate::upload::{self, Journal, Known, Upload};

mod counting;
mod edited;
mod plan;
mod settle;
mod words;

use self::counting::Counting;
pub use self::edited::Edited;
pub use self::settle::{Depth, Settled};
pub use self::words::{Accepted, Event, Plan, Spent, Tell, Wish};

/// Where an overlay's directory keeps the notes of what was put.
pub const PUTS: &str = "puts";

/// What lies below an overlay, for all who read through it.
pub trait Below: Send + Sync {
    /// The snapshot below, through a cache: a block asked for twice in a row is fetched once.
    fn source(&self) -> Arc<dyn BlockSource>;

    /// From when this returns, `to` is what lies below. It differs from what did at most in the blocks that `differs`
    /// tells, and every byte of the disk reads as before.
    fn switch(&self, to: &SnapshotInfo, differs: &dyn Fn(BlockIndex) -> bool);
}

/// How a commit is done.
#[derive(Clone, Debug)]
pub struct Config {
    /// Blocks under way at one time, [`Config::MOST`] at most. Each takes 512 KiB while it is read, merged and put, and
    /// what is fetched for merging counts in the cache.
    pub concurrency: usize,
}

impl Config {
    /// So that a mounted daemon keeps to its cache and 64 MiB: 24 blocks are 12 MiB, and each has a connection, on which it
    /// is sent, and maybe another, on which its base came. At 50 ms that is 240 MiB/s still.
    pub const MOST: usize = 24;

    /// As many at one time as a store can use.
    pub fn new(concurrency: usize) -> Self {
        Self {
            concurrency: concurrency.clamp(1, Self::MOST),
        }
    }

    /// The same, over a cache of so many bytes: at most as many as fill half of it. What is fetched to be merged is
    /// compared with the result, too, and would be fetched again, and held twice, if it had to go meanwhile.
    pub fn within(self, cache: usize) -> Self {
        Self::new(self.concurrency.min(cache / Block::MAX_MEMORY / 2))
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            concurrency: Self::MOST,
        }
    }
}

/// The commits of one overlay. One call at a time: who shares it sees to that.
pub struct Commits {
    store: Arc<dyn Store>,
    overlay: Arc<Overlay>,
    below: Arc<dyn Below>,
    journal: PathBuf,
    config: Config,
    /// Held while the overlay is changed; a change goes on to its end when whoever asked for it is dropped.
    changing: Arc<Mutex<()>>,
}

/// How often a snapshot that expires while it is filled is begun anew.
const ATTEMPTS: usize = 3;

impl Commits {
    /// Of `overlay`, whose directory is `directory`, into its base's `store`.
    pub fn new(
        store: Arc<dyn Store>,
        overlay: Arc<Overlay>,
        below: Arc<dyn Below>,
        directory: PathBuf,
        config: Config,
    ) -> Self {
        Self {
            store,
            overlay,
            below,
            journal: directory.join(PUTS),
            config,
            changing: Arc::default(),
        }
    }

    /// The overlay.
    pub fn overlay(&self) -> &Arc<Overlay> {
        &self.overlay
    }

    /// Commits what was written, or goes on with a commit that was interrupted, until the store has taken it all.
    ///
    /// `Conflict` while an earlier one is being completed. On any error, and when it is dropped, the same call again
    /// goes on where this one was.
    pub async fn run(&self, wish: &Wish, tell: Tell<'_>) -> Result<Accepted> {
        let began = Instant::now();
        let requests = Arc::new(Requests::default());
        self.quiet().await;
        let mut commit = self.sealed(wish, tell).await?;
        let mut attempt = 1;
        let (id, blocks) = loop {
            let info = self.start(&mut commit, &requests, tell).await?;
            if info.status == Status::Completed {
                // It was cut off between this and the note of it.
                break (info.id, self.noted(&commit)?);
            }
            match self.upload(&info.id, &commit, &requests, tell).await {
                Ok(blocks) => break (info.id, blocks),
                Err(e) if attempt == ATTEMPTS => return Err(e),
                Err(e) => match self.fate(&info.id, &e).await {
                    Some(Status::Completed) => break (info.id, self.noted(&commit)?),
                    Some(Status::Error) => self.start_over(&mut commit, tell).await?,
                    Some(Status::Pending) | None => return Err(e),
                },
            }
            attempt += 1;
        };
        commit.accepted = true;
        let sealed = commit.sealed;
        let parent = self.overlay.header().base;
        let noted = self.note(commit).await;
        noted.map_err(|e| {
            e.context(format!(
                "{id} holds the edited disk, and the overlay cannot note that"
            ))
        })?;
        let accepted = Accepted {
            id,
            parent,
            sealed,
            blocks,
            bytes: bytes_of(blocks),
            seconds: began.elapsed().as_secs_f64(),
            requests: Spent::from(&*requests),
        };
        tell(Event::Accepted(accepted.clone()));
        Ok(accepted)
    }

    /// The commit to go on with, of a layer that is sealed.
    async fn sealed(&self, wish: &Wish, tell: Tell<'_>) -> Result<Commit> {
        let mut token = None;
        match self.overlay.header().commit {
            Some(before) if wish.restart => {
                token = abandon(&before, tell);
                self.on_overlay("folding the sealed layer back", Overlay::fold_back)
                    .await?;
            }
            Some(before) if before.accepted => return Err(completing(&before)),
            Some(before) => {
                wish.check_same(&before)?;
                let since = self.overlay.view().top.amount();
                tell(Event::Sealed {
                    sealed: before.sealed,
                    volume_size: before.new.volume_size,
                    since: Some(since.written + since.zero),
                });
                return Ok(before);
            }
            None => {}
        }
        let header = self.overlay.header();
        let mut new = wish.snapshot(&header.base, header.size)?;
        if let Some(unused) = token {
            let same = NewSnapshot {
                client_token: unused.client_token.clone(),
                ..new.clone()
            };
            // It may have been started, and not be noted yet: then this is it, and none is left behind.
            if same == unused {
                new = same;
            }
        }
        let commit = Commit {
            new,
            snapshot: None,
            accepted: false,
            sealed: jiff::Timestamp::now(),
        };
        let sealing = commit.clone();
        self.on_overlay("sealing the overlay", move |overlay| overlay.seal(sealing))
            .await?;
        tell(Event::Sealed {
            sealed: commit.sealed,
            volume_size: commit.new.volume_size,
            since: None,
        });
        Ok(commit)
    }

    /// The snapshot of `commit`, started unless it was; pending, or completed already.
    async fn start(
        &self,
        commit: &mut Commit,
        requests: &Arc<Requests>,
        tell: Tell<'_>,
    ) -> Result<SnapshotInfo> {
        let store = self.counting(requests);
        for _ in 0..ATTEMPTS {
            let info = match (store.start(&commit.new).await, commit.snapshot.clone()) {
                (Ok(info), _) => Some(info),
                // A store need not know a token for ever: what became of the snapshot decides.
                (Err(e), Some(id)) if is_refusal(e.kind()) => match store.info(&id).await {
                    Err(e) if e.kind() == ErrorKind::NotFound => None,
                    info => Some(info?),
                },
                (Err(e), None) if e.kind() == ErrorKind::Conflict => None,
                (Err(e), _) => return Err(e.context("cannot start the new snapshot")),
            };
            let Some(info) = info.filter(|info| info.status != Status::Error) else {
                self.start_over(commit, tell).await?;
                continue;
            };
            if commit.snapshot.as_ref() != Some(&info.id) {
                if let Some(orphan) = commit.snapshot.replace(info.id.clone()) {
                    tell(orphaned(&orphan, "is not known to the store any more"));
                }
                commit.snapshot = Some(info.id.clone());
                self.note(commit.clone()).await?;
            }
            return Ok(info);
        }
        let what = "the store lets every new snapshot expire at once: try again later";
        Err(Error::new(ErrorKind::Unavailable, what))
    }

    /// Takes a new token, and leaves the snapshot that was begun behind.
    async fn start_over(&self, commit: &mut Commit, tell: Tell<'_>) -> Result<()> {
        if let Some(orphan) = commit.snapshot.take() {
            tell(orphaned(
                &orphan,
                "has expired, so the commit starts over by itself",
            ));
        }
        commit.new.client_token = NewSnapshot::new(commit.new.volume_size)?.client_token;
        self.note(commit.clone()).await
    }

    /// Puts what is missing and completes the snapshot; the number of blocks put, earlier ones included.
    async fn upload(
        &self,
        id: &SnapshotId,
        commit: &Commit,
        requests: &Arc<Requests>,
        tell: Tell<'_>,
    ) -> Result<u64> {
        let upload = Upload {
            store: self.counting(requests),
            id: id.clone(),
            changes: Arc::new(self.edited(commit, requests)?),
            config: upload::Config {
                concurrency: self.config.concurrency.clamp(1, Config::MOST),
            },
        };
        let (path, of) = (self.journal.clone(), id.clone());
        let opened = blocking("opening the notes", move || Journal::open(&path, &of)).await;
        let (mut journal, known) = opened.unwrap_or_else(|e| {
            warn!("if it is interrupted, this commit will put all blocks again: {e:#}");
            (Journal::none(id), Known::default())
        });
        let progress = |index| tell(Event::progress(index));
        upload.run(&mut journal, known, &progress).await
    }

    /// What became of a snapshot whose upload failed, if that may be why.
    async fn fate(&self, id: &SnapshotId, failure: &Error) -> Option<Status> {
        if !is_refusal(failure.kind()) {
            return None;
        }
        match self.store.info(id).await {
            Ok(info) => Some(info.status),
            Err(e) if e.kind() == ErrorKind::NotFound => Some(Status::Error),
            Err(_) => None,
        }
    }

    /// Blocks that the notes say were put.
    fn noted(&self, commit: &Commit) -> Result<u64> {
        let Some(id) = &commit.snapshot else {
            return Ok(0);
        };
        let mut known = Known::read(&self.journal, id)?;
        Ok(std::iter::from_fn(|| known.next_put()).fold(0, |count, _| count + 1))
    }

    fn counting(&self, requests: &Arc<Requests>) -> Arc<dyn Store> {
        Arc::new(Counting {
            inner: Arc::clone(&self.store),
            requests: Arc::clone(requests),
        })
    }

    fn sealed_layer(&self) -> Result<Arc<Layer>> {
        let missing = || Error::new(ErrorKind::NotFound, "the overlay has no sealed layer");
        self.overlay.view().sealed.ok_or_else(missing)
    }

    fn edited(&self, commit: &Commit, requests: &Arc<Requests>) -> Result<Edited> {
        Ok(Edited::new(
            self.sealed_layer()?,
            self.below.source(),
            commit.new.volume_size.blocks(),
            Arc::clone(requests),
        ))
    }

    async fn note(&self, commit: Commit) -> Result<()> {
        self.on_overlay("noting how far the commit is", move |overlay| {
            overlay.note(commit)
        })
        .await
    }

    async fn on_overlay(
        &self,
        what: &str,
        work: impl FnOnce(&Overlay) -> Result<()> + Send + 'static,
    ) -> Result<()> {
        let overlay = Arc::clone(&self.overlay);
        let changing = Arc::clone(&self.changing).lock_owned().await;
        blocking(what, move || {
            let done = work(&overlay);
            drop(changing);
            done
        })
        .await
    }

    /// Waits for what an earlier call that was dropped still changes: the header then says how far it has come.
    async fn quiet(&self) {
        drop(self.changing.lock().await);
    }

    /// Removes the notes of a commit that is done; without them nothing is lost.
    fn forget_puts(&self) {
        if let Err(e) = durable::remove(&self.journal) {
            warn!("the notes of a finished commit are left behind: {e:#}");
        }
    }
}

/// Whether a store says no for good, as it does when a snapshot is not what it was taken for.
fn is_refusal(kind: ErrorKind) -> bool {
    match kind {
        ErrorKind::Conflict | ErrorKind::Invalid | ErrorKind::NotFound => true,
        ErrorKind::Corrupt
        | ErrorKind::Unavailable
        | ErrorKind::Denied
        | ErrorKind::ReadOnly
        | ErrorKind::NoSpace
        | ErrorKind::Unsupported
        | ErrorKind::Io => false,
    }
}

/// Tells what a commit that is given up leaves in the store. What it was to start, if that may be started already
/// under an id that is not known.
fn abandon(before: &Commit, tell: Tell<'_>) -> Option<NewSnapshot> {
    let Some(id) = &before.snapshot else {
        return Some(before.new.clone());
    };
    tell(match before.accepted {
        true => Event::Note {
            text: format!(
                "{id} holds the disk as it was at {}, and stays: `ebsfs delete {id}` removes it",
                before.sealed
            ),
        },
        false => orphaned(id, "was given up"),
    });
    None
}

fn orphaned(id: &SnapshotId, why: &str) -> Event {
    Event::Note {
        text: format!("{id} {why}: `ebsfs delete {id}` removes what is left of it"),
    }
}

/// Why there can be no second commit now.
fn completing(before: &Commit) -> Error {
    let id = before.snapshot.as_ref().map_or("it", SnapshotId::as_str);
    Error::new(
        ErrorKind::Conflict,
        format!(
            "the last commit is not settled: the store is still completing {id}, and until that is verified its blocks are kept here; try again when `ebsfs info {id}` says completed"
        ),
    )
}
