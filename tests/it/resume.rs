//! Interrupted imports and exports, and going on with them.

use std::fs;
use std::os::unix::fs::FileExt as _;

use rustix::process::Signal;
use serde_json::Value;

use crate::images::{BLOCK, Disk, GIB, assert_volume};
use crate::program::{Ran, Sandbox, id_of};

/// A sandbox with a dense `disk.img`.
fn with_disk() -> Sandbox {
    let sandbox = Sandbox::new();
    Disk::new(sandbox.path("disk.img"), GIB).blocks(0, 200, 1);
    sandbox
}

/// An import that a signal ended after some of its blocks.
fn interrupt_import(sandbox: &Sandbox, signal: Signal, options: &[&str]) -> Ran {
    let before = sandbox.block_files();
    let mut import = sandbox.start(&[&["import", "disk.img"], options].concat());
    assert!(
        import.until(|| sandbox.block_files() > before + 20),
        "it was too fast"
    );
    import.signal(signal);
    import.finish()
}

fn assert_exports(sandbox: &Sandbox, id: &str) {
    sandbox
        .run(&["export", "--force", id, "check.img"])
        .succeeds_silently();
    assert_volume(&sandbox.path("check.img"), &sandbox.path("disk.img"));
}

fn status(sandbox: &Sandbox, id: &str) -> Value {
    sandbox.info(id)["status"].clone()
}

#[test]
fn an_interrupted_import_says_how_to_go_on_and_does() {
    let sandbox = with_disk();
    for (signal, options) in [
        (Signal::INT, &[][..]),
        (
            Signal::TERM,
            &["--description", "second", "--tags", "Key=a,Value=b"],
        ),
    ] {
        let ran = interrupt_import(&sandbox, signal, options);
        let listed = sandbox.list();
        let pending = listed
            .iter()
            .find(|one| one["status"] == "pending")
            .unwrap();
        let id = pending["id"].as_str().unwrap();
        let words = [
            "interrupted",
            id,
            "stays pending",
            "ebsfs --store store import --continue disk.img",
        ];
        ran.fails(130, &words);
        let again = sandbox.import(&[&["disk.img", "--continue"], options].concat());
        assert_eq!(again, id);
        assert_eq!(status(&sandbox, id), "completed");
        assert_exports(&sandbox, id);
        assert_eq!((sandbox.pending(), sandbox.checkpoints().len()), (0, 0));
        // So that the next has to write its blocks again.
        sandbox.run(&["delete", "--yes", id]).succeeds();
        sandbox.run(&["gc"]).succeeds();
    }
}

#[test]
fn an_image_that_changed_is_imported_from_the_start() {
    let sandbox = with_disk();
    interrupt_import(&sandbox, Signal::INT, &[]);
    let old = sandbox.list()[0]["id"].as_str().unwrap().to_owned();
    let disk = fs::File::options()
        .write(true)
        .open(sandbox.path("disk.img"))
        .unwrap();
    disk.write_all_at(b"changed", 0).unwrap();
    drop(disk);
    let ran = sandbox.run(&["import", "--continue", "disk.img"]);
    let id = id_of(&ran.succeeds_and_tells(&["image has changed", "starting again"]));
    assert_ne!(id, old);
    assert_exports(&sandbox, &id);
}

#[test]
fn a_continuation_with_other_options_is_refused() {
    let sandbox = with_disk();
    interrupt_import(&sandbox, Signal::INT, &["--description", "one"]);
    let id = sandbox.list()[0]["id"].as_str().unwrap().to_owned();
    for other in [
        &["--description", "two"][..],
        &[],
        &["--description", "one", "--tags", "Key=a,Value=b"],
        &["--description", "one", "--timeout", "30"],
    ] {
        let ran = sandbox.run(&[&["import", "--continue", "disk.img"], other].concat());
        ran.fails(2, &["other options", "without --continue"]);
    }
    assert_eq!(status(&sandbox, &id), "pending");
    let same = sandbox.import(&["--continue", "disk.img", "--description", "one"]);
    assert_eq!(same, id);
}

