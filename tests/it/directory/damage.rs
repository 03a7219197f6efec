//! Bytes that are not what they were: each error names its file, and everything else goes on.

#![allow(clippy::disallowed_methods)] // Files are renamed to do harm.

use std::fs;
use std::path::Path;

use ebsfs::block::Digest;
use ebsfs::error::{Error, ErrorKind};
use ebsfs::snapshot::SnapshotId;
use ebsfs::store::Store;
use ebsfs::store::directory::DirectoryStore;

use super::{Place, ROOT, SEGMENT, edit_record, flip, object, truncate};
use crate::common::{assert_holds, at, block_on, count, filled, kind, snap};

/// Asserts that `error` is `Corrupt` and names `file`.
#[track_caller]
fn assert_names(error: &Error, file: &Path) {
    let text = format!("{error:#}");
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{text}");
    assert!(text.contains(file.to_str().unwrap()), "{text}");
}

async fn listed(store: &dyn Store) -> Vec<SnapshotId> {
    let all = store.list().await.unwrap();
    all.into_iter().map(|info| info.id).collect()
}

/// A way to damage a file.
type Harm = fn(&Path);

const HARMS: [Harm; 5] = [
    flip,
    |file| truncate(file, 1),
    |file| fs::write(file, b"").unwrap(),
    |file| fs::write(file, vec![0; 512 * 1024]).unwrap(),
    |file| fs::remove_file(file).unwrap(),
];

#[test]
fn a_damaged_block_file_is_corrupt_alone_and_named() {
    block_on(async {
        for harm in HARMS {
            let place = Place::new();
            let id = snap(1).block(1, 1).block(2, 2).zero(3);
            let id = id.build(&place.open()).await;
            harm(&place.block(1));
            let store = place.open();
            let error = store.get(&id, at(1)).await.unwrap_err();
            assert_names(&error, &place.block(1));
            // Twice: nothing wrong is remembered.
            store.get(&id, at(1)).await.unwrap_err();
            for (index, byte) in [(0, 0), (2, 2), (3, 0)] {
                let block = store.get(&id, at(index)).await.unwrap();
                assert_eq!(block, filled(byte));
            }
            let listing = store.blocks(&id, at(0)).await.unwrap();
            assert_eq!(listing.set.len(), 3);
        }
    });
}

#[test]
fn a_longer_block_file_is_corrupt() {
    block_on(async {
        let place = Place::new();
        let store = place.open();
        let id = snap(1).block(1, 1).build(&store).await;
        let mut bytes = fs::read(place.block(1)).unwrap();
        bytes.push(1);
        fs::write(place.block(1), bytes).unwrap();
        let error = store.get(&id, at(1)).await.unwrap_err();
        assert_names(&error, &place.block(1));
    });
}

#[test]
fn putting_the_same_bytes_heals_a_damaged_block_file() {
    block_on(async {
        for harm in HARMS {
            let place = Place::new();
            let id = snap(1).block(1, 1).build(&place.open()).await;
            harm(&place.block(1));
            let store = place.open();
            store.get(&id, at(1)).await.unwrap_err();
            let other = snap(1).block(9, 1).build(&store).await;
            assert_holds(&store, &id, &[(1, 1)]).await;
            assert_holds(&store, &other, &[(9, 1)]).await;
        }
    });
}

/// Two snapshots, of which one is then damaged.
async fn two(place: &Place) -> (SnapshotId, SnapshotId) {
    let store = place.open();
    let harmed = snap(1).block(1, 1).build(&store).await;
    let sound = snap(1).block(2, 2).build(&store).await;
    (harmed, sound)
}

