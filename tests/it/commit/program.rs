//! `ebsfs commit` and `ebsfs overlay` as they are typed, without and with a mount.

use std::fs;
use std::os::unix::fs::FileTypeExt as _;
use std::sync::Arc;

use ebsfs::block::BLOCK_SIZE;
use ebsfs::overlay::{LocalDirectory, Overlay};
use ebsfs::store::Store as _;
use ebsfs::store::directory::DirectoryStore;
use serde_json::Value;

use super::{of, random};
use crate::common::block_on;
use crate::images::{Disk, GIB, assert_volume};
use crate::program::{Running, Sandbox, files_below, id_of, wait_until};
use crate::serving::Server;
use crate::world::World;

/// A sandbox with a snapshot of `disk.img`, an overlay of it in `edits`, and in `edited.img` what it is to be.
struct Edited {
    sandbox: Sandbox,
    parent: String,
}

impl Edited {
    fn new() -> Self {
        Self::with(&[(0, 1), (3, 2), (700, 3)])
    }

    /// With these blocks written: index, and the seed of what is written there.
    fn with(writes: &[(u32, u64)]) -> Self {
        let sandbox = Sandbox::new();
        let disk = |name: &str| Disk::new(sandbox.path(name), GIB).blocks(0, 6, 9);
        disk("disk.img");
        let parent = sandbox.import(&["disk.img"]);
        let store = DirectoryStore::open(&sandbox.store()).unwrap();
        let directory = Arc::new(LocalDirectory::open(&sandbox.path("edits")).unwrap());
        let info = block_on(store.info(&parent.parse().unwrap())).unwrap();
        let overlay =
            Overlay::create(directory, &store.identity(), &info.id, info.volume_size).unwrap();
        let mut expected = disk("edited.img");
        for (index, seed) in writes {
            // The page in the middle stays what it was.
            let bytes = random(*seed);
            let (head, tail) = (&bytes[..4096], &bytes[8192..]);
            overlay.write_pages(of(*index), head).unwrap();
            overlay.write_pages(of(*index) + 8192, tail).unwrap();
            expected = expected.bytes(of(*index), head);
            expected = expected.bytes(of(*index) + 8192, tail);
        }
        // A block of the parent's becomes zeros.
        overlay.zero_pages(of(5)..of(6)).unwrap();
        expected.bytes(of(5), &vec![0; BLOCK_SIZE]);
        overlay.sync().unwrap();
        Self { sandbox, parent }
    }

    fn assert_is_edited(&self, id: &str) {
        self.sandbox
            .run(&["export", "--force", id, "out.img"])
            .succeeds_silently();
        assert_volume(
            &self.sandbox.path("out.img"),
            &self.sandbox.path("edited.img"),
        );
        self.sandbox
            .run(&["export", "--force", &self.parent, "out.img"])
            .succeeds_silently();
        assert_volume(
            &self.sandbox.path("out.img"),
            &self.sandbox.path("disk.img"),
        );
    }

    fn info(&self) -> Value {
        let text = self.sandbox.run(&["overlay", "info", "edits", "--json"]);
        serde_json::from_str(&text.succeeds()).unwrap()
    }

    /// Everything in the overlay and the store, but what only says who has it.
    fn state(&self) -> Vec<(String, Vec<u8>)> {
        let mut files = files_below(&self.sandbox.path("edits"));
        files.extend(files_below(&self.sandbox.store()));
        files.retain(|file| !file.ends_with("lock"));
        files.sort();
        let read = |path: &std::path::PathBuf| {
            (
                path.display().to_string(),
                fs::read(path).unwrap_or_default(),
            )
        };
        files.iter().map(read).collect()
    }
}

#[test]
fn an_overlay_is_committed_and_its_child_is_the_edited_disk() {
    let edited = Edited::new();
    let before = edited.info();
    assert_eq!(before["base"], edited.parent);
    assert_eq!(before["top"]["blocks"], 4);
    assert_eq!(before["top"]["written"], 3 * 127);
    assert_eq!(before["commit"], Value::Null);
    assert_eq!(before["held_by"], Value::Null);
    let ran = edited.sandbox.run(&[
        "commit",
        "edits",
        "--description",
        "edited",
        "--tags",
        "Key=a,Value=b",
    ]);
    let words = ["put 4 blocks", "2.00 MiB", "requests", "no cost"];
    let id = id_of(&ran.succeeds_and_tells(&words));
    edited.assert_is_edited(&id);
    let child = edited.sandbox.info(&id);
    assert_eq!(child["description"], "edited");
    assert_eq!(child["tags"]["a"], "b");
    assert_eq!(child["parent"], edited.parent);
    // The directory completes at once, so it is the base already, and nothing of the old is left.
    let after = edited.info();
    assert_eq!(after["base"], id);
    assert_eq!(after["top"]["blocks"], 0);
    assert_eq!(after["commit"], Value::Null);
    let ran = edited.sandbox.run(&["overlay", "info", "edits"]);
    assert!(ran.succeeds_silently().contains(&id));
}

