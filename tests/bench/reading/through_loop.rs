//! Through a loop device and its ext4: the whole tree, and the first small file.
//!
//! GNU tar does not read the files of an archive that goes to `/dev/null`, so it goes to a pipe, and what comes out is
//! counted.

use std::fs;
use std::io::{self, Read as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::{Caches, World};
use crate::Plan;
use crate::devices::Tree;
use crate::measure::in_turn;
use crate::server::Server;
use crate::table::Row;

pub(super) fn rows(plan: &Plan, world: &World) -> Vec<Row> {
    let mut rows = walks(plan, world);
    rows.extend(first_files(plan, world));
    rows
}

/// The first mount of a snapshot, the second, of which nothing is known but what the first one read, and a file on this
/// machine.
fn walks(plan: &Plan, world: &World) -> Vec<Row> {
    // Without blocks on disk the second has only the profile before the first.
    let walk = |caches: &Caches| {
        let mounted = world.mount(&world.far, caches, &["--cache-disk-size", "0"]);
        tar(world, &mounted.file())
    };
    let [first_and_second, plain] = in_turn(
        plan.remote_rounds,
        [
            &|_| {
                let caches = world.caches();
                [walk(&caches), walk(&caches)]
            },
            &|_| [tar(world, &world.image.path); 2],
        ],
    );
    let nth = |runs: &[[Duration; 2]], n: usize| runs.iter().map(|run| run[n]).collect::<Vec<_>>();
    let (first, second) = (nth(&first_and_second, 0), nth(&first_and_second, 1));
    let mib = world.image.mib();
    let row = |name: &str, ours: &[Duration], beside: &[Duration], bar| {
        Row::rates(
            &format!("tar through loop, 50 ms, {name}"),
            mib,
            ours,
            beside,
            bar,
        )
    };
    vec![
        row(
            "first time, beside a plain loop",
            &first,
            &nth(&plain, 0),
            0.0,
        )
        .reported(),
        row("with a profile, beside first time", &second, &first, 3.0),
    ]
}

/// Until every file was read, from the moment at which the disk's file is there.
fn tar(world: &World, file: &Path) -> Duration {
    let begin = Instant::now();
    let tree = Tree::of(file, world.disk.path("tree"));
    let mut tar = Command::new("tar")
        .args(["-cf", "-", "."])
        .current_dir(&tree.path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let read = io::copy(&mut tar.stdout.take().unwrap(), &mut io::sink()).unwrap();
    assert!(tar.wait().unwrap().success(), "tar failed");
    assert!(read > world.image.tree_bytes, "tar left something out");
    begin.elapsed()
}

/// From nothing to the content of a file: the program's start, its mount, the loop device's and the file.
fn first_files(plan: &Plan, world: &World) -> Vec<Row> {
    let [near, far] = in_turn(
        plan.remote_rounds,
        [&|_| first_file(world, &world.near), &|_| {
            first_file(world, &world.far)
        }],
    );
    let cases = [("0 ms", near, 150.0), ("50 ms", far, 600.0)];
    let rows = cases.into_iter().flat_map(|(latency, reads, wanted)| {
        let (times, fetched): (Vec<f64>, Vec<f64>) = reads.into_iter().unzip();
        let name = format!("mount, loop mount, first small file, {latency}");
        [
            Row::wanted(&format!("{name}, ms"), &times, wanted, true),
            Row::never_more(&format!("{name}, blocks fetched"), &fetched, 16.0),
        ]
    });
    rows.collect()
}

/// Milliseconds, and blocks fetched.
fn first_file(world: &World, server: &Server) -> (f64, f64) {
    let caches = world.caches();
    let begin = Instant::now();
    let mounted = world.mount(server, &caches, &[]);
    let tree = Tree::of(&mounted.file(), world.disk.path("tree"));
    let mut content = vec![];
    let mut file = fs::File::open(tree.path.join(&world.image.small_file)).unwrap();
    file.read_to_end(&mut content).unwrap();
    let taken = begin.elapsed().as_secs_f64() * 1000.0;
    assert!(!content.is_empty());
    (taken, mounted.fetches() as f64)
}