#[test]
fn a_damaged_record_is_corrupt_and_hides_no_other_snapshot() {
    block_on(async {
        let harms: [Harm; 3] = [
            flip,
            |file| truncate(file, 1),
            |file| {
                fs::write(file, b"").unwrap();
            },
        ];
        for harm in harms {
            let place = Place::new();
            let (harmed, sound) = two(&place).await;
            let record = place.path().join("snapshots").join(harmed.as_str());
            harm(&record);
            let store = place.open();
            assert_names(&store.info(&harmed).await.unwrap_err(), &record);
            assert_names(&store.get(&harmed, at(1)).await.unwrap_err(), &record);
            let child = store.start(&snap(1).child_of(&harmed).new).await;
            assert_names(&child.unwrap_err(), &record);
            assert_eq!(listed(&store).await, std::slice::from_ref(&sound));
            assert_holds(&store, &sound, &[(2, 2)]).await;
            // It can be deleted, and others can be made.
            snap(1).block(3, 3).build(&store).await;
            store.delete(&harmed).await.unwrap();
            assert_eq!(kind(store.info(&harmed).await), ErrorKind::NotFound);
        }
    });
}

#[test]
fn a_damaged_pending_record_is_corrupt_and_hides_no_other_snapshot() {
    block_on(async {
        let place = Place::new();
        let sound = snap(1).block(2, 2).build(&place.open()).await;
        let id = snap(1).block(1, 1).pending(&place.open()).await;
        let record = place
            .path()
            .join("pending")
            .join(id.as_str())
            .join("record");
        flip(&record);
        let store = place.open();
        assert_names(&store.info(&id).await.unwrap_err(), &record);
        let put = store.put(&id, at(1), &filled(1)).await;
        assert_names(&put.unwrap_err(), &record);
        let complete = store.complete(&id, &count(1)).await;
        assert_names(&complete.unwrap_err(), &record);
        assert_eq!(listed(&store).await, [sound]);
        store.delete(&id).await.unwrap();
    });
}

#[test]
fn a_damaged_tree_is_corrupt_and_named() {
    block_on(async {
        for magic in [ROOT, SEGMENT] {
            for harm in HARMS {
                let place = Place::new();
                let harmed = snap(1).block(1, 1).build(&place.open()).await;
                let tree = place.trees(magic).remove(0);
                let store = place.open();
                let sound = snap(1).block(2, 2).build(&store).await;
                harm(&tree);
                assert_names(&store.get(&harmed, at(1)).await.unwrap_err(), &tree);
                let blocks = store.blocks(&harmed, at(0)).await;
                assert_names(&blocks.unwrap_err(), &tree);
                let child = snap(1).child_of(&harmed).block(5, 5);
                let child_id = child.pending(&store).await;
                let complete = store.complete(&child_id, &child.seal()).await;
                assert_names(&complete.unwrap_err(), &tree);
                // It is listed all the same, and the other one reads.
                assert_eq!(listed(&store).await.len(), 3);
                assert_holds(&store, &sound, &[(2, 2)]).await;
            }
        }
    });
}

#[test]
fn importing_the_same_again_heals_its_trees() {
    block_on(async {
        for magic in [ROOT, SEGMENT] {
            let place = Place::new();
            let id = snap(1).block(1, 1).build(&place.open()).await;
            flip(&place.trees(magic)[0]);
            let store = place.open();
            snap(1).block(1, 1).build(&store).await;
            assert_holds(&store, &id, &[(1, 1)]).await;
        }
    });
}

#[test]
fn a_record_of_a_newer_version_is_unsupported() {
    block_on(async {
        let place = Place::new();
        let (newer, sound) = two(&place).await;
        let record = place.path().join("snapshots").join(newer.as_str());
        let text = fs::read_to_string(&record).unwrap();
        fs::write(&record, text.replacen(" 1 ", " 2 ", 1)).unwrap();
        let store = place.open();
        let unsupported = ErrorKind::Unsupported;
        assert_eq!(kind(store.info(&newer).await), unsupported);
        assert_eq!(kind(store.get(&newer, at(1)).await), unsupported);
        assert_eq!(listed(&store).await, [sound]);
        // What it refers to is not known, so all of it stays.
        assert_eq!(kind(store.gc(false).await), unsupported);
        fs::write(&record, text).unwrap();
        assert_holds(&store, &newer, &[(1, 1)]).await;
    });
}