#[test]
fn with_nothing_to_continue_an_import_begins_and_says_so() {
    let sandbox = with_disk();
    let ran = sandbox.run(&["import", "--continue", "disk.img"]);
    let first = id_of(&ran.succeeds_and_tells(&["no interrupted import"]));
    // One that was finished is not continued either.
    let ran = sandbox.run(&["import", "--continue", "disk.img"]);
    let second = id_of(&ran.succeeds_and_tells(&["no interrupted import"]));
    assert_ne!(first, second);
    // Nor one into another store.
    interrupt_import_of_fresh(&sandbox);
    let ran = sandbox.run(&["--store", "other", "import", "--continue", "disk.img"]);
    ran.succeeds_and_tells(&["no interrupted import"]);
}

fn interrupt_import_of_fresh(sandbox: &Sandbox) {
    for snapshot in sandbox.list() {
        sandbox
            .run(&["delete", "--yes", snapshot["id"].as_str().unwrap()])
            .succeeds();
    }
    sandbox.run(&["gc"]).succeeds();
    interrupt_import(sandbox, Signal::INT, &[]).fails(130, &[]);
}

#[test]
fn an_import_without_continue_leaves_the_interrupted_one_alone() {
    let sandbox = with_disk();
    interrupt_import(&sandbox, Signal::INT, &[]);
    let old = sandbox.list()[0]["id"].as_str().unwrap().to_owned();
    let new = sandbox.import(&["disk.img"]);
    assert_ne!(new, old);
    assert_eq!(status(&sandbox, &old), "pending");
    assert_exports(&sandbox, &new);
    sandbox.run(&["gc"]).succeeds();
    assert_eq!(sandbox.list().len(), 1);
    assert_exports(&sandbox, &new);
}

#[test]
fn an_import_that_was_killed_after_its_last_step_is_not_done_twice() {
    let sandbox = with_disk();
    interrupt_import(&sandbox, Signal::INT, &[]);
    let [note] = &sandbox.checkpoints()[..] else {
        panic!("one note: {:?}", sandbox.checkpoints())
    };
    let noted = fs::read(note).unwrap();
    let id = sandbox.import(&["--continue", "disk.img"]);
    // As if it had been killed between the snapshot's completion and its own end.
    fs::write(note, noted).unwrap();
    let ran = sandbox.run(&["import", "--continue", "disk.img"]);
    assert_eq!(
        id_of(&ran.succeeds_and_tells(&[&id, "was completed already"])),
        id
    );
    assert_eq!((sandbox.list().len(), sandbox.checkpoints().len()), (1, 0));
    assert_exports(&sandbox, &id);
}

#[test]
fn an_image_that_shrinks_while_it_is_read_fails_the_import() {
    let sandbox = with_disk();
    let mut import = sandbox.start(&["import", "disk.img"]);
    assert!(
        import.until(|| sandbox.block_files() > 0),
        "it was too fast"
    );
    import.signal(Signal::STOP);
    let disk = fs::File::options()
        .write(true)
        .open(sandbox.path("disk.img"))
        .unwrap();
    disk.set_len(BLOCK * 100 + 1000).unwrap();
    import.signal(Signal::CONT);
    import.finish().fails(1, &["block 10", "disk.img"]);
    assert_eq!(sandbox.list()[0]["status"], "pending");
}

/// Ends an export of `id` in its second half, after the first note on how far it has come.
fn cut_export(sandbox: &Sandbox, id: &str, signal: Signal) -> Ran {
    let noted = || {
        let notes = sandbox.checkpoints();
        let note = notes.first().and_then(|note| fs::read(note).ok());
        let note: Option<Value> = note.and_then(|note| serde_json::from_slice(&note).ok());
        note.is_some_and(|note| note["next"].as_u64() > Some(0))
    };
    let mut export = sandbox.start(&["export", id, "out.img"]);
    assert!(export.until(noted), "it was too fast");
    export.signal(signal);
    export.finish()
}

/// A sandbox with a snapshot of 3 GiB, most of it behind the first GiB.
fn with_large_snapshot() -> (Sandbox, String) {
    let sandbox = Sandbox::new();
    let disk = Disk::new(sandbox.path("disk.img"), 3 * GIB).blocks(0, 4, 1);
    drop(disk.blocks(2048, 300, 2).block(6143, 3));
    let id = sandbox.import(&["disk.img"]);
    (sandbox, id)
}

