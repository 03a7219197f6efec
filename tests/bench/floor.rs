//! The floors: what any program must do that moves a disk and knows what it moved. No mounts, no checks, no names.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ebsfs::block::BlockIndex;
use ebsfs::source::{BlockSource as _, INDEX_MEMORY, IndexCache, SnapshotSource, indexes};
use ebsfs::store::Store;
use ebsfs::store::ebs::{Config, EbsStore, MOST_REQUESTS, Options};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use rustix::fs::{SeekFrom, seek};
use sha2::{Digest as _, Sha256};

const BLOCK: usize = 512 * 1024;
const THREADS: usize = 2;

/// Copies `from` to `to`, which must not exist, block by block on two threads, syncs it, and returns a byte of every
/// digest, so that none is left out.
pub(crate) fn read_hash_write_sync(from: &Path, to: &Path) -> u64 {
    let source = File::open(from).expect("open the source");
    let len = source.metadata().expect("length of the source").len();
    let target = File::create_new(to).expect("create the target");
    target.set_len(len).expect("size the target");
    let next = AtomicU64::new(0);
    let sum = on_threads(THREADS, || {
        let mut block = vec![0; BLOCK];
        let mut sum = 0;
        loop {
            let offset = next.fetch_add(BLOCK as u64, Ordering::Relaxed);
            if offset >= len {
                return sum;
            }
            source.read_exact_at(&mut block, offset).expect("read");
            sum += u64::from(Sha256::digest(&block)[0]);
            target.write_all_at(&block, offset).expect("write");
        }
    });
    target.sync_all().expect("sync");
    sum
}

/// How long it takes to fetch all blocks of a snapshot with data and to hash them, in any order, as many at a time as
/// the client lets through. The store is the one that the environment names; what a mount has before its first reader
/// comes is there before: connections, the listing, the first block.
pub(crate) fn fetch_and_hash(id: &str) -> Duration {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let (options, config) = (Options::default(), Config::default());
        let store = EbsStore::open(&options, config, Arc::default()).await;
        let store: Arc<dyn Store> = Arc::new(store.unwrap());
        let info = store.info(&id.parse().unwrap()).await.unwrap();
        let windows = Arc::new(IndexCache::new(INDEX_MEMORY));
        let source = SnapshotSource::new(store, &info, windows);
        let listed = indexes(&source, BlockIndex::ZERO).try_collect::<Vec<_>>();
        let blocks = listed.await.unwrap();
        source.block(blocks[0]).await.unwrap();
        let begin = Instant::now();
        stream::iter(blocks)
            .map(|index| source.block(index))
            .buffer_unordered(MOST_REQUESTS)
            .try_for_each(async |_| Ok(()))
            .await
            .unwrap();
        begin.elapsed()
    })
}

/// Those parts of a file, one behind the other.
pub(crate) fn load(path: &Path, ranges: &[Range<u64>]) -> Vec<u8> {
    let file = File::open(path).unwrap();
    let mut bytes = vec![];
    for range in ranges {
        let begin = bytes.len();
        bytes.resize(begin + (range.end - range.start) as usize, 0);
        file.read_exact_at(&mut bytes[begin..], range.start)
            .unwrap();
    }
    bytes
}

/// How long all cores take to hash `bytes`, a block at a time.
pub(crate) fn hash(bytes: &[u8]) -> Duration {
    let blocks: Vec<&[u8]> = bytes.chunks(BLOCK).collect();
    each_on_all_cores(&blocks, |block, _| u64::from(Sha256::digest(block)[0]))
}

/// The same for what `files` hold, which is read on the way; holes are left out.
pub(crate) fn read_and_hash(files: &[PathBuf]) -> Duration {
    let pieces: Vec<_> = files.iter().flat_map(|path| pieces_of(path)).collect();
    each_on_all_cores(&pieces, |(file, range), buffer| {
        let part = &mut buffer[..(range.end - range.start) as usize];
        file.read_exact_at(part, range.start).unwrap();
        u64::from(Sha256::digest(part)[0])
    })
}

/// A file's data in pieces of at most a block.
fn pieces_of(path: &Path) -> Vec<(Arc<File>, Range<u64>)> {
    let file = Arc::new(File::open(path).unwrap());
    let (mut pieces, mut at) = (vec![], 0);
    // Past the last data there is none to find.
    while let Ok(start) = seek(&*file, SeekFrom::Data(at)) {
        let end = seek(&*file, SeekFrom::Hole(start)).unwrap();
        let starts = (start..end).step_by(BLOCK);
        pieces.extend(starts.map(|from| {
            let to = end.min(from + BLOCK as u64);
            (Arc::clone(&file), from..to)
        }));
        at = end;
    }
    pieces
}

fn each_on_all_cores<T: Sync>(items: &[T], work: impl Fn(&T, &mut [u8]) -> u64 + Sync) -> Duration {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicUsize::new(0);
    let begin = Instant::now();
    let sum = on_threads(cores, || {
        let mut buffer = vec![0; BLOCK];
        let mut sum = 0;
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            sum += work(item, &mut buffer);
        }
        sum
    });
    std::hint::black_box(sum);
    begin.elapsed()
}

/// The sum of what `work` returns on each of so many threads.
fn on_threads(count: usize, work: impl Fn() -> u64 + Sync) -> u64 {
    thread::scope(|scope| {
        let workers: Vec<_> = (0..count).map(|_| scope.spawn(&work)).collect();
        let sums = workers.into_iter().map(|worker| worker.join().unwrap());
        sums.sum()
    })
}
