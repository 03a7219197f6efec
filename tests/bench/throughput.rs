//! `scripts/bench`: import, export, a second read and the daemon's memory, each beside its floor.
//!
//! Everything is measured in one run on one machine, in rounds in which the program and its floor take turns at
//! going first. What counts is the median of the rounds' ratios; the times only give them a scale. The program is
//! run as users run it, as a process; its floor is a process as well. The files read are in the page cache. What is
//! written stays until the end: ext4 avoids the inodes of files just removed, and would be slow at making new ones.
#![allow(
    clippy::as_conversions,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::unwrap_used,
    missing_docs
)]

use std::env;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ebsfs::block::{Block, BlockIndex};
use ebsfs::snapshot::{NewSnapshot, Seal, VolumeSize};
use ebsfs::store::Store as _;
use ebsfs::store::directory::DirectoryStore;
use serde_json::json;

mod floor;

const MIB: u64 = 1 << 20;
const PROGRAM: &str = env!("CARGO_BIN_EXE_ebsfs");

/// What is measured and how long.
struct Plan {
    rounds: usize,
    image_mib: u64,
    /// Of the snapshot that is read through for the daemon's memory.
    memory_gib: u32,
    cache_mib: u64,
}

fn main() {
    let arguments: Vec<String> = env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["floor", from, to] => {
            std::hint::black_box(floor::read_hash_write_sync(Path::new(from), Path::new(to)));
        }
        ["--quick", json @ ..] => run(
            &Plan {
                rounds: 3,
                image_mib: 512,
                memory_gib: 1,
                cache_mib: 64,
            },
            json,
        ),
        json => run(
            &Plan {
                rounds: 4,
                image_mib: 2048,
                memory_gib: 8,
                cache_mib: 256,
            },
            json,
        ),
    }
}

fn run(plan: &Plan, json_file: &[&str]) {
    let scratch = Scratch::new();
    let image = scratch.path("disk.img");
    write_image(&image, plan.image_mib);
    let mut rows = vec![];
    rows.extend(copies(plan, &scratch, &image));
    rows.extend(second_read(plan, &scratch, &image));
    rows.push(memory(plan, &scratch));

    println!(
        "{:42} {:>7} {:>7} {:>6} {:>14} {:>7}",
        "row", "ebsfs", "floor", "ratio", "in rounds", "bar"
    );
    for row in &rows {
        let ratio = row.ratio();
        let verdict = if row.holds() { "" } else { "  MISSED" };
        println!(
            "{:42} {:>7} {:>7} {ratio:>6.2} {:>14} {:>7}{verdict}",
            row.name,
            row.ours,
            row.floor,
            row.spread(),
            row.bar_text()
        );
    }
    if let [path] = json_file {
        let rows: Vec<_> = rows.iter().map(Row::as_json).collect();
        let report = json!({ "machine": machine(), "image_mib": plan.image_mib, "rounds": plan.rounds, "rows": rows });
        fs::write(path, format!("{report:#}\n")).unwrap();
    }
}

/// One line of the table. Rates are MiB/s, memory is MiB.
struct Row {
    name: String,
    ours: u64,
    floor: u64,
    /// Ours beside the floor: of rates, the ratio of each round.
    ratios: Vec<f64>,
    bar: f64,
    /// Whether the ratio must stay below the bar instead of above it.
    less_is_better: bool,
}

impl Row {
    /// A row of rates, of `mib` in each round.
    fn rates(name: &str, mib: u64, ours: &[Duration], floor: &[Duration], bar: f64) -> Self {
        let rate = |times: &[Duration]| {
            let rates = times.iter().map(|time| mib as f64 / time.as_secs_f64());
            median(rates.collect()) as u64
        };
        let ratios = ours.iter().zip(floor);
        Self {
            name: format!("{name}, MiB/s"),
            ours: rate(ours),
            floor: rate(floor),
            ratios: ratios
                .map(|(ours, floor)| floor.as_secs_f64() / ours.as_secs_f64())
                .collect(),
            bar,
            less_is_better: false,
        }
    }

    /// What counts: the median of the rounds.
    fn ratio(&self) -> f64 {
        median(self.ratios.clone())
    }

    fn spread(&self) -> String {
        let least = self.ratios.iter().copied().fold(f64::INFINITY, f64::min);
        let most = self.ratios.iter().copied().fold(0.0, f64::max);
        format!("{least:.2} to {most:.2}")
    }

