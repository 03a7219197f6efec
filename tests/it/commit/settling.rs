//! From accepted to settled: slowly, in another process, with a store that lies or loses.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use ebsfs::block::{Block, BlockIndex};
use ebsfs::commit::{Depth, Settled, Wish};
use ebsfs::error::{ErrorKind, Result};
use ebsfs::server::Faults;
use ebsfs::snapshot::{NewSnapshot, Seal, SnapshotId, SnapshotInfo, Status};
use ebsfs::store::ebs;
use ebsfs::store::memory::MemoryStore;
use ebsfs::store::{Listing, Store};

use super::{Case, of, random};
use crate::common::{block_on, kind};
use crate::flaky_store::{FlakyStore, filled};
use crate::wire::Wire;

/// A store that does one thing wrong with a child once it is told to.
struct Faithless {
    inner: MemoryStore,
    /// Gives other bytes for block 5.
    lies: AtomicBool,
    /// Says that children have turned to `error`.
    loses: AtomicBool,
}

impl Faithless {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            inner: MemoryStore::new().unwrap(),
            lies: AtomicBool::new(false),
            loses: AtomicBool::new(false),
        })
    }
}

#[async_trait]
impl Store for Faithless {
    fn identity(&self) -> String {
        self.inner.identity()
    }

    async fn list(&self) -> Result<Vec<SnapshotInfo>> {
        self.inner.list().await
    }

    async fn info(&self, id: &SnapshotId) -> Result<SnapshotInfo> {
        let mut info = self.inner.info(id).await?;
        if self.loses.load(Ordering::SeqCst) && info.parent.is_some() {
            info.status = Status::Error;
        }
        Ok(info)
    }

    async fn blocks(&self, id: &SnapshotId, from: BlockIndex) -> Result<Listing> {
        self.inner.blocks(id, from).await
    }

    async fn changed(&self, from: &SnapshotId, to: &SnapshotId, at: BlockIndex) -> Result<Listing> {
        self.inner.changed(from, to, at).await
    }

    async fn get(&self, id: &SnapshotId, index: BlockIndex) -> Result<Block> {
        if self.lies.load(Ordering::SeqCst) && index.get() == 5 {
            return Ok(filled(0xEE));
        }
        self.inner.get(id, index).await
    }

    async fn start(&self, new: &NewSnapshot) -> Result<SnapshotInfo> {
        self.inner.start(new).await
    }

    async fn put(&self, id: &SnapshotId, index: BlockIndex, block: &Block) -> Result<()> {
        self.inner.put(id, index, block).await
    }

    async fn complete(&self, id: &SnapshotId, seal: &Seal) -> Result<()> {
        self.inner.complete(id, seal).await
    }

    async fn delete(&self, id: &SnapshotId) -> Result<()> {
        self.inner.delete(id).await
    }
}

#[test]
fn until_a_slow_store_has_completed_it_nothing_is_dropped_and_no_other_is_begun() {
    let faults = Faults {
        complete_after: Duration::from_millis(1500),
        ..Faults::default()
    };
    let wire = Wire::serve(Arc::new(MemoryStore::new().unwrap()), faults);
    block_on(async {
        let (store, _) = wire.client(ebs::Config::default()).await;
        let mut case = Case::new(store, &[(1, 1)]).await;
        case.write(of(1), &[9; 4096]).await;
        case.write(of(5), &random(5)).await;
        let then = case.now();
        let accepted = case.run(&Wish::default()).await.unwrap();
        let settled = case.commits().settle(Depth::All).await.unwrap();
        assert_eq!(settled, Settled::NotYet(accepted.id.clone()));
        let refused = case.run(&Wish::default()).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Conflict);
        assert!(refused.to_string().contains(accepted.id.as_str()));
        assert!(
            refused.to_string().contains("still completing"),
            "{refused}"
        );
        assert_eq!(case.overlay().header().base, case.parent);
        assert!(case.overlay().view().sealed.is_some());
        // Another process takes it up.
        case.reopen().await;
        case.write(of(6), &random(6)).await;
        case.settle().await;
        assert_eq!(case.overlay().header().base, accepted.id);
        case.assert_is(&accepted.id, &then).await;
        let next = case.commit().await;
        case.assert_is(&next, &case.now()).await;
    });
}

#[test]
fn a_snapshot_that_is_not_what_was_put_drops_nothing_and_can_be_given_up() {
    block_on(async {
        let store = Faithless::new();
        let mut case = Case::new(Arc::<Faithless>::clone(&store), &[(1, 1)]).await;
        for index in [5, 6] {
            case.write(of(index), &random(u64::from(index))).await;
        }
        let accepted = case.run(&Wish::default()).await.unwrap();
        store.lies.store(true, Ordering::SeqCst);
        for depth in [Depth::Sample, Depth::All] {
            let error = case.commits().settle(depth).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt);
            let text = format!("{error:#}");
            for word in [
                accepted.id.as_str(),
                "block 5",
                "nothing was dropped",
                "--restart",
            ] {
                assert!(text.contains(word), "no {word:?} in {text}");
            }
        }
        store.lies.store(false, Ordering::SeqCst);
        assert!(case.overlay().view().sealed.is_some());
        assert_eq!(case.overlay().header().base, case.parent);
        assert_eq!(kind(case.run(&Wish::default()).await), ErrorKind::Conflict);
        let restart = Wish {
            restart: true,
            ..Wish::default()
        };
        let second = case.run(&restart).await.unwrap();
        assert_ne!(second.id, accepted.id);
        assert!(case.notes().contains(accepted.id.as_str()));
        case.settle().await;
        case.assert_is(&second.id, &case.now()).await;
    });
}

#[test]
fn a_snapshot_that_the_store_loses_is_put_again() {
    block_on(async {
        let store = Faithless::new();
        let mut case = Case::new(Arc::<Faithless>::clone(&store), &[(1, 1)]).await;
        case.write(of(5), &random(5)).await;
        let lost = case.run(&Wish::default()).await.unwrap();
        store.loses.store(true, Ordering::SeqCst);
        let error = case.commits().settle(Depth::Sample).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains(lost.id.as_str()), "{error}");
        store.loses.store(false, Ordering::SeqCst);
        let again = case.run(&Wish::default()).await.unwrap();
        assert_ne!(again.id, lost.id);
        case.settle().await;
        case.assert_is(&again.id, &case.now()).await;
    });
}

#[test]
fn a_sample_is_small_and_all_is_all() {
    block_on(async {
        let store = FlakyStore::new();
        let mut case = Case::new(Arc::<FlakyStore>::clone(&store), &[]).await;
        for (depth, gets) in [(Depth::Sample, 16), (Depth::All, 40)] {
            for index in 0..40 {
                case.write(of(index * 7), &random(u64::from(index))).await;
            }
            case.run(&Wish::default()).await.unwrap();
            let before = store.gets();
            case.commits().settle(depth).await.unwrap();
            assert_eq!(store.gets() - before, gets, "{depth:?}");
        }
    });
}

#[test]
fn nothing_accepted_is_nothing_to_settle() {
    block_on(async {
        let store = Arc::new(MemoryStore::new().unwrap());
        let case = Case::new(store, &[]).await;
        let commits = case.commits();
        commits.completed().await.unwrap();
        let settled = commits.settle(Depth::Sample).await.unwrap();
        assert_eq!(settled, Settled::Nothing);
    });
}
