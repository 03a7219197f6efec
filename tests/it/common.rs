//! What the tests share: a runtime, a clock that can be turned, builders that read like the case, and
//! readers that check every page they turn.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ebsfs::block::{BLOCK_SIZE, Block, BlockIndex, Digest};
use ebsfs::error::{ErrorKind, Result};
use ebsfs::snapshot::{NewSnapshot, Seal, SnapshotId, VolumeSize};
use ebsfs::store::directory::{DirectoryStore, Garbage};
use ebsfs::store::{Clock, Listing, Store};
use jiff::Timestamp;
use tempfile::TempDir;

/// Runs `work` on a runtime of its own with two threads.
pub(crate) fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(work)
}

/// A directory that goes with the value: in memory where there is room, as thousands of durable writes would
/// otherwise wait for the disk without telling more.
pub(crate) fn scratch() -> TempDir {
    const ROOM: u64 = 1 << 30;
    let memory = "/dev/shm";
    let has_room = rustix::fs::statvfs(memory).is_ok_and(|fs| fs.f_bavail * fs.f_frsize >= ROOM);
    has_room
        .then(|| tempfile::tempdir_in(memory).ok())
        .flatten()
        .unwrap_or_else(|| tempfile::tempdir().unwrap())
}

/// A clock that stands still until it is turned.
#[derive(Clone)]
pub(crate) struct Turnable(Arc<Mutex<Timestamp>>);

impl Turnable {
    pub(crate) fn new() -> Self {
        let start = Timestamp::from_second(1_800_000_000).unwrap();
        Self(Arc::new(Mutex::new(start)))
    }

    pub(crate) fn clock(&self) -> Clock {
        let now = Arc::clone(&self.0);
        Arc::new(move || *now.lock().unwrap())
    }

    pub(crate) fn now(&self) -> Timestamp {
        *self.0.lock().unwrap()
    }

    pub(crate) fn advance(&self, by: Duration) {
        *self.0.lock().unwrap() += by;
    }
}

pub(crate) const fn minutes(n: u64) -> Duration {
    Duration::from_secs(60 * n)
}

pub(crate) fn at(index: u32) -> BlockIndex {
    BlockIndex::new(index)
}

/// A block of that byte throughout.
pub(crate) fn filled(byte: u8) -> Block {
    Block::seal(vec![byte; BLOCK_SIZE]).unwrap()
}

pub(crate) fn gib(size: u32) -> VolumeSize {
    VolumeSize::from_gib(size).unwrap()
}

/// The kind of the error that `result` must be.
#[track_caller]
pub(crate) fn kind<T: std::fmt::Debug>(result: Result<T>) -> ErrorKind {
    result.unwrap_err().kind()
}

/// A snapshot to be made: `snap(1).block(3, 0xAA).zero(5).child_of(&id).build(store).await`.
#[derive(Clone)]
pub(crate) struct Snap {
    pub(crate) new: NewSnapshot,
    puts: Vec<(u32, u8)>,
}

/// A snapshot of that many GiB.
pub(crate) fn snap(size: u32) -> Snap {
    Snap {
        new: NewSnapshot::new(gib(size)).unwrap(),
        puts: Vec::new(),
    }
}

impl Snap {
    /// With a block of `byte` at `index`, put after those that were named before.
    pub(crate) fn block(mut self, index: u32, byte: u8) -> Self {
        self.puts.push((index, byte));
        self
    }

    /// With zeros put at `index`.
    pub(crate) fn zero(self, index: u32) -> Self {
        self.block(index, 0)
    }

    /// With zeros put at each of `indexes`.
    pub(crate) fn zeros(self, indexes: impl IntoIterator<Item = u32>) -> Self {
        indexes.into_iter().fold(self, Self::zero)
    }

    pub(crate) fn child_of(mut self, parent: &SnapshotId) -> Self {
        self.new.parent = Some(parent.clone());
        self
    }

    pub(crate) fn described(mut self, text: &str) -> Self {
        self.new.description = text.into();
        self
    }

    pub(crate) fn tag(mut self, key: &str, value: &str) -> Self {
        self.new.tags.insert(key.into(), value.into());
        self
    }

    pub(crate) fn timeout(mut self, timeout: Duration) -> Self {
        self.new.timeout = timeout;
        self
    }

    /// Count and checksum of what is put.
    pub(crate) fn seal(&self) -> Seal {
        let last: BTreeMap<_, _> = self.puts.iter().copied().collect();
        let digests: Vec<u8> = last
            .values()
            .flat_map(|byte| *filled_digest(*byte).as_bytes())
            .collect();
        Seal {
            count: last.len() as u64,
            checksum: Some(Digest::of(&digests)),
        }
    }

