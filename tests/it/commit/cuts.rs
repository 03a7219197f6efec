//! A commit that is cut off before and after every call to the store, by an error or with its process, goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use ebsfs::block::{Block, BlockIndex};
use ebsfs::commit::{PUTS, Wish};
use ebsfs::error::{Error, ErrorKind, Result};
use ebsfs::snapshot::{NewSnapshot, Seal, SnapshotId, SnapshotInfo, Status};
use ebsfs::store::memory::MemoryStore;
use ebsfs::store::{Listing, Store};
use futures_util::future::{Either, select};
use tokio::sync::Notify;

use super::{Case, of, random};
use crate::common::{Turnable, block_on, kind, minutes};
use crate::flaky_store::{Fault, FlakyStore};

/// Where and how it is cut.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Cut {
    /// The call fails and has done nothing.
    Before,
    /// The call fails, and has done it.
    After,
    /// The process ends before the call has done anything.
    KilledBefore,
    /// The process ends when the call has been done.
    KilledAfter,
}

pub(crate) const CUTS: [Cut; 4] = [Cut::Before, Cut::After, Cut::KilledBefore, Cut::KilledAfter];

/// A store whose `nth` call is cut, from 0.
pub(crate) struct Cutting {
    inner: Arc<dyn Store>,
    cut: Cut,
    nth: usize,
    calls: AtomicUsize,
    killed: Notify,
}

impl Cutting {
    pub(crate) fn new(inner: &Arc<dyn Store>, cut: Cut, nth: usize) -> Arc<Self> {
        Arc::new(Self {
            inner: Arc::clone(inner),
            cut,
            nth,
            calls: AtomicUsize::new(0),
            killed: Notify::new(),
        })
    }

    /// Does `work` as far as the process lives; none if it was killed.
    pub(crate) async fn until_killed<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let killed = Box::pin(self.killed.notified());
        match select(Box::pin(work), killed).await {
            Either::Left((done, _)) => Some(done),
            Either::Right(_) => None,
        }
    }

    async fn call<T>(&self, what: impl Future<Output = Result<T>> + Send) -> Result<T> {
        if self.calls.fetch_add(1, Ordering::SeqCst) != self.nth {
            return what.await;
        }
        let lost = Err(Error::new(ErrorKind::Unavailable, "the line is cut"));
        match self.cut {
            Cut::Before => lost,
            Cut::After => {
                what.await?;
                lost
            }
            Cut::KilledBefore => self.kill().await,
            Cut::KilledAfter => {
                what.await?;
                self.kill().await
            }
        }
    }

    /// Nothing goes on after this.
    async fn kill<T>(&self) -> T {
        self.killed.notify_one();
        std::future::pending().await
    }
}

#[async_trait]
impl Store for Cutting {
    fn identity(&self) -> String {
        self.inner.identity()
    }

    async fn list(&self) -> Result<Vec<SnapshotInfo>> {
        self.inner.list().await
    }

    async fn info(&self, id: &SnapshotId) -> Result<SnapshotInfo> {
        self.call(self.inner.info(id)).await
    }

    async fn blocks(&self, id: &SnapshotId, from: BlockIndex) -> Result<Listing> {
        self.inner.blocks(id, from).await
    }

    async fn changed(&self, from: &SnapshotId, to: &SnapshotId, at: BlockIndex) -> Result<Listing> {
        self.inner.changed(from, to, at).await
    }

    async fn get(&self, id: &SnapshotId, index: BlockIndex) -> Result<Block> {
        self.inner.get(id, index).await
    }

    async fn start(&self, new: &NewSnapshot) -> Result<SnapshotInfo> {
        self.call(self.inner.start(new)).await
    }

    async fn put(&self, id: &SnapshotId, index: BlockIndex, block: &Block) -> Result<()> {
        self.call(self.inner.put(id, index, block)).await
    }

    async fn complete(&self, id: &SnapshotId, seal: &Seal) -> Result<()> {
        self.call(self.inner.complete(id, seal)).await
    }

    async fn delete(&self, id: &SnapshotId) -> Result<()> {
        self.inner.delete(id).await
    }
}

/// A case with four blocks to put.
async fn edited(store: Arc<dyn Store>) -> Case {
    let mut case = Case::new(store, &[(1, 1), (2, 2)]).await;
    for index in [0, 5, 6] {
        case.write(of(index), &random(u64::from(index))).await;
    }
    case.write(of(1) + 4096, &[9; 4096]).await;
    case
}

