//! A store over another that counts, waits and fails as a test asks; and snapshots for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use ebsfs::block::{BLOCK_SIZE, Block, BlockIndex, Digest, Hasher};
use ebsfs::error::{Error, ErrorKind, Result};
use ebsfs::snapshot::{NewSnapshot, Seal, SnapshotId, SnapshotInfo, VolumeSize};
use ebsfs::store::memory::MemoryStore;
use ebsfs::store::{Listing, Store};
use tokio::sync::Semaphore;

use crate::common::{Turnable, minutes};

/// What a get or a put is to do instead of succeeding.
#[derive(Clone, Copy)]
pub(crate) enum Fault {
    Fail,
    Panic,
    /// Says that it succeeded.
    Lie,
    /// A put: all that is pending has expired just before.
    Expire,
    /// A put: never ends.
    Hang,
}

pub(crate) struct FlakyStore {
    inner: MemoryStore,
    clock: Turnable,
    /// One permit lets one get or listing through; closed means that all pass.
    gate: Semaphore,
    /// By number of the get, from 0.
    faults: Mutex<BTreeMap<usize, Fault>>,
    /// By index of the block put.
    put_faults: Mutex<BTreeMap<BlockIndex, Fault>>,
    puts: Mutex<Vec<BlockIndex>>,
    /// Puts that were asked for, whatever came of them.
    begun: Mutex<BTreeSet<BlockIndex>>,
    gets: AtomicUsize,
    listings: AtomicUsize,
    waiting: AtomicUsize,
}

impl FlakyStore {
    pub(crate) fn new() -> Arc<Self> {
        let clock = Turnable::new();
        let store = Self {
            inner: MemoryStore::with_clock(clock.clock()).unwrap(),
            clock,
            begun: Mutex::default(),
            gate: Semaphore::new(0),
            faults: Mutex::default(),
            put_faults: Mutex::default(),
            puts: Mutex::default(),
            gets: AtomicUsize::new(0),
            listings: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
        };
        store.gate.close();
        Arc::new(store)
    }

    /// A store whose gets and listings wait until [`pass`](Self::pass) lets them through.
    pub(crate) fn gated() -> Arc<Self> {
        let store = Self::new();
        let mut store = Arc::into_inner(store).unwrap();
        store.gate = Semaphore::new(0);
        Arc::new(store)
    }

    /// Lets `n` calls through, those that wait and those that come.
    pub(crate) fn pass(&self, n: usize) {
        self.gate.add_permits(n);
    }

    /// The `nth` get from now on, from 0, is to end so.
    pub(crate) fn fault(&self, nth: usize, fault: Fault) {
        self.faults.lock().unwrap().insert(self.gets() + nth, fault);
    }

    /// The next put of block `index` is to end so.
    pub(crate) fn put_fault(&self, index: u32, fault: Fault) {
        let index = BlockIndex::new(index);
        self.put_faults.lock().unwrap().insert(index, fault);
    }

    /// The blocks that were put since this was asked last, ascending.
    pub(crate) fn puts(&self) -> Vec<u32> {
        let mut puts = std::mem::take(&mut *self.puts.lock().unwrap());
        puts.sort_unstable();
        puts.into_iter().map(BlockIndex::get).collect()
    }

    /// Whether block `index` was ever asked to be put.
    pub(crate) fn puts_begun(&self, index: u32) -> bool {
        self.begun.lock().unwrap().contains(&BlockIndex::new(index))
    }

    pub(crate) fn gets(&self) -> usize {
        self.gets.load(Ordering::SeqCst)
    }

    pub(crate) fn listings(&self) -> usize {
        self.listings.load(Ordering::SeqCst)
    }

