//! AWS as a store, or any other server of the EBS direct APIs.
//!
//! ```text
//! EbsStore    what the trait promises        ebs.rs
//!   tokens    listings kept, block tokens    ebs/tokens.rs, page.rs
//!   retry     when to send again             ebs/retry.rs, budget.rs, limiter.rs, errors.rs
//!   wire, ec2 one request, one answer        ebs/wire.rs, ec2.rs, body.rs
//!   config    where, and who asks            ebs/config.rs, credentials.rs
//! ```
//! Every block is hashed as it arrives, in a task of its own, so that all cores hash whoever asks; what does not
//! match is fetched again and never becomes a [`Block`]. Every call ends within its deadline, and everything started
//! for it ends when its caller goes away. Listing and deleting are EC2's; without permission for EC2 everything
//! else works.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use aws_config::SdkConfig;
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;

use self::config::access;
use self::ec2::Ec2;
use self::page::Paging;
use self::retry::{Failure, Retry, Verdict};
use self::tokens::Tokens;
use self::wire::Wire;
use super::{Listing, Store};
use crate::block::{Block, BlockIndex};
use crate::error::{Error, ErrorKind, Result};
use crate::snapshot::{NewSnapshot, Seal, SnapshotId, SnapshotInfo, Status, VolumeSize};
use crate::stats::Remote;

mod body;
mod budget;
mod config;
mod credentials;
mod ec2;
mod errors;
mod limiter;
mod page;
mod retry;
mod tokens;
mod wire;

pub use self::config::{Config, Options};
pub use self::limiter::MAX as MOST_REQUESTS;
pub use self::retry::Limits;

/// Snapshots in a service that speaks the EBS direct APIs.
pub struct EbsStore {
    inner: Arc<Inner>,
}

struct Inner {
    identity: String,
    wire: Arc<Wire>,
    ec2: Ec2,
    retry: Arc<Retry>,
    tokens: Tokens,
    config: Config,
    /// Guards map operations only.
    known: Mutex<HashMap<SnapshotId, Known>>,
}

/// What is remembered of a snapshot.
#[derive(Clone, Debug)]
struct Known {
    volume_size: VolumeSize,
    archived: bool,
    /// As it was started by this process, and when.
    started: Option<(SnapshotInfo, Instant)>,
}

/// For so long the service may not know a snapshot that it has just started.
const UNKNOWN_AFTER_START: Duration = Duration::from_secs(120);

impl EbsStore {
    /// The store that `options` and the user's AWS configuration name.
    ///
    /// `Invalid` without a region, `Denied` without credentials; nothing else is asked of the service yet.
    pub async fn open(options: &Options, config: Config, counters: Arc<Remote>) -> Result<Self> {
        Self::with(&config::load(options).await, config, counters).await
    }

