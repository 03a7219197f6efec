//! The steps, from the byte range of a read to the copy of its bytes. Each prepares itself and its floor.

use std::collections::HashMap;
use std::fs::{self, File};
use std::hint::black_box;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use ebsfs::block::{BLOCK_SIZE, Block, BlockIndex, BlockSet, Buffer, Digest, bytes_of, pieces};
use ebsfs::cache::disk::{Config, DiskCache, DiskSource};
use ebsfs::cache::{BlockCache, CachedSource};
use ebsfs::image::Image;
use ebsfs::prefetch::ReadAhead;
use ebsfs::profile::Profiles;
use ebsfs::read_at::ReadAt as _;
use ebsfs::snapshot::{NewSnapshot, Seal, SnapshotId, SnapshotInfo, VolumeSize};
use ebsfs::source::{BlockSource, INDEX_MEMORY, IndexCache, SnapshotSource};
use ebsfs::stats::Stats;
use ebsfs::store::memory::MemoryStore;
use ebsfs::store::{Listing, Store as _};
use sha2::{Digest as _, Sha256};
use tokio::runtime::Runtime;

/// Something that a read does.
pub(crate) struct Step {
    pub(crate) name: &'static str,
    /// What it stands beside.
    pub(crate) floor: &'static str,
    pub(crate) prepare: fn() -> Case,
    /// How many it may take, where they are counted. Hashing is not: callgrind knows no instructions for it.
    pub(crate) instructions: Option<u64>,
}

/// Both do it so many times.
pub(crate) struct Case {
    pub(crate) ours: Box<dyn Fn(u64)>,
    pub(crate) floor: Box<dyn Fn(u64)>,
}

impl Case {
    fn new(ours: impl Fn(u64) + 'static, floor: impl Fn(u64) + 'static) -> Self {
        Self {
            ours: Box::new(ours),
            floor: Box::new(floor),
        }
    }
}

pub(crate) const STEPS: &[Step] = &[
    Step {
        name: "split 128 KiB",
        floor: "one division",
        prepare: split,
        instructions: Some(65),
    },
    Step {
        name: "index lookup",
        floor: "two binary searches",
        prepare: index_lookup,
        instructions: Some(1900),
    },
    Step {
        name: "hit in memory",
        floor: "hash map behind a lock",
        prepare: memory_hit,
        instructions: Some(320),
    },
    Step {
        name: "read of 4 KiB in memory",
        floor: "copy of 4 KiB",
        prepare: small_read,
        instructions: Some(900),
    },
    Step {
        name: "hit on disk",
        floor: "read of the file, and SHA-256",
        prepare: disk_hit,
        instructions: None,
    },
    Step {
        name: "verify a block",
        floor: "copy and SHA-256",
        prepare: verify,
        instructions: None,
    },
];

/// What a kernel asks for at once, unless told otherwise.
const READ: usize = 128 << 10;

fn split() -> Case {
    let offset = |n: u64| n * 37 * READ as u64 % bytes_of(1 << 20);
    Case::new(
        move |times| {
            for n in 0..times {
                pieces(black_box(offset(n)), READ).for_each(|piece| {
                    black_box(piece);
                });
            }
        },
        move |times| {
            for n in 0..times {
                let at = black_box(offset(n));
                black_box((at / BLOCK_SIZE as u64, at % BLOCK_SIZE as u64));
            }
        },
    )
}

/// Among the windows of a disk of 4 TiB, of which every fourth block is absent.
fn index_lookup() -> Case {
    const WINDOW: u32 = 10_000;
    const WINDOWS: u32 = 838;
    let volume_size = VolumeSize::from_gib(4096).unwrap();
    let id: SnapshotId = "snap-0123456789abcdef0".parse().unwrap();
    let listings: Vec<Arc<Listing>> = (0..WINDOWS)
        .map(|window| {
            let covered = window * WINDOW..(window + 1) * WINDOW;
            let present = covered.clone().filter(|index| index % 4 != 3);
            let set: BlockSet = present.map(BlockIndex::new).collect();
            Arc::new(Listing {
                set,
                covered,
                volume_size,
            })
        })
        .collect();
    // Room for all of them, or it would be evictions that are measured.
    let windows = IndexCache::new(INDEX_MEMORY * 64);
    for listing in &listings {
        windows.insert(&id, Arc::clone(listing));
    }
    let index = |n: u64| BlockIndex::new((n * 7919 % u64::from(WINDOW * WINDOWS)) as u32);
    Case::new(
        move |times| {
            for n in 0..times {
                let index = black_box(index(n));
                let listing = windows.get(&id, index).unwrap();
                black_box(listing.set.contains(index));
            }
        },
        move |times| {
            for n in 0..times {
                let index = black_box(index(n));
                let at = listings.partition_point(|window| window.covered.end <= index.get());
                black_box(listings[at].set.contains(index));
            }
        },
    )
}

/// Blocks in the cache.
const HELD: u32 = 16;