/// Commits through a cut; whether it was reached.
async fn commit_through(case: &mut Case, inner: &Arc<dyn Store>, cut: Cut, nth: usize) -> bool {
    let store = Cutting::new(inner, cut, nth);
    case.through(Arc::<Cutting>::clone(&store));
    if let Some(Err(e)) = store.until_killed(case.run(&Wish::default())).await {
        assert_eq!(e.kind(), ErrorKind::Unavailable, "{e:#}");
    }
    case.through(Arc::clone(inner));
    store.calls.load(Ordering::SeqCst) > nth
}

#[test]
fn cut_off_at_any_call_it_goes_on_and_leaves_nothing_behind() {
    block_on(async {
        for cut in CUTS {
            let mut nth = 0;
            loop {
                let store: Arc<dyn Store> = Arc::new(MemoryStore::new().unwrap());
                let mut case = edited(Arc::clone(&store)).await;
                let then = case.now();
                let was_cut = commit_through(&mut case, &store, cut, nth).await;
                case.reopen().await;
                let place = format!("{cut:?} call {nth}");
                let pending = case.in_state(Status::Pending).await;
                assert!(pending.len() <= 1, "{place}: {pending:?}");
                // What is written meanwhile is not a part of it.
                case.write(of(9), b"later").await;
                let accepted = case.overlay().header().commit.is_some_and(|c| c.accepted);
                if accepted {
                    assert_eq!(kind(case.run(&Wish::default()).await), ErrorKind::Conflict);
                } else {
                    case.run(&Wish::default()).await.unwrap();
                }
                case.settle().await;
                let base = case.overlay().header().base;
                case.assert_is(&base, &then).await;
                let snapshots = store.list().await.unwrap();
                assert_eq!(snapshots.len(), 2, "{place}: {snapshots:?}");
                // And the next holds the rest.
                let next = case.commit().await;
                case.assert_is(&next, &case.now()).await;
                if !was_cut {
                    break;
                }
                nth += 1;
            }
            // A start, four puts, a completion.
            assert_eq!(nth, 6, "{cut:?}");
        }
    });
}

#[test]
fn what_was_put_is_not_put_again_and_what_was_written_since_is_told() {
    block_on(async {
        let store = FlakyStore::new();
        let mut case = edited(Arc::<FlakyStore>::clone(&store)).await;
        store.puts();
        store.put_fault(6, Fault::Fail);
        assert_eq!(
            kind(case.run(&Wish::default()).await),
            ErrorKind::Unavailable
        );
        let before = store.puts();
        assert!(before.len() >= 2, "{before:?}");
        case.write(of(40), &vec![1; 3 * 4096]).await;
        case.told.lock().unwrap().clear();
        let plan = case.commits().plan().await.unwrap();
        assert!(plan.resumes);
        case.reopen().await;
        let accepted = case.run(&Wish::default()).await.unwrap();
        let after = store.puts();
        assert!(
            !after
                .iter()
                .any(|index| before.contains(index) && *index < 5),
            "{after:?}"
        );
        assert!(after.contains(&6));
        assert_eq!(accepted.blocks, 4);
        let told = case.told.lock().unwrap().clone();
        let since = told.iter().find_map(|event| match event {
            ebsfs::commit::Event::Sealed { since, .. } => Some(*since),
            _ => None,
        });
        assert_eq!(since, Some(Some(3)));
    });
}

#[test]
fn without_the_notes_of_what_was_put_all_is_put_again() {
    block_on(async {
        let store = FlakyStore::new();
        let mut case = edited(Arc::<FlakyStore>::clone(&store)).await;
        store.puts();
        store.put_fault(6, Fault::Fail);
        case.run(&Wish::default()).await.unwrap_err();
        store.puts();
        case.reopen().await;
        std::fs::remove_file(case.directory().join(PUTS)).unwrap();
        let then = case.now();
        let accepted = case.run(&Wish::default()).await.unwrap();
        assert_eq!(store.puts(), [0, 1, 5, 6]);
        case.settle().await;
        case.assert_is(&accepted.id, &then).await;
        assert!(!case.directory().join(PUTS).exists());
    });
}