    /// The store that an AWS configuration names.
    pub async fn with(aws: &SdkConfig, config: Config, counters: Arc<Remote>) -> Result<Self> {
        let access = access(aws).await?;
        let wire = Arc::new(Wire::new(access.client));
        let retry = Arc::new(Retry::new(
            access.identity.clone(),
            config.start,
            Arc::clone(&counters),
        ));
        let tokens = Tokens::new(
            Arc::clone(&wire),
            Arc::clone(&retry),
            config.reads,
            config.memory,
            counters,
        );
        let inner = Inner {
            identity: access.identity,
            ec2: Ec2::new(aws, &access.region, access.credentials),
            wire,
            retry,
            tokens,
            config,
            known: Mutex::default(),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Does `work` in a task of its own: it goes on while its caller is busy with something else, as one who has
    /// many calls under way is, and holds no turn or place that others wait for. It ends with its caller.
    async fn apart<T, F>(&self, work: impl FnOnce(Arc<Inner>) -> F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let task = tokio::spawn(work(Arc::clone(&self.inner)));
        AbortOnDropHandle::new(task).await.unwrap_or_else(|e| {
            let what = format!("a request ended early: {e}");
            Err(Error::new(ErrorKind::Io, what))
        })
    }
}

impl Inner {
    fn known(&self) -> MutexGuard<'_, HashMap<SnapshotId, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of(&self, id: &SnapshotId) -> Option<Known> {
        self.known().get(id).cloned()
    }

    fn learn(&self, info: &SnapshotInfo, archived: bool) {
        let mut known = self.known();
        let entry = known.entry(info.id.clone()).or_insert(Known {
            volume_size: info.volume_size,
            archived,
            started: None,
        });
        entry.archived = archived;
    }

    fn forget(&self, id: &SnapshotId) {
        self.known().remove(id);
        self.tokens.forget(id);
    }

    /// `Invalid` if it is known that the service will not let it be read.
    fn check_readable(&self, id: &SnapshotId) -> Result<()> {
        match self.of(id) {
            Some(known) if known.archived => Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "{id} is in the archive: restore it first, which takes up to 72 hours (`aws ec2 restore-snapshot-tier --snapshot-id {id} --permanent-restore`)"
                ),
            )),
            _ => Ok(()),
        }
    }

    async fn get(&self, id: &SnapshotId, index: BlockIndex) -> Result<Block> {
        let mut call = self.retry.call(self.config.reads);
        loop {
            // First the place, then the lease: one that waits for a place grows old, and keeps listings waiting.
            let place = call.enter().await?;
            let lease = self.tokens.lease(id, index).await?;
            lease.page.volume_size.check(index)?;
            let Some(token) = lease.page.token(index) else {
                return Ok(Block::Zero);
            };
            let failure = match call
                .attempt(Some(place), self.wire.get(id, index, token))
                .await
            {
                Ok(block) => return Ok(block),
                Err(failure) => failure,
            };
            if failure.verdict == Verdict::TokenRefused {
                self.tokens.refused(id, &lease);
            }
            // Others may list while this one pauses.
            drop(lease);
            call.again(failure).await?;
        }
    }

    async fn changed(&self, from: &SnapshotId, to: &SnapshotId, at: BlockIndex) -> Result<Listing> {
        let mut paging = Paging::new(at);
        loop {
            let attempt = || self.wire.list_changed(from, to, at, &paging);
            let answer = self.retry.run(self.config.reads, attempt).await?;
            let taken = paging.take(answer);
            if let Some(page) = taken.map_err(|e| e.context(format!("{to} against {from}")))? {
                return Ok(page.listing(at));
            }
        }
    }

    /// A change of a snapshot that the service may not know yet.
    async fn change<F>(&self, id: &SnapshotId, attempt: impl Fn() -> F + Send + Sync) -> Result<()>
    where
        F: Future<Output = Result<(), Failure>> + Send,
    {
        let attempt = &attempt;
        self.retry
            .run(self.config.writes, || async move {
                attempt()
                    .await
                    .map_err(|failure| self.unless_new(id, failure))
            })
            .await
    }

    fn unless_new(&self, id: &SnapshotId, failure: Failure) -> Failure {
        let new = self.of(id).and_then(|known| known.started);
        let new = new.is_some_and(|(_, at)| at.elapsed() < UNKNOWN_AFTER_START);
        match failure.error.kind() {
            ErrorKind::NotFound if new => Failure {
                verdict: Verdict::Fault,
                ..failure
            },
            _ => failure,
        }
    }

    async fn put(&self, id: &SnapshotId, index: BlockIndex, block: &Block) -> Result<()> {
        let size = self.of(id).map(|known| known.volume_size);
        if let Some(size) = size {
            size.check(index)?;
        }
        let progress = size.and_then(|size| {
            let percent = u64::from(index.get()) * 100 / u64::from(size.blocks());
            i32::try_from(percent).ok()
        });
        self.change(id, || self.wire.put(id, index, block, progress))
            .await
    }

    /// EC2's description; without access to EC2, what a listing of its blocks tells.
    async fn info(&self, id: &SnapshotId) -> Result<SnapshotInfo> {
        let mut call = self.retry.call(self.config.reads);
        loop {
            let failure = match call.attempt(None, self.ec2.describe(id)).await {
                Ok(described) => {
                    self.learn(&described.info, described.archived);
                    return Ok(described.info);
                }
                Err(failure) => failure,
            };
            let denied = failure.error.kind() == ErrorKind::Denied;
            if denied || failure.verdict == Verdict::Unreachable {
                log::debug!("{id}: without EC2: {:#}", failure.error);
                return self.info_from_blocks(id, failure.error).await;
            }
            call.again(failure).await?;
        }
    }

    async fn info_from_blocks(&self, id: &SnapshotId, denied: Error) -> Result<SnapshotInfo> {
        let started = self.of(id).and_then(|known| known.started);
        let page = match (self.tokens.page(id, BlockIndex::ZERO).await, started) {
            (Ok(page), _) => page,
            // It is this process that started it, and it cannot be read yet.
            (Err(e), Some((info, _))) if e.kind() == ErrorKind::Invalid => return Ok(info),
            (Err(e), _) if e.kind() == ErrorKind::Denied => {
                return Err(e.context(format!("{denied:#}")));
            }
            (Err(e), _) => return Err(e),
        };
        let info = SnapshotInfo {
            id: id.clone(),
            parent: None,
            volume_size: page.volume_size,
            status: Status::Completed,
            start_time: None,
            description: String::new(),
            tags: Default::default(),
            encryption: None,
        };
        self.learn(&info, false);
        Ok(info)
    }
}

