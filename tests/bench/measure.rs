//! How things are measured: in turn, as processes, by time and by processor time.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

/// Measures each of `subjects` in each of `rounds`, after one round that does not count.
///
/// Every round begins with another one: what a run leaves behind (freed memory, a disk still writing) is then
/// nobody's alone to enjoy or to suffer.
pub(crate) fn in_turn<T, const N: usize>(
    rounds: usize,
    subjects: [&dyn Fn(usize) -> T; N],
) -> [Vec<T>; N] {
    let mut measurements = [const { vec![] }; N];
    for round in 0..=rounds {
        for turn in 0..N {
            let who = (round + turn) % N;
            let measured = subjects[who](round);
            if round > 0 {
                measurements[who].push(measured);
            }
        }
    }
    measurements
}

pub(crate) fn time(command: &mut Command) -> (Duration, String) {
    let begin = Instant::now();
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    let elapsed = begin.elapsed();
    assert!(output.status.success(), "{command:?} failed");
    (elapsed, String::from_utf8(output.stdout).unwrap())
}

/// In which Linux tells processor times, on every machine.
const TICKS_PER_SECOND: f64 = 100.0;

/// Has the machine use `mib` of its free memory once. A virtual machine gives back what it does not use, and who gets
/// it first then waits for the host, which is no one's merit.
pub(crate) fn warm_memory(mib: u64) {
    std::hint::black_box(vec![1_u8; (mib << 20) as usize]);
}

/// Processor time that a command took, all of its threads together.
pub(crate) fn cpu_time(command: &mut Command) -> Duration {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let pid = Pid::from_child(&child);
    // It stays a zombie until it is waited for, and can be asked.
    waitid(
        WaitId::Pid(pid),
        WaitIdOptions::EXITED | WaitIdOptions::NOWAIT,
    )
    .unwrap();
    let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
    assert!(child.wait().unwrap().success(), "{command:?} failed");
    // After the name, which ends with the last bracket: user and system time are fields 14 and 15 of all.
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    let ticks: u64 = fields[11..13]
        .iter()
        .map(|field| field.parse::<u64>().unwrap())
        .sum();
    Duration::from_secs_f64(ticks as f64 / TICKS_PER_SECOND)
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    f64::midpoint(values[middle], values[(values.len() - 1) / 2])
}