    fn holds(&self) -> bool {
        if self.less_is_better {
            self.ratio() <= self.bar
        } else {
            self.ratio() >= self.bar
        }
    }

    fn bar_text(&self) -> String {
        format!(
            "{} {}",
            if self.less_is_better { "<=" } else { ">=" },
            self.bar
        )
    }

    fn as_json(&self) -> serde_json::Value {
        json!({ "row": self.name, "ours": self.ours, "floor": self.floor, "ratio": self.ratio(), "ratios": self.ratios, "bar": self.bar_text(), "holds": self.holds() })
    }
}

/// Import and export beside the same bytes read, hashed, written and synced.
fn copies(plan: &Plan, scratch: &Scratch, image: &Path) -> [Row; 2] {
    let this = env::current_exe().unwrap();
    let kept = scratch.path("kept-store");
    let (_, id) = time(scratch.ebsfs(&kept).arg("import").arg(image));
    let path = |name: &str, round: usize| scratch.path(&format!("{name}-{round}"));
    let floor = |round| {
        let target = path("floor.img", round);
        time(Command::new(&this).arg("floor").arg(image).arg(target)).0
    };
    let import = |round| {
        let store = path("store", round);
        time(scratch.ebsfs(&store).arg("import").arg(image)).0
    };
    let export = |round| {
        let target = path("out.img", round);
        let mut command = scratch.ebsfs(&kept);
        time(command.arg("export").arg(id.trim()).arg(target)).0
    };
    let [floor, import, export] = in_turn(plan.rounds, [&floor, &import, &export]);
    [("import", import), ("export", export)]
        .map(|(name, ours)| Row::rates(name, plan.image_mib, &ours, &floor, 0.7))
}

/// A mounted file read again beside a plain file, on the disk and in memory.
///
/// All are in the page cache. There a disk's file lies in large folios, a FUSE file in single pages, on kernels
/// that do not give FUSE large ones; a file in `/dev/shm` lies in single pages everywhere and shows what those
/// cost.
fn second_read(plan: &Plan, scratch: &Scratch, image: &Path) -> [Row; 2] {
    let store = scratch.path("kept-store");
    let (_, id) = time(scratch.ebsfs(&store).arg("import").arg(image));
    let mount = MountPoint::new(scratch, &store, id.trim(), plan.cache_mib);
    let mounted = mount.path.join(format!("{}.img", id.trim()));
    let shm = tempfile::Builder::new()
        .prefix("ebsfs-bench-")
        .tempdir_in("/dev/shm")
        .unwrap();
    let in_memory = shm.path().join("disk.img");
    fs::copy(image, &in_memory).unwrap();
    let ours = |_| read_through(&mounted, plan.image_mib);
    let disk = |_| read_through(image, plan.image_mib);
    let memory = |_| read_through(&in_memory, plan.image_mib);
    ours(0);
    let [ours, disk, memory] = in_turn(plan.rounds * 2, [&ours, &disk, &memory]);
    let row = |peer: &str, floor: &[Duration]| {
        let name = format!("second read beside {peer}");
        Row::rates(&name, plan.image_mib, &ours, floor, 0.6)
    };
    [row("a disk's file", &disk), row("tmpfs", &memory)]
}

/// Measures each of `subjects` in each of `rounds`, after one round that does not count.
///
/// Every round begins with another one: what a run leaves behind (freed memory, a disk still writing) is then
/// nobody's alone to enjoy or to suffer.
fn in_turn<const N: usize>(
    rounds: usize,
    subjects: [&dyn Fn(usize) -> Duration; N],
) -> [Vec<Duration>; N] {
    let mut times = [const { vec![] }; N];
    for round in 0..=rounds {
        for turn in 0..N {
            let who = (round + turn) % N;
            let time = subjects[who](round);
            if round > 0 {
                times[who].push(time);
            }
        }
    }
    times
}