#[test]
fn an_expired_snapshot_is_started_over_and_reported() {
    block_on(async {
        let clock = Turnable::new();
        let store: Arc<dyn Store> = Arc::new(MemoryStore::with_clock(clock.clock()).unwrap());
        let mut case = edited(Arc::clone(&store)).await;
        assert!(commit_through(&mut case, &store, Cut::Before, 4).await);
        let [orphan] = &case.in_state(Status::Pending).await[..] else {
            panic!("one is pending");
        };
        clock.advance(minutes(61));
        case.reopen().await;
        let then = case.now();
        let accepted = case.run(&Wish::default()).await.unwrap();
        assert_ne!(accepted.id, *orphan);
        let notes = case.notes();
        assert!(
            notes.contains(orphan.as_str()) && notes.contains("expired"),
            "{notes}"
        );
        assert!(notes.contains(&format!("ebsfs delete {orphan}")), "{notes}");
        case.settle().await;
        case.assert_is(&accepted.id, &then).await;
        assert_eq!(
            &case.in_state(Status::Error).await[..],
            std::slice::from_ref(orphan)
        );
    });
}

/// A store whose snapshots expire between two puts of one attempt.
#[test]
fn one_that_expires_while_it_is_filled_is_started_over_too() {
    block_on(async {
        let store = FlakyStore::new();
        let case = edited(Arc::<FlakyStore>::clone(&store)).await;
        store.put_fault(5, Fault::Expire);
        let accepted = case.run(&Wish::default()).await.unwrap();
        assert!(case.notes().contains("expired"));
        case.settle().await;
        case.assert_is(&accepted.id, &case.now()).await;
    });
}

#[test]
fn a_restart_commits_the_present_and_reports_what_it_leaves() {
    block_on(async {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new().unwrap());
        let mut case = edited(Arc::clone(&store)).await;
        assert!(commit_through(&mut case, &store, Cut::KilledAfter, 3).await);
        case.reopen().await;
        let pending = case.in_state(Status::Pending).await;
        case.write(of(6), &random(99)).await;
        case.zero(of(0)..of(1));
        let restart = Wish {
            restart: true,
            description: Some("another".into()),
            ..Wish::default()
        };
        let accepted = case.run(&restart).await.unwrap();
        assert_ne!(accepted.id, pending[0]);
        assert!(case.notes().contains(pending[0].as_str()));
        case.settle().await;
        case.assert_is(&accepted.id, &case.now()).await;
        let info = store.info(&accepted.id).await.unwrap();
        assert_eq!(info.description, "another");
    });
}

/// Killed between the start and the note of its id, nobody knows the id: the same token finds it again.
#[test]
fn a_restart_before_the_id_was_noted_leaves_nothing_behind() {
    block_on(async {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new().unwrap());
        let mut case = edited(Arc::clone(&store)).await;
        assert!(commit_through(&mut case, &store, Cut::KilledAfter, 0).await);
        case.reopen().await;
        let pending = case.in_state(Status::Pending).await;
        case.write(of(6), &random(99)).await;
        let restart = Wish {
            restart: true,
            ..Wish::default()
        };
        let accepted = case.run(&restart).await.unwrap();
        assert_eq!(&pending[..], std::slice::from_ref(&accepted.id));
        case.settle().await;
        case.assert_is(&accepted.id, &case.now()).await;
    });
}

#[test]
fn a_resumed_commit_keeps_its_options_and_takes_no_others() {
    block_on(async {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new().unwrap());
        let mut case = edited(Arc::clone(&store)).await;
        let described = |text: &str| Wish {
            description: Some(text.into()),
            ..Wish::default()
        };
        {
            let cutting = Cutting {
                inner: Arc::clone(&store),
                cut: Cut::Before,
                nth: 2,
                calls: AtomicUsize::new(0),
                killed: Notify::new(),
            };
            case.through(Arc::new(cutting));
            case.run(&described("one")).await.unwrap_err();
            case.through(Arc::clone(&store));
        }
        assert_eq!(kind(case.run(&described("two")).await), ErrorKind::Conflict);
        let tagged = Wish {
            tags: Some([("a".to_owned(), "b".to_owned())].into()),
            ..described("one")
        };
        assert_eq!(kind(case.run(&tagged).await), ErrorKind::Conflict);
        let accepted = case.run(&Wish::default()).await.unwrap();
        let info = store.info(&accepted.id).await.unwrap();
        assert_eq!(info.description, "one");
    });
}
