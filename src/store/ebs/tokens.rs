//! Listings of snapshots with their block tokens, and the right to read by one.
//!
//! A token may expire, and a service may void all older ones of a snapshot whenever the snapshot is listed. Once
//! that has been seen, by the refusal of a token that had not expired, the snapshot is *gated*: a listing waits for the
//! gets in flight, forgets what was listed before, and lets everyone who waits for a block that it tells of have
//! one get before the next listing. So even where every listing voids every older token, each listing brings at least
//! one block, whoever reads what.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Mutex as AsyncMutex, OwnedRwLockReadGuard, RwLock, oneshot};

use super::page::{Page, Paging};
use super::retry::{Limits, Retry};
use super::wire::Wire;
use crate::block::BlockIndex;
use crate::error::Result;
use crate::snapshot::SnapshotId;
use crate::stats::Remote;
use crate::store::windows::{Windows, window_start};

/// Listings, kept as long as there is room, and the gates of the snapshots.
pub(super) struct Tokens {
    wire: Arc<Wire>,
    retry: Arc<Retry>,
    limits: Limits,
    counters: Arc<Remote>,
    pages: Windows<Page>,
    gates: Mutex<HashMap<SnapshotId, Arc<Gate>>>,
}

/// Orders the gets and the listings of a snapshot.
#[derive(Default)]
struct Gate {
    /// A get reads; a listing of a gated snapshot writes.
    passage: Arc<RwLock<()>>,
    /// Held by who lists. Only they take `passage` for writing.
    turn: AsyncMutex<()>,
    gated: AtomicBool,
    /// Guards pushes and drains.
    waiting: Mutex<Vec<Waiting>>,
}

struct Waiting {
    index: BlockIndex,
    admit: oneshot::Sender<Lease>,
}

/// The right to one get by the tokens of a page: until it is let go, a gated snapshot is not listed.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) page: Arc<Page>,
    _passage: OwnedRwLockReadGuard<()>,
}

impl Gate {
    fn waiting(&self) -> MutexGuard<'_, Vec<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets those in who wait for what `page` tells of. The caller's turn keeps listings out, so none has to wait.
    fn admit(&self, page: &Arc<Page>) {
        let mut waiting = self.waiting();
        for waiter in std::mem::take(&mut *waiting) {
            if waiter.admit.is_closed() {
                continue;
            }
            if !page.covered.contains(&waiter.index.get()) {
                waiting.push(waiter);
                continue;
            }
            if let Ok(passage) = Arc::clone(&self.passage).try_read_owned() {
                // One that has left meanwhile gives it back.
                drop(waiter.admit.send(Lease {
                    page: Arc::clone(page),
                    _passage: passage,
                }));
            }
        }
    }
}

impl Tokens {
    pub(super) fn new(
        wire: Arc<Wire>,
        retry: Arc<Retry>,
        limits: Limits,
        memory: usize,
        counters: Arc<Remote>,
    ) -> Self {
        Self {
            wire,
            retry,
            limits,
            counters,
            pages: Windows::new(memory),
            gates: Mutex::default(),
        }
    }

    /// The page that tells of `from`; one listed before will do, as snapshots do not change.
    pub(super) async fn page(&self, id: &SnapshotId, from: BlockIndex) -> Result<Arc<Page>> {
        if let Some(page) = self.pages.get(id, from) {
            return Ok(page);
        }
        let gate = self.gate(id);
        let _turn = gate.turn.lock().await;
        if let Some(page) = self.pages.get(id, from) {
            return Ok(page);
        }
        Ok(self.list(&gate, id, from).await?.page)
    }

    /// The right to get block `index` once.
    pub(super) async fn lease(&self, id: &SnapshotId, index: BlockIndex) -> Result<Lease> {
        let gate = self.gate(id);
        if self.valid(id, index).is_some() {
            let passage = Arc::clone(&gate.passage).read_owned().await;
            // It may have been voided by a listing for which this waited.
            if let Some(page) = self.valid(id, index) {
                return Ok(Lease {
                    page,
                    _passage: passage,
                });
            }
        }
        let (admit, admitted) = oneshot::channel();
        gate.waiting().push(Waiting { index, admit });
        let _turn = tokio::select! {
            biased;
            Ok(lease) = admitted => return Ok(lease),
            turn = gate.turn.lock() => turn,
        };
        if let Some(page) = self.valid(id, index) {
            let passage = Arc::clone(&gate.passage).read_owned().await;
            return Ok(Lease {
                page,
                _passage: passage,
            });
        }
        // Windows that begin at round indexes do not overlap much, wherever the reads fall.
        let lease = self.list(&gate, id, window_start(index)).await?;
        if lease.page.covered.contains(&index.get()) {
            return Ok(lease);
        }
        lease.page.volume_size.check(index)?;
        drop(lease);
        self.list(&gate, id, index).await
    }

    /// Notes that the service refused a token of `lease`.
    pub(super) fn refused(&self, id: &SnapshotId, lease: &Lease) {
        self.pages.remove(id, &lease.page);
        if !lease.page.expired() {
            self.gate(id).gated.store(true, Ordering::Release);
        }
    }

    /// Forgets all that is known of a snapshot.
    pub(super) fn forget(&self, id: &SnapshotId) {
        self.pages.forget(id);
        self.gates().remove(id);
    }

    fn valid(&self, id: &SnapshotId, index: BlockIndex) -> Option<Arc<Page>> {
        self.pages.get(id, index).filter(|page| !page.expired())
    }

    fn gates(&self) -> MutexGuard<'_, HashMap<SnapshotId, Arc<Gate>>> {
        self.gates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn gate(&self, id: &SnapshotId) -> Arc<Gate> {
        Arc::clone(self.gates().entry(id.clone()).or_default())
    }

    /// Lists from `from` on. The caller holds the turn.
    async fn list(&self, gate: &Gate, id: &SnapshotId, from: BlockIndex) -> Result<Lease> {
        let alone = match gate.gated.load(Ordering::Acquire) {
            true => Some(Arc::clone(&gate.passage).write_owned().await),
            false => None,
        };
        let page = Arc::new(self.fetch(id, from).await?);
        if alone.is_some() {
            self.pages.forget(id);
        }
        self.pages.insert(id, Arc::clone(&page));
        let passage = match alone {
            Some(alone) => alone.downgrade(),
            None => Arc::clone(&gate.passage).read_owned().await,
        };
        gate.admit(&page);
        Ok(Lease {
            page,
            _passage: passage,
        })
    }

    async fn fetch(&self, id: &SnapshotId, from: BlockIndex) -> Result<Page> {
        let mut paging = Paging::new(from);
        loop {
            let attempt = || self.wire.list(id, from, &paging);
            let answer = self.retry.run_first(self.limits, attempt).await?;
            self.counters.listings.add(1);
            if let Some(page) = paging
                .take(answer)
                .map_err(|e| e.context(format!("{id}")))?
            {
                return Ok(page);
            }
        }
    }
}
