//! The largest snapshot that there can be: its mount, what it asks for, and the memory that it takes.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::time::Instant;

use ebsfs::block::{BlockIndex, MAX_BLOCKS};
use fastrand::Rng;

use super::synthetic::{SNAPSHOT, Synthetic, is_present};
use crate::Plan;
use crate::server::client;
use crate::setup::{MountPoint, PROGRAM, Scratch};
use crate::table::Row;

/// Of one mount.
struct Mounted {
    mount_ms: f64,
    lists: f64,
    peak_mib: f64,
}

/// All rows of this part.
pub(super) fn rows(plan: &Plan) -> Vec<Row> {
    let service = Synthetic::start();
    let mounts: Vec<Mounted> = (0..plan.remote_rounds)
        .map(|round| mount_and_read(plan, &service, round))
        .collect();
    let of = |figure: fn(&Mounted) -> f64| mounts.iter().map(figure).collect::<Vec<_>>();
    let most = plan.cache_mib as f64 + 64.0;
    let name = format!("64 TiB, memory after {} random reads, MiB", plan.huge_reads);
    vec![
        Row::wanted(
            "64 TiB of 100 million blocks, mount, ms",
            &of(|m| m.mount_ms),
            1000.0,
            true,
        ),
        Row::never_more("64 TiB, list requests of its mount", &of(|m| m.lists), 1.0),
        Row::wanted(&name, &of(|m| m.peak_mib), most, true),
    ]
}

/// Each read of another window of the listing, or nearly.
fn mount_and_read(plan: &Plan, service: &Synthetic, round: usize) -> Mounted {
    let scratch = Scratch::new();
    let cache = format!("{}M", plan.cache_mib);
    let mut command = client(&scratch, PROGRAM, service.url());
    command.args(["mount", "--cache-size", &cache, SNAPSHOT]);
    let (listed, begin) = (service.lists(), Instant::now());
    let mount = MountPoint::by(scratch.path("mnt"), &mut command);
    let mount_ms = begin.elapsed().as_secs_f64() * 1000.0;
    let lists = service.lists() - listed;
    let file = File::open(mount.path.join(format!("{SNAPSHOT}.img"))).unwrap();
    let mut rng = Rng::with_seed(round as u64);
    let mut buffer = [0; 4];
    for _ in 0..plan.huge_reads {
        let index = rng.u32(0..MAX_BLOCKS);
        let at = BlockIndex::new(index).start();
        file.read_exact_at(&mut buffer, at).unwrap();
        let told = if is_present(index) { index } else { 0 };
        assert_eq!(u32::from_le_bytes(buffer), told, "block {index}");
    }
    Mounted {
        mount_ms,
        lists: lists as f64,
        peak_mib: mount.peak_mib(),
    }
}
