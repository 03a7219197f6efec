//! Commits asked of a mounted daemon: by whom, with what, and what a killed client or daemon leaves.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use rustix::process::Signal;

use super::of;
use crate::images::{Disk, GIB, random_block};
use crate::kernel::{gone, kill};
use crate::overlaid::{Overlaid, assert_exports};
use crate::program::{Running, id_of, script};
use crate::serving::Server;
use crate::world::{Mount, World, eventually, finish, run};

/// A service that takes its time, a snapshot of it mounted with an overlay, and some edits.
struct Slow {
    server: Server,
    world: World,
    mount: Mount,
    id: String,
}

impl Slow {
    fn new(faults: &str) -> Option<Self> {
        let world = World::new()?;
        let image = Disk::new(world.path("disk.img"), GIB).blocks(0, 4, 5);
        let id = world.import(image.path());
        let server = Server::start(world.dir(), &["--fault", faults]);
        let at = world.empty("remote");
        let mut slow = Self {
            server,
            mount: Mount {
                dir: at.clone(),
                pid: rustix::process::getpid(),
            },
            world,
            id,
        };
        let id = slow.id.clone();
        let mount = ["mount", &id, at.to_str().unwrap(), "--overlay", "overlay"];
        finish(&mut slow.command(&mount)).ok();
        slow.mount = Mount::at(at);
        let file = fs::File::options()
            .write(true)
            .open(slow.mount.disk(&slow.id))
            .unwrap();
        for index in 0..60 {
            let bytes = random_block(index);
            std::os::unix::fs::FileExt::write_all_at(&file, &bytes, of(index as u32 * 2)).unwrap();
        }
        Some(slow)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.world.bare();
        self.server.environment(&mut command);
        command.args(arguments);
        command
    }

    fn start(&self, arguments: &[&str]) -> Running {
        let mut command = self.world.unlimited();
        self.server.environment(&mut command);
        command.args(arguments);
        Running::start(command)
    }

    fn at(&self) -> &str {
        self.mount.dir.to_str().unwrap()
    }

    fn puts(&self) -> u64 {
        fs::metadata(self.world.path("overlay/puts")).map_or(0, |meta| meta.len())
    }

    /// A commit that has put some of its blocks.
    fn half_way(&self) -> Running {
        let mut commit = self.start(&["commit", self.at()]);
        assert!(commit.until(|| self.puts() > 300), "it was too fast");
        commit
    }

    fn pending(&self) -> Vec<String> {
        let text = self.world.ebsfs(["list", "--json"]).ok();
        let all: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
        let pending = all.iter().filter(|one| one["status"] == "pending");
        pending
            .map(|one| one["id"].as_str().unwrap().to_owned())
            .collect()
    }

    /// A copy of the disk as it is now.
    fn copy(&self) -> PathBuf {
        let (disk, copy) = (self.mount.disk(&self.id), self.world.path("now.img"));
        let paths = [disk.to_str().unwrap(), copy.to_str().unwrap()];
        run("cp", ["--sparse=always", paths[0], paths[1]]).ok();
        copy
    }
}

#[test]
fn a_killed_client_is_gone_on_with_and_no_snapshot_is_left() {
    let Some(slow) = Slow::new("latency=60ms") else {
        return;
    };
    let now = slow.copy();
    slow.half_way().kill();
    let [id] = &slow.pending()[..] else {
        panic!("one is pending: {:?}", slow.pending())
    };
    // The daemon hears of it in a moment.
    let again = eventually("the cancelled commit ends", || {
        let said = finish(&mut slow.command(&["commit", "--wait", slow.at()]));
        (said.code != Some(2)).then_some(said)
    });
    assert!(again.err.contains("going on with"), "{again:?}");
    assert_eq!(id_of(&again.ok()), *id);
    assert_eq!(slow.pending(), [""; 0]);
    assert_exports(&slow.world, id, &now);
}

#[test]
fn an_interrupted_client_says_how_to_go_on() {
    let Some(slow) = Slow::new("latency=60ms") else {
        return;
    };
    let commit = slow.half_way();
    commit.signal(Signal::INT);
    let words = ["interrupted", "nothing is lost", "commit", slow.at()];
    commit.finish().fails(130, &words);
}

#[test]
fn a_killed_daemon_leaves_a_commit_that_the_directory_goes_on_with() {
    let Some(slow) = Slow::new("latency=60ms") else {
        return;
    };
    let now = slow.copy();
    let commit = slow.half_way();
    kill(slow.mount.pid);
    eventually("the daemon ends", || gone(slow.mount.pid).then_some(()));
    commit.finish().fails(6, &["the daemon has ended"]);
    run("umount", ["-l", slow.at()]).ok();
    let [id] = &slow.pending()[..] else {
        panic!("one is pending: {:?}", slow.pending())
    };
    let said = finish(&mut slow.command(&["commit", "--wait", "overlay"]));
    assert_eq!(id_of(&said.ok()), *id);
    assert_exports(&slow.world, id, &now);
}

