//! Two snapshots that are read together: what both have is fetched once, and what differs is each one's own.

use std::sync::Arc;

use ebsfs::block::BlockIndex;
use ebsfs::cache::{BlockCache, CachedSource};
use ebsfs::error::ErrorKind;
use ebsfs::snapshot::SnapshotId;
use ebsfs::source::{BlockSource, Differences, IndexCache, SharingSource, SnapshotSource};
use ebsfs::stats::Stats;
use ebsfs::store::Store;
use ebsfs::store::memory::MemoryStore;

use crate::common::{at, block_on, snap};

/// A first and a second snapshot, as they are read together.
struct Together {
    first: Arc<CachedSource>,
    second: SharingSource,
    differences: Arc<Differences>,
    first_stats: Arc<Stats>,
    second_stats: Arc<Stats>,
}

async fn together(store: &Arc<dyn Store>, from: &SnapshotId, to: &SnapshotId) -> Together {
    let (from, to) = (
        store.info(from).await.unwrap(),
        store.info(to).await.unwrap(),
    );
    let cache = Arc::new(BlockCache::new(64 << 20));
    let windows = Arc::new(IndexCache::new(1 << 20));
    let cached = |info| {
        let stats = Arc::new(Stats::default());
        let source = SnapshotSource::new(Arc::clone(store), info, Arc::clone(&windows));
        let source = CachedSource::new(Arc::new(source), Arc::clone(&cache), Arc::clone(&stats));
        (Arc::new(source), stats)
    };
    let ((first, first_stats), (own, second_stats)) = (cached(&from), cached(&to));
    let differences = Arc::new(Differences::new(Arc::clone(store), &from, &to));
    let shared: Arc<dyn BlockSource> = Arc::<CachedSource>::clone(&first);
    Together {
        second: SharingSource::new(own, shared, Arc::clone(&differences)),
        first,
        differences,
        first_stats,
        second_stats,
    }
}

async fn byte(source: &dyn BlockSource, index: u32) -> u8 {
    let block = source.block(at(index)).await.unwrap();
    let byte = block.bytes()[0];
    assert!(block.bytes().iter().all(|other| *other == byte));
    byte
}

fn store() -> Arc<dyn Store> {
    Arc::new(MemoryStore::new().unwrap())
}

#[test]
fn a_block_that_both_have_is_fetched_once_whichever_is_asked() {
    block_on(async {
        let store = store();
        let from = snap(1)
            .block(1, 1)
            .block(2, 2)
            .block(3, 3)
            .build(&*store)
            .await;
        let to = snap(1).child_of(&from).block(2, 9).zero(3).block(7, 7);
        let to = to.build(&*store).await;
        let pair = together(&store, &from, &to).await;
        let fetched = || {
            (
                pair.first_stats.fetches.get(),
                pair.second_stats.fetches.get(),
            )
        };
        // The second one first.
        assert_eq!(byte(&pair.second, 1).await, 1);
        assert_eq!(fetched(), (1, 0));
        assert_eq!(byte(&*pair.first, 1).await, 1);
        assert_eq!(fetched(), (1, 0));
        assert!(pair.second.ready(at(1)).is_some());
        // What differs is each one's own, and zeros put over data are zeros.
        let theirs = [byte(&pair.second, 2).await, byte(&pair.second, 3).await];
        let ours = [byte(&*pair.first, 2).await, byte(&*pair.first, 3).await];
        assert_eq!((ours, theirs), ([2, 3], [9, 0]));
        assert_eq!(
            (byte(&pair.second, 7).await, byte(&*pair.first, 7).await),
            (7, 0)
        );
        // What neither has costs nothing.
        let before = fetched();
        assert_eq!(byte(&pair.second, 100).await, 0);
        assert_eq!(fetched(), before);
    });
}

#[test]
fn every_block_is_what_the_second_snapshot_has_there() {
    block_on(async {
        let store = store();
        let from = (0..100).fold(snap(1), |snap, i| snap.block(i * 20, 1 + (i % 50) as u8));
        let from = from.build(&*store).await;
        // Larger, and what it adds lies beyond the first one's end.
        let to = (0..40).fold(snap(2).child_of(&from), |snap, i| {
            snap.block(i * 97, 200 + (i % 50) as u8)
        });
        let to = to.zero(20).build(&*store).await;
        for (from, to) in [(&from, &to), (&to, &from)] {
            let pair = together(&store, from, to).await;
            for index in 0..pair.second.count() {
                let expected = store.get(to, at(index)).await.unwrap();
                let read = pair.second.block(at(index)).await.unwrap();
                assert!(read == expected, "block {index} of {to}");
            }
            let past = pair.second.block(at(pair.second.count())).await;
            assert_eq!(past.unwrap_err().kind(), ErrorKind::Invalid);
        }
    });
}

#[test]
fn the_first_difference_of_a_range_is_found_wherever_it_lies() {
    block_on(async {
        let store = store();
        let from = snap(8).block(5, 1).build(&*store).await;
        let to = snap(9)
            .child_of(&from)
            .block(10, 1)
            .block(11, 1)
            .block(9000, 1);
        let to = to.build(&*store).await;
        let pair = together(&store, &from, &to).await;
        let first = async |start, end| pair.differences.first(start..end).await.unwrap();
        assert_eq!(first(0, 10).await, None);
        assert_eq!(first(0, 20_000).await, Some(10..12));
        assert_eq!(first(11, 20_000).await, Some(11..12));
        assert_eq!(first(12, 9000).await, None);
        assert_eq!(first(12, 9001).await, Some(9000..9001));
        // All that the first one does not reach differs.
        let common = 8 * 2048;
        assert_eq!(first(9001, 30_000).await, Some(common..30_000));
        assert_eq!(first(17_000, 17_001).await, Some(17_000..17_001));
        assert_eq!(pair.differences.known(BlockIndex::new(10)), Some(true));
        assert_eq!(pair.differences.known(BlockIndex::new(12)), Some(false));
        assert_eq!(first(30, 30).await, None);
    });
}
