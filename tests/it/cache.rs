//! One fetch for each missing block, bounded memory, and nobody left waiting.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ebsfs::block::{BLOCK_SIZE, Block, BlockIndex};
use ebsfs::cache::{BlockCache, CachedSource};
use ebsfs::error::{ErrorKind, Result};
use ebsfs::image::Image;
use ebsfs::read_at::{Extent, ReadAt as _};
use ebsfs::snapshot::SnapshotInfo;
use ebsfs::source::{BlockSource, IndexCache, SnapshotSource};
use ebsfs::stats::Stats;
use ebsfs::store::Store;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use crate::flaky_store::{Fault, FlakyStore, filled};

mod ahead;

/// Nothing here waits for anything but other tasks.
const LIMIT: Duration = Duration::from_secs(30);

/// What an entry is charged beside its block is the cache's affair; it is far less than this.
const ROOM: usize = BLOCK_SIZE + 4096;

fn runtime() -> Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).enable_all().build().unwrap()
}

/// Runs a test with a limit on its time.
fn test(work: impl Future<Output = ()>) {
    let limited = async { tokio::time::timeout(LIMIT, work).await };
    runtime()
        .block_on(limited)
        .expect("somebody was left waiting");
}

fn source(
    store: &Arc<FlakyStore>,
    info: &SnapshotInfo,
    cache: &Arc<BlockCache>,
) -> Arc<CachedSource> {
    let store = Arc::<FlakyStore>::clone(store) as Arc<dyn Store>;
    let windows = Arc::new(IndexCache::new(1 << 20));
    let source = Arc::new(SnapshotSource::new(store, info, windows));
    Arc::new(CachedSource::new(
        source,
        Arc::clone(cache),
        Arc::new(Stats::default()),
    ))
}

fn cache(blocks: usize) -> Arc<BlockCache> {
    Arc::new(BlockCache::new(blocks * ROOM))
}

fn at(index: u32) -> BlockIndex {
    BlockIndex::new(index)
}

fn reader(source: &Arc<CachedSource>, index: u32) -> JoinHandle<Result<Block>> {
    let source = Arc::clone(source);
    tokio::spawn(async move { source.block(at(index)).await })
}

/// Lets the other tasks run until `condition` holds.
async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < deadline, "waited too long: {what}");
        tokio::task::yield_now().await;
    }
}

#[test]
fn any_number_of_readers_of_one_block_make_one_get() {
    test(async {
        let store = FlakyStore::gated();
        let info = store.snapshot(&[(3, 0xAA)]).await;
        let source = source(&store, &info, &cache(4));
        let readers: Vec<_> = (0..50).map(|_| reader(&source, 3)).collect();
        store.pass(1); // the listing
        until("the get", || store.gets() == 1 && store.waiting() == 1).await;
        // Those who come later join too.
        let late: Vec<_> = (0..10).map(|_| reader(&source, 3)).collect();
        store.pass(1);
        for reader in readers.into_iter().chain(late) {
            assert_eq!(reader.await.unwrap().unwrap(), filled(0xAA));
        }
        assert_eq!((store.gets(), store.listings()), (1, 1));
        assert_eq!(source.ready(at(3)), Some(filled(0xAA)));
    });
}

#[test]
fn a_reader_that_goes_away_strands_nobody() {
    test(async {
        let store = FlakyStore::gated();
        let info = store.snapshot(&[(3, 0xAA), (4, 0xBB)]).await;
        let source = source(&store, &info, &cache(4));
        store.pass(1);
        let first = reader(&source, 3);
        until("the get of the first", || {
            store.waiting() == 1 && store.gets() == 1
        })
        .await;
        let second = reader(&source, 3);
        first.abort();
        assert!(first.await.unwrap_err().is_cancelled());
        store.pass(1);
        assert_eq!(second.await.unwrap().unwrap(), filled(0xAA));

        // Even when nobody is left, the block lands.
        let only = reader(&source, 4);
        until("the get of the only one", || store.waiting() == 1).await;
        only.abort();
        assert!(only.await.unwrap_err().is_cancelled());
        store.pass(1);
        until("block 4", || source.ready(at(4)).is_some()).await;
        assert_eq!(source.block(at(4)).await.unwrap(), filled(0xBB));
        assert_eq!(store.gets(), 2);
    });
}

#[test]
fn a_failed_fetch_reaches_all_who_wait_and_is_forgotten() {
    test(async {
        let store = FlakyStore::gated();
        let info = store.snapshot(&[(3, 0xAA)]).await;
        let source = source(&store, &info, &cache(4));
        store.fault(0, Fault::Fail);
        store.pass(1);
        let readers: Vec<_> = (0..8).map(|_| reader(&source, 3)).collect();
        until("the get", || store.waiting() == 1 && store.gets() == 1).await;
        // All have joined once each has run; the fetch waits for us.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        store.pass(1_000);
        for reader in readers {
            // One that came late has made its own get, which succeeds.
            if let Err(e) = reader.await.unwrap() {
                assert_eq!(e.kind(), ErrorKind::Unavailable);
                let text = format!("{e:#}");
                assert!(
                    text.contains("block 3") && text.contains(info.id.as_str()),
                    "{text}"
                );
                assert!(text.contains("get 0 is to fail"), "{text}");
            }
        }
        assert_eq!(source.block(at(3)).await.unwrap(), filled(0xAA));
        assert_eq!(store.gets(), 2);
    });
}

