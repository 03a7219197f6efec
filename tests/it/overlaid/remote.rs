//! Overlays over a service: slow, failing, and slow to complete.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant};

use rustix::fs::fsync;

use super::{assert_equal, assert_exports};
use crate::images::{BLOCK, Disk, GIB, random_block};
use crate::program::id_of;
use crate::serving::Server;
use crate::world::{Mount, World, finish, run};

/// Runs the program as a client of `server`.
pub(crate) fn client(world: &World, server: &Server, arguments: &[&str]) -> crate::world::Said {
    let mut command = world.bare();
    server.environment(&mut command);
    finish(command.args(arguments))
}

fn mount(world: &World, server: &Server, id: &str) -> Mount {
    let at = world.empty("remote");
    let arguments = ["mount", id, at.to_str().unwrap(), "--overlay", "overlay"];
    client(world, server, &arguments).ok();
    Mount::at(at)
}

#[test]
fn whole_pages_are_written_without_waiting_for_a_slow_service() {
    let Some(world) = World::new() else { return };
    let image = Disk::new(world.path("disk.img"), GIB).blocks(0, 100, 5);
    let id = world.import(image.path());
    let server = Server::start(world.dir(), &["--fault", "latency=3s"]);
    let mount = mount(&world, &server, &id);
    let file = fs::File::options()
        .read(true)
        .write(true)
        .open(mount.disk(&id))
        .unwrap();
    let begin = Instant::now();
    for page in 0..200 {
        file.write_all_at(&[1; 4096], page * 100_000 / 4096 * 4096)
            .unwrap();
    }
    fsync(&file).unwrap();
    assert!(begin.elapsed() < Duration::from_secs(3), "it waited");
    // A part of a page reads the rest of it first.
    let begin = Instant::now();
    file.write_all_at(b"part", 90 * BLOCK + 4095).unwrap();
    assert!(begin.elapsed() > Duration::from_secs(3), "it did not wait");
    let mut found = vec![0; 8192];
    file.read_exact_at(&mut found, 90 * BLOCK).unwrap();
    let mut expected = random_block(5 << 32 | 90)[..8192].to_vec();
    expected[4095..4099].copy_from_slice(b"part");
    assert!(found == expected);
}

#[test]
fn a_commit_through_every_fault_is_the_edited_disk() {
    let Some(world) = World::new() else { return };
    let image = Disk::new(world.path("disk.img"), GIB).blocks(0, 100, 5);
    let id = world.import(image.path());
    let faults = "latency=50ms,error=0.1,throttle=0.05,truncate=0.05,reset=0.05,corrupt=0.01,complete-after=3s,\
         token-ttl=2s,rotate-tokens,seed=3";
    let server = Server::start(world.dir(), &["--fault", faults]);
    let mount = mount(&world, &server, &id);
    let disk = mount.disk(&id);
    let file = fs::File::options()
        .read(true)
        .write(true)
        .open(&disk)
        .unwrap();
    for block in 0..60 {
        let bytes = random_block(block);
        // Whole blocks, and parts of blocks of the parent's and of none.
        let len = if block % 3 == 0 { bytes.len() } else { 5000 };
        file.write_all_at(&bytes[..len], block * 3 * BLOCK).unwrap();
    }
    fsync(&file).unwrap();
    let at = mount.dir.to_str().unwrap();
    let began = Instant::now();
    // The id comes before the snapshot is completed; a second commit must wait.
    let first = id_of(&client(&world, &server, &["commit", at]).ok());
    client(&world, &server, &["commit", at]).refused(2, &[&first]);
    let wait = || client(&world, &server, &["overlay", "info", "overlay", "--json"]).ok();
    crate::program::wait_until("the commit is settled", || {
        let info: serde_json::Value = serde_json::from_str(&wait()).unwrap();
        info["base"] == *first
    });
    assert!(began.elapsed() > Duration::from_secs(3));
    let now = world.path("now.img");
    run(
        "cp",
        [
            "--sparse=always",
            disk.to_str().unwrap(),
            now.to_str().unwrap(),
        ],
    )
    .ok();
    assert_exports(&world, &first, &now);
    assert_exports(&world, &id, image.path());
    assert_equal(&disk, &now);
}

#[test]
fn a_mount_of_what_was_just_committed_settles_it_first() {
    let Some(world) = World::new() else { return };
    let image = Disk::new(world.path("disk.img"), GIB).blocks(0, 3, 5);
    let id = world.import(image.path());
    let server = Server::start(world.dir(), &["--fault", "complete-after=3s"]);
    let mounted = mount(&world, &server, &id);
    let file = fs::File::options().write(true).open(mounted.disk(&id));
    file.unwrap().write_all_at(&[9; 4096], 4096).unwrap();
    let at = mounted.dir.to_str().unwrap();
    let child = id_of(&client(&world, &server, &["commit", at]).ok());
    world.unmount(&mounted);
    let again = || {
        client(
            &world,
            &server,
            &["mount", &child, at, "--overlay", "overlay"],
        )
    };
    again().refused(6, &[&child, "still being completed"]);
    crate::program::wait_until("it is completed", || again().code == Some(0));
    let mounted = Mount::at(mounted.dir.clone());
    let mut found = [0; 4096];
    let file = fs::File::open(mounted.disk(&child)).unwrap();
    file.read_exact_at(&mut found, 4096).unwrap();
    assert_eq!(found, [9; 4096]);
}
