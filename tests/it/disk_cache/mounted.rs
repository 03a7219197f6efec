//! The disk cache under real mounts of a real server, which comes and goes.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use rustix::process::Signal;
use serde_json::Value;

use crate::common::{block_on, snap};
use crate::images::{BLOCK, Disk, GIB};
use crate::kernel::gone;
use crate::oracle::assert_disk;
use crate::serving::Server;
use crate::world::{Mount, Said, World, eventually, finish};

/// A world with an image of 1 GiB, of which 120 blocks are present, in its store, and a server of that.
fn served() -> Option<(World, PathBuf, String, Server)> {
    let world = World::new()?;
    let image = world.path("disk.img");
    let disk = Disk::new(&image, GIB);
    disk.blocks(0, 80, 1).blocks(500, 39, 2).block(2047, 3);
    let id = world.import(&image);
    let server = Server::start(world.dir(), &[]);
    Some((world, image, id, server))
}

fn client(world: &World, server: &Server, arguments: &[&str]) -> Command {
    let mut command = world.bare();
    server.environment(&mut command);
    command.args(arguments);
    command
}

fn try_mount(world: &World, server: &Server, options: &[&str], id: &str, at: &Path) -> Said {
    let arguments = [&["mount"], options, &[id, at.to_str().unwrap()]].concat();
    finish(&mut client(world, server, &arguments))
}

#[track_caller]
fn mount(world: &World, server: &Server, options: &[&str], id: &str) -> Mount {
    let at = tempfile::TempDir::with_prefix_in("mnt.", world.dir())
        .unwrap()
        .keep();
    assert_eq!(try_mount(world, server, options, id, &at).ok(), "");
    Mount::at(at)
}

fn stats(mount: &Mount) -> Value {
    let text = fs::read_to_string(mount.dir.join(".ebsfs/stats.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[test]
fn a_second_mount_needs_no_server() {
    let Some((world, image, id, server)) = served() else {
        return;
    };
    let first = mount(&world, &server, &[], &id);
    assert_disk(&first.disk(&id), &image);
    assert_eq!(first.count(&id, "disk_misses"), 120);
    assert_eq!(first.count(&id, "disk_skipped"), 0);
    let disk = &stats(&first)["disk_cache"];
    assert_eq!(disk["capacity"], 10 * GIB);
    assert!(disk["bytes"].as_u64().unwrap() >= 120 * BLOCK, "{disk}");
    world.unmount(&first);

    // With the server it is asked for the description alone.
    let second = mount(&world, &server, &[], &id);
    assert_disk(&second.disk(&id), &image);
    let remote = &stats(&second)["remote"];
    assert_eq!(
        (&remote["requests"], &remote["listings"]),
        (&1.into(), &0.into())
    );
    world.unmount(&second);

    let address = server.address.clone();
    let mut environment = Command::new("true");
    server.environment(&mut environment);
    let environment: Vec<_> = environment
        .get_envs()
        .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())))
        .collect();
    server.kill();
    let offline = |options: &[&str]| {
        let at = tempfile::TempDir::with_prefix_in("mnt.", world.dir())
            .unwrap()
            .keep();
        let mut command = world.bare();
        command
            .envs(environment.clone())
            .arg("mount")
            .args(options)
            .arg(&id)
            .arg(&at);
        assert_eq!(finish(&mut command).ok(), "");
        Mount::at(at)
    };
    let third = offline(&[]);
    assert_disk(&third.disk(&id), &image);
    assert_eq!(third.count(&id, "disk_misses"), 0);
    assert_eq!(third.count(&id, "errors"), 0);
    assert!(
        third.log().contains("as the store is away"),
        "{}",
        third.log()
    );
    world.unmount(&third);

    // It can be edited, too.
    let fourth = offline(&["--overlay", "edits"]);
    let disk = File::options()
        .read(true)
        .write(true)
        .open(fourth.disk(&id))
        .unwrap();
    disk.write_all_at(b"edited", 1000).unwrap();
    let mut read = [0; 6];
    disk.read_exact_at(&mut read, 1000).unwrap();
    assert_eq!(&read, b"edited");
    drop(disk);
    world.unmount(&fourth);

    // When the server is back and does not know the snapshot any more, that is said.
    let fifth = offline(&[]);
    world.ebsfs(["delete", "--yes", &id]).ok();
    let _server = Server::start_at(&address, world.dir(), &[]);
    let words = "nothing that was kept of it is used any more";
    eventually("it is said", || fifth.log().contains(words).then_some(()));
    world.unmount(&fifth);
    // And it is not known any more.
    let at = world.empty("gone");
    let mut command = world.bare();
    command.envs(environment).arg("mount").arg(&id).arg(&at);
    finish(&mut command).refused(3, &[&id]);
}