#[test]
fn a_daemon_settles_what_its_client_did_not_wait_for() {
    let Some(slow) = Slow::new("complete-after=2s") else {
        return;
    };
    let id = id_of(&finish(&mut slow.command(&["commit", slow.at()])).ok());
    let info = || {
        let said = finish(&mut slow.command(&["overlay", "info", "overlay", "--json"]));
        let info: serde_json::Value = serde_json::from_str(&said.ok()).unwrap();
        info
    };
    let before = info();
    assert_eq!(before["base"], slow.id);
    assert_eq!(before["commit"]["state"], "completing");
    let doing = before["held_by"]["doing"].as_str().unwrap();
    assert!(doing.contains(slow.at()), "{doing}");
    eventually("it is settled", || (info()["base"] == *id).then_some(()));
    assert_eq!(info()["commit"], serde_json::Value::Null);
    // What the disk is did not change by it, and the file has its old name.
    assert_exports(&slow.world, &id, &slow.copy());
}

#[test]
fn what_is_mounted_is_committed_there_and_into_its_own_store() {
    let Some(world) = World::new() else { return };
    let disk = Overlaid::empty(&world, 1);
    disk.write(0, b"edited");
    let at = disk.mount.dir.to_str().unwrap();
    let hint = format!("ebsfs commit {at}");
    world.ebsfs(["commit", "overlay"]).refused(2, &[at, &hint]);
    let discard = world.ebsfs(["overlay", "discard", "--yes", "overlay"]);
    discard.refused(2, &[at, "umount"]);
    let other = world.path("other");
    let image = world.path("empty.img");
    let import = ["--store", "other", "import", image.to_str().unwrap()];
    finish(world.bare().args(import)).ok();
    let commit = ["--store", other.to_str().unwrap(), "commit", at];
    finish(world.bare().args(commit)).refused(2, &["is mounted from the store"]);
    // Without a word about the store it is the daemon's.
    let said = finish(world.bare().args(["commit", "--wait", at]));
    let id = id_of(&said.ok());
    disk.unmount();
    let disk = Overlaid::over(&world, &id);
    disk.unmount();
}

/// Stands for `fsfreeze`: notes what it was asked for, and stops the daemon when it is to freeze, so that this lasts.
const FREEZE: &str = r#"#!/bin/sh
[ "$1" != --freeze ] || kill -STOP "$DAEMON"
echo "$1 $2" >> "$NOTES"
"#;

#[test]
fn a_file_system_is_thawed_however_the_commit_ends() {
    let Some(world) = World::new() else { return };
    let disk = Overlaid::empty(&world, 1);
    disk.write(0, b"edited");
    let at = disk.mount.dir.to_str().unwrap();
    let (tools, notes) = (world.empty("tools"), world.path("notes"));
    let tool = tools.join("fsfreeze");
    script(FREEZE, &tool);
    let path = format!("{}:{}", tools.display(), std::env::var("PATH").unwrap());
    let start = || {
        let mut command = world.unlimited();
        command
            .args(["--store", world.store().to_str().unwrap()])
            .args(["commit", at, "--wait", "--freeze", "/frozen"])
            .env("PATH", &path)
            .env("NOTES", &notes)
            .env("DAEMON", disk.mount.pid.as_raw_nonzero().to_string());
        Running::start(command)
    };
    let noted = || fs::read_to_string(&notes).unwrap_or_default();
    let mut expected = String::new();
    let freeze = |expected: &mut String| {
        *expected += "--freeze /frozen\n";
        let mut commit = start();
        let frozen = commit.until(|| noted() == *expected);
        assert!(frozen, "{:?}", commit.finish());
        commit
    };
    let thawed = |expected: &mut String| {
        *expected += "--unfreeze /frozen\n";
        eventually("it is thawed", || (noted() == *expected).then_some(()));
    };
    // By the shell's ctrl-C, by a kill, and by a daemon that dies: it is still stopped, so nothing is sealed.
    for signal in [Signal::INT, Signal::KILL] {
        let commit = freeze(&mut expected);
        commit.signal(signal);
        thawed(&mut expected);
        commit.finish();
        disk.mount.signal(Signal::CONT);
        eventually("the daemon has heard of it", || {
            let said = world.ebsfs(["commit", at, "--dry-run"]);
            (said.code == Some(0)).then_some(())
        });
    }
    // Once it is sealed, and not before.
    let commit = freeze(&mut expected);
    assert_eq!(noted(), expected);
    disk.mount.signal(Signal::CONT);
    thawed(&mut expected);
    id_of(&commit.finish().succeeds());
    let commit = freeze(&mut expected);
    kill(disk.mount.pid);
    thawed(&mut expected);
    commit.finish().fails(6, &["the daemon has ended"]);
    // What cannot be frozen is told, and nothing is committed.
    run("umount", ["-l", at]).ok();
    let header = ebsfs::overlay::read_header(&world.path("overlay"));
    let base = header.unwrap().unwrap().base.to_string();
    let disk = Overlaid::over(&world, &base);
    let at = disk.mount.dir.to_str().unwrap();
    let list = || world.ebsfs(["list"]).ok();
    let before = list();
    let refused = world.ebsfs(["commit", at, "--freeze", "/proc"]);
    refused.refused(2, &["cannot freeze /proc"]);
    assert_eq!(list(), before);
}
