//! What is a store, what could become one, and what is left alone.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::Barrier;

use ebsfs::error::ErrorKind;
use ebsfs::snapshot::Status;
use ebsfs::store::Store as _;
use ebsfs::store::directory::DirectoryStore;

use super::{Place, files};
use crate::common::{assert_holds, at, block_on, count, filled, kind, scratch, snap};

fn open(path: &Path) -> ErrorKind {
    kind(DirectoryStore::open(path).map(drop))
}

fn create(path: &Path) -> ErrorKind {
    kind(DirectoryStore::create(path).map(drop))
}

#[test]
fn a_store_opened_again_is_the_same() {
    block_on(async {
        let place = Place::new();
        let store = place.open();
        let parent = snap(1).block(1, 1).zero(2).described("d").tag("k", "v");
        let parent = parent.build(&store).await;
        let child = snap(2).child_of(&parent).block(3000, 3).build(&store).await;
        let (identity, listed) = (store.identity(), store.list().await.unwrap());
        drop(store);
        let store = DirectoryStore::open(&place.path()).unwrap();
        assert_eq!(store.identity(), identity);
        assert_eq!(store.list().await.unwrap(), listed);
        assert_holds(&store, &parent, &[(1, 1), (2, 0)]).await;
        assert_holds(&store, &child, &[(1, 1), (2, 0), (3000, 3)]).await;
    });
}

#[test]
fn another_handle_sees_each_step_of_a_snapshot() {
    block_on(async {
        let place = Place::new();
        let (one, other) = (place.open(), place.open());
        assert_eq!(one.identity(), other.identity());
        let id = snap(1).block(1, 1).pending(&one).await;
        let info = other.info(&id).await.unwrap();
        assert_eq!(info.status, Status::Pending);
        assert_eq!(kind(other.get(&id, at(1)).await), ErrorKind::Invalid);
        // It may take part, too, and complete what both put.
        other.put(&id, at(2), &filled(2)).await.unwrap();
        one.put(&id, at(3), &filled(3)).await.unwrap();
        other.complete(&id, &count(3)).await.unwrap();
        assert_holds(&one, &id, &[(1, 1), (2, 2), (3, 3)]).await;
        let put = one.put(&id, at(4), &filled(4)).await;
        assert_eq!(kind(put), ErrorKind::Invalid);
        one.delete(&id).await.unwrap();
        assert!(other.list().await.unwrap().is_empty());
    });
}

#[test]
fn a_snapshot_that_another_handle_deleted_takes_no_more_puts() {
    block_on(async {
        let place = Place::new();
        let (one, other) = (place.open(), place.open());
        let id = snap(1).block(1, 1).pending(&one).await;
        other.delete(&id).await.unwrap();
        let put = one.put(&id, at(2), &filled(2)).await;
        assert_eq!(kind(put), ErrorKind::NotFound);
        let complete = one.complete(&id, &count(1)).await;
        assert_eq!(kind(complete), ErrorKind::NotFound);
    });
}

#[test]
fn a_pending_snapshot_goes_on_in_a_new_handle() {
    block_on(async {
        let place = Place::new();
        let both = snap(1).block(1, 1).block(2, 2);
        let id = {
            let store = place.open();
            let id = store.start(&both.new).await.unwrap().id;
            store.put(&id, at(1), &filled(1)).await.unwrap();
            id
        };
        let store = place.open();
        assert_eq!(store.start(&both.new).await.unwrap().id, id);
        store.put(&id, at(2), &filled(2)).await.unwrap();
        store.complete(&id, &both.seal()).await.unwrap();
        assert_holds(&store, &id, &[(1, 1), (2, 2)]).await;
    });
}

#[test]
fn a_missing_store_is_not_found_and_not_made_by_opening() {
    let dir = scratch();
    let path = dir.path().join("none");
    assert_eq!(open(&path), ErrorKind::NotFound);
    assert!(!path.exists());
    assert_eq!(open(dir.path()), ErrorKind::NotFound);
    assert!(files(dir.path()).is_empty());
}

#[test]
fn an_empty_directory_becomes_a_store() {
    let dir = scratch();
    DirectoryStore::create(dir.path()).unwrap();
    DirectoryStore::open(dir.path()).unwrap();
}

#[test]
fn a_store_is_made_with_the_directories_above_it() {
    let dir = scratch();
    DirectoryStore::create(&dir.path().join("a/b/c")).unwrap();
}

#[test]
fn a_header_that_was_never_finished_is_no_obstacle() {
    let dir = scratch();
    let path = dir.path();
    fs::write(path.join(".17-0.tmp"), b"ebsfs-sto").unwrap();
    assert_eq!(open(path), ErrorKind::NotFound);
    DirectoryStore::create(path).unwrap();
    DirectoryStore::open(path).unwrap();
}