#[async_trait]
impl Store for EbsStore {
    fn identity(&self) -> String {
        self.inner.identity.clone()
    }

    async fn list(&self) -> Result<Vec<SnapshotInfo>> {
        let inner = &self.inner;
        let mut all = Vec::new();
        let mut next: Option<String> = None;
        for _ in 0..DESCRIPTIONS {
            let attempt = || inner.ec2.list(next.as_deref());
            let page = inner.retry.run(inner.config.reads, attempt).await?;
            for described in page.snapshots {
                inner.learn(&described.info, described.archived);
                all.push(described.info);
            }
            next = page.next;
            if next.is_none() {
                break;
            }
        }
        if next.is_some() {
            let what = "DescribeSnapshots does not end: is this an EC2 endpoint?";
            return Err(Error::new(ErrorKind::Corrupt, what));
        }
        all.sort_by(|a, b| (a.start_time, &a.id).cmp(&(b.start_time, &b.id)));
        Ok(all)
    }

    async fn info(&self, id: &SnapshotId) -> Result<SnapshotInfo> {
        let id = id.clone();
        self.apart(|inner| async move { inner.info(&id).await })
            .await
    }

    async fn blocks(&self, id: &SnapshotId, from: BlockIndex) -> Result<Listing> {
        self.inner.check_readable(id)?;
        let id = id.clone();
        self.apart(|inner| async move {
            let page = in_time(&inner, inner.tokens.page(&id, from)).await?;
            page.volume_size.check(from)?;
            Ok(page.listing(from))
        })
        .await
    }

    async fn changed(&self, from: &SnapshotId, to: &SnapshotId, at: BlockIndex) -> Result<Listing> {
        self.inner.check_readable(from)?;
        self.inner.check_readable(to)?;
        self.inner.changed(from, to, at).await
    }

    async fn get(&self, id: &SnapshotId, index: BlockIndex) -> Result<Block> {
        self.inner.check_readable(id)?;
        let id = id.clone();
        self.apart(|inner| async move { in_time(&inner, inner.get(&id, index)).await })
            .await
    }

    async fn start(&self, new: &NewSnapshot) -> Result<SnapshotInfo> {
        new.check()?;
        let inner = &self.inner;
        // The same client token each time: whichever attempt was heard, it is one snapshot.
        let attempt = || inner.wire.start(new);
        let info = inner.retry.run(inner.config.writes, attempt).await?;
        let known = Known {
            volume_size: info.volume_size,
            archived: false,
            started: Some((info.clone(), Instant::now())),
        };
        inner.known().insert(info.id.clone(), known);
        Ok(info)
    }

    async fn put(&self, id: &SnapshotId, index: BlockIndex, block: &Block) -> Result<()> {
        let (id, block) = (id.clone(), block.clone());
        self.apart(|inner| async move { inner.put(&id, index, &block).await })
            .await
    }

    async fn complete(&self, id: &SnapshotId, seal: &Seal) -> Result<()> {
        let inner = &self.inner;
        let mut call = inner.retry.call(inner.config.writes);
        let mut heard = true;
        loop {
            let Err(failure) = call.attempt(None, inner.wire.complete(id, seal)).await else {
                return Ok(());
            };
            let mut failure = inner.unless_new(id, failure);
            // A refusal may mean that an attempt whose answer was lost had succeeded.
            if failure.verdict == Verdict::Final && !heard {
                match inner.info(id).await {
                    Ok(info) if info.status == Status::Completed => return Ok(()),
                    // On its way, perhaps: that shows when it is there.
                    Ok(info) if info.status == Status::Pending => failure.verdict = Verdict::Fault,
                    _ => {}
                }
            }
            heard &= matches!(failure.verdict, Verdict::Final | Verdict::Throttled);
            call.again(failure).await?;
        }
    }

    async fn delete(&self, id: &SnapshotId) -> Result<()> {
        let inner = &self.inner;
        let attempt = || inner.ec2.delete(id);
        inner.retry.run(inner.config.writes, attempt).await?;
        inner.forget(id);
        Ok(())
    }
}

/// Pages of 1000 snapshots; an account has 100,000 unless more are asked for.
const DESCRIPTIONS: usize = 1000;

/// How much longer one waits for another reader's listing than the one who lists, and who hears the reason.
const GRACE: Duration = Duration::from_secs(1);

async fn in_time<T>(inner: &Inner, work: impl Future<Output = Result<T>>) -> Result<T> {
    let limit = inner.config.reads.deadline + GRACE;
    timeout(limit, work).await.unwrap_or_else(|_| {
        let what = "no answer in time: others who wait for the same listing were first";
        Err(Error::new(ErrorKind::Unavailable, what))
    })
}
