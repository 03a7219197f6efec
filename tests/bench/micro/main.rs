//! `cargo bench --bench micro`: the steps of a read that finds its block on this machine, each beside its floor.
//!
//! Times are medians of rounds in which step and floor take turns. With `--instructions` each step is run by callgrind
//! instead, and what it executes is counted: that shows a regression on a machine where nothing can be timed. Counts
//! belong to a compiler and a C library; the bars leave a quarter of room for these.
#![allow(
    clippy::as_conversions,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::unwrap_used,
    missing_docs
)]

use std::env;
use std::process::{self, Command, Stdio};
use std::time::{Duration, Instant};

mod steps;

use steps::{STEPS, Step};

/// As often as fits in this is a step timed at once.
const BATCH: Duration = Duration::from_millis(20);

const ROUNDS: usize = 9;

/// The counts of two runs are subtracted, so that what comes before and after the step is left out.
const FEW: u64 = 1000;
const MANY: u64 = 11_000;

fn main() {
    let arguments: Vec<String> = env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => STEPS.iter().for_each(time),
        ["--instructions"] => {
            let counted = STEPS.iter().filter(|step| step.instructions.is_some());
            let missed = counted.map(count).filter(|fine| !fine).count();
            if missed > 0 {
                process::exit(1);
            }
        }
        ["repeat", name, times] => {
            let step = STEPS.iter().find(|step| step.name == name).unwrap();
            ((step.prepare)().ours)(times.parse().unwrap());
        }
        _ => panic!("cargo bench --bench micro [-- --instructions]"),
    }
}

/// Prints how long a step takes.
fn time(step: &Step) {
    let case = (step.prepare)();
    let once = |work: &dyn Fn(u64)| {
        let mut times = 1;
        while {
            let begin = Instant::now();
            work(times);
            begin.elapsed() < BATCH
        } {
            times *= 2;
        }
        times
    };
    let (ours, floor) = (once(&case.ours), once(&case.floor));
    let timed = |work: &dyn Fn(u64), times: u64| {
        let begin = Instant::now();
        work(times);
        begin.elapsed().as_nanos() as f64 / times as f64
    };
    let rounds: Vec<[f64; 2]> = (0..ROUNDS)
        .map(|_| [timed(&case.ours, ours), timed(&case.floor, floor)])
        .collect();
    let median = |of: fn(&[f64; 2]) -> f64| {
        let mut values: Vec<f64> = rounds.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values[ROUNDS / 2]
    };
    println!(
        "{:32} {:>10.0} ns, {:>10.0} ns {:32} x {:.2}",
        step.name,
        median(|round| round[0]),
        median(|round| round[1]),
        step.floor,
        median(|round| round[0] / round[1])
    );
}

/// Prints how many instructions a step takes, and tells whether it may.
fn count(step: &Step) -> bool {
    let instructions = (collected(step.name, MANY) - collected(step.name, FEW)) / (MANY - FEW);
    let most = step.instructions.unwrap_or(u64::MAX);
    let verdict = if instructions > most { "  MISSED" } else { "" };
    println!(
        "{:32} {instructions:>7} instructions, <= {most}{verdict}",
        step.name
    );
    instructions <= most
}

/// What callgrind counts in a process that does a step so many times.
fn collected(name: &str, times: u64) -> u64 {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(env::current_exe().unwrap())
        .args(["repeat", name, &times.to_string()])
        .stdin(Stdio::null())
        .output()
        .expect("valgrind is installed");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    let line = told.lines().find_map(|line| line.split_once("Collected :"));
    line.and_then(|(_, count)| count.trim().parse().ok())
        .unwrap_or_else(|| panic!("no count in what callgrind says: {told}"))
}