/// A snapshot of which the first blocks hold data.
async fn snapshot() -> (SnapshotInfo, Arc<SnapshotSource>, Arc<IndexCache>) {
    let store = Arc::new(MemoryStore::new().unwrap());
    let new = NewSnapshot::new(VolumeSize::from_gib(1).unwrap()).unwrap();
    let id = store.start(&new).await.unwrap().id;
    for index in 0..HELD {
        let block = Block::seal(vec![1 + index as u8; BLOCK_SIZE]).unwrap();
        let put = store.put(&id, BlockIndex::new(index), &block);
        put.await.unwrap();
    }
    let seal = Seal {
        count: HELD.into(),
        checksum: None,
    };
    store.complete(&id, &seal).await.unwrap();
    let info = store.info(&id).await.unwrap();
    let windows = Arc::new(IndexCache::new(INDEX_MEMORY));
    let source = SnapshotSource::new(store, &info, Arc::clone(&windows));
    (info, Arc::new(source), windows)
}

async fn read_all(source: &dyn BlockSource) {
    for index in 0..HELD {
        source.block(BlockIndex::new(index)).await.unwrap();
    }
}

/// A disk of which all blocks with data are in memory, as a mount stacks it, and the runtime that this needs.
fn held() -> (Runtime, Arc<dyn BlockSource>) {
    let runtime = Runtime::new().unwrap();
    let (info, source, _) = runtime.block_on(snapshot());
    let cache = Arc::new(BlockCache::new(BlockCache::DEFAULT_CAPACITY));
    let stats = Arc::new(Stats::default());
    let cached = Arc::new(CachedSource::new(source, cache, Arc::clone(&stats)));
    let ahead = ReadAhead::new(Arc::clone(&cached), runtime.handle().clone());
    // There is no profile, and none is written.
    let nowhere = PathBuf::from("/nonexistent");
    let profiles = Profiles::new(nowhere, "memory".into(), runtime.handle().clone());
    let profiled = profiles.profiled(&info.id, Arc::new(ahead), cached, stats);
    profiled.begin();
    runtime.block_on(read_all(&profiled));
    (runtime, Arc::new(profiled))
}

/// What is kept lies in the page cache.
fn disk_hit() -> Case {
    let runtime = Runtime::new().unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let top = scratch.path().join("blocks");
    let disk = Arc::new(DiskCache::open(&top, Config::default()).unwrap());
    let stats = Arc::new(Stats::default());
    let source = runtime.block_on(async {
        let (info, source, windows) = snapshot().await;
        let (cache, counted) = (Arc::clone(&disk), Arc::clone(&stats));
        let source = DiskSource::new(source, cache, "memory".into(), &info, windows, counted);
        read_all(&source).await;
        disk.settle().await;
        source
    });
    let path = scratch.path().join("plain");
    fs::write(&path, vec![7; BLOCK_SIZE]).unwrap();
    let plain = File::open(&path).unwrap();
    Case::new(
        move |times| {
            let (_, before) = (&scratch, stats.disk_hits.get());
            for n in 0..times {
                let index = BlockIndex::new((n * 5 % u64::from(HELD)) as u32);
                black_box(runtime.block_on(source.block(index)).unwrap());
            }
            assert_eq!(stats.disk_hits.get() - before, times);
        },
        move |times| {
            let mut buffer = vec![0; BLOCK_SIZE];
            for _ in 0..times {
                plain.read_exact_at(&mut buffer, 0).unwrap();
                black_box(Sha256::digest(&buffer));
            }
        },
    )
}

fn memory_hit() -> Case {
    let (runtime, source) = held();
    let content = Arc::new([0_u8; 64]);
    let entries = (0..HELD).map(|index| ((0_u32, index), Arc::clone(&content)));
    let map = Mutex::new(entries.collect::<HashMap<_, _>>());
    let index = |n: u64| (n * 5 % u64::from(HELD)) as u32;
    Case::new(
        move |times| {
            let _ = &runtime;
            for n in 0..times {
                let index = BlockIndex::new(black_box(index(n)));
                black_box(source.ready(index).unwrap());
            }
        },
        move |times| {
            for n in 0..times {
                let key = (0, black_box(index(n)));
                black_box(map.lock().unwrap().get(&key).cloned().unwrap());
            }
        },
    )
}

fn small_read() -> Case {
    const SMALL: usize = 4096;
    let (runtime, source) = held();
    let image = Image::new(source, runtime.handle().clone());
    let bytes = vec![1_u8; BLOCK_SIZE * HELD as usize];
    let offset = |n: u64| n * 37 * SMALL as u64 % bytes_of(HELD.into());
    Case::new(
        move |times| {
            let _ = &runtime;
            let mut buffer = [0; SMALL];
            for n in 0..times {
                let read = image.try_read_at(black_box(offset(n)), &mut buffer);
                assert!(read.unwrap());
                black_box(&buffer);
            }
        },
        move |times| {
            let mut buffer = [0; SMALL];
            for n in 0..times {
                let at = black_box(offset(n)) as usize;
                buffer.copy_from_slice(&bytes[at..at + SMALL]);
                black_box(&buffer);
            }
        },
    )
}

/// Both begin with bytes that must be copied, as they come from a socket.
fn verify() -> Case {
    let bytes: Arc<[u8]> = vec![7; BLOCK_SIZE].into();
    let same = Arc::clone(&bytes);
    let digest = Digest::of(&bytes);
    Case::new(
        move |times| {
            for _ in 0..times {
                let mut buffer = Buffer::new();
                buffer.copy_from_slice(&bytes);
                black_box(Block::verify(buffer, &digest).unwrap());
            }
        },
        move |times| {
            let mut buffer = vec![0; BLOCK_SIZE];
            for _ in 0..times {
                buffer.copy_from_slice(&same);
                black_box(Sha256::digest(&buffer));
            }
        },
    )
}
