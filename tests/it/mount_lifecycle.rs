//! The life of a mount: it starts quietly, stands on its own, and ends in order however it is asked to.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Child, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::kernel::{gone, mounts_below};
use crate::oracle::{BLOCK, random_block, read_direct, snapshot};
use crate::world::{Mount, World, eventually, finish, run, unless_busy};

fn one_block(world: &World) -> String {
    snapshot(world, 1, [(3, random_block(3))])
}

fn assert_readable(mount: &Mount, id: &str) {
    let read = read_direct(&mount.disk(id), 3 * BLOCK, BLOCK).unwrap();
    assert!(read == random_block(3));
}

/// Block 3 through a loop device; nobody has read it before.
fn read_device(device: &str) -> Vec<u8> {
    let mut bytes = vec![0; BLOCK as usize];
    let file = File::open(device).unwrap();
    file.read_exact_at(&mut bytes, 3 * BLOCK).unwrap();
    bytes
}

#[track_caller]
fn assert_unmounted(world: &World) {
    assert_eq!(mounts_below(world.dir()), []);
}

#[test]
fn a_mount_returns_quietly_once_it_answers() {
    let Some(world) = World::new() else { return };
    let id = one_block(&world);
    let at = world.empty("mnt");
    // Both ends of pipes: this returns only when the daemon has let go of them.
    let said = world.ebsfs(["mount", &id, "mnt"]);
    assert_eq!((said.code, &*said.out, &*said.err), (Some(0), "", ""));
    assert!(fs::metadata(at.join(format!("{id}.img"))).is_ok());
    assert_readable(&Mount::at(at), &id);
}

#[test]
fn the_daemon_stands_on_its_own() {
    let Some(world) = World::new() else { return };
    let mount = world.mount(&[&one_block(&world)]);
    let process = format!("/proc/{}", mount.pid.as_raw_nonzero());
    let link = |name: &str| fs::read_link(format!("{process}/{name}")).unwrap();
    let stat = fs::read_to_string(format!("{process}/stat")).unwrap();
    let after_name: Vec<_> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    let session: i32 = after_name[3].parse().unwrap();
    assert_eq!(session, mount.pid.as_raw_nonzero().get(), "its own session");
    assert_eq!(link("cwd"), Path::new("/"));
    assert_eq!(link("fd/0"), Path::new("/dev/null"));
    assert_eq!(link("fd/1"), Path::new("/dev/null"));
    assert_eq!(
        link("fd/2"),
        fs::read_link(mount.dir.join(".ebsfs/log")).unwrap()
    );
}

#[test]
fn verbose_names_the_log_and_log_file_chooses_it() {
    let Some(world) = World::new() else { return };
    let id = one_block(&world);
    let at = world.empty("mnt");
    let said = world.ebsfs(["-v", "mount", &id, "mnt"]);
    let log = fs::read_link(at.join(".ebsfs/log")).unwrap();
    assert!(said.err.contains(log.to_str().unwrap()), "{said:?}");
    assert!(log.starts_with(world.path("state")));
    world.unmount(&Mount::at(at));
    let text = fs::read_to_string(&log).unwrap();
    assert!(
        text.contains("mounted on") && text.contains("unmounted from"),
        "{text}"
    );

    let mount = world.mount_with(&[&id], &["--log-file", "my.log"]);
    assert_eq!(
        fs::read_link(mount.dir.join(".ebsfs/log")).unwrap(),
        world.path("my.log")
    );
}

#[test]
fn paths_may_be_relative_have_blanks_and_lead_through_links() {
    let Some(world) = World::new() else { return };
    let id = one_block(&world);
    let at = world.empty("a mount  point");
    let mut command = world.bare();
    finish(command.args(["mount", "--store", "./store", &id, "a mount  point"])).ok();
    assert_readable(&Mount::at(at.clone()), &id);
    unless_busy(|| world.ebsfs(["umount", "a mount  point"])).ok();
    std::os::unix::fs::symlink("a mount  point", world.path("link")).unwrap();
    finish(
        world
            .bare()
            .env("EBSFS_STORE", "store")
            .args(["mount", &id, "link"]),
    )
    .ok();
    let mount = Mount::at(at.clone());
    let about = fs::read_to_string(at.join(".ebsfs/mount.json")).unwrap();
    assert!(about.contains("a mount  point"), "{about}");
    unless_busy(|| world.ebsfs(["umount", "link"])).ok();
    eventually("the daemon ends", || gone(mount.pid).then_some(()));
    assert_unmounted(&world);
}

