//! The second mount of a snapshot whose blocks are all in the cache on disk, with no server any more.
//!
//! The cache's files are in the page cache, as they are after a restart of the program. The floors do on all cores what
//! nobody is spared: hash these bytes from memory, and read them from the cache's files before.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::{Caches, Mounted, World};
use crate::Plan;
use crate::floor;
use crate::measure::{in_turn, time};
use crate::server::Server;
use crate::setup::read_ranges;
use crate::table::Row;

/// The cache takes blocks behind its readers, and may leave one out when it cannot follow: the second pass brings these.
const PASSES: usize = 2;

pub(super) fn rows(plan: &Plan, world: &World) -> Vec<Row> {
    let caches = world.caches();
    let mut server = Server::start(&world.memory, &world.store, &[]);
    for _ in 0..PASSES {
        let mounted = world.mount(&server, &caches, &[]);
        read_ranges(&mounted.file(), &world.image.data);
    }
    server.stop();
    let gone = &server;
    compare(world, &world.mount(gone, &caches, &[]));
    let bytes = floor::load(&world.image.path, &world.image.data);
    let files = cache_files(&caches);
    let [ours, hashing, reading] = in_turn(
        plan.remote_rounds,
        [
            &|_| read(world, gone, &caches),
            &|_| (floor::hash(&bytes), 0),
            &|_| (floor::read_and_hash(&files), 0),
        ],
    );
    let times = |runs: &[(Duration, u64)]| runs.iter().map(|run| run.0).collect::<Vec<_>>();
    let asked: Vec<f64> = ours.iter().map(|run| run.1 as f64).collect();
    let row = |name: &str, beside: &[(Duration, u64)], bar| {
        let name = format!("second mount, no server, beside {name}");
        Row::rates(&name, world.image.mib(), &times(&ours), &times(beside), bar)
    };
    vec![
        row("hashing on all cores", &hashing, 0.8),
        row("reading and hashing the cache", &reading, 0.0).reported(),
        Row::never_more(
            "second mount, no server, blocks asked of the store",
            &asked,
            0.0,
        ),
    ]
}

/// How long the reader took, and for how many blocks the store was asked. What the mount asks beside, whether
/// the snapshot is still there, nobody answers.
fn read(world: &World, gone: &Server, caches: &Caches) -> (Duration, u64) {
    let mounted = world.mount(gone, caches, &[]);
    let taken = read_ranges(&mounted.file(), &world.image.data);
    (taken, mounted.disk_misses())
}

/// What comes from the cache is what was imported.
fn compare(world: &World, mounted: &Mounted) {
    let mut cmp = Command::new("cmp");
    time(cmp.arg(mounted.file()).arg(&world.image.path));
}

/// All files in a cache.
fn cache_files(caches: &Caches) -> Vec<PathBuf> {
    let mut files = vec![];
    let mut add = |path: &Path| files.push(path.to_owned());
    visit(caches.path(), &mut add);
    files
}

fn visit(directory: &Path, add: &mut dyn FnMut(&Path)) {
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            visit(&entry.path(), add);
        } else {
            add(&entry.path());
        }
    }
}
