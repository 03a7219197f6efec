//! Writing: small writes through a loop device, a commit beside coldsnap, and the time that one small edit takes.
//!
//! The snapshots come from `ebsfs serve`, as from a service: 50 ms away where the network must not be waited for,
//! at once where throughput counts. Overlays and plain files lie on the same disk, that of the scratch directory.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::Plan;
use crate::devices::Loop;
use crate::measure::{in_turn, time};
use crate::server::Server;
use crate::setup::{MIB, MountPoint, Scratch, write_image};
use crate::table::Row;

/// All rows of this part.
pub(crate) fn rows(plan: &Plan) -> Vec<Row> {
    let scratch = Scratch::new();
    // In memory: what the server's disk does is not what is measured.
    let memory = Scratch::in_memory();
    let store = memory.path("store");
    let near = Server::start(&memory, &store, &[]);
    let far = Server::start(&memory, &store, &["--fault", "latency=50ms"]);
    let (scratch, near, far) = (&scratch, &near, &far);
    vec![
        small_writes(plan, scratch, &Case::new(scratch, &memory, far, "writes")),
        commit(plan, &memory, near),
        small_edit(scratch, &memory, far),
    ]
}

/// A snapshot mounted with an overlay.
struct Case {
    mount: MountPoint,
    /// The disk's file.
    disk: PathBuf,
}

impl Case {
    /// Over a snapshot of an image `image` in `memory` if there is one, and of a disk without data if not.
    fn over(
        scratch: &Scratch,
        memory: &Scratch,
        server: &Server,
        name: &str,
        image: &Path,
    ) -> Self {
        let (_, id) = time(server.ebsfs(memory).arg("import").arg(image));
        let id = id.trim();
        let mut command = server.ebsfs(memory);
        command.arg("mount").arg(id).arg("--overlay");
        command.arg(scratch.path(&format!("{name}-overlay")));
        let mount = MountPoint::by(scratch.path(&format!("{name}-mnt")), &mut command);
        let disk = mount.path.join(format!("{id}.img"));
        Self { mount, disk }
    }

    fn new(scratch: &Scratch, memory: &Scratch, server: &Server, name: &str) -> Self {
        let image = memory.path(&format!("{name}.img"));
        sparse(&image, 4 << 30);
        Self::over(scratch, memory, server, name, &image)
    }

    fn commit(&self, memory: &Scratch, server: &Server) -> Duration {
        let mut command = server.ebsfs(memory);
        time(command.args(["commit", "--wait"]).arg(&self.mount.path)).0
    }
}

fn sparse(path: &Path, len: u64) {
    let file = fs::File::create_new(path).unwrap();
    file.set_len(len).unwrap();
}

/// Writes of 4 KiB at random places, each followed by an fsync.
fn small_writes(plan: &Plan, scratch: &Scratch, case: &Case) -> Row {
    let plain = scratch.path("plain.img");
    sparse(&plain, 4 << 30);
    let (ours, floor) = (Loop::over(&case.disk), Loop::over(&plain));
    let [ours, floor] = [&ours, &floor].map(|device| {
        move |round: usize| {
            let seed = format!("--randseed={round}");
            let runtime = format!("--runtime={}", plan.writing.as_secs());
            let mut fio = Command::new("fio");
            fio.args(["--name=writes", "--rw=randwrite", "--bs=4k", "--direct=1"]);
            fio.args(["--fsync=1", "--ioengine=psync", "--time_based", "--size=4g"]);
            fio.args(["--norandommap", "--output-format=json", &seed, &runtime]);
            let (_, told) = time(fio.arg(format!("--filename={}", device.0)));
            let told: serde_json::Value = serde_json::from_str(&told).unwrap();
            told["jobs"][0]["write"]["iops"].as_f64().unwrap()
        }
    });
    let [ours, floor] = in_turn(plan.remote_rounds, [&ours, &floor]);
    Row::beside("4 KiB writes with fsync by loop, 1/s", &ours, &floor, 0.5)
}

/// A commit of blocks that were all written, beside an upload of the same bytes. The server has seen them before, so
/// that it is nobody's turn to find memory for them.
fn commit(plan: &Plan, memory: &Scratch, server: &Server) -> Row {
    let mib = plan.commit_mib;
    let case = Case::new(memory, memory, server, "commit");
    let image = memory.path("upload.img");
    write_image(&image, mib);
    let ours = |_| {
        let disk = OpenOptions::new().write(true).open(&case.disk).unwrap();
        let image = fs::File::open(&image).unwrap();
        let mut bytes = vec![0; MIB as usize];
        for at in 0..mib {
            image.read_exact_at(&mut bytes, at * MIB).unwrap();
            disk.write_all_at(&bytes, at * MIB).unwrap();
        }
        disk.sync_all().unwrap();
        let mut command = server.ebsfs(memory);
        time(command.arg("commit").arg(&case.mount.path)).0
    };
    let upload = ["upload", "--no-progress", "--omit-zero-blocks"];
    let peer = |_| time(server.coldsnap(memory).args(upload).arg(&image)).0;
    let [ours, peer] = in_turn(plan.remote_rounds, [&ours, &peer]);
    Row::rates("commit beside coldsnap's upload", mib, &ours, &peer, 1.3)
}

/// From the mount of a file system to its child: one small file changed, and committed.
fn small_edit(scratch: &Scratch, memory: &Scratch, server: &Server) -> Row {
    let image = memory.path("edit.img");
    sparse(&image, 1 << 30);
    time(Command::new("mkfs.ext4").arg("-q").arg(&image));
    let case = Case::over(scratch, memory, server, "edit", &image);
    let tree = scratch.path("tree");
    fs::create_dir(&tree).unwrap();
    let edit = |round: usize| {
        let begin = Instant::now();
        let device = Loop::over(&case.disk);
        time(Command::new("mount").arg(&device.0).arg(&tree));
        fs::write(tree.join("motd"), format!("round {round}\n")).unwrap();
        time(Command::new("umount").arg(&tree));
        drop(device);
        case.commit(memory, server);
        begin.elapsed().as_secs_f64() * 1000.0
    };
    edit(0);
    let taken: Vec<f64> = (1..4).map(edit).collect();
    Row::wanted(
        "one small file edited and committed at 50 ms, ms",
        &taken,
        2000.0,
        true,
    )
}