#[test]
fn an_interrupted_export_keeps_its_partial_file_and_goes_on() {
    let (sandbox, id) = with_large_snapshot();
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 130), (Signal::KILL, 137)] {
        let ran = cut_export(&sandbox, &id, signal);
        let how = format!("ebsfs --store store export --continue {id} out.img");
        let told = ["interrupted", how.as_str()];
        ran.fails(code, if code == 130 { &told } else { &[] });
        assert!(!sandbox.path("out.img").exists());
        assert!(sandbox.path("out.img.partial").exists());
        sandbox
            .run(&["export", &id, "out.img"])
            .fails(2, &["--continue", "--force"]);
        sandbox
            .run(&["export", "--continue", &id, "out.img"])
            .succeeds_silently();
        assert_volume(&sandbox.path("out.img"), &sandbox.path("disk.img"));
        assert!(!sandbox.path("out.img.partial").exists());
        assert!(sandbox.checkpoints().is_empty());
        fs::remove_file(sandbox.path("out.img")).unwrap();
    }
}

#[test]
fn a_continued_export_does_not_write_again_what_was_durable() {
    let (sandbox, id) = with_large_snapshot();
    cut_export(&sandbox, &id, Signal::INT).fails(130, &[]);
    let partial = fs::File::options()
        .write(true)
        .open(sandbox.path("out.img.partial"))
        .unwrap();
    partial.write_all_at(b"mark", 100).unwrap();
    sandbox
        .run(&["export", "--continue", &id, "out.img"])
        .succeeds_silently();
    let mut mark = [0; 4];
    let out = fs::File::options()
        .read(true)
        .write(true)
        .open(sandbox.path("out.img"))
        .unwrap();
    out.read_exact_at(&mut mark, 100).unwrap();
    assert_eq!(&mark, b"mark");
    let right = crate::images::random_block(1 << 32);
    out.write_all_at(&right[..200], 0).unwrap();
    assert_volume(&sandbox.path("out.img"), &sandbox.path("disk.img"));
}

#[test]
fn an_export_whose_partial_file_is_gone_begins_anew() {
    let (sandbox, id) = with_large_snapshot();
    let partial = sandbox.path("out.img.partial");
    cut_export(&sandbox, &id, Signal::INT).fails(130, &[]);
    fs::remove_file(&partial).unwrap();
    let ran = sandbox.run(&["export", "--continue", &id, "out.img"]);
    ran.succeeds_and_tells(&["no interrupted export"]);
    assert_volume(&sandbox.path("out.img"), &sandbox.path("disk.img"));
}

#[test]
fn the_note_of_a_removed_partial_file_is_not_used_for_the_next() {
    let (sandbox, id) = with_large_snapshot();
    let partial = sandbox.path("out.img.partial");
    cut_export(&sandbox, &id, Signal::INT).fails(130, &[]);
    let [note] = &sandbox.checkpoints()[..] else {
        panic!("one note: {:?}", sandbox.checkpoints())
    };
    // A file system gives the number of a removed file to the next: only the note tells them apart, so it must
    // be gone before there is a next. Here that one cannot be made.
    fs::remove_file(&partial).unwrap();
    fs::create_dir(&partial).unwrap();
    fs::write(partial.join("x"), "").unwrap();
    let ran = sandbox.run(&["export", "--force", &id, "out.img"]);
    assert_ne!(ran.code, 0, "{ran:?}");
    assert!(!note.exists(), "the note outlived its file");
}

#[test]
fn a_file_that_appears_during_an_export_is_not_replaced() {
    let (sandbox, id) = with_large_snapshot();
    let mut export = sandbox.start(&["export", &id, "out.img"]);
    assert!(
        export.until(|| sandbox.path("out.img.partial").exists()),
        "it was too fast"
    );
    fs::write(sandbox.path("out.img"), "mine").unwrap();
    export
        .finish()
        .fails(2, &["out.img appeared meanwhile", "out.img.partial"]);
    assert_eq!(fs::read(sandbox.path("out.img")).unwrap(), b"mine");
    // Nothing of the work is lost.
    sandbox
        .run(&["export", "--continue", "--force", &id, "out.img"])
        .succeeds_silently();
    assert_volume(&sandbox.path("out.img"), &sandbox.path("disk.img"));
}