    /// Gets and listings that wait at the gate.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    async fn at_gate(&self) {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        if let Ok(permit) = self.gate.acquire().await {
            permit.forget();
        }
        self.waiting.fetch_sub(1, Ordering::SeqCst);
    }

    /// A completed snapshot of 1 GiB with `blocks`: index, and the byte that all of it is.
    pub(crate) async fn snapshot(&self, blocks: &[(u32, u8)]) -> SnapshotInfo {
        let new = NewSnapshot::new(VolumeSize::from_gib(1).unwrap()).unwrap();
        let info = self.inner.start(&new).await.unwrap();
        let mut linear = Hasher::default();
        for (index, byte) in blocks {
            let block = filled(*byte);
            self.inner
                .put(&info.id, BlockIndex::new(*index), &block)
                .await
                .unwrap();
            linear.update(block.digest().as_bytes());
        }
        assert!(blocks.is_sorted() && distinct(blocks), "in order of index");
        let seal = Seal {
            count: blocks.len() as u64,
            checksum: Some(linear.finish()) as Option<Digest>,
        };
        self.inner.complete(&info.id, &seal).await.unwrap();
        self.inner.info(&info.id).await.unwrap()
    }
}

fn distinct(blocks: &[(u32, u8)]) -> bool {
    blocks
        .iter()
        .map(|(index, _)| index)
        .collect::<BTreeSet<_>>()
        .len()
        == blocks.len()
}

/// A block of which every byte is `byte`.
pub(crate) fn filled(byte: u8) -> Block {
    Block::seal(vec![byte; BLOCK_SIZE]).unwrap()
}

#[async_trait]
impl Store for FlakyStore {
    fn identity(&self) -> String {
        self.inner.identity()
    }

    async fn list(&self) -> Result<Vec<SnapshotInfo>> {
        self.inner.list().await
    }

    async fn info(&self, id: &SnapshotId) -> Result<SnapshotInfo> {
        self.inner.info(id).await
    }

    async fn blocks(&self, id: &SnapshotId, from: BlockIndex) -> Result<Listing> {
        self.listings.fetch_add(1, Ordering::SeqCst);
        self.at_gate().await;
        self.inner.blocks(id, from).await
    }

    async fn changed(&self, from: &SnapshotId, to: &SnapshotId, at: BlockIndex) -> Result<Listing> {
        self.inner.changed(from, to, at).await
    }

    async fn get(&self, id: &SnapshotId, index: BlockIndex) -> Result<Block> {
        let number = self.gets.fetch_add(1, Ordering::SeqCst);
        self.at_gate().await;
        let fault = self.faults.lock().unwrap().remove(&number);
        match fault {
            Some(Fault::Fail) => Err(Error::new(
                ErrorKind::Unavailable,
                format!("get {number} is to fail"),
            )),
            Some(Fault::Panic) => panic!("get {number} is to panic"),
            Some(Fault::Lie | Fault::Expire | Fault::Hang) | None => {
                self.inner.get(id, index).await
            }
        }
    }

    async fn start(&self, new: &NewSnapshot) -> Result<SnapshotInfo> {
        self.inner.start(new).await
    }

    async fn put(&self, id: &SnapshotId, index: BlockIndex, block: &Block) -> Result<()> {
        self.begun.lock().unwrap().insert(index);
        let fault = self.put_faults.lock().unwrap().remove(&index);
        match fault {
            Some(Fault::Fail) => Err(Error::new(
                ErrorKind::Unavailable,
                format!("put {index} is to fail"),
            )),
            Some(Fault::Panic) => panic!("put {index} is to panic"),
            Some(Fault::Lie) => Ok(()),
            Some(Fault::Hang) => std::future::pending().await,
            Some(Fault::Expire) => {
                self.clock.advance(minutes(61));
                self.inner.put(id, index, block).await
            }
            None => {
                self.puts.lock().unwrap().push(index);
                self.inner.put(id, index, block).await
            }
        }
    }

    async fn complete(&self, id: &SnapshotId, seal: &Seal) -> Result<()> {
        self.inner.complete(id, seal).await
    }

    async fn delete(&self, id: &SnapshotId) -> Result<()> {
        self.inner.delete(id).await
    }
}
