//! Killed, interrupted or refused by the kernel in the middle: nothing is left, or `umount` takes it down.
//!
//! Tools of the user's `PATH` stand before the real ones and end the program that called them at the moment that is
//! tested.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::{Browsed, file_system, nothing_is_left, simple};
use crate::images::Random;
use crate::kernel::{gone, kill};
use crate::program;
use crate::world::{Said, World, eventually, finish};

/// Runs `browse` where `tool` is a script; `$REAL` in it is the tool itself.
fn with_tool(world: &World, browsed: &Browsed<'_>, id: &str, tool: &str, script: &str) -> Said {
    let bin = world.path("bin");
    fs::create_dir_all(&bin).unwrap();
    let path = bin.join(tool);
    let real = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"]
        .map(|dir| Path::new(dir).join(tool))
        .into_iter()
        .find(|path| path.exists())
        .unwrap();
    // What takes down is not what is tested.
    let text = format!(
        "#!/bin/sh\nREAL={}\ncase $1 in -d) exec $REAL \"$@\";; esac\n{script}\n",
        real.display()
    );
    program::script(&text, &path);
    let mut command = browsed.command(id, &[]);
    let old = std::env::var("PATH").unwrap();
    command.env("PATH", format!("{}:{old}:/usr/sbin:/sbin", bin.display()));
    let said = finish(&mut command);
    fs::remove_file(path).unwrap();
    said
}

#[test]
fn whatever_step_it_is_killed_at_umount_takes_all_down() {
    let Some(world) = World::for_root() else {
        return;
    };
    let id = simple(&world);
    let browsed = Browsed::new(&world, "files");
    let cases = [
        ("blkid", "kill -9 $PPID", "showing", false),
        ("losetup", "kill -9 $PPID", "attaching", false),
        // The device is attached, and nobody has noted which.
        ("losetup", "$REAL \"$@\"; kill -9 $PPID", "attaching", false),
        ("mount", "kill -9 $PPID", "mounting", false),
        ("mount", "$REAL \"$@\"; kill -9 $PPID", "mounting", true),
        // The tool outlives the program, and goes on.
        (
            "losetup",
            "kill -9 $PPID; sleep 1; exec $REAL \"$@\"",
            "attaching",
            false,
        ),
        (
            "mount",
            "kill -9 $PPID; sleep 1; exec $REAL \"$@\"",
            "mounting",
            false,
        ),
    ];
    for (tool, script, step, mounted) in cases {
        let said = with_tool(&world, &browsed, &id, tool, script);
        // `timeout` ends as what it runs did.
        assert_eq!(said.code, None, "{tool} {script}: {said:?}");
        assert_eq!(browsed.record()["step"], step, "{tool} {script}");
        assert_eq!(browsed.at.join("here").exists(), mounted, "{tool} {script}");
        let again = browsed.begin(&id, &[]);
        again.refused(2, &["ebsfs umount", browsed.at.to_str().unwrap()]);
        browsed.end();
    }
    browsed.begin(&id, &[]).ok();
    browsed.end();
}

/// Begins to browse, and sends a signal after some milliseconds; tells how it ended.
fn signalled(
    world: &World,
    browsed: &Browsed<'_>,
    id: &str,
    signal: Signal,
    after: u64,
) -> Option<i32> {
    // Not under `timeout`: the program itself is to get it.
    let mut command = world.unlimited();
    command.arg("--store").arg(world.store());
    let mut child = command
        .args(["browse", id])
        .arg(&browsed.at)
        .spawn()
        .unwrap();
    thread::sleep(Duration::from_millis(after));
    kill_process(Pid::from_child(&child), signal).unwrap();
    child.wait().unwrap().code()
}

#[test]
fn killed_at_any_moment_it_leaves_nothing_that_umount_does_not_find() {
    let Some(world) = World::for_root() else {
        return;
    };
    let id = simple(&world);
    let browsed = Browsed::new(&world, "files");
    let mut random = Random(47);
    for round in 0..25 {
        signalled(&world, &browsed, &id, Signal::KILL, random.below(90));
        if browsed.site().is_some() {
            let said = browsed.umount(&[]);
            assert_eq!(said.code, Some(0), "round {round}: {said:?}");
        }
        browsed.assert_gone();
    }
}

