//! What the kernel's tables say of mounts, loop devices and processes, and its means to end them.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process};

use crate::world::run;

/// Whether a process has ended, to its last thread; one that nobody has waited for yet has.
pub(crate) fn gone(pid: Pid) -> bool {
    let process = format!("/proc/{}", pid.as_raw_nonzero());
    let Ok(stat) = fs::read_to_string(format!("{process}/stat")) else {
        return true;
    };
    let dead = stat
        .rsplit(") ")
        .next()
        .is_some_and(|state| state.starts_with('Z'));
    // The first thread may be dead while others still hold the mount.
    let threads = fs::read_dir(format!("{process}/task")).map_or(0, Iterator::count);
    dead && threads <= 1
}

/// Ends a process at once.
pub(crate) fn kill(pid: Pid) {
    let _ = kill_process(pid, Signal::KILL);
}

/// Processes of the program whose environment names `dir`.
pub(crate) fn daemons(dir: &Path) -> Vec<Pid> {
    let dir = dir.as_os_str().as_encoded_bytes();
    let ours = |process: &Path| {
        let is_ours = fs::read_to_string(process.join("comm")).is_ok_and(|comm| comm == "ebsfs\n");
        is_ours
            && fs::read(process.join("environ"))
                .is_ok_and(|environ| environ.windows(dir.len()).any(|window| window == dir))
    };
    let pid = |path: &Path| Pid::from_raw(path.file_name()?.to_str()?.parse().ok()?);
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| pid(path).is_some() && ours(path))
        .filter_map(|path| pid(&path))
        .filter(|pid| !gone(*pid))
        .collect()
}

/// Mounts at or below `dir`, last first: whether it is FUSE, its minor number, where. Only the kernel's table
/// is read: a stat would wait for a daemon that hangs.
pub(crate) fn mounts_below(dir: &Path) -> Vec<(bool, String, PathBuf)> {
    mounts_seen_by("self", dir)
}

/// The same in another process's view of the tree.
pub(crate) fn mounts_seen_by(process: &str, dir: &Path) -> Vec<(bool, String, PathBuf)> {
    let table = fs::read_to_string(format!("/proc/{process}/mountinfo")).unwrap();
    let parse = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        let minor = left.split(' ').nth(2)?.split_once(':')?.1.to_owned();
        let path = PathBuf::from(left.split(' ').nth(4)?.replace("\\040", " "));
        path.starts_with(dir)
            .then(|| (right.starts_with("fuse"), minor, path))
    };
    table.lines().rev().filter_map(parse).collect()
}

/// Loop devices over files below `dir`.
pub(crate) fn loops_below(dir: &Path) -> Vec<String> {
    fs::read_dir("/sys/block")
        .unwrap()
        .flatten()
        .map(|entry| format!("/dev/{}", entry.file_name().display()))
        .filter(|device| backing_file(device).is_some_and(|file| file.starts_with(dir)))
        .collect()
}

/// The file below a loop device.
pub(crate) fn backing_file(device: &str) -> Option<PathBuf> {
    let name = device.strip_prefix("/dev/")?;
    let file = fs::read_to_string(format!("/sys/block/{name}/loop/backing_file")).ok()?;
    Some(file.trim_end().into())
}

/// Ends every request to the FUSE mounts below `dir`.
pub(crate) fn abort(dir: &Path) {
    let connections = Path::new("/sys/fs/fuse/connections");
    for (_, minor, _) in mounts_below(dir).iter().filter(|(fuse, ..)| *fuse) {
        if !connections.join(minor).exists() {
            run(
                "mount",
                ["-t", "fusectl", "fusectl", "/sys/fs/fuse/connections"],
            );
        }
        drop(fs::write(connections.join(minor).join("abort"), "1"));
    }
}

/// A line of a process's status that counts memory, in bytes.
pub(crate) fn memory(pid: Pid, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<u64>()
        .unwrap()
        * 1024
}