#[test]
fn a_tree_of_a_newer_version_is_unsupported() {
    block_on(async {
        let place = Place::new();
        let id = snap(1).block(1, 1).build(&place.open()).await;
        let mut tree = fs::read(&place.trees(ROOT)[0]).unwrap();
        tree[8] = 2;
        let digest = Digest::of(&tree);
        let file = place.path().join(object("trees", &digest));
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, tree).unwrap();
        let record = place.path().join("snapshots").join(id.as_str());
        edit_record(&record, |value| value["root"] = digest.to_string().into());
        let get = place.open().get(&id, at(1)).await;
        assert_eq!(kind(get), ErrorKind::Unsupported);
    });
}

/// The put that was torn is gone, those before and after it are not.
#[test]
fn a_torn_put_is_stepped_over() {
    block_on(async {
        for torn in [1, 17, 39] {
            let place = Place::new();
            let id = snap(1).block(1, 1).block(2, 2).pending(&place.open()).await;
            let log = place.path().join("pending").join(id.as_str()).join("0");
            truncate(&log, torn);
            let store: DirectoryStore = place.open();
            store.put(&id, at(3), &filled(3)).await.unwrap();
            let all_three = store.complete(&id, &count(3)).await;
            assert_eq!(kind(all_three), ErrorKind::Invalid);
            let seal = snap(1).block(1, 1).block(3, 3).seal();
            store.complete(&id, &seal).await.unwrap();
            assert_holds(&store, &id, &[(1, 1), (3, 3)]).await;
        }
    });
}

#[test]
fn after_a_disk_failed_every_block_is_written_anew_until_a_gc() {
    block_on(async {
        use std::os::unix::fs::MetadataExt as _;
        let place = Place::new();
        let store = place.open();
        snap(1).block(1, 1).build(&store).await;
        let inode = || fs::metadata(place.block(1)).unwrap().ino();
        let first = inode();
        snap(1).block(1, 1).build(&store).await;
        assert_eq!(inode(), first, "a sound block is not written again");
        // What the memory shows may not be what the disk kept.
        fs::write(place.path().join("suspect"), "").unwrap();
        snap(1).block(1, 1).build(&store).await;
        let second = inode();
        assert_ne!(second, first);
        store.gc(true).await.unwrap();
        assert!(place.path().join("suspect").exists());
        store.gc(false).await.unwrap();
        assert!(!place.path().join("suspect").exists());
        snap(1).block(1, 1).build(&store).await;
        assert_eq!(inode(), second);
    });
}

#[test]
fn a_store_that_lost_its_snapshots_is_damaged_and_keeps_its_blocks() {
    block_on(async {
        let place = Place::new();
        snap(1).block(1, 1).build(&place.open()).await;
        let store = place.open();
        fs::rename(place.path().join("snapshots"), place.path().join("lost")).unwrap();
        assert_eq!(kind(store.list().await), ErrorKind::Corrupt);
        assert_eq!(kind(store.gc(false).await), ErrorKind::Corrupt);
        assert!(place.block(1).exists());
        fs::rename(place.path().join("lost"), place.path().join("snapshots")).unwrap();
        assert_eq!(listed(&store).await.len(), 1);
    });
}

#[test]
fn a_record_under_another_id_is_damage() {
    block_on(async {
        let place = Place::new();
        let id = snap(1).block(1, 1).build(&place.open()).await;
        let store = place.open();
        let records = place.path().join("snapshots");
        fs::rename(records.join(id.as_str()), records.join("snap-777")).unwrap();
        let other: SnapshotId = "snap-777".parse().unwrap();
        assert_eq!(kind(store.info(&other).await), ErrorKind::Corrupt);
        assert_eq!(kind(store.gc(false).await), ErrorKind::Corrupt);
        store.delete(&other).await.unwrap();
    });
}
