//! Overlays on a real directory: what they do, who may have them, what they refuse.

use std::sync::Arc;

use ebsfs::error::ErrorKind;
use ebsfs::overlay::{Change, LocalDirectory, Overlay, State};

use super::{PAGE, accepted, base, commit, filled, open, read};
use crate::common::{at, gib, kind, scratch};

const BLOCK: u64 = 128 * PAGE;

#[test]
fn what_was_synced_is_there_when_it_is_opened_again() {
    let dir = scratch();
    let path = dir.path().join("overlay");
    let overlay = open(&path);
    overlay.write_pages(3 * PAGE, &filled(7, 2)).unwrap();
    overlay.zero_pages(BLOCK..3 * BLOCK).unwrap();
    overlay.write_pages(2 * BLOCK, &filled(8, 1)).unwrap();
    assert!(!overlay.write_part(9 * PAGE + 5, &[9; 3], None).unwrap());
    let below = filled(1, 1);
    assert!(
        overlay
            .write_part(9 * PAGE + 5, &[9; 3], Some(&below))
            .unwrap()
    );
    assert!(overlay.write_part(BLOCK + 1, &[6; 2], None).unwrap());
    overlay.sync().unwrap();
    let check = |overlay: &Overlay| {
        let view = overlay.view();
        assert_eq!(
            read(&view, 0, 16384, 1),
            [filled(1, 3), filled(7, 1)].concat()
        );
        assert_eq!(read(&view, 5 * PAGE - 1, 2, 1), [7, 1]);
        assert_eq!(read(&view, 9 * PAGE + 4, 5, 2), [1, 9, 9, 9, 1]);
        assert_eq!(read(&view, BLOCK, 4, 2), [0, 6, 6, 0]);
        assert_eq!(read(&view, 2 * BLOCK + PAGE - 1, 2, 2), [8, 0]);
        assert_eq!(view.extent(0), (State::Base, 3 * PAGE));
        assert_eq!(view.extent(3 * PAGE), (State::Written, 5 * PAGE));
        assert_eq!(view.extent(3 * BLOCK), (State::Base, u64::MAX));
        let amount = view.top.amount();
        assert_eq!((amount.written, amount.zero, amount.blocks), (5, 254, 3));
        assert_eq!(view.top.changed(at(0)), Some((0..1, Change::Part)));
        assert_eq!(view.top.changed(at(1)), Some((1..3, Change::Whole)));
        assert_eq!(view.top.changed(at(3)), None);
    };
    check(&overlay);
    drop(overlay);
    check(&open(&path));
}

#[test]
fn a_sealed_layer_stays_as_it_is_until_the_commit_ends_one_way_or_the_other() {
    for given_up in [false, true] {
        let dir = scratch();
        let overlay = open(dir.path());
        overlay.write_pages(0, &filled(1, 4)).unwrap();
        overlay.zero_pages(BLOCK..9 * BLOCK).unwrap();
        let mut larger = commit();
        larger.new.volume_size = gib(2);
        assert_eq!(kind(overlay.seal(larger.clone())), ErrorKind::Invalid);
        overlay.seal(commit()).unwrap();
        assert_eq!(kind(overlay.note(larger)), ErrorKind::Invalid);
        assert_eq!(kind(overlay.seal(commit())), ErrorKind::Conflict);
        assert_eq!(kind(overlay.finish()), ErrorKind::Invalid);
        overlay.write_pages(PAGE, &filled(2, 1)).unwrap();
        overlay.write_part(2 * PAGE, &[3], None).unwrap();
        overlay.zero_pages(3 * PAGE..4 * PAGE).unwrap();
        overlay.write_pages(5 * BLOCK, &filled(4, 1)).unwrap();
        overlay.sync().unwrap();
        drop(overlay);

        let overlay = open(dir.path());
        let sealed = overlay.view().sealed.unwrap();
        let mut block = vec![9; BLOCK as usize];
        sealed.apply(at(0), &mut block).unwrap();
        assert_eq!(block, [filled(1, 4), filled(9, 124)].concat());
        assert_eq!(overlay.header().commit, Some(commit()));
        let old = overlay.view();
        let written = [vec![2; 4096], vec![3], vec![1; 4095], vec![0; 4096]].concat();
        let after = if given_up {
            overlay.fold_back().unwrap();
            assert_eq!(overlay.header().base, base());
            [filled(1, 1), written].concat()
        } else {
            overlay.note(accepted()).unwrap();
            overlay.finish().unwrap();
            assert_eq!(Some(overlay.header().base), accepted().snapshot);
            [filled(7, 1), written].concat()
        };
        let check = |overlay: &Overlay| {
            assert_eq!(overlay.header().commit, None);
            let view = overlay.view();
            assert!(view.sealed.is_none());
            assert_eq!(read(&view, 0, 16384, 7), after);
            assert_eq!(read(&view, 5 * BLOCK, 1, 7), [4]);
            let discarded = if given_up { 0 } else { 7 };
            assert_eq!(read(&view, 9 * BLOCK - 1, 2, 7), [discarded, 7]);
        };
        check(&overlay);
        // Who still reads through the layers as they were reads the same disk.
        assert_eq!(read(&old, 1, 1, 7), [1]);
        drop((overlay, old, sealed));
        check(&open(dir.path()));
        let names = std::fs::read_dir(dir.path()).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        assert_eq!(names.filter(|name| name.starts_with("layer-1")).count(), 0);
    }
}

#[test]
fn an_overlay_grows_and_does_not_shrink() {
    let dir = scratch();
    let overlay = open(dir.path());
    let past = gib(1).bytes();
    assert_eq!(
        kind(overlay.write_pages(past, &filled(1, 1))),
        ErrorKind::Invalid
    );
    assert_eq!(kind(overlay.zero_pages(0..past + PAGE)), ErrorKind::Invalid);
    assert_eq!(
        kind(overlay.write_part(past, &[1], None)),
        ErrorKind::Invalid
    );
    assert_eq!(
        kind(overlay.write_part(4095, &[1; 2], None)),
        ErrorKind::Invalid
    );
    assert_eq!(
        kind(overlay.write_pages(1, &filled(1, 1))),
        ErrorKind::Invalid
    );
    overlay.grow(gib(2)).unwrap();
    overlay.write_pages(past, &filled(1, 1)).unwrap();
    assert_eq!(kind(overlay.grow(gib(1))), ErrorKind::Invalid);
    drop(overlay);
    let header = open(dir.path()).header();
    assert_eq!((header.base_size, header.size), (gib(1), gib(2)));
}

#[test]
fn there_is_one_overlay_in_a_directory() {
    let dir = scratch();
    let overlay = open(dir.path());
    drop(overlay);
    let directory = Arc::new(LocalDirectory::open(dir.path()).unwrap());
    let created = Overlay::create(directory, "store", &base(), gib(1));
    assert_eq!(kind(created), ErrorKind::Conflict);
}