#[test]
fn a_panic_below_strands_nobody_either() {
    test(async {
        let store = FlakyStore::gated();
        let info = store.snapshot(&[(3, 0xAA)]).await;
        let cache = cache(4);
        let source = source(&store, &info, &cache);
        store.fault(0, Fault::Panic);
        store.pass(2);
        let error = source.block(at(3)).await.unwrap_err();
        assert!(format!("{error:#}").contains("block 3"), "{error:#}");
        assert_eq!(cache.bytes(), 0);
        store.pass(1);
        assert_eq!(source.block(at(3)).await.unwrap(), filled(0xAA));
    });
}

#[test]
fn absent_blocks_are_zeros_and_cost_no_get() {
    test(async {
        let store = FlakyStore::new();
        let info = store.snapshot(&[(3, 0xAA)]).await;
        let cache = cache(4);
        let source = source(&store, &info, &cache);
        for index in [0, 2, 4, 2047] {
            assert_eq!(source.block(at(index)).await.unwrap(), Block::Zero);
        }
        assert_eq!((store.gets(), store.listings()), (0, 1));
        // The first was asked for before it was known to be absent; at most the note of that is kept.
        assert!(cache.bytes() < 1024, "{} bytes", cache.bytes());
        assert_eq!(
            source.block(at(2048)).await.unwrap_err().kind(),
            ErrorKind::Invalid
        );
    });
}

#[test]
fn the_cache_keeps_its_capacity_and_gives_up_the_least_used() {
    test(async {
        let store = FlakyStore::new();
        let blocks: Vec<_> = (0..40).map(|i| (i, 1 + i as u8)).collect();
        let info = store.snapshot(&blocks).await;
        let cache = cache(4);
        let source = source(&store, &info, &cache);
        for index in 0..40 {
            assert_eq!(
                source.block(at(index)).await.unwrap(),
                filled(1 + index as u8)
            );
            assert!(cache.bytes() <= cache.capacity(), "{} bytes", cache.bytes());
        }
        let held = || {
            (0..40)
                .filter(|i| source.ready(at(*i)).is_some())
                .collect::<Vec<_>>()
        };
        // A fetch needs room before its block is there.
        assert_eq!(held(), [36, 37, 38, 39]);
        source.ready(at(36));
        let gets = store.gets();
        source.block(at(0)).await.unwrap();
        assert_eq!(held(), [0, 36, 38, 39]);
        source.block(at(36)).await.unwrap();
        assert_eq!(store.gets(), gets + 1);
    });
}

#[test]
fn the_capacity_holds_under_many_readers_at_once() {
    test(async {
        let store = FlakyStore::gated();
        let blocks: Vec<_> = (0..60).map(|i| (i, 1 + i as u8)).collect();
        let info = store.snapshot(&blocks).await;
        let cache = cache(5);
        let source = source(&store, &info, &cache);
        let readers: Vec<_> = (0..60).map(|i| reader(&source, i)).collect();
        store.pass(1);
        for served in 0..60 {
            // As many fetches at once as there is room for, and no more; each that ends makes way for one.
            let begun = 60.min(served + 5);
            until("gets", || {
                store.gets() == begun && store.waiting() == begun - served
            })
            .await;
            assert!(cache.bytes() <= cache.capacity(), "{} bytes", cache.bytes());
            store.pass(1);
        }
        for (i, reader) in readers.into_iter().enumerate() {
            assert_eq!(reader.await.unwrap().unwrap(), filled(1 + i as u8));
            assert!(cache.bytes() <= cache.capacity(), "{} bytes", cache.bytes());
        }
        assert_eq!(store.gets(), 60);
    });
}

#[test]
fn two_snapshots_in_one_cache_do_not_mix() {
    test(async {
        let store = FlakyStore::new();
        let (a, b) = (
            store.snapshot(&[(3, 0xAA)]).await,
            store.snapshot(&[(3, 0xBB)]).await,
        );
        let cache = cache(4);
        let (a, b) = (source(&store, &a, &cache), source(&store, &b, &cache));
        for _ in 0..2 {
            assert_eq!(a.block(at(3)).await.unwrap(), filled(0xAA));
            assert_eq!(b.block(at(3)).await.unwrap(), filled(0xBB));
        }
        assert_eq!(store.gets(), 2);
    });
}