/// Starts a mount that stays in the foreground.
fn foreground(world: &World, id: &str) -> (Child, Mount) {
    let at = world.empty("mnt");
    let mut command = world.unlimited();
    let store = world.store();
    command
        .args(["mount", "-f", "-v", "--store"])
        .arg(store)
        .args([id, "mnt"]);
    let child = command
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    eventually("it is mounted", || {
        mounts_below(world.dir()).first().map(|_| ())
    });
    let mount = Mount::at(at);
    assert_eq!(mount.pid, Pid::from_child(&child));
    (child, mount)
}

#[test]
fn in_the_foreground_it_stays_logs_to_stderr_and_ends_with_its_mount() {
    let Some(world) = World::new() else { return };
    let id = one_block(&world);
    let (mut child, mount) = foreground(&world, &id);
    assert_readable(&mount, &id);
    assert_eq!(child.try_wait().unwrap(), None);
    assert!(!mount.dir.join(".ebsfs/log").exists());
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("mounted on")));
    world
        .ebsfs([OsStr::new("umount"), mount.dir.as_os_str()])
        .ok();
    let status = eventually("it ends", || child.try_wait().unwrap());
    assert!(status.success(), "{status}");
}

#[test]
fn signals_end_it_cleanly() {
    let Some(world) = World::new() else { return };
    let id = one_block(&world);
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let (mut child, mount) = foreground(&world, &id);
        assert_readable(&mount, &id);
        kill_process(Pid::from_child(&child), signal).unwrap();
        let status = eventually("it ends", || child.try_wait().unwrap());
        assert_eq!(status.code(), Some(0), "{signal:?}");
        assert_unmounted(&world);
        fs::remove_dir(&mount.dir).unwrap();
    }
    let mount = world.mount(&[&id]);
    mount.signal(Signal::TERM);
    eventually("the daemon ends", || gone(mount.pid).then_some(()));
    assert_unmounted(&world);
}

#[test]
fn a_signal_waits_for_a_loop_device_and_says_so() {
    let Some(world) = World::for_root() else {
        return;
    };
    let id = one_block(&world);
    let mount = world.mount(&[&id]);
    let device = world.attach(&mount.disk(&id), &[]);
    let log = fs::read_link(mount.dir.join(".ebsfs/log")).unwrap();
    mount.signal(Signal::TERM);
    let said = eventually("the log says who uses it", || {
        let text = fs::read_to_string(&log).unwrap();
        text.contains("in use by").then_some(text)
    });
    assert!(
        said.contains(&device) && said.contains("losetup -d"),
        "{said}"
    );
    assert!(
        read_device(&device) == random_block(3),
        "the disk is not pulled away"
    );
    assert!(!gone(mount.pid));
    run("losetup", ["-d", &device]).ok();
    eventually("the daemon ends", || gone(mount.pid).then_some(()));
    assert_unmounted(&world);
}

#[test]
fn a_second_signal_ends_it_while_in_use() {
    let Some(world) = World::new() else { return };
    let id = one_block(&world);
    let mount = world.mount(&[&id]);
    let log = fs::read_link(mount.dir.join(".ebsfs/log")).unwrap();
    let open = File::open(mount.disk(&id)).unwrap();
    mount.signal(Signal::TERM);
    eventually("the log says that it is in use", || {
        fs::read_to_string(&log)
            .unwrap()
            .contains("second signal")
            .then_some(())
    });
    assert!(!gone(mount.pid));
    open.read_at(&mut [0; 10], 3 * BLOCK).unwrap();
    mount.signal(Signal::TERM);
    eventually("the daemon ends", || gone(mount.pid).then_some(()));
    assert_unmounted(&world);
}