#[test]
fn interrupted_at_any_moment_it_leaves_nothing_or_all() {
    let Some(world) = World::for_root() else {
        return;
    };
    let id = simple(&world);
    let browsed = Browsed::new(&world, "files");
    let mut random = Random(48);
    for round in 0..25 {
        let code = signalled(&world, &browsed, &id, Signal::INT, random.below(90));
        match code {
            Some(0) => browsed.end(),
            // None: before it listens to signals, and has made anything.
            Some(130) | None => browsed.assert_gone(),
            other => panic!("round {round}: {other:?}"),
        }
    }
}

#[test]
fn a_signal_undoes_what_was_done() {
    let Some(world) = World::for_root() else {
        return;
    };
    let id = simple(&world);
    let browsed = Browsed::new(&world, "files");
    let cases = [
        ("blkid", "kill -INT $PPID; exec sleep 30"),
        ("losetup", "kill -INT $PPID; exec sleep 30"),
        ("losetup", "$REAL \"$@\"; kill -TERM $PPID; exec sleep 30"),
        ("mount", "kill -HUP $PPID; exec sleep 30"),
        ("mount", "$REAL \"$@\"; kill -INT $PPID; exec sleep 30"),
        // A deaf one is ended all the same.
        (
            "mount",
            "trap '' TERM; kill -INT $PPID; while :; do sleep 1; done",
        ),
    ];
    for (tool, script) in cases {
        let said = with_tool(&world, &browsed, &id, tool, script);
        assert_eq!(said.code, Some(130), "{tool} {script}: {said:?}");
        assert!(said.err.contains("interrupted"), "{said:?}");
        browsed.assert_gone();
    }
}

#[test]
fn a_file_system_that_the_kernel_refuses_leaves_nothing() {
    let Some(world) = World::for_root() else {
        return;
    };
    let image = file_system(&world, "broken.img", "ext2");
    // An inode size that cannot be.
    let file = fs::File::options().write(true).open(&image).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[3, 0], 1024 + 88).unwrap();
    let id = world.import(&image);
    let browsed = Browsed::new(&world, "files");
    let said = browsed.begin(&id, &[]);
    said.refused(5, &["cannot mount", "superblock"]);
    browsed.assert_gone();
    browsed.begin("snap-0123", &[]).refused(3, &["snap-0123"]);
    browsed.assert_gone();
}

#[test]
fn after_the_daemon_was_killed_umount_takes_all_down() {
    let Some(world) = World::for_root() else {
        return;
    };
    let id = simple(&world);
    let browsed = Browsed::new(&world, "files");
    for options in [&[][..], &["--no-replay"], &["--rw", "--overlay", "edits"]] {
        browsed.begin(&id, options).ok();
        if options.len() == 3 {
            fs::write(browsed.at.join("new"), "unsynced").unwrap();
        }
        let pid = browsed.daemon();
        kill(pid);
        eventually("the daemon ends", || gone(pid).then_some(()));
        let listed = world.ebsfs(["ps"]).ok();
        let clears = format!("`ebsfs umount {}`", browsed.at.display());
        assert!(
            listed.contains("is dead") && listed.contains(&clears),
            "{listed}"
        );
        browsed.umount(&[]).ok();
        browsed.assert_gone();
    }
    browsed.begin(&id, &["--rw", "--overlay", "edits"]).ok();
    assert_eq!(fs::read(browsed.at.join("here")).unwrap(), b"text");
    browsed.end();
}

#[test]
fn a_stopped_daemon_is_told_and_ended_by_force_only() {
    let Some(world) = World::for_root() else {
        return;
    };
    let id = simple(&world);
    let browsed = Browsed::new(&world, "files");
    browsed.begin(&id, &[]).ok();
    let pid = browsed.daemon();
    kill_process(pid, Signal::STOP).unwrap();
    eventually("all its threads stand still", || {
        let threads = fs::read_dir(format!("/proc/{}/task", pid.as_raw_nonzero())).unwrap();
        let stopped = |entry: fs::DirEntry| {
            let stat = fs::read_to_string(entry.path().join("stat")).unwrap();
            stat.contains(") T ")
        };
        threads.flatten().all(stopped).then_some(())
    });
    let said = browsed.umount(&[]);
    said.refused(
        2,
        &["does not answer", "--force", browsed.at.to_str().unwrap()],
    );
    assert_eq!(browsed.record()["step"], "done");
    // The daemon must be there to end.
    let ended = thread::scope(|scope| {
        let forced = scope.spawn(|| browsed.umount(&["--force"]));
        thread::sleep(Duration::from_millis(300));
        kill_process(pid, Signal::CONT).unwrap();
        forced.join().unwrap()
    });
    ended.ok();
    nothing_is_left(&world);
}