#[test]
fn a_daemon_killed_while_it_fills_leaves_nothing_wrong() {
    let Some((world, image, id, server)) = served() else {
        return;
    };
    for killed_after in [20, 60] {
        let mount = mount(&world, &server, &[], &id);
        let disk = mount.disk(&id);
        thread::scope(|scope| {
            let reader = scope.spawn(move || {
                let disk = File::open(disk)?;
                let mut block = vec![0; BLOCK as usize];
                (0..2048).try_for_each(|i| disk.read_exact_at(&mut block, i * BLOCK))
            });
            eventually("it is in the middle", || {
                let misses = mount.count(&id, "disk_misses") + mount.count(&id, "disk_hits");
                (misses >= killed_after).then_some(())
            });
            mount.signal(Signal::KILL);
            eventually("it is gone", || gone(mount.pid).then_some(()));
            drop(reader.join());
        });
        world.unmount(&mount);
    }
    let again = mount(&world, &server, &[], &id);
    assert_disk(&again.disk(&id), &image);
    let hits = again.count(&id, "disk_hits");
    assert!(hits >= 20, "{hits}");
    assert_eq!(hits + again.count(&id, "disk_misses"), 120);
    assert_eq!(again.count(&id, "disk_corrupt"), 0);
    world.unmount(&again);
    let full = mount(&world, &server, &[], &id);
    assert_disk(&full.disk(&id), &image);
    assert_eq!(full.count(&id, "disk_hits"), 120);
}

#[test]
fn two_daemons_share_the_directory() {
    let Some((world, image, id, server)) = served() else {
        return;
    };
    let mounts = [
        mount(&world, &server, &[], &id),
        mount(&world, &server, &[], &id),
    ];
    thread::scope(|scope| {
        for mount in &mounts {
            scope.spawn(|| assert_disk(&mount.disk(&id), &image));
        }
    });
    for mount in &mounts {
        assert_eq!(mount.count(&id, "disk_corrupt"), 0);
        world.unmount(mount);
    }
    let after = mount(&world, &server, &[], &id);
    assert_disk(&after.disk(&id), &image);
    assert_eq!(after.count(&id, "disk_hits"), 120);
}

#[test]
fn a_directory_of_ones_own_and_none_at_all() {
    let Some((world, image, id, server)) = served() else {
        return;
    };
    let cached = world.path("cache/ebsfs/blocks");
    let off = mount(&world, &server, &["--cache-disk-size", "none"], &id);
    assert_disk(&off.disk(&id), &image);
    assert_eq!(off.count(&id, "disk_misses"), 0);
    assert!(stats(&off)["disk_cache"].is_null());
    world.unmount(&off);
    assert!(!cached.exists());

    let options = ["--cache-dir", "own", "--cache-disk-size", "64MiB"];
    let own = mount(&world, &server, &options, &id);
    assert_disk(&own.disk(&id), &image);
    let disk = &stats(&own)["disk_cache"];
    assert_eq!(disk["capacity"], 64 << 20);
    assert!(disk["bytes"].as_u64().unwrap() <= 64 << 20, "{disk}");
    world.unmount(&own);
    assert!(world.path("own/blocks/v1").is_dir() && !cached.exists());

    // None in front of a local store, and it cannot be asked for.
    let at = world.empty("local");
    let options = ["mount", "--cache-dir", "own", &id, at.to_str().unwrap()];
    world.ebsfs(options).refused(2, &["--cache-dir", "local"]);
    let local = world.mount(&[&id]);
    assert_eq!(local.count(&id, "disk_misses"), 0);
    world.unmount(&local);
    assert!(!cached.exists());
}

#[test]
fn a_directory_that_cannot_be_used() {
    let Some((world, image, id, server)) = served() else {
        return;
    };
    // A file where a directory should be stops root, too.
    fs::write(world.path("cache"), "").unwrap();
    let without = mount(&world, &server, &[], &id);
    assert_disk(&without.disk(&id), &image);
    assert!(without.log().contains("no blocks are kept on disk"));
    world.unmount(&without);
    let at = world.empty("at");
    let said = try_mount(&world, &server, &["--cache-dir", "cache/sub"], &id, &at);
    said.refused(2, &["cache/sub", "cannot be used"]);
}

#[test]
fn a_large_table_is_not_read_when_it_is_opened() {
    let Some(world) = World::new() else { return };
    let id = block_on(async {
        let store = ebsfs::store::directory::DirectoryStore::create(&world.store()).unwrap();
        snap(1024)
            .block(0, 1)
            .block(2_000_000, 2)
            .build(&store)
            .await
            .to_string()
    });
    let server = Server::start(world.dir(), &[]);
    let first = mount(&world, &server, &[], &id);
    let byte = |mount: &Mount, block: u64| {
        let mut byte = [0];
        let disk = File::open(mount.disk(&id)).unwrap();
        disk.read_exact_at(&mut byte, block * BLOCK).unwrap();
        byte[0]
    };
    assert_eq!([0, 2_000_000].map(|block| byte(&first, block)), [1, 2]);
    world.unmount(&first);
    let files = crate::program::files_below(&world.path("cache"));
    let table = files.iter().find(|path| path.ends_with("digests")).unwrap();
    assert!(fs::metadata(table).unwrap().len() > 2_000_000 * 64);
    // As if a million blocks were kept.
    let file = File::options().write(true).open(table).unwrap();
    for at in 1..1000 {
        file.write_all_at(&[7; 64_000], 64 + at * 64_000).unwrap();
    }
    let second = mount(&world, &server, &[], &id);
    assert_eq!([0, 2_000_000].map(|block| byte(&second, block)), [1, 2]);
    assert_eq!(second.count(&id, "disk_hits"), 2);
    let io = fs::read_to_string(format!("/proc/{}/io", second.pid.as_raw_nonzero())).unwrap();
    let read = io
        .lines()
        .find_map(|line| line.strip_prefix("rchar: "))
        .unwrap();
    assert!(read.parse::<u64>().unwrap() < 8 << 20, "{io}");
}
