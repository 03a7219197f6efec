//! Files out of a snapshot over HTTP, without a mount, beside the same through one.
//!
//! An ext4 and an XFS of ten thousand small files. Every run begins with nothing: no block in memory, none on disk, no
//! profile. Servers are warm. What stands beside `ebsfs cp -r` is `cp -r` from a loop mount that is there already; the
//! program's start and all that it looks up before the first file are in its own time. Copies go to memory: an ext4 takes no number
//! of a file that was removed just before, and looks for others longer than the copy takes. Loop devices need root.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;

use crate::Plan;
use crate::devices::{Loop, Tree};
use crate::measure::{in_turn, time};
use crate::server::Server;
use crate::setup::{MIB, MountPoint, Scratch, noise};
use crate::table::Row;

/// Of each tree.
const FILES: u64 = 10_000;

const CACHE_MIB: u64 = 256;

/// A snapshot of a file system with the tree.
struct Snapshot {
    format: &'static str,
    id: String,
}

struct World {
    disk: Scratch,
    memory: Scratch,
    /// Bytes of all files.
    bytes: u64,
    snapshots: Vec<Snapshot>,
    servers: [(&'static str, Server); 2],
}

/// All rows of this part.
pub(crate) fn rows(plan: &Plan) -> Vec<Row> {
    let world = World::new();
    let mut rows = vec![];
    for snapshot in &world.snapshots {
        for (latency, server) in &world.servers {
            rows.extend(first_file(plan, &world, snapshot, latency, server));
        }
    }
    // The kernel mounts an XFS that was in order as well; one comparison is enough.
    for (latency, server) in &world.servers {
        rows.extend(copy(plan, &world, &world.snapshots[0], latency, server));
    }
    rows
}

impl World {
    fn new() -> Self {
        let (disk, memory) = (Scratch::new(), Scratch::in_memory());
        let store = memory.path("store");
        let tree = memory.path("tree");
        let bytes = make_tree(&tree);
        let make = |format| {
            let image = memory.path(format);
            File::create_new(&image).unwrap().set_len(2 << 30).unwrap();
            time(Command::new(format!("mkfs.{format}")).arg("-q").arg(&image));
            let at = memory.path("filled");
            fs::create_dir_all(&at).unwrap();
            let device = Loop::over(&image);
            time(Command::new("mount").arg(&device.0).arg(&at));
            time(Command::new("cp").arg("-r").arg(&tree).arg(&at));
            time(Command::new("umount").arg(&at));
            drop(device);
            let (_, id) = time(memory.ebsfs(&store).arg("import").arg(&image));
            fs::remove_file(image).unwrap();
            let id = id.trim().to_owned();
            Snapshot { format, id }
        };
        let snapshots: Vec<_> = ["ext4", "xfs"].map(make).into();
        let servers = ["0ms", "50ms"].map(|latency| {
            let fault = format!("latency={latency}");
            let server = Server::start(&memory, &store, &["--fault", &fault]);
            for snapshot in &snapshots {
                server.warm(&memory, &snapshot.id);
            }
            (latency, server)
        });
        Self {
            disk,
            memory,
            bytes,
            snapshots,
            servers,
        }
    }

    /// The program, which has never been run before.
    fn fresh(&self, server: &Server) -> (Command, tempfile::TempDir) {
        let caches = tempfile::tempdir_in(self.disk.path("")).unwrap();
        let mut command = server.ebsfs(&self.memory);
        command.env("XDG_CACHE_HOME", caches.path());
        (command, caches)
    }
}

/// Some fifty files in a directory; most are small, as in trees of programs and in home directories.
fn make_tree(root: &Path) -> u64 {
    let mut rng = Rng::with_seed(7);
    let mut bytes = 0;
    for number in 0..FILES {
        let dir = root.join(format!("d{:03}", number / 50));
        fs::create_dir_all(&dir).unwrap();
        let len = (1 << rng.u32(9..14)) + rng.usize(0..512);
        fs::write(dir.join(format!("f{number}")), &noise(number, len)[..len]).unwrap();
        bytes += len as u64;
    }
    bytes
}

/// From nothing to the content of a file, and what was fetched for it.
fn first_file(
    plan: &Plan,
    world: &World,
    snapshot: &Snapshot,
    latency: &str,
    server: &Server,
) -> [Row; 2] {
    let wanted = match (snapshot.format, latency) {
        ("xfs", _) => 800.0,
        (_, "0ms") => 100.0,
        _ => 500.0,
    };
    let place = format!("{}:/tree/d100/f5025", snapshot.id);
    let [runs] = in_turn(
        plan.remote_rounds,
        [&|_| {
            let (mut command, _caches) = world.fresh(server);
            let begin = Instant::now();
            let output = command.args(["-v", "cat", &place]).output().unwrap();
            let taken = begin.elapsed().as_secs_f64() * 1000.0;
            assert!(output.status.success() && output.stdout.len() > 500);
            (taken, fetches(&output.stderr))
        }],
    );
    let (times, fetched): (Vec<f64>, Vec<f64>) = runs.into_iter().unzip();
    let name = format!("first file by cat, {}, {latency}", snapshot.format);
    let blocks = Row::never_more(&format!("{name}, blocks fetched"), &fetched, 16.0);
    [
        Row::wanted(&format!("{name}, ms"), &times, wanted, true),
        match snapshot.format {
            "ext4" => blocks,
            // Its inodes are asked for by the chunk, with what they need; that is wanted to be fast, and not few.
            _ => blocks.reported(),
        },
    ]
}

/// From what the program logs in the end.
fn fetches(log: &[u8]) -> f64 {
    let log = String::from_utf8_lossy(log);
    let counted = log.split("\"fetches\":").nth(1).unwrap();
    let digits = counted.trim_start().split(|c: char| !c.is_ascii_digit());
    digits.into_iter().next().unwrap().parse().unwrap()
}

/// The whole tree, and the memory that it takes.
fn copy(
    plan: &Plan,
    world: &World,
    snapshot: &Snapshot,
    latency: &str,
    server: &Server,
) -> [Row; 2] {
    let [ours, beside] = in_turn(
        plan.remote_rounds,
        [&|_| ours(world, snapshot, server), &|_| {
            (through_loop(world, snapshot, server), 0.0)
        }],
    );
    let times = |runs: &[(Duration, f64)]| runs.iter().map(|run| run.0).collect::<Vec<_>>();
    let memory: Vec<f64> = ours.iter().map(|run| run.1).collect();
    let name = format!(
        "cp -r of {FILES} small files, {}, {latency}",
        snapshot.format
    );
    let most = (CACHE_MIB + 64) as f64;
    [
        Row::rates(
            &format!("{name}, beside cp -r through loop"),
            world.bytes / MIB,
            &times(&ours),
            &times(&beside),
            0.5,
        ),
        Row::never_more(&format!("{name}, memory, MiB"), &memory, most),
    ]
}

fn ours(world: &World, snapshot: &Snapshot, server: &Server) -> (Duration, f64) {
    let to = world.memory.path("ours");
    let (mut command, _caches) = world.fresh(server);
    command.args(["cp", "-r", &format!("{}:/tree", snapshot.id)]);
    let begin = Instant::now();
    let mut child = command.arg(&to).stderr(Stdio::null()).spawn().unwrap();
    let mut peak = 0.0;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        peak = memory_of(child.id()).max(peak);
        thread::sleep(Duration::from_millis(2));
    };
    let taken = begin.elapsed();
    assert!(status.success());
    finish(&to);
    (taken, peak)
}

/// MiB that a process ever had; none once it has ended.
fn memory_of(id: u32) -> f64 {
    let mut status = String::new();
    let file = File::open(format!("/proc/{id}/status"));
    drop(file.and_then(|mut file| file.read_to_string(&mut status)));
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.and_then(|peak| peak.trim().trim_end_matches(" kB").parse::<f64>().ok());
    peak.unwrap_or(0.0) / 1024.0
}

fn through_loop(world: &World, snapshot: &Snapshot, server: &Server) -> Duration {
    let to = world.memory.path("beside");
    let (mut command, caches) = world.fresh(server);
    command.args(["mount", &snapshot.id]);
    let mount = MountPoint::by(caches.path().join("mnt"), &mut command);
    let file: PathBuf = mount.path.join(format!("{}.img", snapshot.id));
    let tree = Tree::of(&file, world.disk.path("tree"));
    let mut cp = Command::new("cp");
    let (taken, _) = time(cp.arg("-r").arg(tree.path.join("tree")).arg(&to));
    finish(&to);
    taken
}

/// All is there, and goes.
fn finish(copy: &Path) {
    let count = fs::read_dir(copy).unwrap().map(|dir| {
        let entries = fs::read_dir(dir.unwrap().path()).unwrap();
        entries.count() as u64
    });
    assert_eq!(count.sum::<u64>(), FILES);
    fs::remove_dir_all(copy).unwrap();
}
