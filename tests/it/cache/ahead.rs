//! What is fetched before anybody asks for it: behind what somebody waits for, in its half of the cache, and in nobody's way.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::mpsc::Receiver;
use std::task::Poll;

use ebsfs::cache::{Outcome, Priority};

use super::*;

/// A source of which blocks 0 to 59 are present and everything is listed, and its counters.
async fn listed(
    store: &Arc<FlakyStore>,
    cache: &Arc<BlockCache>,
) -> (Arc<CachedSource>, Arc<Stats>) {
    let blocks: Vec<_> = (0..60).map(|i| (i, 1 + i as u8)).collect();
    let info = store.snapshot(&blocks).await;
    let windows = Arc::new(IndexCache::new(1 << 20));
    let below = Arc::<FlakyStore>::clone(store) as Arc<dyn Store>;
    let below = Arc::new(SnapshotSource::new(below, &info, windows));
    let stats = Arc::new(Stats::default());
    let source = CachedSource::new(below, Arc::clone(cache), Arc::clone(&stats));
    store.pass(1);
    source.present(at(0)).await.unwrap();
    (Arc::new(source), stats)
}

/// A fetch that has been asked for once this returns.
async fn asked<'a>(
    source: &'a CachedSource,
    index: u32,
    priority: Priority,
) -> Pin<Box<dyn Future<Output = Result<Block>> + 'a>> {
    let mut fetch = Box::pin(source.fetch(at(index), priority));
    poll_fn(|context| {
        assert!(fetch.as_mut().poll(context).is_pending());
        Poll::Ready(())
    })
    .await;
    fetch
}

/// The next thing that becomes of a block.
async fn next(outcomes: &Receiver<Outcome>) -> Outcome {
    loop {
        if let Ok(outcome) = outcomes.try_recv() {
            return outcome;
        }
        tokio::task::yield_now().await;
    }
}

/// Lets gets through one by one, and tells which blocks they brought.
async fn landings(store: &FlakyStore, outcomes: &Receiver<Outcome>, count: usize) -> Vec<u32> {
    let mut landed = vec![];
    for _ in 0..count {
        store.pass(1);
        match next(outcomes).await {
            Outcome::Fetched { index, .. } => landed.push(index.get()),
            other => panic!("{other:?}"),
        }
        // The outcome is told before the next begins.
        let left = 9 - landed.len();
        until("the next get", || store.waiting() == left.min(5)).await;
    }
    landed
}

#[test]
fn a_demand_overtakes_what_waits_and_promotes_what_it_asks_for() {
    test(async {
        let store = FlakyStore::gated();
        // Five fetches at one time, and two blocks ahead.
        let (source, stats) = listed(&store, &cache(5)).await;
        let outcomes = source.outcomes();
        let mut fetches = vec![];
        for index in 0..5 {
            fetches.push(asked(&source, index, Priority::Demand).await);
            until("its get", || store.gets() == index as usize + 1).await;
        }
        fetches.push(asked(&source, 10, Priority::Background).await);
        assert!(source.ahead(at(20)) && source.ahead(at(21)));
        fetches.push(asked(&source, 30, Priority::Demand).await);
        fetches.push(asked(&source, 21, Priority::Demand).await);
        let landed = landings(&store, &outcomes, 8).await;
        assert_eq!(landed, [0, 1, 2, 3, 4, 21, 30, 20]);
        store.pass(1);
        for fetch in fetches {
            fetch.await.unwrap();
        }
        assert_eq!(store.gets(), 9);
        assert!(outcomes.try_recv().is_err(), "10 is nobody's who reads");
        // 21 was asked for before it began, and 20 not yet.
        let counted = || (stats.read_ahead.get(), stats.read_ahead_used.get());
        assert_eq!(counted(), (1, 0));
        assert_eq!(source.ready(at(20)), Some(filled(21)));
        assert_eq!(counted(), (1, 1));
        source.ready(at(20));
        assert_eq!(counted(), (1, 1));
    });
}

#[test]
fn only_what_is_missing_and_has_room_is_read_ahead() {
    test(async {
        let store = FlakyStore::gated();
        let cache = cache(8);
        let (source, stats) = listed(&store, &cache).await;
        assert!(!source.ahead(at(60)), "absent");
        assert!(!source.ahead(at(2048)), "past the end");
        let demand = asked(&source, 0, Priority::Demand).await;
        assert!(!source.ahead(at(0)), "under way");
        store.pass(1);
        demand.await.unwrap();
        assert!(!source.ahead(at(0)), "held");
        let mut queued = vec![];
        for index in 1..60 {
            if source.ahead(at(index)) {
                queued.push(index);
                // In this order at the gate, too.
                until("its get", || store.waiting() == queued.len()).await;
            }
        }
        assert_eq!(queued, [1, 2, 3, 4], "half of the cache");
        assert_eq!(cache.room_ahead(), 4);
        store.pass(3);
        until("three", || {
            (1..4).all(|i| !source.ahead(at(i))) && store.waiting() == 1
        })
        .await;
        assert!(!source.ahead(at(5)), "those that landed still count");
        // Whoever asks makes room, whether it is here or on its way.
        assert_eq!(source.block(at(1)).await.unwrap(), filled(2));
        let joined = asked(&source, 4, Priority::Demand).await;
        assert!(source.ahead(at(5)) && source.ahead(at(6)) && !source.ahead(at(7)));
        store.pass(3);
        assert_eq!(joined.await.unwrap(), filled(5));
        assert_eq!(
            (stats.read_ahead.get(), stats.read_ahead_used.get()),
            (6, 2)
        );
    });
}

