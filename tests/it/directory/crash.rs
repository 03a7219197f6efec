//! The store as a crash leaves it: copied at any point of an import, or with writes that were lost.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ebsfs::error::ErrorKind;
use ebsfs::snapshot::{SnapshotId, Status};
use ebsfs::store::Store as _;
use ebsfs::store::directory::{DirectoryStore, Garbage};

use super::{Place, edit_record, files, reachable, truncate};
use crate::common::{
    Snap, Turnable, assert_holds, at, block_on, filled, gc_once_abandoned, kind, scratch, snap,
};

/// Copies what is at `from` to `to`, with times, in the order in which things come to refer to each other
/// backwards, so that the copy of a store in use is one that a crash could have left.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for part in ["format", "snapshots", "pending", "trees", "blocks", "tmp"] {
        copy_all(&from.join(part), &to.join(part));
    }
}

fn copy_all(from: &Path, to: &Path) {
    // Whatever goes away meanwhile is not in the copy.
    let Ok(meta) = fs::symlink_metadata(from) else {
        return;
    };
    if meta.is_dir() {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).into_iter().flatten().flatten() {
            copy_all(&entry.path(), &to.join(entry.file_name()));
        }
    } else if meta.len() == 512 * 1024 {
        // A block file is replaced, never changed: a link is as good as a copy.
        drop(fs::hard_link(from, to));
    } else if let Ok(bytes) = fs::read(from) {
        fs::write(to, bytes).unwrap();
        let file = fs::OpenOptions::new().write(true).open(to).unwrap();
        file.set_modified(meta.modified().unwrap()).unwrap();
    }
}

/// Copies of a store, one for each point at which it may have crashed.
struct Crashes {
    dir: tempfile::TempDir,
    time: Turnable,
    /// Each with the snapshots that are then completed.
    copies: Vec<(PathBuf, Vec<Held>)>,
}

/// A snapshot and what it holds.
type Held = (SnapshotId, Vec<(u32, u8)>);

impl Crashes {
    fn of(place: &Place) -> Self {
        Self {
            dir: scratch(),
            time: place.time.clone(),
            copies: Vec::new(),
        }
    }

    fn here(&mut self, place: &Place, completed: &[Held]) {
        let to = self.dir.path().join(self.copies.len().to_string());
        copy(&place.path(), &to);
        self.copies.push((to, completed.to_vec()));
    }

    fn open(&self, copy: &Path) -> DirectoryStore {
        DirectoryStore::create_with_clock(copy, self.time.clock()).unwrap()
    }
}

const INHERITED: [(u32, u8); 3] = [(1, 1), (2, 2), (5000, 3)];
const PUT: [(u32, u8); 5] = [(2, 4), (3, 0), (6000, 5), (2, 6), (4, 1)];
const HELD: [(u32, u8); 6] = [(1, 1), (2, 6), (3, 0), (4, 1), (5000, 3), (6000, 5)];

fn with(new: Snap, puts: &[(u32, u8)]) -> Snap {
    puts.iter()
        .fold(new, |new, (index, byte)| new.block(*index, *byte))
}

/// An import of a child, step by step, with a crash after each.
async fn import(place: &Place) -> (Crashes, Snap) {
    let mut crashes = Crashes::of(place);
    let store = place.open();
    crashes.here(place, &[]);
    let parent = with(snap(3), &INHERITED).build(&store).await;
    let mut completed = vec![(parent.clone(), INHERITED.to_vec())];
    crashes.here(place, &completed);
    let child = with(snap(3).child_of(&parent), &PUT);
    let id = store.start(&child.new).await.unwrap().id;
    crashes.here(place, &completed);
    for (index, byte) in PUT {
        store.put(&id, at(index), &filled(byte)).await.unwrap();
        crashes.here(place, &completed);
    }
    let pending = Path::new("pending").join(id.as_str());
    let kept = scratch();
    copy_all(&place.path().join(&pending), kept.path());
    store.complete(&id, &child.seal()).await.unwrap();
    completed.push((id, HELD.to_vec()));
    // The record is published, its log of puts still there.
    crashes.here(place, &completed);
    let (between, _) = crashes.copies.last().unwrap();
    copy_all(kept.path(), &between.join(&pending));
    crashes.here(place, &completed);
    store.delete(&parent).await.unwrap();
    completed.remove(0);
    crashes.here(place, &completed);
    (crashes, child)
}

#[test]
fn a_crash_at_any_point_leaves_a_valid_store_and_gc_removes_the_rest() {
    block_on(async {
        let place = Place::new();
        let (crashes, _) = import(&place).await;
        for (copy, completed) in &crashes.copies {
            let store = crashes.open(copy);
            let listed = store.list().await.unwrap();
            let readable = listed
                .iter()
                .filter(|info| info.status == Status::Completed);
            assert_eq!(readable.count(), completed.len());
            for (id, held) in completed {
                assert_holds(&store, id, held).await;
            }
            let garbage = gc_once_abandoned(&store, listed.len() - completed.len()).await;
            assert_eq!(garbage.snapshots.len(), listed.len() - completed.len());
            assert_eq!(files(copy), reachable(copy));
            assert_eq!(store.gc(true).await.unwrap(), Garbage::default());
            for (id, held) in completed {
                assert_holds(&store, id, held).await;
            }
        }
    });
}

