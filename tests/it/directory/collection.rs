//! `gc`: what it takes, what it must leave, and that it works beside those who import.

use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use ebsfs::error::ErrorKind;
use ebsfs::snapshot::{SnapshotId, Status};
use ebsfs::store::Store as _;
use ebsfs::store::directory::Garbage;

use super::{Place, ROOT, SEGMENT, flip, reachable};
use crate::common::{
    assert_holds, at, block_on, filled, gc_once_abandoned, kind, minutes, planned_once_abandoned,
    snap,
};

#[test]
fn gc_removes_what_only_deleted_snapshots_had() {
    block_on(async {
        let place = Place::new();
        let store = place.open();
        let kept = snap(1).block(1, 1).block(2, 2).build(&store).await;
        let gone = snap(1).block(1, 1).block(3, 3).build(&store).await;
        store.delete(&gone).await.unwrap();
        let garbage = store.gc(false).await.unwrap();
        // The block of 3, and a segment and a root.
        assert_eq!((garbage.blocks, garbage.trees), (1, 2));
        assert!(garbage.bytes > 512 * 1024);
        assert_eq!(place.files(), reachable(&place.path()));
        assert_holds(&store, &kept, &[(1, 1), (2, 2)]).await;
        assert_eq!(store.gc(false).await.unwrap(), Garbage::default());
        store.delete(&kept).await.unwrap();
        store.gc(false).await.unwrap();
        assert_eq!((place.count("blocks"), place.count("trees")), (0, 0));
    });
}

#[test]
fn gc_leaves_what_a_child_inherited_from_deleted_parents() {
    block_on(async {
        let place = Place::new();
        let store = place.open();
        let first = snap(4).block(1, 1).block(5000, 2).build(&store).await;
        let second = snap(4).child_of(&first).block(2, 3);
        let second = second.build(&store).await;
        let third = snap(4).child_of(&second).block(1, 4);
        let third = third.build(&store).await;
        let pending = snap(4).child_of(&first).block(3, 5);
        let id = pending.pending(&store).await;
        store.delete(&first).await.unwrap();
        store.delete(&second).await.unwrap();
        place.open().gc(false).await.unwrap();
        assert_holds(&store, &third, &[(1, 4), (2, 3), (5000, 2)]).await;
        store.complete(&id, &pending.seal()).await.unwrap();
        assert_holds(&store, &id, &[(1, 1), (3, 5), (5000, 2)]).await;
    });
}

/// Garbage of every sort; returns the abandoned snapshot.
async fn litter(place: &Place) -> SnapshotId {
    let store = place.open();
    let gone = snap(1).block(1, 1).build(&store).await;
    snap(1).block(2, 2).build(&store).await;
    store.delete(&gone).await.unwrap();
    let abandoned = snap(1).block(3, 3).pending(&store).await;
    for file in ["tmp/9-0.tmp", "tmp/9-1.tmp/record", "snapshots/.9-2.tmp"] {
        let file = place.path().join(file);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, b"half").unwrap();
    }
    abandoned
}

#[test]
fn a_dry_run_says_what_gc_then_does_and_touches_nothing() {
    block_on(async {
        let place = Place::new();
        let abandoned = litter(&place).await;
        let store = place.open();
        let before = place.contents();
        let planned = planned_once_abandoned(&store, 1).await;
        assert_eq!(place.contents(), before);
        let size = |files: &std::collections::BTreeMap<PathBuf, Vec<u8>>| -> usize {
            files.values().map(Vec::len).sum()
        };
        let done = store.gc(false).await.unwrap();
        assert_eq!(done, planned);
        assert_eq!((done.blocks, done.trees, done.temporary_files), (2, 2, 3));
        assert_eq!(done.snapshots, [abandoned]);
        let freed = size(&before) - size(&place.contents());
        assert_eq!(done.bytes, freed as u64);
        assert_eq!(place.files(), reachable(&place.path()));
        let left: Vec<_> = fs::read_dir(place.path().join("tmp")).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    });
}