#[test]
fn a_dry_run_tells_and_touches_nothing() {
    let edited = Edited::new();
    assert_eq!(edited.info()["top"]["blocks"], 4);
    let before = edited.state();
    let ran = edited.sandbox.run(&["commit", "--dry-run", "edits"]);
    let out = ran.succeeds_silently();
    for word in [
        &*edited.parent,
        "4 blocks",
        "3 in part",
        "1 of zeros",
        "4 puts",
        "2 gets",
    ] {
        assert!(out.contains(word), "no {word:?} in {out}");
    }
    let ran = edited
        .sandbox
        .run(&["commit", "--dry-run", "--json", "edits"]);
    let plan: Value = serde_json::from_str(&ran.succeeds_silently()).unwrap();
    assert_eq!((&plan["part"], &plan["zero"]), (&3.into(), &1.into()));
    assert_eq!(plan["requests"]["puts"], 4);
    let after = edited.state();
    let names = |state: &[(String, Vec<u8>)]| -> Vec<String> {
        state.iter().map(|(name, _)| name.clone()).collect()
    };
    assert_eq!(names(&after), names(&before));
    for ((name, before), (_, after)) in before.iter().zip(&after) {
        assert!(before == after, "{name} has changed");
    }
}

#[test]
fn a_commit_for_programs_is_one_object() {
    let edited = Edited::new();
    let ran = edited
        .sandbox
        .run(&["commit", "--json", "--verify", "--wait", "edits"]);
    let said: Value = serde_json::from_str(&ran.succeeds_silently()).unwrap();
    edited.assert_is_edited(said["id"].as_str().unwrap());
    assert_eq!(said["parent"], edited.parent);
    assert_eq!(said["blocks"], 4);
    assert_eq!(said["bytes"], 4 * BLOCK_SIZE);
    assert_eq!(said["settled"], true);
    assert_eq!(said["cost"], 0.0);
    assert_eq!(said["requests"]["puts"], 4);
}

#[test]
fn what_cannot_be_committed_is_refused_with_the_reason() {
    let edited = Edited::new();
    let run = |arguments: &[&str]| edited.sandbox.run(arguments);
    run(&["commit", "nowhere"]).fails(3, &["nowhere"]);
    fs::create_dir(edited.sandbox.path("empty")).unwrap();
    run(&["commit", "empty"]).fails(3, &["neither a mount", "overlay"]);
    run(&["overlay", "info", "empty"]).fails(3, &["no overlay"]);
    assert_eq!(
        fs::read_dir(edited.sandbox.path("empty")).unwrap().count(),
        0
    );
    run(&["commit", "edits", "--freeze", "/"]).fails(2, &["not mounted", "--freeze"]);
    run(&["commit", "edits", "--timeout", "5"]).fails(2, &["10 to 60 minutes"]);
    run(&["commit", "--dry-run", "--restart", "edits"]).fails(2, &["--restart"]);
    // Another store than the base's.
    run(&["--store", "other", "import", "disk.img"]).succeeds();
    run(&["--store", "other", "commit", "edits"]).fails(2, &["is from the store"]);
    assert_eq!(edited.sandbox.list().len(), 1);
}

#[test]
fn an_overlay_in_use_is_not_discarded_and_its_user_is_named() {
    let edited = Edited::new();
    let held = LocalDirectory::open(&edited.sandbox.path("edits")).unwrap();
    held.describe("being tested").unwrap();
    let info = edited.info();
    assert_eq!(info["held_by"]["pid"], std::process::id());
    assert_eq!(info["top"]["blocks"], 4);
    let ran = edited
        .sandbox
        .run(&["overlay", "discard", "--yes", "edits"]);
    ran.fails(
        2,
        &["in use", &std::process::id().to_string(), "being tested"],
    );
    drop(held);
    // A program that another test is about to begin may have it for a moment longer.
    wait_until("nobody has it any more", || {
        edited.info()["held_by"].is_null()
    });
    let ran = edited.sandbox.run(&["overlay", "discard", "edits"]);
    ran.fails(2, &["nobody to ask", "--yes"]);
    assert_eq!(edited.info()["top"]["blocks"], 4);
    let ran = edited
        .sandbox
        .run(&["overlay", "discard", "--yes", "edits"]);
    ran.succeeds_silently();
    assert!(!edited.sandbox.path("edits").exists());
}

