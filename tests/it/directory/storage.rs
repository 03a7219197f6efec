//! What is on disk, and what it costs.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use ebsfs::store::Store as _;

use super::{Place, reachable};
use crate::common::{assert_holds, at, block_on, count, pages, snap};

#[test]
fn equal_blocks_are_stored_once() {
    block_on(async {
        let place = Place::new();
        let store = place.open();
        snap(1)
            .block(1, 7)
            .block(2, 7)
            .block(2000, 7)
            .build(&store)
            .await;
        snap(1).block(5, 7).block(6, 8).build(&store).await;
        assert_eq!(place.count("blocks"), 2);
        assert_eq!(fs::metadata(place.block(7)).unwrap().len(), 512 * 1024);
    });
}

#[test]
fn zeros_take_no_file() {
    block_on(async {
        let place = Place::new();
        snap(1).zeros(0..500).build(&place.open()).await;
        assert_eq!(place.count("blocks"), 0);
    });
}

#[test]
fn a_child_costs_what_it_changed() {
    block_on(async {
        let place = Place::new();
        let store = place.open();
        // Three segments of 4096 blocks.
        let parent = snap(6)
            .block(1, 1)
            .block(2, 2)
            .block(5000, 3)
            .block(9000, 4);
        let parent = parent.build(&store).await;
        assert_eq!((place.count("blocks"), place.count("trees")), (4, 3 + 1));
        // One block: it, its segment and a root.
        let child = snap(6).child_of(&parent).block(5001, 5);
        let child = child.build(&store).await;
        assert_eq!((place.count("blocks"), place.count("trees")), (5, 6));
        // Nothing: not a file but its record.
        let before = place.files();
        let same = snap(6).child_of(&child).build(&store).await;
        let mut after = place.files();
        assert!(after.remove(&Path::new("snapshots").join(same.as_str())));
        assert_eq!(after, before);
        // A parent's block put back: that parent's segment and root again.
        snap(6).child_of(&parent).block(1, 1).build(&store).await;
        assert_eq!((place.count("blocks"), place.count("trees")), (5, 6));
    });
}

#[test]
fn equal_segments_are_stored_once_and_read_at_their_own_place() {
    block_on(async {
        let place = Place::new();
        let store = place.open();
        let id = snap(6).block(1, 1).block(4097, 1).block(8193, 1);
        let id = id.build(&store).await;
        assert_eq!(place.count("trees"), 1 + 1);
        assert_holds(&store, &id, &[(1, 1), (4097, 1), (8193, 1)]).await;
    });
}

#[test]
fn nothing_but_the_documented_files_is_left_by_a_completed_snapshot() {
    block_on(async {
        let place = Place::new();
        let store = place.open();
        let parent = snap(3)
            .block(1, 1)
            .zero(2)
            .block(5000, 3)
            .build(&store)
            .await;
        snap(3).child_of(&parent).block(2, 4).build(&store).await;
        snap(1).build(&store).await;
        assert_eq!(place.files(), reachable(&place.path()));
    });
}

#[test]
fn only_the_owner_may_read_a_store() {
    fn check(path: &Path) {
        let meta = fs::metadata(path).unwrap();
        let mode = meta.permissions().mode() & 0o7777;
        if meta.is_dir() {
            assert_eq!(mode, 0o700, "{}", path.display());
            fs::read_dir(path)
                .unwrap()
                .for_each(|entry| check(&entry.unwrap().path()));
        } else {
            assert_eq!(mode, 0o600, "{}", path.display());
        }
    }
    block_on(async {
        let place = Place::new();
        let store = place.open();
        snap(1).block(1, 1).build(&store).await;
        snap(1).block(2, 2).pending(&store).await;
        check(&place.path());
    });
}

#[test]
fn a_page_ends_after_ten_thousand_blocks() {
    block_on(async {
        let place = Place::new();
        let store = place.open();
        let parent = snap(16).build(&store).await;
        let child = snap(16).child_of(&parent).zeros(0..12_400);
        let child = child.build(&store).await;
        let listed = pages(0, async |at| store.blocks(&child, at).await).await;
        let sizes = |pages: &[ebsfs::store::Listing]| -> Vec<u64> {
            pages.iter().map(|page| page.set.len()).collect()
        };
        assert_eq!(sizes(&listed), [12_288, 112]);
        let changed = pages(0, async |at| store.changed(&parent, &child, at).await).await;
        assert_eq!(sizes(&changed), [12_288, 112]);
    });
}

#[test]
fn a_page_ends_after_256_segments() {
    block_on(async {
        let place = Place::new();
        let store = place.open();
        let id = snap(1024).zeros((0..300).map(|i| i * 4096));
        let id = id.build(&store).await;
        let listed = pages(0, async |at| store.blocks(&id, at).await).await;
        assert_eq!(listed.len(), 2);
        assert_eq!(listed[0].covered, 0..256 * 4096);
    });
}

#[test]
fn reading_writes_nothing() {
    block_on(async {
        let place = Place::new();
        let id = snap(1).block(1, 1).build(&place.open()).await;
        let before = place.contents();
        let store = place.open();
        assert_holds(&store, &id, &[(1, 1)]).await;
        store.list().await.unwrap();
        store.info(&id).await.unwrap();
        store.changed(&id, &id, at(0)).await.unwrap();
        assert_eq!(place.contents(), before);
    });
}

#[test]
fn a_refused_seal_leaves_nothing_that_can_be_seen() {
    block_on(async {
        let place = Place::new();
        let store = place.open();
        let id = snap(1).block(1, 1).pending(&store).await;
        store.complete(&id, &count(7)).await.unwrap_err();
        assert_eq!(place.count("snapshots"), 0);
    });
}
