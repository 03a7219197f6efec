//! Sixteen readers at once, each at random places and often in the block that another waits for.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::thread;
use std::time::Instant;

use fastrand::Rng;

use super::image::BLOCK;
use super::{Mounted, World};
use crate::Plan;
use crate::measure::in_turn;
use crate::setup::read_ranges;
use crate::table::Row;

const READERS: usize = 16;
const READ: u64 = 4096;

/// Of one mount.
struct Reads {
    /// MiB fetched each second.
    rate: f64,
    /// Blocks fetched more than once.
    again: f64,
}

pub(super) fn rows(plan: &Plan, world: &World) -> [Row; 2] {
    let [many, one] = in_turn(
        plan.remote_rounds,
        [
            &|round| measure(world, |mounted| read_at_random(world, mounted, round)),
            &|_| {
                measure(world, |mounted| {
                    read_ranges(&mounted.file(), &world.image.data);
                })
            },
        ],
    );
    let rates = |reads: &[Reads]| -> Vec<f64> { reads.iter().map(|reads| reads.rate).collect() };
    let again: Vec<f64> = many.iter().map(|reads| reads.again).collect();
    let name = "16 random readers, 0 ms, beside one sequential, MiB/s fetched";
    [
        Row::beside(name, &rates(&many), &rates(&one), 0.9),
        Row::never_more("16 random readers, blocks fetched twice", &again, 0.0),
    ]
}

/// In memory there is room for all blocks, so that what is fetched twice was not given up in between.
fn measure(world: &World, read: impl Fn(&Mounted)) -> Reads {
    let caches = world.caches();
    let room = format!("{}M", world.image.mib() + 256);
    let mounted = world.mount(&world.near, &caches, &["--cache-size", &room]);
    let (before, begin) = (mounted.fetches(), Instant::now());
    read(&mounted);
    let seconds = begin.elapsed().as_secs_f64();
    let fetched = mounted.fetches() - before;
    // With the rest, whoever asks for it, each has been fetched once.
    read_ranges(&mounted.file(), &world.image.data);
    Reads {
        rate: fetched as f64 * BLOCK as f64 / (1 << 20) as f64 / seconds,
        again: mounted.fetches() as f64 - world.image.blocks() as f64,
    }
}

/// Together they read of nearly all blocks.
fn read_at_random(world: &World, mounted: &Mounted, round: usize) {
    let blocks = &world.image.starts();
    thread::scope(|scope| {
        for reader in 0..READERS {
            let file = File::open(mounted.file()).unwrap();
            let mut rng = Rng::with_seed((round * READERS + reader) as u64);
            scope.spawn(move || {
                let mut buffer = [0; READ as usize];
                for _ in 0..blocks.len() / 8 {
                    let at = blocks[rng.usize(0..blocks.len())] + rng.u64(0..BLOCK / READ) * READ;
                    file.read_exact_at(&mut buffer, at).unwrap();
                }
            });
        }
    });
}