/// The most memory that the daemon ever had, beside what it may have, after a large snapshot was read through.
fn memory(plan: &Plan, scratch: &Scratch) -> Row {
    let store = scratch.path("large-store");
    let id = large_snapshot(&store, plan.memory_gib);
    let mount = MountPoint::new(scratch, &store, &id, plan.cache_mib);
    read_through(
        &mount.path.join(format!("{id}.img")),
        u64::from(plan.memory_gib) * 1024,
    );
    let status = fs::read_to_string(format!("/proc/{}/status", mount.pid())).unwrap();
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    Row {
        name: format!("memory after {} GiB, MiB", plan.memory_gib),
        ours: peak / 1024,
        floor: plan.cache_mib + 64,
        ratios: vec![(peak / 1024) as f64 / (plan.cache_mib + 64) as f64],
        bar: 1.0,
        less_is_better: true,
    }
}

/// A dense snapshot of `gib` GiB, quickly: 1024 different blocks over and over.
fn large_snapshot(store: &Path, gib: u32) -> String {
    let runtime = tokio::runtime::Builder::new_multi_thread().build().unwrap();
    runtime.block_on(async {
        let store = Arc::new(DirectoryStore::create(store).unwrap());
        let size = VolumeSize::from_gib(gib).unwrap();
        let info = store.start(&NewSnapshot::new(size).unwrap()).await.unwrap();
        let blocks: Vec<Block> = (0..1024)
            .map(|seed| Block::seal(noise(seed, 512 * 1024)).unwrap())
            .collect();
        for (index, block) in (0..size.blocks()).zip(blocks.iter().cycle()) {
            store
                .put(&info.id, BlockIndex::new(index), block)
                .await
                .unwrap();
        }
        store
            .complete(
                &info.id,
                &Seal {
                    count: size.blocks().into(),
                    checksum: None,
                },
            )
            .await
            .unwrap();
        info.id.to_string()
    })
}

fn write_image(path: &Path, mib: u64) {
    let mut file = File::create_new(path).unwrap();
    for seed in 0..mib {
        file.write_all(&noise(seed, MIB as usize)).unwrap();
    }
    file.sync_all().unwrap();
}

/// Bytes that no two seeds share (xorshift).
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes
}

/// How long `dd bs=1M of=/dev/null` would take.
fn read_through(path: &Path, mib: u64) -> Duration {
    let mut file = File::open(path).unwrap();
    let mut buffer = vec![0; MIB as usize];
    let begin = Instant::now();
    for _ in 0..mib {
        file.read_exact(&mut buffer).unwrap();
    }
    begin.elapsed()
}

fn time(command: &mut Command) -> (Duration, String) {
    let begin = Instant::now();
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    let elapsed = begin.elapsed();
    assert!(output.status.success(), "{command:?} failed");
    (elapsed, String::from_utf8(output.stdout).unwrap())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    f64::midpoint(values[middle], values[(values.len() - 1) / 2])
}

fn machine() -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .unwrap_or("unknown");
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!(
        "{cores} x {}, Linux {}",
        cpu.trim_start_matches(['\t', ':', ' ']),
        kernel.trim()
    )
}

/// A directory that is removed in the end. `TMPDIR` says where; it should be a real disk.
struct Scratch(tempfile::TempDir);

impl Scratch {
    fn new() -> Self {
        let top = env::var_os("TMPDIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
        Self(
            tempfile::Builder::new()
                .prefix("ebsfs-bench-")
                .tempdir_in(top)
                .unwrap(),
        )
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn ebsfs(&self, store: &Path) -> Command {
        let mut command = Command::new(PROGRAM);
        command
            .arg("--store")
            .arg(store)
            .env("XDG_STATE_HOME", self.path("state"));
        command
    }
}

/// A mount that ends with it.
struct MountPoint {
    path: PathBuf,
}

impl MountPoint {
    fn new(scratch: &Scratch, store: &Path, id: &str, cache_mib: u64) -> Self {
        let path = scratch.path(&format!("mnt-{id}"));
        fs::create_dir(&path).unwrap();
        time(
            scratch
                .ebsfs(store)
                .args(["mount", "--cache-size", &format!("{cache_mib}M"), id])
                .arg(&path),
        );
        Self { path }
    }

    fn pid(&self) -> u64 {
        let text = fs::read_to_string(self.path.join(".ebsfs/mount.json")).unwrap();
        serde_json::from_str::<serde_json::Value>(&text).unwrap()["pid"]
            .as_u64()
            .unwrap()
    }
}

impl Drop for MountPoint {
    fn drop(&mut self) {
        drop(Command::new(PROGRAM).arg("umount").arg(&self.path).status());
    }
}
