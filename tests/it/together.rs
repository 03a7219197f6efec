//! Several programs in one store at once.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::images::{Disk, GIB, assert_volume};
use crate::program::{Sandbox, id_of};

const IMAGES: [&str; 5] = ["a.img", "b.img", "c.img", "same.img", "same.img"];

fn make_images(sandbox: &Sandbox) {
    for (seed, image) in (10..).zip(&IMAGES[..4]) {
        // Some blocks are in all of them.
        Disk::new(sandbox.path(image), GIB)
            .blocks(0, 60, seed)
            .blocks(500, 20, 9);
    }
}

/// Imports all images at once and returns their ids.
fn import_all(sandbox: &Sandbox) -> Vec<String> {
    let running = IMAGES.map(|image| sandbox.start(&["import", image]));
    running
        .into_iter()
        .map(|import| id_of(&import.finish().succeeds_silently()))
        .collect()
}

fn assert_all_right(sandbox: &Sandbox, ids: &[String]) {
    for (id, image) in ids.iter().zip(IMAGES) {
        sandbox
            .run(&["export", id, "check.img"])
            .succeeds_silently();
        assert_volume(&sandbox.path("check.img"), &sandbox.path(image));
        fs::remove_file(sandbox.path("check.img")).unwrap();
    }
}

#[test]
fn five_imports_at_once_make_one_new_store() {
    let sandbox = Sandbox::new();
    make_images(&sandbox);
    let ids = import_all(&sandbox);
    assert_eq!(sandbox.list().len(), 5);
    assert_eq!(sandbox.block_files(), 4 * 60 + 20);
    assert_eq!((sandbox.pending(), sandbox.checkpoints().len()), (0, 0));
    assert_all_right(&sandbox, &ids);
    sandbox.run(&["gc"]).succeeds_silently();
    assert_eq!(sandbox.block_files(), 4 * 60 + 20);
    assert_all_right(&sandbox, &ids);
}

#[test]
fn gc_beside_imports_takes_nothing_that_they_need() {
    let sandbox = Sandbox::new();
    make_images(&sandbox);
    // Garbage that the imports want to use again.
    let first = sandbox.import(&["a.img"]);
    sandbox.run(&["delete", "--yes", &first]).succeeds();
    let done = AtomicBool::new(false);
    let (ids, collections) = std::thread::scope(|scope| {
        let collector = scope.spawn(|| {
            let mut collections = 0;
            while !done.load(Ordering::Relaxed) {
                sandbox.run(&["gc"]).succeeds_silently();
                collections += 1;
            }
            collections
        });
        let ids = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| import_all(&sandbox)));
        done.store(true, Ordering::Relaxed);
        (ids.unwrap(), collector.join().unwrap())
    });
    assert!(collections > 3, "only {collections} collections ran");
    assert_all_right(&sandbox, &ids);
    sandbox.run(&["gc"]).succeeds_silently();
    assert_all_right(&sandbox, &ids);
    assert_eq!((sandbox.pending(), sandbox.block_files()), (0, 4 * 60 + 20));
}

#[test]
fn a_list_beside_imports_and_deletions_is_always_whole() {
    let sandbox = Sandbox::new();
    Disk::new(sandbox.path("disk.img"), GIB).blocks(0, 4, 1);
    let stays = sandbox.import(&["disk.img"]);
    for _ in 0..3 {
        let mut import = sandbox.start(&["import", "disk.img"]);
        while import.runs() {
            assert_eq!(sandbox.list()[0]["id"], *stays);
        }
        let id = id_of(&import.finish().succeeds_silently());
        let mut delete = sandbox.start(&["delete", "--yes", &id]);
        while delete.runs() {
            assert_eq!(sandbox.list()[0]["id"], *stays);
        }
        delete.finish().succeeds();
    }
    assert_eq!(sandbox.list().len(), 1);
}
