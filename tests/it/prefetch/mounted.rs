//! Read-ahead of mounts over HTTP: the right bytes, each block once, and next to nothing that nobody asked for.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::thread;

use crate::images::{BLOCK, Disk, GIB, Random, random_block};
use crate::serving::Server;
use crate::world::{Mount, World, finish, run, umount};

/// An image of 1 GiB: 40 runs of ten blocks.
fn image(world: &World) -> PathBuf {
    let path = world.path("disk.img");
    (0..40).fold(Disk::new(&path, GIB), |disk, run| {
        disk.blocks(run * 50 + 3, 10, run + 1)
    });
    path
}

/// Of present blocks. The table of partitions, which is none, is looked for before anything is listed: one fetch.
const PRESENT: u64 = 400;

struct Case {
    mount: Mount,
    id: String,
    image: PathBuf,
    _server: Server,
}

impl Case {
    /// The image, mounted by way of a server with these faults.
    fn new(world: &World, faults: &str, options: &[&str]) -> Self {
        Self::of(world, image(world), faults, options)
    }

    fn of(world: &World, image: PathBuf, faults: &str, options: &[&str]) -> Self {
        let id = world.import(&image);
        let server = Server::start(world.dir(), &["--fault", faults]);
        let at = world.empty(&format!("remote.{id}"));
        let mut command = world.bare();
        server.environment(&mut command);
        let said = finish(command.arg("mount").args(options).arg(&id).arg(&at));
        assert_eq!(said.ok(), "");
        Self {
            mount: Mount::at(at),
            id,
            image,
            _server: server,
        }
    }

    fn count(&self, name: &str) -> u64 {
        self.mount.count(&self.id, name)
    }

    fn open(&self) -> (File, File) {
        let disk = self.mount.disk(&self.id);
        (File::open(disk).unwrap(), File::open(&self.image).unwrap())
    }

    /// Reads from one end to the other, as `dd` does.
    fn read_through(&self) {
        let (mut disk, mut image) = self.open();
        let (mut ours, mut expected) = (vec![0; 1 << 20], vec![0; 1 << 20]);
        for at in 0..1024 {
            disk.read_exact(&mut ours).unwrap();
            image.read_exact(&mut expected).unwrap();
            assert!(ours == expected, "MiB {at} differs");
        }
        assert_eq!(self.count("errors"), 0);
    }
}

/// Through a loop device the reads are of another kind: in pieces of the file system's choice, with its metadata between.
#[test]
fn a_file_of_a_mounted_file_system_is_read_ahead() {
    let Some(world) = World::for_root() else {
        return;
    };
    let (tree, image) = (world.empty("tree"), world.path("fs.img"));
    let content: Vec<u8> = (0..200).flat_map(random_block).collect();
    fs::write(tree.join("file"), &content).unwrap();
    let make = run(
        "mkfs.ext4",
        [
            "-q",
            "-d",
            tree.to_str().unwrap(),
            image.to_str().unwrap(),
            "256M",
        ],
    );
    make.ok();
    for (number, options) in [&["--direct-io=on"][..], &[]].into_iter().enumerate() {
        let case = Case::of(&world, image.clone(), "latency=5ms", &[]);
        let device = world.attach(&case.mount.disk(&case.id), options);
        let at = world.empty(&format!("inner{number}"));
        run("mount", ["-o", "ro,noload", &device, at.to_str().unwrap()]).ok();
        assert!(fs::read(at.join("file")).unwrap() == content);
        let (fetches, used) = (case.count("fetches"), case.count("read_ahead_used"));
        assert!(used > 150, "{used} of {fetches} were read ahead");
        assert!(fetches < 240, "{fetches} fetched");
        umount(&at);
        run("losetup", ["-d", &device]).ok();
        world.unmount(&case.mount);
    }
}

#[test]
fn a_sequential_read_fetches_each_present_block_once_and_ahead() {
    let Some(world) = World::new() else { return };
    let case = Case::new(&world, "latency=20ms", &[]);
    case.read_through();
    assert_eq!(case.count("fetches"), PRESENT + 1);
    let ahead = case.count("read_ahead");
    assert!(ahead > PRESENT * 9 / 10, "{ahead}");
    assert_eq!(case.count("read_ahead_used"), ahead);
    assert_eq!(case.count("read_ahead_wasted"), 0);
}

