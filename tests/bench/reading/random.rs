//! Small reads at random places, each in another block that nobody has read: what waits is one round trip.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::time::Instant;

use fastrand::Rng;

use super::World;
use super::image::BLOCK;
use crate::Plan;
use crate::measure::{in_turn, median};
use crate::server::Server;
use crate::table::Row;

const READ: u64 = 4096;

/// Of one mount.
struct Reads {
    /// Median of the times that reads took, in milliseconds.
    median_ms: f64,
    /// Blocks fetched for each that was read of.
    fetched: f64,
}

pub(super) fn rows(plan: &Plan, world: &World) -> Vec<Row> {
    let [near, far] = in_turn(
        plan.remote_rounds,
        [&|round| read(plan, world, &world.near, round), &|round| {
            read(plan, world, &world.far, round)
        }],
    );
    let cases = [("0 ms", near, 1.0), ("50 ms", far, 52.0)];
    let rows = cases.into_iter().flat_map(|(latency, reads, wanted)| {
        let times: Vec<f64> = reads.iter().map(|reads| reads.median_ms).collect();
        let fetched: Vec<f64> = reads.iter().map(|reads| reads.fetched).collect();
        let name = format!("random 4 KiB cold, {latency}");
        [
            Row::wanted(&format!("{name}, p50, ms"), &times, wanted, true),
            Row::wanted(
                &format!("{name}, blocks fetched / touched"),
                &fetched,
                1.1,
                true,
            ),
        ]
    });
    rows.collect()
}

fn read(plan: &Plan, world: &World, server: &Server, round: usize) -> Reads {
    let mut rng = Rng::with_seed(round as u64);
    let mut blocks = world.image.starts();
    rng.shuffle(&mut blocks);
    blocks.truncate(plan.random_reads);
    let caches = world.caches();
    let mounted = world.mount(server, &caches, &[]);
    let file = File::open(mounted.file()).unwrap();
    let before = mounted.fetches();
    let mut buffer = [0; READ as usize];
    let time = |start: &u64| {
        let at = start + rng.u64(0..BLOCK / READ) * READ;
        let begin = Instant::now();
        file.read_exact_at(&mut buffer, at).unwrap();
        begin.elapsed().as_secs_f64() * 1000.0
    };
    let times: Vec<f64> = blocks.iter().map(time).collect();
    let fetched = mounted.fetches() - before;
    Reads {
        median_ms: median(times),
        fetched: fetched as f64 / blocks.len() as f64,
    }
}
