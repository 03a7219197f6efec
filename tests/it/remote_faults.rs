//! The program as a client of a server that fails in every way, and goes away for a while: mounts read the right
//! bytes, imports put them, and the user sees no error.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::images::{BLOCK, Disk, GIB, Random};
use crate::serving::Server;
use crate::world::{Mount, World, finish};

/// Everything at once, errors and throttles in a tenth of all requests. Latency is what makes the rest last.
const FAULTS: &str = "latency=200ms,error=0.05,throttle=0.05,truncate=0.05,reset=0.05,corrupt=0.01,\
    token-ttl=2s,rotate-tokens,seed=7";

/// How many read at one time: nobody reads ahead yet, and each block takes a few round trips.
const READERS: u64 = 16;

/// An image of 2 GiB with 400 blocks, some together and some alone.
fn image(world: &World) -> PathBuf {
    let path = world.path("disk.img");
    let mut random = Random(1);
    let mut disk = Disk::new(&path, 2 * GIB);
    for run in 0..40 {
        let start = run * 100 + random.below(80);
        disk = disk.blocks(start, random.below(19) + 1, run + 1);
    }
    path
}

/// The program as a client of `server`, started in this world.
fn client(world: &World, server: &Server, arguments: &[&str]) -> Command {
    let mut command = world.bare();
    server.environment(&mut command);
    command.args(arguments);
    command
}

/// Mounts `id` of the server.
fn mount(world: &World, server: &Server, id: &str, options: &[&str]) -> Mount {
    let at = world.empty("remote");
    let arguments = [&["mount", id, at.to_str().unwrap()], options].concat();
    let said = finish(&mut client(world, server, &arguments));
    assert_eq!(said.ok(), "");
    Mount::at(at)
}

/// Reads all of both files, with many readers, and panics where they differ.
fn assert_same(mounted: &Path, image: &Path) {
    let (mounted, image) = (File::open(mounted).unwrap(), File::open(image).unwrap());
    let blocks = image.metadata().unwrap().len() / BLOCK;
    assert_eq!(mounted.metadata().unwrap().len(), blocks * BLOCK);
    thread::scope(|scope| {
        for reader in 0..READERS {
            let (mounted, image) = (&mounted, &image);
            scope.spawn(move || {
                let (mut ours, mut expected) = (vec![0; BLOCK as usize], vec![0; BLOCK as usize]);
                for block in (reader..blocks).step_by(READERS as usize) {
                    let read = mounted.read_exact_at(&mut ours, block * BLOCK);
                    read.unwrap_or_else(|e| panic!("block {block}: {e}"));
                    image.read_exact_at(&mut expected, block * BLOCK).unwrap();
                    assert!(ours == expected, "block {block} differs");
                }
            });
        }
    });
}

fn assert_exports(world: &World, id: &str, image: &Path) {
    let out = world.path("out.img");
    world.ebsfs(["export", id, out.to_str().unwrap()]).ok();
    assert_same(&out, image);
}

#[test]
fn a_mount_reads_the_right_bytes_under_every_fault() {
    read_under_every_fault(&[]);
}

#[test]
fn a_mount_without_a_disk_cache_does_so_too() {
    read_under_every_fault(&["--cache-disk-size", "none"]);
}

fn read_under_every_fault(options: &[&str]) {
    let Some(world) = World::new() else { return };
    let image = image(&world);
    let id = world.import(&image);
    let server = Server::start(world.dir(), &["--fault", FAULTS]);
    let mount = mount(&world, &server, &id, options);
    assert_same(&mount.disk(&id), &image);
    assert_eq!(mount.count(&id, "errors"), 0);
    assert_eq!(mount.count(&id, "disk_corrupt"), 0);
}

#[test]
fn an_import_puts_the_right_bytes_under_every_fault() {
    let Some(world) = World::new() else { return };
    let image = image(&world);
    world.ebsfs(["list"]);
    let server = Server::start(world.dir(), &["--fault", FAULTS]);
    let arguments = ["import", "--wait", image.to_str().unwrap()];
    let said = finish(&mut client(&world, &server, &arguments));
    let id = said.ok().trim_end().to_owned();
    assert_exports(&world, &id, &image);
    // And an export brings them back.
    let arguments = ["export", &id, "back.img"];
    finish(&mut client(&world, &server, &arguments)).ok();
    assert_same(&world.path("back.img"), &image);
}

#[test]
fn an_outage_of_twenty_seconds_delays_and_does_not_fail() {
    const OUTAGE: Duration = Duration::from_secs(20);
    let Some(world) = World::new() else { return };
    let image = image(&world);
    let id = world.import(&image);
    let slow = ["--fault", "latency=100ms"];
    let server = Server::start(world.dir(), &slow);
    let mount = mount(&world, &server, &id, &[]);
    let mut import = client(&world, &server, &["import", image.to_str().unwrap()]);
    thread::scope(|scope| {
        let begin = Instant::now();
        let reading = scope.spawn(|| assert_same(&mount.disk(&id), &image));
        let importing = scope.spawn(|| finish(&mut import));
        // In the middle of both.
        thread::sleep(Duration::from_secs(1));
        assert!(!reading.is_finished() && !importing.is_finished());
        let address = server.kill();
        thread::sleep(OUTAGE);
        let _server = Server::start_at(&address, world.dir(), &slow);
        reading.join().unwrap();
        let imported = importing.join().unwrap().ok();
        assert!(begin.elapsed() > OUTAGE);
        assert_exports(&world, imported.trim_end(), &image);
    });
    assert_eq!(mount.count(&id, "errors"), 0);
    fs::remove_file(image).unwrap();
}
