//! The disk tier of the cache: what was fetched is not fetched again, and whatever happens to its files the bytes are right.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use ebsfs::block::BlockIndex;
use ebsfs::cache::disk::{Config, DiskCache, DiskSource};
use ebsfs::snapshot::SnapshotInfo;
use ebsfs::source::{BlockSource as _, IndexCache, SnapshotSource};
use ebsfs::stats::Stats;
use ebsfs::store::Store;
use jiff::Timestamp;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::time::timeout;

use crate::common::scratch;
use crate::flaky_store::FlakyStore;

mod eviction;
mod glance;
mod mounted;
mod sharing;
mod tampering;

const MIB: u64 = 1 << 20;

/// Nothing here takes longer.
const LIMIT: Duration = Duration::from_secs(20);

/// A store, a directory for the cache, and a clock.
struct Rig {
    scratch: TempDir,
    runtime: Runtime,
    store: Arc<FlakyStore>,
    now: Arc<AtomicI64>,
}

impl Rig {
    fn new() -> Self {
        Self::on(scratch())
    }

    fn on(scratch: TempDir) -> Self {
        Self {
            scratch,
            runtime: Runtime::new().unwrap(),
            store: FlakyStore::new(),
            now: Arc::new(AtomicI64::new(1_000_000)),
        }
    }

    fn top(&self) -> PathBuf {
        self.scratch.path().join("cache")
    }

    /// What a process has of the cache.
    fn cache(&self, limit: u64) -> Arc<DiskCache> {
        // On a busy machine a disk is slow, and here nothing may be left out.
        self.impatient_cache(limit, LIMIT, LIMIT)
    }

    fn impatient_cache(&self, limit: u64, patience: Duration, wait: Duration) -> Arc<DiskCache> {
        let now = Arc::clone(&self.now);
        let config = Config {
            limit,
            wait,
            patience,
            clock: Arc::new(move || Timestamp::from_second(now.load(Ordering::SeqCst)).unwrap()),
            ..Config::default()
        };
        Arc::new(DiskCache::open(&self.top(), config).unwrap())
    }

    fn advance(&self, seconds: i64) {
        self.now.fetch_add(seconds, Ordering::SeqCst);
    }

    fn snapshot(&self, blocks: &[(u32, u8)]) -> SnapshotInfo {
        self.runtime.block_on(self.store.snapshot(blocks))
    }

    /// A snapshot of `count` blocks, of which block `i` is of bytes `first + i`.
    fn snapshot_of(&self, count: u8, first: u8) -> SnapshotInfo {
        let blocks: Vec<_> = (0..count).map(|i| (i.into(), first + i)).collect();
        self.snapshot(&blocks)
    }

    fn reader(&self, cache: &Arc<DiskCache>, info: &SnapshotInfo) -> Reader<'_> {
        self.reader_of(cache, info, "a store")
    }

    /// A mount of `info`, which nothing is known of in memory.
    fn reader_of(&self, cache: &Arc<DiskCache>, info: &SnapshotInfo, store: &str) -> Reader<'_> {
        let windows = Arc::new(IndexCache::new(1 << 20));
        let below = Arc::<FlakyStore>::clone(&self.store) as Arc<dyn Store>;
        let source = Arc::new(SnapshotSource::new(below, info, Arc::clone(&windows)));
        let (cache, stats) = (Arc::clone(cache), Arc::new(Stats::default()));
        let (below, counted) = (Arc::clone(&cache), Arc::clone(&stats));
        let source = DiskSource::new(source, below, store.into(), info, windows, counted);
        Reader {
            rig: self,
            cache,
            source,
            stats,
        }
    }

    /// A process that reads the snapshot, sees what it must be, and ends when all is written.
    fn fill(&self, info: &SnapshotInfo, expected: &[(u32, u8)]) {
        let cache = self.cache(1 << 30);
        let reader = self.reader(&cache, info);
        reader.reads(expected);
        reader.settles();
    }

    /// The directories of snapshots.
    fn dirs(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.top())
            .unwrap()
            .map(|entry| entry.unwrap().path());
        let mut dirs: Vec<_> = entries.filter(|path| path.is_dir()).collect();
        dirs.sort();
        dirs
    }

    fn dir(&self) -> PathBuf {
        let dirs = self.dirs();
        assert_eq!(dirs.len(), 1, "{dirs:?}");
        dirs[0].clone()
    }

    /// The blocks of a snapshot that the table of digests tells of.
    fn kept(&self, info: &SnapshotInfo) -> Vec<usize> {
        let is_its = |dir: &PathBuf| {
            let text = fs::read_to_string(dir.join("info")).unwrap();
            text.contains(info.id.as_str())
        };
        let dir = self.dirs().into_iter().find(is_its).unwrap();
        let table = fs::read(dir.join("digests")).unwrap();
        let entries = table[64..].chunks(64).enumerate();
        let kept = entries.filter(|(_, entry)| entry.iter().any(|byte| *byte != 0));
        kept.map(|(index, _)| index).collect()
    }

    /// Bytes that all files take.
    fn used(&self) -> u64 {
        let files = crate::program::files_below(&self.top());
        let size = |path: &PathBuf| fs::metadata(path).map_or(0, |found| found.blocks() * 512);
        files.iter().map(size).sum()
    }
}

