//! `ebsfs import` of children, with client tokens, with encryption, and with `--wait`.

use std::fs;

use rustix::process::Signal;

use crate::images::{Disk, GIB, MIB, assert_volume};
use crate::program::{Sandbox, id_of};

fn assert_exports(sandbox: &Sandbox, id: &str, image: &str) {
    let out = format!("{id}.out");
    sandbox.run(&["export", id, &out]).succeeds_silently();
    assert_volume(&sandbox.path(&out), &sandbox.path(image));
    fs::remove_file(sandbox.path(&out)).unwrap();
}

#[test]
fn a_child_holds_the_edited_disk_and_costs_what_changed() {
    let sandbox = Sandbox::new();
    Disk::new(sandbox.path("old.img"), GIB).blocks(0, 40, 1);
    Disk::new(sandbox.path("new.img"), GIB)
        .blocks(0, 30, 1)
        .block(35, 7);
    let parent = sandbox.import(&["old.img"]);
    let before = sandbox.block_files();
    let child = sandbox.import(&["new.img", "--parent", &parent]);
    // One new block; those that became zeros are one more, which the store keeps once.
    assert!(
        sandbox.block_files() <= before + 2 + 2,
        "segments and blocks"
    );
    assert_eq!(sandbox.info(&child)["parent"], parent.as_str());
    assert_exports(&sandbox, &child, "new.img");
    assert_exports(&sandbox, &parent, "old.img");
}

#[test]
fn a_child_is_at_least_as_large_as_its_parent() {
    let sandbox = Sandbox::new();
    Disk::new(sandbox.path("old.img"), 2 * GIB).block(4095, 1);
    Disk::new(sandbox.path("new.img"), MIB).block(0, 2);
    let parent = sandbox.import(&["old.img"]);
    let ran = sandbox.run(&["import", "new.img", "--parent", &parent]);
    let child = id_of(&ran.succeeds_and_tells(&["padded with zeros to 2 GiB"]));
    sandbox.run(&["export", &child, "out"]).succeeds_silently();
    assert_eq!(fs::metadata(sandbox.path("out")).unwrap().len(), 2 * GIB);
    // The parent's last block is not in it.
    assert_volume(&sandbox.path("out"), &{
        Disk::new(sandbox.path("padded.img"), 2 * GIB).block(0, 2);
        sandbox.path("padded.img")
    });
}

#[test]
fn what_cannot_be_a_parent_is_refused_before_anything_is_started() {
    let sandbox = Sandbox::new();
    Disk::new(sandbox.path("disk.img"), MIB).block(0, 1);
    let ran = sandbox.run(&["import", "disk.img", "--parent", "snap-0"]);
    ran.fails(3, &["store"]);
    assert!(!sandbox.store().exists());
    sandbox.import(&["disk.img"]);
    let ran = sandbox.run(&["import", "disk.img", "--parent", "snap-0"]);
    ran.fails(3, &["snap-0"]);

    Disk::new(sandbox.path("large.img"), GIB).blocks(0, 400, 1);
    let before = sandbox.block_files();
    let mut import = sandbox.start(&["import", "large.img"]);
    assert!(import.until(|| sandbox.block_files() > before + 20));
    import.signal(Signal::INT);
    import.finish().fails(130, &[]);
    let listed = sandbox.list();
    let pending = listed.iter().find(|one| one["status"] == "pending");
    let id = pending.unwrap()["id"].as_str().unwrap();
    let ran = sandbox.run(&["import", "disk.img", "--parent", id]);
    ran.fails(2, &[id, "pending", "parent"]);
    assert_eq!(sandbox.list().len(), 2);
}

#[test]
fn a_continued_import_of_a_child_needs_the_same_parent() {
    let sandbox = Sandbox::new();
    Disk::new(sandbox.path("old.img"), GIB).block(0, 1);
    let parent = sandbox.import(&["old.img"]);
    Disk::new(sandbox.path("disk.img"), GIB).blocks(0, 200, 1);
    let before = sandbox.block_files();
    let mut import = sandbox.start(&["import", "disk.img", "--parent", &parent]);
    assert!(import.until(|| sandbox.block_files() > before + 20));
    import.signal(Signal::INT);
    import.finish().fails(130, &["--continue"]);
    let ran = sandbox.run(&["import", "--continue", "disk.img"]);
    ran.fails(2, &["other options"]);
    let child = sandbox.import(&["--continue", "disk.img", "--parent", &parent]);
    assert_exports(&sandbox, &child, "disk.img");
    assert!(crate::program::files_below(&sandbox.path("state")).is_empty());
}

#[test]
fn a_client_token_starts_one_snapshot() {
    let sandbox = Sandbox::new();
    Disk::new(sandbox.path("disk.img"), GIB).block(0, 1);
    let import = ["import", "disk.img", "--client-token", "mine"];
    let id = id_of(&sandbox.run(&import).succeeds());
    let again = sandbox.run(&import);
    let again = again.succeeds_and_tells(&[&id, "was completed already"]);
    assert_eq!(id_of(&again), id);
    let ran = sandbox.run(&[&import[..], &["--description", "other"]].concat());
    ran.fails(2, &["mine", &id, "other parameters"]);
    assert_eq!(sandbox.list().len(), 1);
}

#[test]
fn encryption_is_noted_and_a_child_inherits_it() {
    let sandbox = Sandbox::new();
    Disk::new(sandbox.path("disk.img"), GIB).block(0, 1);
    let key = "arn:aws:kms:eu-west-1:012345678901:key/0a";
    let ran = sandbox.run(&["import", "disk.img", "--kms-key-arn", key]);
    let id = id_of(&ran.succeeds_and_tells(&["does not encrypt"]));
    assert_eq!(sandbox.info(&id)["encryption"]["kms_key_arn"], key);
    let child = sandbox.import(&["disk.img", "--parent", &id]);
    assert_eq!(sandbox.info(&child)["encryption"]["kms_key_arn"], key);
    let ran = sandbox.run(&["import", "disk.img", "--parent", &id, "--encrypted"]);
    ran.fails(2, &["as its parent is"]);
    let ran = sandbox.run(&["import", "disk.img", "--kms-key-arn", "alias/mine"]);
    ran.fails(2, &["alias/mine", "ARN"]);
}

#[test]
fn waiting_prints_the_id_and_ends_when_it_can_be_read() {
    let sandbox = Sandbox::new();
    Disk::new(sandbox.path("disk.img"), GIB).block(0, 1);
    let id = sandbox.import(&["disk.img", "--wait"]);
    assert_eq!(sandbox.info(&id)["status"], "completed");
}

#[test]
fn zero_blocks_are_there_when_asked_for() {
    let sandbox = Sandbox::new();
    Disk::new(sandbox.path("disk.img"), GIB).block(0, 1);
    let blocks = |id: &str| sandbox.info(id)["blocks"].clone();
    assert_eq!(blocks(&sandbox.import(&["disk.img"])), 1);
    let id = sandbox.import(&["disk.img", "--zero-blocks"]);
    assert_eq!(blocks(&id), 2048);
    assert_exports(&sandbox, &id, "disk.img");
}
