//! An overlay becomes a snapshot: exactly the edited disk, by no more than what differs, wherever it is cut off.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, RwLock};

use ebsfs::block::{BLOCK_SIZE, BlockIndex};
use ebsfs::cache::{BlockCache, CachedSource};
use ebsfs::commit::{Accepted, Below, Commits, Config, Depth, Event, Settled, Wish};
use ebsfs::error::Result;
use ebsfs::overlay::{LocalDirectory, Overlay, PAGE_SIZE};
use ebsfs::snapshot::{SnapshotId, SnapshotInfo, Status, VolumeSize};
use ebsfs::source::{BlockSource, IndexCache, SnapshotSource};
use ebsfs::stats::Stats;
use ebsfs::store::Store;
use tempfile::TempDir;

use crate::common::{at, gib, present, scratch, snap};

pub(crate) mod cuts;
mod mounted;
mod program;
mod puts;
mod settling;
mod socket;

/// What lies below the overlay of a [`Case`].
pub(crate) struct Base {
    store: Arc<dyn Store>,
    source: RwLock<Arc<CachedSource>>,
}

fn source(store: &Arc<dyn Store>, info: &SnapshotInfo) -> Arc<SnapshotSource> {
    let windows = Arc::new(IndexCache::new(1 << 20));
    Arc::new(SnapshotSource::new(Arc::clone(store), info, windows))
}

impl Base {
    pub(crate) fn new(store: &Arc<dyn Store>, info: &SnapshotInfo) -> Self {
        let cache = Arc::new(BlockCache::new(64 << 20));
        let stats = Arc::new(Stats::default());
        let cached = CachedSource::new(source(store, info), cache, stats);
        Self {
            store: Arc::clone(store),
            source: RwLock::new(Arc::new(cached)),
        }
    }
}

impl Below for Base {
    fn source(&self) -> Arc<dyn BlockSource> {
        Arc::<CachedSource>::clone(&self.source.read().unwrap())
    }

    fn switch(&self, to: &SnapshotInfo, differs: &dyn Fn(BlockIndex) -> bool) {
        let mut held = self.source.write().unwrap();
        *held = Arc::new(held.succeeding(source(&self.store, to), differs));
    }
}

/// An overlay over a snapshot, and the disk that it must be: blocks by index, all others zeros.
pub(crate) struct Case {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) parent: SnapshotId,
    dir: TempDir,
    pub(crate) base: Arc<Base>,
    /// None while it is closed.
    overlay: Option<Arc<Overlay>>,
    disk: BTreeMap<u32, Vec<u8>>,
    pub(crate) told: Arc<Mutex<Vec<Event>>>,
}

impl Case {
    /// Over a new snapshot of 1 GiB with these blocks: index, and the byte that all of it is.
    pub(crate) async fn new(store: Arc<dyn Store>, blocks: &[(u32, u8)]) -> Self {
        let snapshot = blocks
            .iter()
            .fold(snap(1), |snap, (index, byte)| snap.block(*index, *byte));
        let parent = snapshot.build(&*store).await;
        let info = completed(&*store, &parent).await;
        let dir = scratch();
        let directory = LocalDirectory::open(&dir.path().join("overlay")).unwrap();
        let identity = store.identity();
        let overlay = Overlay::create(Arc::new(directory), &identity, &parent, info.volume_size);
        let disk = blocks
            .iter()
            .map(|(index, byte)| (*index, vec![*byte; BLOCK_SIZE]));
        Self {
            base: Arc::new(Base::new(&store, &info)),
            store,
            parent,
            dir,
            overlay: Some(Arc::new(overlay.unwrap())),
            disk: disk.collect(),
            told: Arc::default(),
        }
    }

    pub(crate) fn directory(&self) -> PathBuf {
        self.dir.path().join("overlay")
    }

    pub(crate) fn overlay(&self) -> &Arc<Overlay> {
        self.overlay.as_ref().unwrap()
    }

    /// As after the end of one process, in order, and the start of another.
    pub(crate) async fn reopen(&mut self) {
        self.overlay().sync().unwrap();
        self.overlay = None;
        let directory = LocalDirectory::open(&self.directory()).unwrap();
        let overlay = Overlay::open(Arc::new(directory)).unwrap().unwrap();
        let info = self.store.info(&overlay.header().base).await.unwrap();
        self.overlay = Some(Arc::new(overlay));
        self.base = Arc::new(Base::new(&self.store, &info));
    }

    /// The store is another from now on, say one that fails.
    pub(crate) fn through(&mut self, store: Arc<dyn Store>) {
        self.store = store;
    }

    pub(crate) fn size(&self) -> VolumeSize {
        self.overlay().header().size
    }

    pub(crate) fn grow(&self, size: u32) {
        self.overlay().grow(gib(size)).unwrap();
    }

