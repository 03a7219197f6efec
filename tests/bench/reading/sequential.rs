//! One reader from the first block to the last, by distance.

use std::env;
use std::fs;
use std::time::Duration;

use super::World;
use super::s3backer::{Bucket, S3Backer};
use crate::Plan;
use crate::measure::{in_turn, time, warm_memory};
use crate::server::Server;
use crate::setup::read_ranges;
use crate::table::Row;

/// s3backer turns the kernel's read-ahead off unless told otherwise, and is then asked for 4 KiB at a time.
const KERNEL_READ_AHEAD: &[&str] = &["-o", "max_readahead=131072", "--readAheadTrigger=1"];

/// In each round all go once, so that ratios are of runs a few seconds apart.
pub(super) fn rows(plan: &Plan, world: &World) -> Vec<Row> {
    let (near, middle, far) = (&world.near, &world.middle, &world.far);
    let bucket = Bucket::open(&world.image.path, Duration::from_millis(50));
    let [
        floor,
        ours,
        coldsnap,
        ours_20,
        floor_50,
        ours_50,
        coldsnap_50,
        s3backer_50,
        s3backer_tuned_50,
    ] = in_turn(
        plan.remote_rounds,
        [
            &|_| floor_of(world, near),
            &|_| through_mount(world, near),
            &|_| download(world, near),
            &|_| through_mount(world, middle),
            &|_| floor_of(world, far),
            &|_| through_mount(world, far),
            &|_| download(world, far),
            &|_| through_s3backer(world, &bucket, &[]),
            &|_| through_s3backer(world, &bucket, KERNEL_READ_AHEAD),
        ],
    );
    let row = |name: &str, ours: &[Duration], beside: &[Duration], bar| {
        let name = format!("cold sequential read, {name}");
        Row::rates(&name, world.image.mib(), ours, beside, bar)
    };
    vec![
        row("0 ms, beside fetch and hash", &ours, &floor, 0.75),
        row("0 ms, beside coldsnap download", &ours, &coldsnap, 1.4),
        row("20 ms, beside its own 0 ms", &ours_20, &ours, 0.0).reported(),
        row("50 ms, beside its own 0 ms", &ours_50, &ours, 0.75),
        row("50 ms, beside fetch and hash", &ours_50, &floor_50, 0.0).reported(),
        row(
            "50 ms, beside coldsnap download",
            &ours_50,
            &coldsnap_50,
            3.0,
        ),
        row("50 ms, beside s3backer", &ours_50, &s3backer_50, 5.0),
        row(
            "50 ms, beside s3backer and kernel read-ahead",
            &ours_50,
            &s3backer_tuned_50,
            0.0,
        )
        .reported(),
    ]
}

fn through_mount(world: &World, server: &Server) -> Duration {
    let caches = world.caches();
    // The reader's pages: as the files of the others, they begin in memory that the machine has at hand.
    warm_memory(world.image.mib() + 512);
    let mounted = world.mount(server, &caches, &[]);
    read_ranges(&mounted.file(), &world.image.data)
}

/// The same blocks by the same client, without a mount: see `floor.rs`.
fn floor_of(world: &World, server: &Server) -> Duration {
    let this = env::current_exe().unwrap();
    let mut command = server.client(&world.memory, this);
    let (_, told) = time(command.args(["fetch", &world.image.id]));
    Duration::from_secs_f64(told.trim().parse().unwrap())
}

/// To a file in memory. The absent blocks cost it nothing either.
fn download(world: &World, server: &Server) -> Duration {
    let target = world.memory.path("download.img");
    warm_memory(world.image.mib() + 512);
    let mut command = server.coldsnap(&world.memory);
    command.args(["download", "--no-progress", &world.image.id]);
    let taken = time(command.arg(&target)).0;
    fs::remove_file(target).unwrap();
    taken
}

fn through_s3backer(world: &World, bucket: &Bucket, options: &[&str]) -> Duration {
    warm_memory(world.image.mib() + 512);
    let mounted = S3Backer::mount(bucket, world.path("s3"), options);
    read_ranges(&mounted.file(), &world.image.data)
}