#[test]
fn gc_leaves_files_that_are_not_the_stores() {
    block_on(async {
        let place = Place::new();
        let store = place.open();
        snap(1).block(1, 1).build(&store).await;
        for file in ["notes", "blocks/notes", "trees/notes", "snapshots/notes"] {
            fs::write(place.path().join(file), b"mine").unwrap();
        }
        let before = place.contents();
        assert_eq!(store.gc(false).await.unwrap(), Garbage::default());
        assert_eq!(place.contents(), before);
    });
}

#[test]
fn gc_removes_nothing_while_a_snapshot_is_damaged() {
    block_on(async {
        for part in 0..3 {
            let place = Place::new();
            let store = place.open();
            let harmed = snap(1).block(1, 1).build(&store).await;
            let file = match part {
                0 => place.path().join("snapshots").join(harmed.as_str()),
                1 => place.trees(ROOT).remove(0),
                _ => place.trees(SEGMENT).remove(0),
            };
            let gone = snap(1).block(2, 2).build(&store).await;
            store.delete(&gone).await.unwrap();
            flip(&file);
            let before = place.contents();
            for dry_run in [true, false] {
                let error = place.open().gc(dry_run).await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Corrupt);
                let text = format!("{error:#}");
                assert!(text.contains(harmed.as_str()), "{text}");
                assert_eq!(place.contents(), before);
            }
            // As it says: deleted first, it stands in nobody's way.
            store.delete(&harmed).await.unwrap();
            store.gc(false).await.unwrap();
            assert_eq!(place.files(), reachable(&place.path()));
        }
    });
}

#[test]
fn gc_leaves_a_snapshot_that_another_handle_works_on() {
    block_on(async {
        let place = Place::new();
        let (one, other) = (place.open(), place.open());
        let gone = snap(1).block(1, 1).block(2, 2).build(&one).await;
        // Its block is there already, for a snapshot that then goes.
        let both = snap(1).block(7, 1).block(8, 3);
        let id = both.pending(&other).await;
        one.delete(&gone).await.unwrap();
        let garbage = one.gc(false).await.unwrap();
        assert_eq!(garbage.blocks, 1);
        assert!(garbage.snapshots.is_empty());
        other.complete(&id, &both.seal()).await.unwrap();
        assert_holds(&one, &id, &[(7, 1), (8, 3)]).await;
    });
}

#[test]
fn a_block_that_gc_took_is_written_again_by_whoever_wrote_it_before() {
    block_on(async {
        let place = Place::new();
        let (one, other) = (place.open(), place.open());
        let gone = snap(1).block(1, 1).build(&one).await;
        other.delete(&gone).await.unwrap();
        other.gc(false).await.unwrap();
        // `one` remembers having written these bytes.
        let id = snap(1).block(2, 1).build(&one).await;
        assert_holds(&other, &id, &[(2, 1)]).await;
    });
}

#[test]
fn gc_removes_a_snapshot_that_nobody_works_on_any_more() {
    block_on(async {
        let place = Place::new();
        let id = snap(1).block(1, 1).pending(&place.open()).await;
        let store = place.open();
        // Looking at it is no work on it.
        store.info(&id).await.unwrap();
        store.list().await.unwrap();
        let garbage = gc_once_abandoned(&store, 1).await;
        assert_eq!(garbage.snapshots, std::slice::from_ref(&id));
        assert_eq!(kind(store.info(&id).await), ErrorKind::NotFound);
        assert_eq!(place.files(), reachable(&place.path()));
    });
}

#[test]
fn gc_leaves_a_snapshot_that_was_taken_up_again() {
    block_on(async {
        let place = Place::new();
        let one = snap(1).block(1, 1);
        let id = one.pending(&place.open()).await;
        let store = place.open();
        store.start(&one.new).await.unwrap();
        let garbage = place.open().gc(false).await.unwrap();
        assert_eq!(garbage, Garbage::default());
        store.complete(&id, &one.seal()).await.unwrap();
        assert_holds(&store, &id, &[(1, 1)]).await;
    });
}