/// One snapshot, as a mount reads it.
struct Reader<'a> {
    rig: &'a Rig,
    cache: Arc<DiskCache>,
    source: DiskSource,
    stats: Arc<Stats>,
}

impl Reader<'_> {
    /// The byte that all of a block is.
    #[track_caller]
    fn byte(&self, index: u32) -> u8 {
        let block = self.source.block(BlockIndex::new(index));
        let block = self
            .rig
            .runtime
            .block_on(async { timeout(LIMIT, block).await });
        let block = block.expect("a reader hangs").unwrap();
        let byte = block.bytes()[0];
        assert!(block.bytes().iter().all(|b| *b == byte), "block {index}");
        byte
    }

    /// Panics unless these blocks are of these bytes.
    #[track_caller]
    fn reads(&self, expected: &[(u32, u8)]) {
        for (index, byte) in expected {
            assert_eq!(self.byte(*index), *byte, "block {index}");
        }
    }

    /// Waits until all that was fetched is kept, or not kept.
    #[track_caller]
    fn settles(&self) {
        let settled = async { timeout(LIMIT, self.cache.settle()).await };
        self.rig.runtime.block_on(settled).expect("a write hangs");
    }

    /// Hits, misses, damaged entries, and what was left out.
    fn counts(&self) -> [u64; 4] {
        let stats = &self.stats;
        [
            &stats.disk_hits,
            &stats.disk_misses,
            &stats.disk_corrupt,
            &stats.disk_skipped,
        ]
        .map(|counter| counter.get())
    }
}

/// A block of zeros is present, and an absent one is not.
const BLOCKS: [(u32, u8); 4] = [(0, 7), (1, 0), (5, 9), (2047, 3)];
const READ: [(u32, u8); 6] = [(0, 7), (1, 0), (2, 0), (5, 9), (6, 0), (2047, 3)];

#[test]
fn what_was_fetched_once_is_not_asked_for_again() {
    let rig = Rig::new();
    let info = rig.snapshot(&BLOCKS);
    rig.fill(&info, &READ);
    let (gets, listings) = (rig.store.gets(), rig.store.listings());
    assert_eq!((gets, listings), (4, 1));

    let cache = rig.cache(1 << 30);
    let reader = rig.reader(&cache, &info);
    reader.reads(&READ);
    assert_eq!(reader.counts(), [4, 0, 0, 0]);
    assert_eq!((rig.store.gets(), rig.store.listings()), (gets, listings));
    assert!(cache.bytes() > 3 * MIB / 2 && cache.bytes() < 2 * MIB);
}

#[test]
fn stores_and_snapshots_are_kept_apart() {
    let rig = Rig::new();
    let (one, two) = (rig.snapshot(&[(0, 1)]), rig.snapshot(&[(0, 2)]));
    let cache = rig.cache(1 << 30);
    for (info, store, byte) in [(&one, "a", 1), (&two, "a", 2), (&one, "b", 1)] {
        let reader = rig.reader_of(&cache, info, store);
        assert_eq!(reader.byte(0), byte);
        reader.settles();
        assert_eq!(reader.counts(), [0, 1, 0, 0]);
    }
    assert_eq!(rig.dirs().len(), 3);
    // Neither a text nor the place where one ends and the next begins is taken for another.
    let mut other = one.clone();
    other.id = "snap-0".parse().unwrap();
    rig.reader_of(&cache, &other, "a store").byte_or_error();
    rig.reader_of(&cache, &other, "a stores").byte_or_error();
    assert_eq!(rig.dirs().len(), 5);
}

impl Reader<'_> {
    /// Looks for a block of a snapshot that the store does not have.
    fn byte_or_error(&self) {
        let block = self.source.block(BlockIndex::ZERO);
        assert!(self.rig.runtime.block_on(block).is_err());
    }
}

#[test]
fn a_snapshot_that_is_another_one_begins_empty() {
    let rig = Rig::new();
    let info = rig.snapshot(&BLOCKS);
    rig.fill(&info, &READ);
    let mut later = info.clone();
    later.start_time = Some(info.start_time.unwrap() + Duration::from_secs(1));
    let mut larger = later.clone();
    larger.volume_size = crate::common::gib(2);
    for other in [later, larger] {
        let cache = rig.cache(1 << 30);
        let reader = rig.reader(&cache, &other);
        reader.reads(&READ);
        reader.settles();
        assert_eq!(reader.counts(), [0, 4, 1, 0], "{other:?}");
        drop(reader);
        // One who may not ask for the time believes what is there.
        let mut unknown = other.clone();
        unknown.start_time = None;
        let reader = rig.reader(&cache, &unknown);
        reader.reads(&READ);
        assert_eq!(reader.counts(), [4, 0, 0, 0]);
    }
}

#[test]
fn a_directory_that_goes_away_costs_a_fetch_and_no_error() {
    let rig = Rig::new();
    let info = rig.snapshot(&BLOCKS);
    let cache = rig.cache(1 << 30);
    let before = rig.reader(&cache, &info);
    before.reads(&READ[..2]);
    before.settles();
    fs::remove_dir_all(rig.top()).unwrap();
    // Some of its files are open, others are not, and another mount has none.
    let after = rig.reader_of(&cache, &info, "another store");
    before.reads(&READ);
    after.reads(&READ);
    before.settles();
    assert_eq!(after.counts()[..3], [0, 4, 0]);
}
