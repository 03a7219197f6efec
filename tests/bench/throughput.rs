//! `scripts/bench`: the program beside its floors and its peers.
//!
//! Everything is measured in one run on one machine, in rounds in which all take turns at going first. What counts is
//! the median of the rounds' ratios; the times only give them a scale. The program is run as users run it, as a
//! process; so are its floors and peers.
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

use table::Row;

mod floor;
mod local;
mod measure;
mod overlay;
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
};

/// A part of the rows.
type Part = fn(&Plan) -> Vec<Row>;

fn main() {
    let arguments: Vec<String> = env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    if let [floor, from, to] = arguments.as_slice()
        && floor == "floor"
    {
        std::hint::black_box(floor::read_hash_write_sync(Path::new(from), Path::new(to)));
        return;
    }
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let plan = if has("--quick") { QUICK } else { FULL };
    let parts: [(&str, Part); 3] = [
        ("--local", local::rows),
        ("--remote", remote::rows),
        ("--overlay", overlay::rows),
    ];
    let all = !parts.iter().any(|(flag, _)| has(flag));
    let wanted = parts.iter().filter(|(flag, _)| all || has(flag));
    let rows: Vec<Row> = wanted.flat_map(|(_, rows)| rows(&plan)).collect();
    table::print(&rows);
    if let Some(path) = arguments
        .iter()
        .find(|argument| !argument.starts_with("--"))
    {
        table::write_json(&rows, Path::new(path));
    }
}