#[test]
fn an_import_cut_off_at_any_point_can_be_gone_on_with() {
    block_on(async {
        let place = Place::new();
        let (crashes, child) = import(&place).await;
        for (copy, completed) in &crashes.copies {
            let store = crashes.open(copy);
            if completed.len() != 1 || completed[0].1 != INHERITED {
                continue;
            }
            let id = store.start(&child.new).await.unwrap().id;
            for (index, byte) in PUT {
                store.put(&id, at(index), &filled(byte)).await.unwrap();
            }
            store.complete(&id, &child.seal()).await.unwrap();
            assert_holds(&store, &id, &HELD).await;
        }
    });
}

/// Not between the calls, but while they run.
#[test]
fn a_crash_in_the_middle_of_a_call_leaves_a_valid_store() {
    block_on(async {
        let place = Arc::new(Place::new());
        let store = place.open();
        let running = Arc::new(AtomicBool::new(true));
        let copier = {
            let (place, running) = (Arc::clone(&place), Arc::clone(&running));
            tokio::task::spawn_blocking(move || {
                let mut crashes = Crashes::of(&place);
                while running.load(Ordering::SeqCst) && crashes.copies.len() < 400 {
                    crashes.here(&place, &[]);
                }
                crashes
            })
        };
        let mut parent = snap(3).build(&store).await;
        for round in 1..10 {
            let child = with(snap(3).child_of(&parent), &[(round, 1), (0, round as u8)]);
            parent = child.block(5000, 7).build(&store).await;
        }
        running.store(false, Ordering::SeqCst);
        let crashes = copier.await.unwrap();
        for (copy, _) in &crashes.copies {
            let store = crashes.open(copy);
            for info in store.list().await.unwrap() {
                if info.status != Status::Completed {
                    continue;
                }
                let listing = store.blocks(&info.id, at(0)).await.unwrap();
                for index in listing.set.iter() {
                    store.get(&info.id, index).await.unwrap();
                }
            }
            store.gc(false).await.unwrap();
            assert_eq!(files(copy), reachable(copy));
        }
    });
}

/// Makes a pending snapshot one that was started before the machine was.
fn reboot(place: &Place, id: &SnapshotId) {
    let record = place
        .path()
        .join("pending")
        .join(id.as_str())
        .join("record");
    edit_record(&record, |value| value["boot"] = "another".into());
}

#[test]
fn after_a_reboot_a_lost_block_is_found_and_can_be_put_again() {
    let harms: [fn(&Path); 3] = [
        |file| fs::remove_file(file).unwrap(),
        |file| truncate(file, 512 * 1024),
        |file| fs::write(file, vec![0; 512 * 1024]).unwrap(),
    ];
    block_on(async {
        for harm in harms {
            let place = Place::new();
            let two = snap(1).block(1, 1).block(2, 2);
            let id = two.pending(&place.open()).await;
            reboot(&place, &id);
            harm(&place.block(2));
            let store = place.open();
            assert_eq!(store.start(&two.new).await.unwrap().id, id);
            let error = store.complete(&id, &two.seal()).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt);
            let text = format!("{error:#}");
            assert!(text.contains("block 2 was lost"), "{text}");
            let info = store.info(&id).await.unwrap();
            assert_eq!(info.status, Status::Pending);
            assert_eq!(kind(store.get(&id, at(1)).await), ErrorKind::Invalid);
            store.put(&id, at(2), &filled(2)).await.unwrap();
            store.complete(&id, &two.seal()).await.unwrap();
            assert_holds(&place.open(), &id, &[(1, 1), (2, 2)]).await;
        }
    });
}

#[test]
fn after_a_reboot_a_snapshot_that_lost_nothing_can_be_completed() {
    block_on(async {
        let place = Place::new();
        let two = snap(1).block(1, 1).zero(2);
        let id = two.pending(&place.open()).await;
        reboot(&place, &id);
        let store = place.open();
        store.complete(&id, &two.seal()).await.unwrap();
        assert_holds(&store, &id, &[(1, 1), (2, 0)]).await;
    });
}

#[test]
fn after_a_reboot_an_overwritten_block_need_not_be_there() {
    block_on(async {
        let place = Place::new();
        let twice = snap(1).block(1, 1).block(1, 2);
        let id = twice.pending(&place.open()).await;
        reboot(&place, &id);
        fs::remove_file(place.block(1)).unwrap();
        let store = place.open();
        store.complete(&id, &twice.seal()).await.unwrap();
        assert_holds(&store, &id, &[(1, 2)]).await;
    });
}