#[test]
fn what_goes_unused_is_counted_and_makes_room() {
    test(async {
        let store = FlakyStore::new();
        let cache = cache(8);
        let (source, stats) = listed(&store, &cache).await;
        let outcomes = source.outcomes();
        for index in 0..4 {
            assert!(source.ahead(at(index)));
            assert!(matches!(next(&outcomes).await, Outcome::Fetched { .. }));
        }
        source.give_up(at(3));
        assert_eq!(next(&outcomes).await, Outcome::Wasted(at(3)));
        assert!(source.ahead(at(4)) && !source.ahead(at(5)));
        next(&outcomes).await;
        // What was given up goes, and what was read; not what may be read next.
        let wasted = || {
            let wasted = outcomes.try_iter().filter_map(|outcome| match outcome {
                Outcome::Wasted(index) => Some(index.get()),
                _ => None,
            });
            wasted.collect::<Vec<_>>()
        };
        for index in 10..18 {
            source.block(at(index)).await.unwrap();
            assert!(cache.bytes() <= cache.capacity());
        }
        assert!(wasted().is_empty());
        assert_eq!(
            (stats.read_ahead.get(), stats.read_ahead_wasted.get()),
            (5, 1)
        );
        assert!(!source.ahead(at(5)), "there is no room for more of it");
        // Another disk may be the one that is read now.
        let (other, _) = listed(&store, &cache).await;
        assert!((20..23).all(|i| other.ahead(at(i))));
        assert_eq!(wasted(), [0, 1, 2]);
        assert!(cache.bytes() <= cache.capacity());
    });
}

#[test]
fn what_is_given_up_before_it_begins_is_not_fetched() {
    test(async {
        let store = FlakyStore::gated();
        let (source, stats) = listed(&store, &cache(5)).await;
        let mut fetches = vec![];
        for index in 0..5 {
            fetches.push(asked(&source, index, Priority::Demand).await);
        }
        assert!(source.ahead(at(20)) && source.ahead(at(21)) && !source.ahead(at(22)));
        source.give_up(at(20));
        assert!(source.ahead(at(22)));
        // Nobody is left waiting who asked for it in no hurry.
        let patient = asked(&source, 21, Priority::Background).await;
        source.give_up(at(21));
        // And what somebody waits for is not given up at all.
        let demand = asked(&source, 22, Priority::Demand).await;
        source.give_up(at(22));
        store.pass(7);
        for fetch in fetches {
            fetch.await.unwrap();
        }
        assert_eq!(patient.await.unwrap(), filled(22));
        assert_eq!(demand.await.unwrap(), filled(23));
        assert_eq!(store.gets(), 7);
        assert_eq!(stats.read_ahead_wasted.get(), 0);
    });
}

#[test]
fn a_failure_of_read_ahead_is_nobodys() {
    test(async {
        let store = FlakyStore::gated();
        let cache = cache(8);
        let (source, stats) = listed(&store, &cache).await;
        let outcomes = source.outcomes();
        store.fault(0, Fault::Fail);
        store.fault(1, Fault::Panic);
        store.fault(2, Fault::Fail);
        for index in [0, 1] {
            assert!(source.ahead(at(index)));
            store.pass(1);
            assert_eq!(next(&outcomes).await, Outcome::Failed(at(index)));
        }
        assert_eq!(cache.bytes(), 0);
        // Those who join one have a fetch made anew, one for all.
        assert!(source.ahead(at(2)));
        until("its get", || store.gets() == 3).await;
        let first = asked(&source, 2, Priority::Demand).await;
        let second = asked(&source, 2, Priority::Demand).await;
        store.pass(2);
        assert_eq!(first.await.unwrap(), filled(3));
        assert_eq!(second.await.unwrap(), filled(3));
        assert_eq!((store.gets(), stats.failed_fetches.get()), (4, 3));
        // None of the failed ones takes any room.
        assert!((10..14).all(|i| source.ahead(at(i))));
    });
}

#[test]
fn what_comes_in_the_background_pushes_nothing_out_but_itself() {
    test(async {
        let store = FlakyStore::new();
        let (source, _) = listed(&store, &cache(4)).await;
        for index in 0..3 {
            source.block(at(index)).await.unwrap();
        }
        for index in 10..20 {
            let block = source.fetch(at(index), Priority::Background).await;
            assert_eq!(block.unwrap(), filled(1 + index as u8));
        }
        let held: Vec<_> = (0..60).filter(|i| source.ready(at(*i)).is_some()).collect();
        assert_eq!(held, [0, 1, 2, 19]);
    });
}

#[test]
fn a_runtime_that_ends_strands_nobody_in_the_queue() {
    let store = FlakyStore::gated();
    let (ending, staying) = (runtime(), runtime());
    let source = ending.block_on(async {
        let source = listed(&store, &cache(1)).await.0;
        drop(asked(&source, 0, Priority::Demand).await);
        until("its get", || store.waiting() == 1).await;
        source
    });
    let waiting = [1, 2].map(|index| staying.block_on(asked(&source, index, Priority::Demand)));
    ending.shutdown_timeout(LIMIT);
    for fetch in waiting {
        let ended = staying.block_on(async { tokio::time::timeout(LIMIT, fetch).await });
        let error = ended.expect("somebody was left waiting").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
    }
}