#[test]
fn those_who_make_a_store_at_one_time_make_one() {
    let dir = scratch();
    let (path, start) = (dir.path().join("store"), Barrier::new(8));
    let make = || {
        start.wait();
        DirectoryStore::create(&path).unwrap().identity()
    };
    let identities: Vec<String> = std::thread::scope(|scope| {
        let makers: Vec<_> = (0..8).map(|_| scope.spawn(make)).collect();
        makers.into_iter().map(|m| m.join().unwrap()).collect()
    });
    assert!(identities.iter().all(|identity| *identity == identities[0]));
    assert_eq!(files(&path).len(), 1);
}

#[test]
fn a_file_is_no_store_and_stays_as_it_was() {
    let dir = scratch();
    let path = dir.path().join("disk.img");
    fs::write(&path, b"a disk").unwrap();
    for below in [path.clone(), path.join("store")] {
        assert_eq!(open(&below), ErrorKind::Invalid);
        assert_eq!(create(&below), ErrorKind::Invalid);
    }
    assert_eq!(fs::read(&path).unwrap(), b"a disk");
}

#[test]
fn a_directory_of_other_files_is_no_store_and_stays_as_it_was() {
    let dir = scratch();
    fs::write(dir.path().join("letter.txt"), b"dear").unwrap();
    let before = files(dir.path());
    assert_eq!(open(dir.path()), ErrorKind::Invalid);
    assert_eq!(create(dir.path()), ErrorKind::Invalid);
    assert_eq!(files(dir.path()), before);
}

#[test]
fn a_store_of_a_newer_version_is_unsupported_and_stays_as_it_was() {
    let place = Place::new();
    drop(place.open());
    let header = place.path().join("format");
    let newer = fs::read_to_string(&header)
        .unwrap()
        .replacen(" 1 ", " 2 ", 1);
    fs::write(&header, &newer).unwrap();
    assert_eq!(open(&place.path()), ErrorKind::Unsupported);
    assert_eq!(create(&place.path()), ErrorKind::Unsupported);
    assert_eq!(fs::read_to_string(&header).unwrap(), newer);
}

#[test]
fn a_damaged_header_is_corrupt_and_named() {
    let place = Place::new();
    drop(place.open());
    let header = place.path().join("format");
    let whole = fs::read(&header).unwrap();
    for damaged in [
        &whole[..0],
        &whole[..whole.len() - 5],
        b"something else\n{}\n",
    ] {
        fs::write(&header, damaged).unwrap();
        let error = DirectoryStore::create(&place.path()).map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        let text = format!("{error:#}");
        assert!(text.contains(header.to_str().unwrap()), "{text}");
        assert_eq!(fs::read(&header).unwrap(), damaged);
    }
}

/// Makes a directory unwritable even for root, until dropped.
struct Immutable<'a>(&'a Path);

impl<'a> Immutable<'a> {
    fn new(path: &'a Path) -> Option<Self> {
        let done = Command::new("chattr").arg("+i").arg(path).status();
        done.is_ok_and(|status| status.success())
            .then_some(Self(path))
    }
}

impl Drop for Immutable<'_> {
    fn drop(&mut self) {
        drop(Command::new("chattr").arg("-i").arg(self.0).status());
    }
}

#[test]
fn an_unwritable_directory_is_denied_by_name() {
    use std::os::unix::fs::PermissionsExt as _;
    // Not in memory: few kernels have immutable files there.
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o500)).unwrap();
    let is_root = fs::write(dir.path().join("probe"), b"").is_ok();
    drop(fs::remove_file(dir.path().join("probe")));
    let immutable = is_root.then(|| Immutable::new(dir.path())).flatten();
    if is_root && immutable.is_none() {
        // Past the capture of what passing tests print.
        let skipped = "SKIPPED: no directory is unwritable for this user on this file system";
        writeln!(std::io::stderr(), "{skipped}").unwrap();
        return;
    }
    for path in [dir.path().to_owned(), dir.path().join("store")] {
        let error = DirectoryStore::create(&path).map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied);
        let text = format!("{error:#}");
        assert!(text.contains(path.to_str().unwrap()), "{text}");
    }
    drop(immutable);
    assert!(files(dir.path()).is_empty());
}

#[test]
fn many_may_make_one_store_at_once() {
    block_on(async {
        for _ in 0..1000 {
            let place = Place::new();
            let make = || {
                let store = DirectoryStore::create(&place.path()).unwrap();
                // Its first files appear while others still look whether there is a store.
                fs::write(place.path().join("lock"), "").unwrap();
                store.identity()
            };
            let made: BTreeSet<String> = std::thread::scope(|scope| {
                let makers: Vec<_> = (0..8).map(|_| scope.spawn(make)).collect();
                let made = makers.into_iter().map(|maker| maker.join().unwrap());
                made.collect()
            });
            assert_eq!(made.len(), 1);
        }
    });
}
