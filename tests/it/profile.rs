//! Access profiles: what one mount read, the next one fetches many at a time, and only when somebody reads.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use crate::images::{BLOCK, Disk, GIB, random_block};
use crate::kernel;
use crate::overlaid::client;
use crate::program::{files_below, id_of, wait_until};
use crate::serving::Server;
use crate::world::{Mount, World, eventually, run};

/// Blocks with data, from the first on.
const DATA: u64 = 400;

/// A snapshot in a store that is served.
struct Case {
    world: World,
    server: Server,
    id: String,
}

impl Case {
    fn new(faults: &str) -> Option<Self> {
        let world = World::new()?;
        let image = Disk::new(world.path("disk.img"), GIB).blocks(0, DATA, 5);
        let id = world.import(image.path());
        let server = Server::start(world.dir(), &["--fault", faults]);
        Some(Self { world, server, id })
    }

    /// Mounts `id` anew, with nothing in memory.
    #[track_caller]
    fn mount(&self, id: &str, options: &[&str]) -> Mount {
        let at = tempfile::tempdir_in(self.world.dir()).unwrap().keep();
        let arguments = [&["mount", id, at.to_str().unwrap()], options].concat();
        client(&self.world, &self.server, &arguments).ok();
        Mount::at(at)
    }

    /// Mounts, reads, and ends the mount.
    #[track_caller]
    fn read_once(&self, blocks: &[u64], options: &[&str]) {
        let mount = self.mount(&self.id, options);
        read(&mount, &self.id, blocks);
        self.world.unmount(&mount);
    }

    fn profiles(&self) -> Vec<PathBuf> {
        let mut files = files_below(&self.world.path("cache/ebsfs/profiles"));
        // One may be half-written at any moment.
        files.retain(|file| file.extension().is_none());
        files
    }
}

/// Blocks in an order in which no stream is seen.
fn scattered(range: std::ops::Range<u64>) -> Vec<u64> {
    let count = range.end - range.start;
    assert!(!count.is_multiple_of(37));
    (0..count).map(|i| range.start + i * 37 % count).collect()
}

/// Reads a little of each block, which must be right.
#[track_caller]
fn read(mount: &Mount, id: &str, blocks: &[u64]) {
    let file = fs::File::open(mount.disk(id)).unwrap();
    for block in blocks {
        let mut page = [0; 4096];
        file.read_exact_at(&mut page, block * BLOCK + 8192).unwrap();
        assert!(page == random_block(5 << 32 | block)[8192..8192 + 4096]);
    }
}

/// Nothing but the profile fetches what nobody has asked for.
const ALONE: &str = "--no-read-ahead";

fn fetched(mount: &Mount, id: &str) -> u64 {
    mount.count(id, "profile_fetches")
}

fn used(mount: &Mount, id: &str) -> u64 {
    mount.count(id, "profile_hits")
}

#[test]
fn the_next_mount_fetches_at_once_what_the_last_one_found_one_by_one() {
    let Some(case) = Case::new("latency=20ms") else {
        return;
    };
    let walk = scattered(5..155);
    case.read_once(&walk, &[ALONE]);
    assert_eq!(case.profiles().len(), 1);
    let mount = case.mount(&case.id, &[ALONE]);
    read(&mount, &case.id, &walk[..1]);
    // Nobody asked for any of these.
    eventually("a first few are fetched", || {
        (mount.count(&case.id, "fetches") > 30).then_some(())
    });
    assert!(fetched(&mount, &case.id) <= 34);
    read(&mount, &case.id, &walk);
    assert_eq!(used(&mount, &case.id), fetched(&mount, &case.id));
    assert!(used(&mount, &case.id) > 140);
    // No block was fetched twice, and none that nobody read, but for the partition table's.
    let fetches = mount.count(&case.id, "fetches");
    assert!((150..=153).contains(&fetches), "{fetches}");
}

#[test]
fn a_mount_that_nobody_reads_fetches_nothing_of_it() {
    let Some(case) = Case::new("latency=0ms") else {
        return;
    };
    case.read_once(&scattered(5..105), &[]);
    let mount = case.mount(&case.id, &[]);
    assert_eq!(mount.names(), [format!("{}.img", case.id)]);
    assert_eq!(fs::metadata(mount.disk(&case.id)).unwrap().len(), GIB);
    thread::sleep(Duration::from_millis(300));
    assert_eq!(fetched(&mount, &case.id), 0);
    assert!(mount.count(&case.id, "fetches") <= 2, "the partition table");
    // It is there all the same.
    read(&mount, &case.id, &[5]);
    eventually("it is followed", || {
        (fetched(&mount, &case.id) > 0).then_some(())
    });
}

