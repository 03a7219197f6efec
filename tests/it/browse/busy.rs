//! What is in use stays as it is, and who uses it is told; what somebody took down by hand is not missed.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::{Browsed, simple};
use crate::images::{Disk, GIB};
use crate::kernel::{backing_file, loops_below, mounts_below};
use crate::world::{World, eventually, run, umount};

/// A process that lives until this is dropped.
struct Holder(Child);

impl Holder {
    fn inside(dir: &Path) -> Self {
        let mut sleep = Command::new("sleep");
        Self(sleep.arg("1000").current_dir(dir).spawn().unwrap())
    }

    fn of(file: &Path) -> Self {
        let mut sleep = Command::new("sleep");
        let stdin = Stdio::from(fs::File::open(file).unwrap());
        Self(sleep.arg("1000").stdin(stdin).spawn().unwrap())
    }

    fn pid(&self) -> String {
        self.0.id().to_string()
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn a_busy_one_names_its_users_and_stays_whole() {
    let Some(world) = World::for_root() else {
        return;
    };
    let id = simple(&world);
    let browsed = Browsed::new(&world, "files");
    browsed.begin(&id, &[]).ok();
    let (device, table) = (browsed.device(), mounts_below(world.dir()));
    let whole = |said: &crate::world::Said| {
        assert_eq!(mounts_below(world.dir()), table, "{said:?}");
        assert_eq!(browsed.device(), device);
        assert_eq!(browsed.record()["step"], "done");
        assert_eq!(fs::read(browsed.at.join("here")).unwrap(), b"text");
    };
    let bound = world.empty("bound");
    let bind = |from: &Path, to: &Path| {
        run(
            "mount",
            ["--bind".as_ref(), from.as_os_str(), to.as_os_str()],
        )
        .ok();
    };
    {
        let holder = Holder::inside(&browsed.at);
        let said = browsed.umount(&[]);
        said.refused(2, &["in use", &holder.pid(), "(sleep)"]);
        whole(&said);
    }
    {
        let holder = Holder::of(&browsed.at.join("here"));
        let said = browsed.umount(&[]);
        said.refused(2, &["in use", &holder.pid(), "(sleep)"]);
        whole(&said);
    }
    {
        let holder = Holder::of(Path::new(&device));
        let said = browsed.umount(&[]);
        said.refused(2, &[&device, "in use", &holder.pid()]);
        whole(&said);
    }
    bind(&browsed.at.join("lost+found"), &bound);
    let said = browsed.umount(&[]);
    said.refused(2, &["in use", "the mount", bound.to_str().unwrap()]);
    umount(&bound);
    whole(&said);
    // The private mount is no way around.
    let mount = browsed.site().unwrap().join("mnt");
    let said = world.ebsfs(["umount".as_ref(), mount.as_os_str()]);
    said.refused(2, &["in use", &device]);
    whole(&said);
    browsed.end();
}

#[test]
fn a_lazy_end_takes_it_out_of_the_tree_and_is_finished_later() {
    let Some(world) = World::for_root() else {
        return;
    };
    let id = simple(&world);
    let browsed = Browsed::new(&world, "files");
    browsed.begin(&id, &[]).ok();
    let holder = Holder::inside(&browsed.at);
    let said = browsed.umount(&["--lazy"]);
    assert!(said.err.contains("still in use"), "{said:?}");
    said.ok();
    assert_eq!(mounts_below(world.dir()), []);
    let said = browsed.umount(&[]);
    assert_eq!(said.code, Some(2), "{said:?}");
    drop(holder);
    eventually("its last user is gone", || {
        (browsed.umount(&[]).code == Some(0)).then_some(())
    });
    browsed.assert_gone();
}

#[test]
fn a_forced_end_is_the_end_for_its_users_too() {
    let Some(world) = World::for_root() else {
        return;
    };
    let id = simple(&world);
    let browsed = Browsed::new(&world, "files");
    browsed.begin(&id, &[]).ok();
    let device = browsed.device();
    let holder = Holder::inside(&browsed.at);
    browsed.umount(&["--force"]).ok();
    assert_eq!(mounts_below(world.dir()), []);
    drop(holder);
    eventually("the loop device ends with its last user", || {
        backing_file(&device).is_none().then_some(())
    });
    browsed.assert_gone();
}

#[test]
fn what_was_taken_down_by_hand_is_not_missed() {
    let Some(world) = World::for_root() else {
        return;
    };
    let id = simple(&world);
    let browsed = Browsed::new(&world, "files");
    for hand in 0..4 {
        browsed.begin(&id, &[]).ok();
        let (device, mount) = (browsed.device(), browsed.site().unwrap().join("mnt"));
        umount(&browsed.at);
        if hand > 0 {
            run("losetup", ["-d", &device]).ok();
            eventually("it is detached", || {
                backing_file(&device).is_none().then_some(())
            });
        }
        if hand > 1 {
            umount(&mount);
        }
        if hand > 2 {
            fs::remove_dir(&browsed.at).unwrap();
            browsed.umount(&[]).ok();
            fs::create_dir(&browsed.at).unwrap();
        } else {
            browsed.umount(&[]).ok();
        }
        browsed.assert_gone();
        // There is nothing any more, and that is told.
        browsed.umount(&[]).refused(2, &["no mount of ebsfs"]);
    }
}

#[test]
fn a_private_mount_that_was_detached_lazily_still_leads_to_its_loop_device() {
    let Some(world) = World::for_root() else {
        return;
    };
    let id = simple(&world);
    let browsed = Browsed::new(&world, "files");
    browsed.begin(&id, &[]).ok();
    let (device, mount) = (browsed.device(), browsed.site().unwrap().join("mnt"));
    run("umount", ["-l".as_ref(), mount.as_os_str()]).ok();
    assert_eq!(
        loops_below(world.dir()),
        [""; 0],
        "its file has no path any more"
    );
    browsed.umount(&[]).ok();
    assert_eq!(backing_file(&device), None);
    browsed.assert_gone();
}

#[test]
fn a_loop_device_that_is_anothers_by_now_is_left_alone() {
    let Some(world) = World::for_root() else {
        return;
    };
    let id = simple(&world);
    let browsed = Browsed::new(&world, "files");
    browsed.begin(&id, &[]).ok();
    let device = browsed.device();
    umount(&browsed.at);
    run("losetup", ["-d", &device]).ok();
    eventually("it is detached", || {
        backing_file(&device).is_none().then_some(())
    });
    let foreign = Disk::new(world.path("foreign.img"), GIB);
    run("losetup", [&device, foreign.path().to_str().unwrap()]).ok();
    assert_eq!(browsed.record()["device"]["path"], *device);
    // Nor is it taken for its own after the machine was started anew, when all numbers are given once more.
    let mut record = browsed.record();
    let name = device.trim_start_matches("/dev/");
    let sequence = fs::read_to_string(format!("/sys/block/{name}/diskseq")).unwrap();
    record["device"]["sequence"] = sequence.trim().parse::<u64>().unwrap().into();
    record["device"]["boot"] = "an earlier one".into();
    let file = browsed.site().unwrap().join("record.json");
    fs::write(file, record.to_string()).unwrap();
    browsed.umount(&[]).ok();
    assert_eq!(backing_file(&device).as_deref(), Some(foreign.path()));
    run("losetup", ["-d", &device]).ok();
    browsed.assert_gone();
}

#[test]
fn what_is_mounted_over_it_must_go_first() {
    let Some(world) = World::for_root() else {
        return;
    };
    let id = simple(&world);
    let browsed = Browsed::new(&world, "files");
    browsed.begin(&id, &[]).ok();
    run(
        "mount",
        ["-t", "tmpfs", "none", browsed.at.to_str().unwrap()],
    )
    .ok();
    let said = browsed.umount(&[]);
    said.refused(2, &["something else", "tmpfs"]);
    assert_eq!(browsed.device(), loops_below(world.dir())[0]);
    umount(&browsed.at);
    browsed.end();
}