#[test]
fn what_is_no_overlay_is_not_discarded() {
    let edited = Edited::new();
    let foreign = edited.sandbox.path("edits/notes.txt");
    fs::write(&foreign, "mine").unwrap();
    let ran = edited
        .sandbox
        .run(&["overlay", "discard", "--yes", "edits"]);
    ran.fails(2, &["notes.txt"]);
    assert_eq!(fs::read(&foreign).unwrap(), b"mine");
    fs::remove_file(&foreign).unwrap();
    assert_eq!(edited.info()["top"]["blocks"], 4);
    // A damaged one can be.
    fs::write(edited.sandbox.path("edits/overlay"), "damaged").unwrap();
    let ran = edited
        .sandbox
        .run(&["overlay", "discard", "--yes", "edits"]);
    ran.succeeds();
    assert!(!edited.sandbox.path("edits").exists());
}

#[test]
fn a_killed_commit_goes_on_with_the_same_snapshot() {
    let writes: Vec<(u32, u64)> = (0..60).map(|n| (n * 3, u64::from(n))).collect();
    let edited = Edited::with(&writes);
    let sandbox = &edited.sandbox;
    let dir = sandbox.store().parent().unwrap().to_owned();
    // Over the wire, since a directory would be too fast; its identity is another, so the overlay is made anew.
    let server = Server::start(&dir, &["--fault", "latency=60ms"]);
    let url = format!("http://{}", server.address);
    let header = fs::read(sandbox.path("edits/overlay")).unwrap();
    drop(header);
    fs::remove_dir_all(sandbox.path("edits")).unwrap();
    let directory = Arc::new(LocalDirectory::open(&sandbox.path("edits")).unwrap());
    let info = sandbox.info(&edited.parent);
    let size = ebsfs::snapshot::VolumeSize::from_gib(1).unwrap();
    assert_eq!(info["status"], "completed");
    let overlay = Overlay::create(directory, &url, &edited.parent.parse().unwrap(), size).unwrap();
    for (index, seed) in &writes {
        overlay.write_pages(of(*index), &random(*seed)).unwrap();
    }
    overlay.sync().unwrap();
    drop(overlay);
    let command = |arguments: &[&str]| {
        let mut command = sandbox.command(arguments);
        server.environment(&mut command);
        command
    };
    let mut commit = Running::start(command(&["commit", "edits"]));
    let puts = sandbox.path("edits/puts");
    let some = || fs::metadata(&puts).is_ok_and(|meta| meta.len() > 300);
    assert!(commit.until(some), "it was too fast");
    commit.kill();
    let pending: Vec<_> = sandbox.list();
    let pending = pending.iter().find(|one| one["status"] == "pending");
    let id = pending.unwrap()["id"].as_str().unwrap().to_owned();
    let info = Running::start(command(&["overlay", "info", "--json", "edits"])).finish();
    let info: Value = serde_json::from_str(&info.succeeds()).unwrap();
    assert_eq!(info["commit"]["snapshot"], id);
    let ran = Running::start(command(&["commit", "--wait", "edits"])).finish();
    let words = [
        "going on with the interrupted commit",
        "0 pages were written since",
    ];
    assert_eq!(id_of(&ran.succeeds_and_tells(&words)), id);
    assert_eq!(sandbox.list().len(), 2);
}

#[test]
fn a_discarded_commit_names_what_it_leaves() {
    let edited = Edited::new();
    let directory = Arc::new(LocalDirectory::open(&edited.sandbox.path("edits")).unwrap());
    let overlay = Overlay::open(directory).unwrap().unwrap();
    let size = overlay.header().size;
    let new = ebsfs::snapshot::NewSnapshot::new(size).unwrap();
    let commit = ebsfs::overlay::Commit {
        new,
        snapshot: Some("snap-0badcafe".parse().unwrap()),
        accepted: false,
        sealed: jiff::Timestamp::now(),
    };
    overlay.seal(commit).unwrap();
    drop(overlay);
    let ran = edited
        .sandbox
        .run(&["overlay", "discard", "--yes", "edits"]);
    ran.succeeds_and_tells(&["snap-0badcafe was not completed", "ebsfs delete"]);
}

#[test]
fn a_read_only_mount_has_a_socket_and_says_that_there_is_nothing_to_commit() {
    let Some(world) = World::new() else { return };
    let image = Disk::new(world.path("disk.img"), GIB).block(0, 1);
    let id = world.import(image.path());
    let mount = world.mount(&[&id]);
    let socket = fs::read_link(mount.dir.join(".ebsfs/socket")).unwrap();
    assert!(fs::metadata(&socket).unwrap().file_type().is_socket());
    let at = mount.dir.to_str().unwrap();
    let said = world.ebsfs(["commit", at]);
    said.refused(1, &["no overlay", "--overlay"]);
    world.unmount(&mount);
    wait_until("the socket is gone", || !socket.exists());
}
