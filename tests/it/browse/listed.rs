//! `ebsfs ps`: everything that stands, and what is left of what does not.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use super::{Browsed, simple};
use crate::kernel::{gone, kill};
use crate::world::{World, eventually, finish, limited, run, umount};

fn json(world: &World) -> Value {
    serde_json::from_str(&world.ebsfs(["ps", "--json"]).ok()).unwrap()
}

/// What of this world is in a list; root sees that of others, too.
fn ours<'a>(world: &World, list: &'a Value, name: &str) -> Vec<&'a Value> {
    let here = |value: &&Value| {
        value[name]
            .as_str()
            .unwrap()
            .starts_with(world.dir().to_str().unwrap())
    };
    list.as_array().unwrap().iter().filter(here).collect()
}

#[test]
fn each_mount_loop_device_overlay_and_browsed_directory_is_listed() {
    let Some(world) = World::for_root() else {
        return;
    };
    let id = simple(&world);
    let plain = world.mount(&[&id]);
    let all = world.mount(&[]);
    let edited = world.mount_with(&[&id], &["--overlay", "edits"]);
    let device = world.attach(&edited.disk(&id), &[]);
    let inner = world.empty("inner");
    run(
        "mount",
        ["-o", "ro,noload", &device, inner.to_str().unwrap()],
    )
    .ok();
    let browsed = Browsed::new(&world, "files");
    browsed.begin(&id, &[]).ok();

    let found = json(&world);
    let mounts = ours(&world, &found["mounts"], "mountpoint");
    let of = |at: &std::path::Path| {
        let is_it = |mount: &&&Value| mount["mountpoint"].as_str() == at.to_str();
        *mounts.iter().find(is_it).unwrap()
    };
    assert_eq!(mounts.len(), 4, "{found:#}");
    assert_eq!(of(&plain.dir)["read_only"], true);
    assert_eq!(of(&plain.dir)["snapshots"][0], *id);
    assert_eq!(
        of(&plain.dir)["daemon"]["pid"],
        plain.pid.as_raw_nonzero().get()
    );
    assert_eq!(of(&plain.dir)["daemon"]["state"], "alive");
    assert!(
        of(&plain.dir)["store"]
            .as_str()
            .unwrap()
            .starts_with("directory:")
    );
    assert_eq!(of(&all.dir)["snapshots"], Value::Null);
    assert_eq!(
        of(&edited.dir)["overlay"].as_str(),
        world.path("edits").to_str()
    );
    let below = of(&browsed.site().unwrap().join("mnt"));
    assert_eq!(below["browsed"].as_str(), browsed.at.to_str());
    assert_eq!(ours(&world, &found["overlays"], "overlay").len(), 2);
    let loops = ours(&world, &found["loops"], "file");
    assert_eq!(loops.len(), 2, "{found:#}");
    let inner_loop = loops
        .iter()
        .find(|found| found["device"] == *device)
        .unwrap();
    assert_eq!(inner_loop["mounted"][0].as_str(), inner.to_str());
    let shown = ours(&world, &found["browsed"], "directory");
    assert_eq!(shown.len(), 1);
    assert_eq!(shown[0]["fs_type"], "ext4");
    assert_eq!(shown[0]["device"], *browsed.device());
    assert_eq!(shown[0]["kept"], false);
    assert!(
        ours(&world, &found["leftovers"], "path").is_empty(),
        "{found:#}"
    );

    let text = world.ebsfs(["ps"]).ok();
    for word in [
        plain.dir.to_str().unwrap(),
        edited.dir.to_str().unwrap(),
        inner.to_str().unwrap(),
        browsed.at.to_str().unwrap(),
        &device,
        &browsed.device(),
        "all of the store",
        "thrown away in the end",
    ] {
        assert!(text.contains(word), "{word}: {text}");
    }
    umount(&inner);
    run("losetup", ["-d", &device]).ok();
    for mount in [&plain, &all, &edited] {
        world.unmount(mount);
    }
    browsed.end();
    let found = json(&world);
    for (list, name) in [
        ("mounts", "mountpoint"),
        ("browsed", "directory"),
        ("loops", "file"),
    ] {
        assert!(ours(&world, &found[list], name).is_empty(), "{found:#}");
    }
}

#[test]
fn what_a_killed_daemon_left_is_listed_with_what_clears_it() {
    let Some(world) = World::new() else { return };
    let id = crate::oracle::snapshot(&world, 1, [(0, crate::oracle::random_block(0))]);
    let mount = world.mount(&[&id]);
    kill(mount.pid);
    eventually("the daemon ends", || gone(mount.pid).then_some(()));
    let found = json(&world);
    let left = ours(&world, &found["leftovers"], "path");
    assert_eq!(left.len(), 1, "{found:#}");
    let command = left[0]["command"].as_str().unwrap();
    assert_eq!(command, format!("ebsfs umount {}", mount.dir.display()));
    let args: Vec<_> = command.split(' ').skip(1).collect();
    world.ebsfs(args).ok();
    let found = json(&world);
    assert!(
        ours(&world, &found["leftovers"], "path").is_empty(),
        "{found:#}"
    );
    super::nothing_is_left(&world);
}

#[test]
fn a_daemon_that_does_not_answer_keeps_nobody_waiting() {
    let Some(world) = World::new() else { return };
    let id = crate::oracle::snapshot(&world, 1, [(0, crate::oracle::random_block(0))]);
    let mount = world.mount(&[&id]);
    mount.signal(Signal::STOP);
    let start = Instant::now();
    let found = json(&world);
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "{:?}",
        start.elapsed()
    );
    let mounts = ours(&world, &found["mounts"], "mountpoint");
    assert_eq!(mounts[0]["daemon"]["state"], "alive", "{found:#}");
    mount.signal(Signal::CONT);
    world.unmount(&mount);
}

#[test]
fn another_user_is_shown_nothing_of_it() {
    let Some(world) = World::for_everyone() else {
        return;
    };
    let id = crate::oracle::snapshot(&world, 1, [(0, crate::oracle::random_block(0))]);
    let mount = world.mount(&[&id]);
    let program = world.program_for_all();
    let mut command = world.surround(limited("setpriv"));
    command
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"])
        .arg(program)
        .args(["ps", "--json"]);
    let found: Value = serde_json::from_str(&finish(&mut command).ok()).unwrap();
    for list in ["mounts", "browsed", "loops", "overlays", "leftovers"] {
        assert_eq!(found[list].as_array().unwrap().len(), 0, "{found:#}");
    }
    assert_eq!(ours(&world, &json(&world)["mounts"], "mountpoint").len(), 1);
    world.unmount(&mount);
}