#[test]
fn gc_removes_a_snapshot_past_its_timeout_even_while_it_is_held() {
    block_on(async {
        let place = Place::new();
        let store = place.open();
        let id = snap(1)
            .timeout(minutes(10))
            .block(1, 1)
            .pending(&store)
            .await;
        place.time.advance(minutes(10));
        assert_eq!(store.gc(false).await.unwrap(), Garbage::default());
        place.time.advance(minutes(1));
        assert_eq!(store.info(&id).await.unwrap().status, Status::Error);
        let garbage = store.gc(false).await.unwrap();
        assert_eq!(garbage.snapshots, std::slice::from_ref(&id));
        let put = store.put(&id, at(1), &filled(1)).await;
        assert_eq!(kind(put), ErrorKind::NotFound);
    });
}

/// A snapshot and what it holds.
type Held = (SnapshotId, Vec<(u32, u8)>);

const IMPORTERS: u32 = 4;
const ROUNDS: u32 = 25;

/// Imports chains of three snapshots, of the same few bytes as every other importer, and offers them for
/// deletion: a parent, with nothing to compare any more, as soon as its child is started.
async fn import(place: &Place, importer: u32, finished: &Mutex<Vec<Held>>) {
    let store = place.open();
    let mut parent: Option<Held> = None;
    for round in 0..ROUNDS {
        let byte = |i: u32| u8::try_from((round * 7 + i * 3 + importer) % 5 + 1).unwrap();
        let puts: Vec<_> = (0..4).map(|i| (round + i, byte(i))).collect();
        let mut new = puts.iter().fold(snap(1), |s, (i, b)| s.block(*i, *b));
        let mut holds = puts.clone();
        if let Some((id, inherited)) = parent.take() {
            new = new.child_of(&id);
            holds = [inherited, puts].concat();
            store.start(&new.new).await.unwrap();
            finished.lock().unwrap().push((id, Vec::new()));
        }
        let id = new.build(&store).await;
        assert_holds(&store, &id, &holds).await;
        if round % 3 == 2 {
            finished.lock().unwrap().push((id, holds));
        } else {
            parent = Some((id, holds));
        }
    }
}

/// Deletes every parent and a part of the others, and collects after each.
async fn collect(place: &Place, importing: &AtomicU32, finished: &Mutex<Vec<Held>>) {
    let store = place.open();
    while importing.load(Ordering::SeqCst) > 0 {
        let gone = {
            let mut finished = finished.lock().unwrap();
            let oldest = finished.iter().position(|(id, holds)| {
                holds.is_empty() || id.as_str().ends_with(['0', '1', '2', '3'])
            });
            oldest.map(|oldest| finished.remove(oldest).0)
        };
        if let Some(id) = gone {
            store.delete(&id).await.unwrap();
        }
        let garbage = store.gc(false).await.unwrap();
        assert!(garbage.snapshots.is_empty(), "{garbage:?}");
    }
}

#[test]
fn gc_beside_imports_takes_nothing_that_they_need() {
    /// Counts down however its thread ends, so that the collectors end, too.
    struct Importing<'a>(&'a AtomicU32);
    impl Drop for Importing<'_> {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }
    let place = Place::new();
    drop(place.open());
    let (importing, finished) = (AtomicU32::new(IMPORTERS), Mutex::default());
    std::thread::scope(|scope| {
        for importer in 0..IMPORTERS {
            let (place, importing, finished) = (&place, &importing, &finished);
            scope.spawn(move || {
                let _importing = Importing(importing);
                block_on(import(place, importer, finished));
            });
        }
        for _ in 0..2 {
            scope.spawn(|| block_on(collect(&place, &importing, &finished)));
        }
    });
    block_on(async {
        let store = place.open();
        store.gc(false).await.unwrap();
        assert_eq!(place.files(), reachable(&place.path()));
        let finished = finished.into_inner().unwrap();
        for (id, holds) in finished.iter().filter(|(_, holds)| !holds.is_empty()) {
            assert_holds(&store, id, holds).await;
        }
    });
}