#[test]
fn one_listing_tells_of_a_whole_window() {
    test(async {
        let store = FlakyStore::gated();
        let info = store.snapshot(&[(3, 0xAA), (900, 0xBB)]).await;
        let source = source(&store, &info, &cache(8));
        let readers: Vec<_> = [3, 5, 900, 2000, 3, 0].map(|i| reader(&source, i)).into();
        until("the listing", || store.waiting() == 1).await;
        assert_eq!(store.listings(), 1);
        store.pass(10);
        for reader in readers {
            reader.await.unwrap().unwrap();
        }
        source.present(at(1500)).await.unwrap();
        assert_eq!((store.listings(), store.gets()), (1, 2));
    });
}

#[test]
fn a_read_over_several_blocks_asks_for_all_at_once() {
    let runtime = runtime();
    let store = FlakyStore::gated();
    let info = runtime.block_on(store.snapshot(&[(0, 1), (1, 2), (3, 4)]));
    let source = source(&store, &info, &cache(8));
    let image = Image::new(source, runtime.handle().clone());
    let mut buf = vec![9; 3 * BLOCK_SIZE + 2];
    std::thread::scope(|scope| {
        let read = scope.spawn(|| image.read_at(BLOCK_SIZE as u64 - 1, &mut buf));
        store.pass(1);
        let deadline = Instant::now() + LIMIT;
        // None of them is let through before all three are asked for.
        while store.gets() < 3 && Instant::now() < deadline {
            std::thread::yield_now();
        }
        let gets = store.gets();
        store.pass(10);
        read.join().unwrap().unwrap();
        assert_eq!(gets, 3);
    });
    let expected = [
        &[1][..],
        &[2; BLOCK_SIZE],
        &[0; BLOCK_SIZE],
        &[4; BLOCK_SIZE],
        &[0],
    ]
    .concat();
    assert!(buf == expected);
    assert!(image.try_read_at(0, &mut buf).unwrap());
    assert_eq!(store.gets(), 3);
}

#[test]
fn an_image_tells_data_from_holes_without_reading_either() {
    let runtime = runtime();
    let store = FlakyStore::new();
    let info = runtime.block_on(store.snapshot(&[(1, 2), (2, 3), (2047, 4)]));
    let image = Image::new(source(&store, &info, &cache(8)), runtime.handle().clone());
    let block = BLOCK_SIZE as u64;
    assert_eq!(image.extent(0).unwrap(), Extent::Hole { end: block });
    assert_eq!(
        image.extent(block + 7).unwrap(),
        Extent::Data { end: 3 * block }
    );
    assert_eq!(
        image.extent(3 * block).unwrap(),
        Extent::Hole { end: 2047 * block }
    );
    assert_eq!(
        image.extent(2048 * block - 1).unwrap(),
        Extent::Data { end: 2048 * block }
    );
    assert!(image.extent(2048 * block).is_err());
    assert_eq!(image.allocated(0..2048 * block), Some(3 * block));
    assert_eq!(image.allocated(block + 1..block + 3), Some(2));
    assert_eq!(store.gets(), 0);
}

/// What a commit leaves: a child, and a cache full of its parent's blocks.
#[test]
fn a_successor_has_what_did_not_change_and_keeps_the_order_of_use() {
    test(async {
        let store = FlakyStore::new();
        let info = store.snapshot(&[(0, 1), (1, 2), (2, 3), (3, 4)]).await;
        let child = store.snapshot(&[(0, 1), (1, 9), (2, 3), (3, 4)]).await;
        let other = store.snapshot(&[(7, 7)]).await;
        let cache = cache(5);
        let (old, another) = (
            source(&store, &info, &cache),
            source(&store, &other, &cache),
        );
        // 1 and then 2 are those not used for longest; 7 of another snapshot comes after them.
        for index in [0, 1, 2] {
            old.block(at(index)).await.unwrap();
        }
        another.block(at(7)).await.unwrap();
        old.block(at(0)).await.unwrap();
        let windows = Arc::new(IndexCache::new(1 << 20));
        let snapshot = SnapshotSource::new(Arc::<FlakyStore>::clone(&store), &child, windows);
        let new = old.succeeding(Arc::new(snapshot), &|index| index == at(1));
        let gets = store.gets();
        assert_eq!(new.ready(at(0)), Some(filled(1)));
        assert_eq!(another.ready(at(7)), Some(filled(7)));
        assert_eq!(old.ready(at(0)), None);
        assert_eq!(new.block(at(1)).await.unwrap(), filled(9));
        assert_eq!(store.gets() - gets, 1);
        // Three are held for the successor, one for the other: the room of the block that went is free again.
        assert!(cache.bytes() < 5 * ROOM && cache.bytes() > 3 * BLOCK_SIZE);
        // The next two push out 2, and nothing that was used after it.
        new.block(at(3)).await.unwrap();
        old.block(at(3)).await.unwrap();
        assert_eq!(new.ready(at(2)), None);
        assert_eq!(new.ready(at(0)), Some(filled(1)));
    });
}
