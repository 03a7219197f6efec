//! What is measured on: a scratch directory, images, mounts.

use std::env;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::measure::time;

pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_ebsfs");

pub(crate) fn write_image(path: &Path, mib: u64) {
    let mut file = File::create_new(path).unwrap();
    for seed in 0..mib {
        file.write_all(&noise(seed, MIB as usize)).unwrap();
    }
    file.sync_all().unwrap();
}

/// Bytes that no two seeds share (xorshift).
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes
}

/// How long `dd bs=1M of=/dev/null` would take.
pub(crate) fn read_through(path: &Path, mib: u64) -> Duration {
    let mut file = File::open(path).unwrap();
    let mut buffer = vec![0; MIB as usize];
    let begin = Instant::now();
    for _ in 0..mib {
        file.read_exact(&mut buffer).unwrap();
    }
    begin.elapsed()
}

/// A directory that is removed in the end. `TMPDIR` says where; it should be a real disk.
pub(crate) struct Scratch(tempfile::TempDir);

impl Scratch {
    pub(crate) fn new() -> Self {
        let top = env::var_os("TMPDIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
        Self::below(&top)
    }

    /// One that no disk slows down.
    pub(crate) fn in_memory() -> Self {
        Self::below(Path::new("/dev/shm"))
    }

    fn below(top: &Path) -> Self {
        Self(
            tempfile::Builder::new()
                .prefix("ebsfs-bench-")
                .tempdir_in(top)
                .unwrap(),
        )
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn ebsfs(&self, store: &Path) -> Command {
        let mut command = Command::new(PROGRAM);
        command
            .arg("--store")
            .arg(store)
            .env("XDG_STATE_HOME", self.path("state"))
            .env("XDG_CACHE_HOME", self.path("cache"));
        command
    }
}

/// A mount that ends with it.
pub(crate) struct MountPoint {
    pub(crate) path: PathBuf,
}

impl MountPoint {
    pub(crate) fn new(scratch: &Scratch, store: &Path, id: &str, cache_mib: u64) -> Self {
        let cache = format!("{cache_mib}M");
        let mut command = scratch.ebsfs(store);
        command.args(["mount", "--cache-size", &cache, id]);
        Self::by(scratch.path(&format!("mnt-{id}")), &mut command)
    }

    /// On `path`, by a command that lacks only that.
    pub(crate) fn by(path: PathBuf, command: &mut Command) -> Self {
        fs::create_dir(&path).unwrap();
        time(command.arg(&path));
        Self { path }
    }

    /// The most memory that its daemon ever had.
    pub(crate) fn peak_mib(&self) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let peak = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))
            .unwrap();
        peak.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
    }

    fn pid(&self) -> u64 {
        let text = fs::read_to_string(self.path.join(".ebsfs/mount.json")).unwrap();
        serde_json::from_str::<serde_json::Value>(&text).unwrap()["pid"]
            .as_u64()
            .unwrap()
    }
}

impl Drop for MountPoint {
    fn drop(&mut self) {
        drop(Command::new(PROGRAM).arg("umount").arg(&self.path).status());
    }
}