#[test]
fn without_read_ahead_nothing_is_fetched_before_it_is_read() {
    let Some(world) = World::new() else { return };
    let case = Case::new(&world, "latency=1ms", &["--no-read-ahead"]);
    case.read_through();
    assert_eq!(
        (case.count("fetches"), case.count("read_ahead")),
        (PRESENT + 1, 0)
    );
}

#[test]
fn random_reads_fetch_at_most_a_tenth_more_than_they_touch() {
    let Some(world) = World::new() else { return };
    let case = Case::new(&world, "latency=5ms", &[]);
    let before = case.count("fetches");
    let (disk, image) = case.open();
    let touched = thread::scope(|scope| {
        let read = |reader| {
            let (disk, image) = (&disk, &image);
            scope.spawn(move || {
                let mut random = Random(reader);
                let (mut ours, mut expected) = ([0; 4096], [0; 4096]);
                let mut touched = vec![];
                for _ in 0..12 {
                    let block = random.below(40) * 50 + 3 + random.below(10);
                    let at = block * BLOCK + random.below(100) * 4096;
                    disk.read_exact_at(&mut ours, at).unwrap();
                    image.read_exact_at(&mut expected, at).unwrap();
                    assert!(ours == expected, "block {block} differs");
                    touched.push(block);
                }
                touched
            })
        };
        let readers: Vec<_> = (1..17).map(read).collect();
        let touched = readers
            .into_iter()
            .flat_map(|reader| reader.join().unwrap());
        touched.collect::<std::collections::BTreeSet<_>>().len() as u64
    });
    let fetched = case.count("fetches") - before;
    assert!(
        fetched * 10 <= touched * 11,
        "{fetched} fetched, {touched} touched"
    );
}

#[test]
fn sixteen_streams_at_one_time_fetch_nothing_twice() {
    let Some(world) = World::new() else { return };
    let case = Case::new(&world, "latency=10ms", &[]);
    let (disk, image) = case.open();
    thread::scope(|scope| {
        for reader in 0..16 {
            let (disk, image) = (&disk, &image);
            scope.spawn(move || {
                let (mut ours, mut expected) = (vec![0; 1 << 18], vec![0; 1 << 18]);
                for at in (reader * 256..(reader + 1) * 256).map(|at| at << 18) {
                    disk.read_exact_at(&mut ours, at).unwrap();
                    image.read_exact_at(&mut expected, at).unwrap();
                    assert!(ours == expected, "{at} differs");
                }
            });
        }
    });
    assert_eq!(case.count("fetches"), PRESENT + 1);
    assert_eq!(case.count("errors"), 0);
}

/// Errors, throttles, wrong bytes, and tokens that expire in the middle: with a cache that holds thirty blocks.
#[test]
fn a_sequential_read_is_right_under_every_fault() {
    let Some(world) = World::new() else { return };
    let faults = "latency=20ms,error=0.05,throttle=0.05,truncate=0.05,reset=0.05,corrupt=0.01,\
        token-ttl=2s,rotate-tokens,seed=3";
    let case = Case::new(&world, faults, &["--cache-size", "16MiB"]);
    case.read_through();
    assert!(case.count("read_ahead") > PRESENT / 2);
    let most = crate::kernel::memory(case.mount.pid, "VmHWM") >> 20;
    assert!(most <= 16 + 64, "{most} MiB");
    let stats = fs::read_to_string(case.mount.dir.join(".ebsfs/stats.json")).unwrap();
    let stats: serde_json::Value = serde_json::from_str(&stats).unwrap();
    assert!(stats["cache"]["bytes"].as_u64().unwrap() <= 16 << 20);
    assert!(stats["remote"]["retries"].as_u64().unwrap() > 0);
}

#[test]
fn the_kernel_reads_whole_blocks_ahead_where_that_is_permitted() {
    let Some(world) = World::for_root() else {
        return;
    };
    let case = Case::new(&world, "latency=0ms", &[]);
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mine = |line: &&str| line.contains(case.mount.dir.to_str().unwrap());
    let device = mounts
        .lines()
        .find(mine)
        .unwrap()
        .split(' ')
        .nth(2)
        .unwrap();
    let setting = format!("/sys/class/bdi/{device}/read_ahead_kb");
    assert_eq!(fs::read_to_string(setting).unwrap().trim(), "1024");
    // And so a request is one block.
    case.read_through();
    assert!(case.count("reads") <= 2048 + 64, "{}", case.count("reads"));
}