    /// Starts it and puts its blocks.
    pub(crate) async fn pending(&self, store: &dyn Store) -> SnapshotId {
        let id = store.start(&self.new).await.unwrap().id;
        for (index, byte) in &self.puts {
            store.put(&id, at(*index), &filled(*byte)).await.unwrap();
        }
        id
    }

    /// Makes all of it.
    pub(crate) async fn build(&self, store: &dyn Store) -> SnapshotId {
        let id = self.pending(store).await;
        store.complete(&id, &self.seal()).await.unwrap();
        id
    }
}

fn filled_digest(byte: u8) -> Digest {
    match byte {
        0 => Digest::ZERO_BLOCK,
        _ => filled(byte).digest(),
    }
}

/// What `complete` is told when only the count is known.
pub(crate) fn count(count: u64) -> Seal {
    Seal {
        count,
        checksum: None,
    }
}

/// All pages of a listing from `from` on. Each begins where it was asked to, speaks of something, lists only
/// that, and the last ends with the volume.
pub(crate) async fn pages(
    from: u32,
    page: impl AsyncFn(BlockIndex) -> Result<Listing>,
) -> Vec<Listing> {
    let mut pages = Vec::new();
    let mut next = Some(at(from));
    while let Some(asked) = next {
        let page = page(asked).await.unwrap();
        assert_eq!(page.covered.start, asked.get());
        assert!(!page.covered.is_empty(), "page {page:?} speaks of nothing");
        let outside = page.set.iter().find(|i| !page.covered.contains(&i.get()));
        assert_eq!(outside, None, "listed outside {:?}", page.covered);
        next = page.next();
        assert!(next.is_some() || page.covered.end == page.volume_size.blocks());
        pages.push(page);
    }
    pages
}

fn indexes(pages: &[Listing]) -> Vec<u32> {
    let sets = pages.iter().flat_map(|page| page.set.iter());
    sets.map(BlockIndex::get).collect()
}

/// The blocks that `id` has, from `from` on.
pub(crate) async fn present(store: &dyn Store, id: &SnapshotId, from: u32) -> Vec<u32> {
    indexes(&pages(from, async |at| store.blocks(id, at).await).await)
}

/// The blocks that `changed` names between `old` and `new`, from `from` on.
pub(crate) async fn changed(
    store: &dyn Store,
    old: &SnapshotId,
    new: &SnapshotId,
    from: u32,
) -> Vec<u32> {
    indexes(&pages(from, async |at| store.changed(old, new, at).await).await)
}

/// Asserts that `id` has exactly these blocks of one byte each (0: zeros, present all the same), and that
/// their neighbours, which are absent, read as zeros.
#[track_caller]
pub(crate) fn assert_holds<'a>(
    store: &'a dyn Store,
    id: &'a SnapshotId,
    expected: &'a [(u32, u8)],
) -> impl Future<Output = ()> + 'a {
    let caller = std::panic::Location::caller();
    async move {
        let expected: BTreeMap<u32, u8> = expected.iter().copied().collect();
        let held: Vec<u32> = expected.keys().copied().collect();
        assert_eq!(present(store, id, 0).await, held, "{id} at {caller}");
        let blocks = store.info(id).await.unwrap().volume_size.blocks();
        let neighbours = held.iter().flat_map(|i| [i.saturating_sub(1), i + 1]);
        let asked: Vec<u32> = held.iter().copied().chain(neighbours).collect();
        for index in asked.into_iter().filter(|index| *index < blocks) {
            let byte = expected.get(&index).copied().unwrap_or(0);
            let block = store.get(id, at(index)).await.unwrap();
            assert!(
                block.bytes().iter().all(|held| *held == byte),
                "block {index} of {id} is not all {byte:#x}, at {caller}"
            );
        }
    }
}

/// What a gc would take, once it finds `abandoned` snapshots that nobody works on.
///
/// A process that another test is just starting holds all locks of this one until it executes its program, so a
/// snapshot that was let go can look used for a moment.
pub(crate) async fn planned_once_abandoned(store: &DirectoryStore, abandoned: usize) -> Garbage {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let planned = store.gc(true).await.unwrap();
        if planned.snapshots.len() == abandoned || Instant::now() > deadline {
            return planned;
        }
        std::thread::yield_now();
    }
}

/// What a gc takes of a store in which it finds `abandoned` snapshots that nobody works on.
pub(crate) async fn gc_once_abandoned(store: &DirectoryStore, abandoned: usize) -> Garbage {
    let planned = planned_once_abandoned(store, abandoned).await;
    let garbage = store.gc(false).await.unwrap();
    assert_eq!(garbage, planned);
    garbage
}
