//! Block tokens that expire, are refused, and void each other: reads go on, unseen by who reads.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ebsfs::block::BlockIndex;
use ebsfs::error::ErrorKind;
use ebsfs::server::Faults;
use ebsfs::snapshot::SnapshotId;
use ebsfs::source::{BlockSource as _, IndexCache, SnapshotSource};
use ebsfs::store::Store;
use ebsfs::store::ebs::{Config, EbsStore, Limits};
use ebsfs::store::memory::MemoryStore;
use futures_util::future::join_all;

use crate::common::{Snap, at, block_on, snap};
use crate::scripted::{Scripted, answer, refusal};
use crate::wire::{Wire, client};

/// Places of data.
const PLACES: u32 = 8;
const APART: u32 = 10_000;

/// A server with a snapshot that has block `i * APART` full of `i + 1`.
fn served(faults: &str) -> (Wire, SnapshotId) {
    serve(faults, snap(100))
}

/// The same, where no listing tells of two of them: all between them are blocks of zeros.
fn served_far_apart(faults: &str) -> (Wire, SnapshotId) {
    serve(faults, snap(100).zeros(0..PLACES * APART))
}

fn serve(faults: &str, snap: Snap) -> (Wire, SnapshotId) {
    let store = Arc::new(MemoryStore::new().unwrap());
    let snap = (0..PLACES).fold(snap, |snap, i| snap.block(i * APART, i as u8 + 1));
    let id = block_on(snap.build(&*store));
    (Wire::serve(store, faults.parse::<Faults>().unwrap()), id)
}

async fn assert_reads(store: &dyn Store, id: &SnapshotId, i: u32) {
    let block = store.get(id, at(i * APART)).await;
    let block = block.unwrap_or_else(|e| panic!("block {i}: {e:#}"));
    assert!(block.bytes().iter().all(|byte| *byte == i as u8 + 1));
}

/// Reads by many at one time, in another order each.
async fn read_by_many(store: &dyn Store, id: &SnapshotId, readers: u32, reads: u32) {
    let reader = |reader| async move {
        for n in 0..reads {
            assert_reads(store, id, (reader * 7 + n * 5) % PLACES).await;
        }
    };
    join_all((0..readers).map(reader)).await;
}

/// So that every block needs a listing of its own.
fn small_memory() -> Config {
    Config {
        memory: 1,
        ..Config::default()
    }
}

#[test]
fn a_read_needs_one_listing_as_long_as_the_tokens_hold() {
    let (wire, id) = served("seed=1");
    block_on(async {
        let (store, remote) = wire.client(Config::default()).await;
        // A listing tells of what lies behind where it begins; this one begins at the start.
        assert_reads(&*store, &id, 0).await;
        read_by_many(&*store, &id, 8, 24).await;
        assert_eq!(remote.listings.get(), 1);
        assert_eq!(remote.relistings.get(), 0);
        // And the listing that a source asks for is the same one.
        let info = store.info(&id).await.unwrap();
        let windows = Arc::new(IndexCache::new(1 << 20));
        let shared: Arc<dyn Store> = Arc::<EbsStore>::clone(&store);
        let source = SnapshotSource::new(shared, &info, windows);
        assert!(
            source
                .present(BlockIndex::ZERO)
                .await
                .unwrap()
                .set
                .contains(at(APART))
        );
        assert_eq!(remote.listings.get(), 1);
    });
}

#[test]
fn tokens_about_to_expire_are_renewed_before_they_are_refused() {
    let (wire, id) = served("token-ttl=1s");
    block_on(async {
        let (store, remote) = wire.client(Config::default()).await;
        for _ in 0..30 {
            assert_reads(&*store, &id, 3).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!(remote.listings.get() >= 3);
        assert_eq!(remote.relistings.get(), 0);
    });
}

#[test]
fn readers_all_over_make_progress_where_every_listing_voids_all_tokens() {
    let (wire, id) = served_far_apart("rotate-tokens");
    block_on(async {
        // Each get finds its window gone, and each listing voids what the others hold.
        let (store, remote) = wire.client(small_memory()).await;
        read_by_many(&*store, &id, 8, 8).await;
        let (gets, listings) = (8 * 8, remote.listings.get());
        // Each brought a get at least; the refused ones are from before the gate.
        assert!((8..=gets + 8).contains(&listings), "{remote:?}");
        assert!(remote.relistings.get() <= 8, "{remote:?}");
    });
}

#[test]
fn two_clients_that_void_each_others_tokens_both_make_progress() {
    let (wire, id) = served_far_apart("rotate-tokens");
    block_on(async {
        let (one, _) = wire.client(small_memory()).await;
        let (other, _) = wire.client(small_memory()).await;
        let (one, other): (&dyn Store, &dyn Store) = (&*one, &*other);
        tokio::join!(read_by_many(one, &id, 3, 6), read_by_many(other, &id, 3, 6));
    });
}

#[test]
fn a_token_refused_without_a_reason_is_listed_again() {
    let listings = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&listings);
    let server = Scripted::start(move |line| {
        if line.contains("/blocks/5") {
            let new = line.contains("blockToken=NEW");
            return match new {
                true => refusal("403 Forbidden", "AccessDeniedException", None),
                false => refusal("400 Bad Request", "ValidationException", None),
            };
        }
        let token = ["OLD", "NEW"][counted.fetch_add(1, Ordering::SeqCst).min(1)];
        let body = format!(
            r#"{{"Blocks":[{{"BlockIndex":5,"BlockToken":"{token}"}}],"BlockSize":524288,"VolumeSize":1}}"#
        );
        answer(
            "200 OK",
            "Content-Type: application/json\r\n",
            body.as_bytes(),
        )
    });
    block_on(async {
        let (store, remote) = client(&server.url(), Config::default()).await;
        let refused = store.get(&"snap-0".parse().unwrap(), at(5)).await;
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Denied);
        assert_eq!(remote.relistings.get(), 1);
        assert_eq!(listings.load(Ordering::SeqCst), 2);
    });
}

#[test]
fn tokens_that_are_always_refused_end_with_the_deadline() {
    let server =
        Scripted::start(|line| {
            match line.contains("/blocks/5") {
        true => refusal("400 Bad Request", "ValidationException", Some("INVALID_BLOCK_TOKEN")),
        false => answer(
            "200 OK",
            "Content-Type: application/json\r\n",
            br#"{"Blocks":[{"BlockIndex":5,"BlockToken":"A"}],"BlockSize":524288,"VolumeSize":1}"#,
        ),
    }
        });
    let limits = Limits {
        deadline: Duration::from_secs(1),
        attempt: Duration::from_secs(1),
    };
    let config = Config {
        reads: limits,
        ..Config::default()
    };
    block_on(async {
        let (store, remote) = client(&server.url(), config).await;
        let error = store
            .get(&"snap-0".parse().unwrap(), at(5))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:#}");
        // They were listed again, but not as fast as the machine can.
        assert!((2..30).contains(&remote.relistings.get()), "{remote:?}");
    });
}