    /// Writes anywhere, parts of pages too.
    pub(crate) async fn write(&mut self, offset: u64, data: &[u8]) {
        let mut at = 0;
        while at < data.len() {
            let position = offset + at as u64;
            let within = (position % PAGE_SIZE as u64) as usize;
            let take = (PAGE_SIZE - within).min(data.len() - at);
            let piece = &data[at..at + take];
            if take == PAGE_SIZE {
                self.overlay().write_pages(position, piece).unwrap();
            } else if !self.overlay().write_part(position, piece, None).unwrap() {
                let page = self.below(position - within as u64).await;
                let written = self.overlay().write_part(position, piece, Some(&page));
                assert!(written.unwrap());
            }
            let index = (position / BLOCK_SIZE as u64) as u32;
            let in_block = (position % BLOCK_SIZE as u64) as usize;
            let block = self.disk.entry(index).or_insert(vec![0; BLOCK_SIZE]);
            block[in_block..in_block + take].copy_from_slice(piece);
            at += take;
        }
    }

    /// The page at `offset` of the base.
    async fn below(&self, offset: u64) -> Vec<u8> {
        let index = BlockIndex::containing(offset);
        let source = self.base.source();
        if index.get() >= source.count() {
            return vec![0; PAGE_SIZE];
        }
        let block = source.block(index).await.unwrap();
        let within = (offset - index.start()) as usize;
        block.bytes()[within..within + PAGE_SIZE].to_vec()
    }

    /// Makes whole pages zero.
    pub(crate) fn zero(&mut self, range: std::ops::Range<u64>) {
        self.overlay().zero_pages(range.clone()).unwrap();
        for (index, block) in &mut self.disk {
            let start = u64::from(*index) * BLOCK_SIZE as u64;
            let (from, to) = (range.start.max(start), range.end);
            let to = to.min(start + BLOCK_SIZE as u64);
            if from < to {
                block[(from - start) as usize..(to - start) as usize].fill(0);
            }
        }
    }

    pub(crate) fn commits(&self) -> Commits {
        Commits::new(
            Arc::clone(&self.store),
            Arc::clone(self.overlay()),
            Arc::<Base>::clone(&self.base),
            self.directory(),
            Config { concurrency: 4 },
        )
    }

    /// Commits until the store has accepted it.
    pub(crate) async fn run(&self, wish: &Wish) -> Result<Accepted> {
        let told = Arc::clone(&self.told);
        let tell = move |event| told.lock().unwrap().push(event);
        self.commits().run(wish, &tell).await
    }

    /// Commits all the way; the new snapshot.
    pub(crate) async fn commit(&self) -> SnapshotId {
        let accepted = self.run(&Wish::default()).await.unwrap();
        self.settle().await;
        accepted.id
    }

    pub(crate) async fn settle(&self) {
        let commits = self.commits();
        commits.completed().await.unwrap();
        let settled = commits.settle(Depth::All).await.unwrap();
        assert!(matches!(settled, Settled::Done(_)), "{settled:?}");
        assert_eq!(self.overlay().header().commit, None);
    }

    /// Everything that was told in words since this was asked last.
    pub(crate) fn notes(&self) -> String {
        let told = std::mem::take(&mut *self.told.lock().unwrap());
        let note = |event| match event {
            Event::Note { text } => Some(text),
            _ => None,
        };
        told.into_iter()
            .filter_map(note)
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// What the disk is now, to compare with later.
    pub(crate) fn now(&self) -> BTreeMap<u32, Vec<u8>> {
        self.disk.clone()
    }

    /// Asserts that snapshot `id` is this disk, block by block.
    pub(crate) async fn assert_is(&self, id: &SnapshotId, disk: &BTreeMap<u32, Vec<u8>>) {
        let listed = present(&*self.store, id, 0).await;
        let blocks = self.store.info(id).await.unwrap().volume_size.blocks();
        for index in listed.iter().chain(disk.keys()).copied() {
            assert!(index < blocks, "block {index} of {id}");
            let held = self.store.get(id, at(index)).await.unwrap();
            let zeros = vec![0; BLOCK_SIZE];
            let expected = disk.get(&index).unwrap_or(&zeros);
            assert!(held.bytes() == expected, "block {index} of {id}");
        }
    }

    /// The snapshots in that state.
    pub(crate) async fn in_state(&self, status: Status) -> Vec<SnapshotId> {
        let all = self.store.list().await.unwrap();
        let of = all.into_iter().filter(|info| info.status == status);
        of.map(|info| info.id).collect()
    }
}

/// Waits until a store that takes its time has completed `id`.
pub(crate) async fn completed(store: &dyn Store, id: &SnapshotId) -> SnapshotInfo {
    ebsfs::upload::until_readable(store, id).await.unwrap()
}

/// A block of random bytes, the same for the same seed.
pub(crate) fn random(seed: u64) -> Vec<u8> {
    crate::images::random_block(seed)
}

/// Offset of a block.
pub(crate) fn of(index: u32) -> u64 {
    at(index).start()
}
