//! `ebsfs delete` and `ebsfs gc`.

use std::fs;

use serde_json::Value;

use crate::images::{BLOCK, Disk, GIB, assert_volume};
use crate::program::{Sandbox, files_below};

/// Two snapshots that share block 0 and have one block each of their own.
fn with_two_snapshots() -> (Sandbox, String, String) {
    let sandbox = Sandbox::new();
    Disk::new(sandbox.path("a.img"), GIB)
        .block(0, 1)
        .block(10, 2);
    Disk::new(sandbox.path("b.img"), GIB)
        .block(0, 1)
        .block(11, 3);
    let (a, b) = (sandbox.import(&["a.img"]), sandbox.import(&["b.img"]));
    assert_eq!(sandbox.block_files(), 3);
    (sandbox, a, b)
}

fn ids(sandbox: &Sandbox) -> Vec<String> {
    sandbox
        .list()
        .iter()
        .map(|one| one["id"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn without_a_terminal_nothing_is_deleted_unless_yes_is_said() {
    let (sandbox, a, b) = with_two_snapshots();
    sandbox
        .run(&["delete", &a])
        .fails(2, &["nobody to ask", "--yes"]);
    assert_eq!(ids(&sandbox), [a.clone(), b.clone()]);
    sandbox
        .run(&["delete", "--yes", &a])
        .succeeds_and_tells(&["deleted", "ebsfs gc"]);
    assert_eq!(ids(&sandbox), [b]);
    sandbox
        .run(&["delete", "--yes", &a])
        .fails(3, &[&a, "no such snapshot"]);
}

#[test]
fn a_slip_in_one_name_deletes_nothing() {
    let (sandbox, a, b) = with_two_snapshots();
    sandbox
        .run(&["delete", "--yes", &a, "snap-0", &b])
        .fails(3, &["snap-0: no such snapshot"]);
    sandbox
        .run(&["delete", "--yes", &a, "nonsense", &b])
        .fails(2, &["nonsense"]);
    assert_eq!(ids(&sandbox), [a.clone(), b.clone()]);
    sandbox.run(&["delete", "--yes", &a, &b]).succeeds();
    assert!(ids(&sandbox).is_empty());
}

#[test]
fn one_that_is_named_twice_is_deleted_once() {
    let (sandbox, a, b) = with_two_snapshots();
    sandbox.run(&["delete", "--yes", &a, &a]).succeeds();
    assert_eq!(ids(&sandbox), [b]);
}

#[test]
fn gc_tells_what_it_would_remove_and_removes_just_that() {
    let (sandbox, a, b) = with_two_snapshots();
    let gc = |options: &[&str]| -> Value {
        let ran = sandbox.run(&[&["gc", "--json"], options].concat());
        serde_json::from_str(&ran.succeeds_silently()).unwrap()
    };
    assert_eq!(gc(&[])["blocks"], 0);
    sandbox.run(&["delete", "--yes", &a]).succeeds();

    let before = files_below(&sandbox.store());
    let would = gc(&["--dry-run"]);
    assert_eq!(would["blocks"], 1);
    assert!(would["bytes"].as_u64().unwrap() > BLOCK, "{would}");
    let text = sandbox.run(&["gc", "--dry-run"]).succeeds_silently();
    assert!(
        text.starts_with("would remove 1 block, 2 tree objects"),
        "{text}"
    );
    assert_eq!(files_below(&sandbox.store()), before);

    assert_eq!(gc(&[]), would);
    assert_eq!(sandbox.block_files(), 2);
    let text = sandbox.run(&["gc"]).succeeds_silently();
    assert_eq!(
        text,
        "removed 0 blocks, 0 tree objects and 0 temporary files, 0 B in all\n"
    );
    sandbox.run(&["export", &b, "out.img"]).succeeds_silently();
    assert_volume(&sandbox.path("out.img"), &sandbox.path("b.img"));

    sandbox.run(&["delete", "--yes", &b]).succeeds();
    gc(&[]);
    assert_eq!(sandbox.block_files(), 0);
    assert!(files_below(&sandbox.store().join("trees")).is_empty());
}

#[test]
fn gc_removes_a_snapshot_that_nobody_goes_on_with() {
    let sandbox = Sandbox::new();
    Disk::new(sandbox.path("disk.img"), GIB).blocks(0, 150, 1);
    let mut import = sandbox.start(&["import", "disk.img"]);
    assert!(
        import.until(|| sandbox.block_files() > 3),
        "it was too fast"
    );
    import.kill();
    let id = ids(&sandbox).remove(0);
    let would = sandbox.run(&["gc", "--dry-run"]).succeeds_silently();
    assert!(
        would.contains(&format!("would remove {id}: started, not completed")),
        "{would}"
    );
    assert_eq!((ids(&sandbox).len(), sandbox.pending()), (1, 1));
    let done = sandbox.run(&["gc"]).succeeds_silently();
    assert!(done.contains(&format!("removed {id}")), "{done}");
    assert_eq!(
        (
            ids(&sandbox).len(),
            sandbox.pending(),
            sandbox.block_files()
        ),
        (0, 0, 0)
    );
}

#[test]
fn a_pending_snapshot_can_be_deleted() {
    let sandbox = Sandbox::new();
    Disk::new(sandbox.path("disk.img"), GIB).blocks(0, 150, 1);
    let mut import = sandbox.start(&["import", "disk.img"]);
    assert!(
        import.until(|| sandbox.block_files() > 3),
        "it was too fast"
    );
    import.kill();
    let id = ids(&sandbox).remove(0);
    sandbox.run(&["delete", "--yes", &id]).succeeds();
    assert_eq!((ids(&sandbox).len(), sandbox.pending()), (0, 0));
    // Its continuation starts it anew.
    let again = sandbox.import(&["--continue", "disk.img"]);
    sandbox
        .run(&["export", &again, "out.img"])
        .succeeds_silently();
    assert_volume(&sandbox.path("out.img"), &sandbox.path("disk.img"));
}

#[test]
fn a_damaged_snapshot_stops_gc_and_can_be_deleted() {
    let (sandbox, a, b) = with_two_snapshots();
    fs::write(
        sandbox.store().join("snapshots").join(&a),
        "ebsfs-snapshot 1 00\n",
    )
    .unwrap();
    let listed = sandbox
        .run(&["list"])
        .succeeds_and_tells(&["left out of the list", &a]);
    assert!(listed.contains(&b));
    sandbox.run(&["info", &a]).fails(5, &[&a, "damaged"]);
    sandbox
        .run(&["gc"])
        .fails(5, &[&a, "nothing is removed", "delete it first"]);
    assert_eq!(sandbox.block_files(), 3);
    sandbox.run(&["delete", "--yes", &a]).succeeds();
    sandbox.run(&["gc"]).succeeds_silently();
    assert_eq!(sandbox.block_files(), 2);
    sandbox.run(&["export", &b, "out.img"]).succeeds_silently();
    assert_volume(&sandbox.path("out.img"), &sandbox.path("b.img"));
}

#[test]
fn gc_removes_what_a_killed_program_was_writing() {
    let (sandbox, a, b) = with_two_snapshots();
    let left = ["tmp/1-0.tmp", "snapshots/.1-1.tmp"].map(|name| sandbox.store().join(name));
    for file in &left {
        fs::write(file, "half a rec").unwrap();
    }
    assert_eq!(ids(&sandbox), [a, b]);
    let text = sandbox.run(&["gc"]).succeeds_silently();
    assert!(
        text.contains("0 blocks, 0 tree objects and 2 temporary files, 20 B"),
        "{text}"
    );
    assert!(left.iter().all(|file| !file.exists()));
    assert_eq!(ids(&sandbox).len(), 2);
}
