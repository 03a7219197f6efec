//! `scripts/bench`: the program beside its floors and its peers.
//!
//! Everything is measured in one run on one machine, in rounds in which all take turns at going first. What counts is
//! the median of the rounds' ratios; the times only give them a scale. The program is run as users run it, as a
//! process; so are its peers, and the floors that move a disk.
//!
//! # Where to add
//! - *A row*: in the file of its part, beside a floor or a peer of the same round.
//! - *A part*: a module with `rows`, a line in `main` and in `scripts/bench`.
//! - *A step of a hit*: `micro/steps.rs`.
#![allow(
    clippy::as_conversions,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::unwrap_used,
    missing_docs
)]

use std::env;
use std::path::Path;
use std::time::Duration;

use machine::Machine;
use table::Row;

mod bare;
mod devices;
mod floor;
mod http;
mod local;
mod look;
mod machine;
mod measure;
mod overlay;
mod reading;
mod remote;
mod server;
mod setup;
mod table;

/// What is measured and how long.
struct Plan {
    rounds: usize,
    image_mib: u64,
    /// Of the snapshot that is read through for the daemon's memory.
    memory_gib: u32,
    cache_mib: u64,
    /// Of the snapshot that is fetched and put over HTTP.
    remote_mib: u64,
    remote_rounds: usize,
    /// For how long small writes are made, each round.
    writing: Duration,
    /// Blocks that are written and committed.
    commit_mib: u64,
    /// Of the ext4 that is read, and of the files in it.
    disk_gib: u64,
    tree_mib: u64,
    /// Small reads of one mount, each in another block.
    random_reads: usize,
    /// Likewise, of the largest snapshot.
    huge_reads: usize,
}

const FULL: Plan = Plan {
    rounds: 4,
    image_mib: 2048,
    memory_gib: 8,
    cache_mib: 256,
    remote_mib: 2048,
    remote_rounds: 3,
    writing: Duration::from_secs(8),
    commit_mib: 1024,
    disk_gib: 2,
    tree_mib: 1024,
    random_reads: 200,
    huge_reads: 1000,
};

const QUICK: Plan = Plan {
    rounds: 3,
    image_mib: 512,
    memory_gib: 1,
    cache_mib: 64,
    remote_mib: 256,
    remote_rounds: 1,
    writing: Duration::from_secs(2),
    commit_mib: 128,
    disk_gib: 1,
    tree_mib: 128,
    random_reads: 40,
    huge_reads: 100,
};

/// A part of the rows.
type Part = fn(&Plan) -> Vec<Row>;

fn main() {
    let arguments: Vec<String> = env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    // The floors that are processes, as the program is.
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["floor", from, to] => {
            std::hint::black_box(floor::read_hash_write_sync(Path::new(from), Path::new(to)));
            return;
        }
        ["fetch", id] => {
            println!("{}", floor::fetch_and_hash(id).as_secs_f64());
            return;
        }
        _ => (),
    }
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let plan = if has("--quick") { QUICK } else { FULL };
    let parts: [(&str, Part); 5] = [
        ("--reading", reading::rows),
        ("--local", local::rows),
        ("--remote", remote::rows),
        ("--overlay", overlay::rows),
        ("--look", look::rows),
    ];
    let all = !parts.iter().any(|(flag, _)| has(flag));
    let wanted = parts.iter().filter(|(flag, _)| all || has(flag));
    let rows: Vec<Row> = wanted.flat_map(|(_, rows)| rows(&plan)).collect();
    let machine = Machine::this();
    table::print(&machine, &rows);
    if let Some(path) = arguments
        .iter()
        .find(|argument| !argument.starts_with("--"))
    {
        table::write_json(&machine, &rows, Path::new(path));
    }
}