#[test]
fn umount_mends_what_a_killed_daemon_leaves() {
    let Some(world) = World::new() else { return };
    let id = one_block(&world);
    let mount = world.mount(&[&id]);
    mount.signal(Signal::KILL);
    eventually("the daemon is gone", || gone(mount.pid).then_some(()));
    let error = fs::read_dir(&mount.dir).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::NotConnected);
    let at = mount.dir.to_str().unwrap();
    let again = world.ebsfs(["mount", &id, at]);
    again.refused(2, &["ebsfs umount", at]);
    unless_busy(|| world.ebsfs(["umount", at])).ok();
    assert_unmounted(&world);
    world.ebsfs(["mount", &id, at]).ok();
    assert_readable(&Mount::at(mount.dir), &id);
}

#[test]
fn umount_mends_a_dead_mount_that_is_still_in_use() {
    let Some(world) = World::new() else { return };
    let id = one_block(&world);
    let mount = world.mount(&[&id]);
    let open = File::open(mount.disk(&id)).unwrap();
    mount.signal(Signal::KILL);
    eventually("the daemon is gone", || gone(mount.pid).then_some(()));
    world
        .ebsfs([OsStr::new("umount"), mount.dir.as_os_str()])
        .ok();
    assert_unmounted(&world);
    assert!(open.read_at(&mut [0; 10], 3 * BLOCK).is_err());
}

#[test]
fn umount_is_refused_while_in_use_unless_lazy() {
    let Some(world) = World::for_root() else {
        return;
    };
    let id = one_block(&world);
    let mount = world.mount(&[&id]);
    let device = world.attach(&mount.disk(&id), &[]);
    let at = mount.dir.to_str().unwrap();
    world
        .ebsfs(["umount", at])
        .refused(2, &["in use by", &device, "losetup -d"]);
    assert_readable(&mount, &id);
    let log = fs::read_link(mount.dir.join(".ebsfs/log")).unwrap();
    world.ebsfs(["umount", "--lazy", at]).ok();
    assert_unmounted(&world);
    assert!(
        read_device(&device) == random_block(3),
        "what uses it goes on"
    );
    mount.signal(Signal::TERM);
    eventually("the log says that a signal waits for who uses it", || {
        let text = fs::read_to_string(&log).unwrap();
        text.contains("second signal").then_some(())
    });
    run("blockdev", ["--flushbufs", &device]).ok();
    assert!(
        read_device(&device) == random_block(3),
        "the disk is not pulled away"
    );
    assert!(!gone(mount.pid));
    run("losetup", ["-d", &device]).ok();
    eventually("the daemon ends", || gone(mount.pid).then_some(()));
}

#[test]
fn umount_names_who_holds_an_open_file_the_way_to_find_out() {
    let Some(world) = World::new() else { return };
    let id = one_block(&world);
    let mount = world.mount(&[&id]);
    let open = File::open(mount.disk(&id)).unwrap();
    let at = mount.dir.to_str().unwrap();
    world
        .ebsfs(["umount", at])
        .refused(2, &["in use", "fuser -vm"]);
    drop(open);
    world.unmount(&mount);
}

#[test]
fn umount_leaves_alone_what_is_not_its_own() {
    let Some(world) = World::for_root() else {
        return;
    };
    let plain = world.empty("plain");
    let other = world.empty("other");
    run("mount", ["-t", "tmpfs", "none", other.to_str().unwrap()]).ok();
    for path in [&plain, &other] {
        let said = world.ebsfs([OsStr::new("umount"), path.as_os_str()]);
        said.refused(2, &["no mount of ebsfs"]);
    }
    assert_eq!(mounts_below(world.dir()).len(), 1);
    world.ebsfs(["umount", "missing"]).refused(3, &["missing"]);
}

#[test]
fn umount_does_not_wait_for_a_daemon_that_does_not_answer() {
    let Some(world) = World::for_root() else {
        return;
    };
    let id = one_block(&world);
    let mount = world.mount(&[&id]);
    let file = File::open(mount.disk(&id)).unwrap();
    mount.signal(Signal::STOP);
    let at = mount.dir.to_str().unwrap();
    world
        .ebsfs(["umount", at])
        .refused(2, &["does not answer", "--force"]);
    world.ebsfs(["umount", "--force", at]).ok();
    assert!(mounts_below(world.dir()).is_empty());
    drop(file);
    mount.signal(Signal::CONT);
    eventually("the daemon ends", || gone(mount.pid).then_some(()));
}