#[test]
fn who_reads_something_else_does_not_pay_for_it() {
    let Some(case) = Case::new("latency=5ms") else {
        return;
    };
    case.read_once(&scattered(5..155), &[]);
    let mount = case.mount(&case.id, &[]);
    read(&mount, &case.id, &[5]);
    eventually("it is followed", || {
        (fetched(&mount, &case.id) > 0).then_some(())
    });
    read(&mount, &case.id, &scattered(200..380));
    // One block of it again: nothing is trusted any more.
    read(&mount, &case.id, &[80]);
    let fetched = fetched(&mount, &case.id);
    assert!((1..=36).contains(&fetched), "{fetched}");
    case.world.unmount(&mount);
    // What was read last is what comes first now.
    let mount = case.mount(&case.id, &[]);
    read(&mount, &case.id, &scattered(200..380));
    assert!(used(&mount, &case.id) > 160);
}

#[test]
fn without_profiles_none_is_noted_and_none_followed() {
    let Some(case) = Case::new("latency=0ms") else {
        return;
    };
    let walk = scattered(5..105);
    case.read_once(&walk, &["--no-profile"]);
    assert_eq!(case.profiles(), [""; 0].map(PathBuf::from));
    case.read_once(&walk, &[]);
    let mount = case.mount(&case.id, &["--no-profile"]);
    read(&mount, &case.id, &walk);
    assert_eq!(fetched(&mount, &case.id), 0);
    // A directory is as near as its profile would be.
    let near = case.world.mount(&[&case.id]);
    read(&near, &case.id, &walk);
    case.world.unmount(&near);
    assert_eq!(case.profiles().len(), 1);
}

#[test]
fn what_is_no_profile_is_none() {
    let Some(case) = Case::new("latency=0ms") else {
        return;
    };
    let walk = scattered(5..105);
    case.read_once(&walk, &[]);
    let [profile] = &case.profiles()[..] else {
        panic!("{:?}", case.profiles());
    };
    let mut bytes = fs::read(profile).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(profile, bytes).unwrap();
    let mount = case.mount(&case.id, &[]);
    read(&mount, &case.id, &walk);
    assert_eq!(fetched(&mount, &case.id), 0);
    // The next one is good again.
    case.world.unmount(&mount);
    let mount = case.mount(&case.id, &[]);
    read(&mount, &case.id, &walk);
    assert!(used(&mount, &case.id) > 90);
}

#[test]
fn a_killed_daemon_has_forgotten_seconds_only() {
    let Some(case) = Case::new("latency=0ms") else {
        return;
    };
    let walk = scattered(5..105);
    let mount = case.mount(&case.id, &[]);
    read(&mount, &case.id, &walk);
    wait_until("it is written down", || case.profiles().len() == 1);
    kernel::kill(mount.pid);
    eventually("the daemon ends", || kernel::gone(mount.pid).then_some(()));
    run("umount", ["-l", mount.dir.to_str().unwrap()]).ok();
    let mount = case.mount(&case.id, &[]);
    read(&mount, &case.id, &walk);
    assert!(used(&mount, &case.id) > 90);
}

#[test]
fn a_child_has_its_parents_profile_however_it_was_committed() {
    let Some(case) = Case::new("latency=0ms") else {
        return;
    };
    let (world, server, walk) = (&case.world, &case.server, scattered(5..105));
    let mount = case.mount(&case.id, &["--overlay", "overlay"]);
    read(&mount, &case.id, &walk[..60]);
    let write = |mount: &Mount, shown: &str| {
        let file = fs::File::options().write(true).open(mount.disk(shown));
        file.unwrap().write_all_at(&[9; 4096], 300 * BLOCK).unwrap();
    };
    write(&mount, &case.id);
    let at = mount.dir.to_str().unwrap();
    let child = id_of(&client(world, server, &["commit", "--wait", at]).ok());
    // What is read after the commit is the child's, too.
    read(&mount, &case.id, &walk[60..]);
    write(&mount, &case.id);
    world.unmount(&mount);
    let grandchild = id_of(&client(world, server, &["commit", "--wait", "overlay"]).ok());
    for id in [&child, &grandchild] {
        let mount = case.mount(id, &[]);
        read(&mount, id, &walk);
        let used = used(&mount, id);
        assert!(used > 90, "{used} of {id}");
        world.unmount(&mount);
    }
}

#[test]
fn a_service_that_fails_makes_no_read_fail() {
    let Some(case) =
        Case::new("error=0.1,throttle=0.1,truncate=0.05,reset=0.05,corrupt=0.05,seed=3")
    else {
        return;
    };
    let walk = scattered(5..105);
    case.read_once(&walk, &[]);
    let mount = case.mount(&case.id, &["--cache-size", "8MiB"]);
    read(&mount, &case.id, &walk);
    assert!(used(&mount, &case.id) > 0);
}
