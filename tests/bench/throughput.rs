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

use table::Row;

mod floor;
mod local;
mod measure;
mod remote;
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
}

const FULL: Plan = Plan {
    rounds: 4,
    image_mib: 2048,
    memory_gib: 8,
    cache_mib: 256,
    remote_mib: 2048,
    remote_rounds: 3,
};

const QUICK: Plan = Plan {
    rounds: 3,
    image_mib: 512,
    memory_gib: 1,
    cache_mib: 64,
    remote_mib: 256,
    remote_rounds: 1,
};

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
    let both = has("--local") == has("--remote");
    let mut rows: Vec<Row> = vec![];
    if both || has("--local") {
        rows.extend(local::rows(&plan));
    }
    if both || has("--remote") {
        rows.extend(remote::rows(&plan));
    }
    table::print(&rows);
    if let Some(path) = arguments
        .iter()
        .find(|argument| !argument.starts_with("--"))
    {
        table::write_json(&rows, Path::new(path));
    }
}
