//! What was measured on and with, named in the table and in its JSON: figures mean nothing without.

use std::fmt;
use std::fs;
use std::process::{Command, Stdio};
use std::thread;

use crate::setup::{PROGRAM, scratch_top};

/// Where `cargo install` notes what it put beside it.
const PEERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/peers/.crates.toml");

/// Names and what they stand for, in the order in which they are told.
pub(crate) struct Machine(Vec<(&'static str, String)>);

impl Machine {
    /// This one, with the programs that are installed.
    pub(crate) fn this() -> Self {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let cpu = field("/proc/cpuinfo", "model name");
        let memory = field("/proc/meminfo", "MemTotal");
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let mut df = Command::new("df");
        let disk = told(df.arg("--output=fstype").arg(scratch_top()));
        Self(vec![
            ("cpu", cpu),
            ("cores", cores.to_string()),
            ("memory", memory),
            ("kernel", kernel.trim().to_owned()),
            (
                "scratch",
                disk.lines().last().unwrap_or("unknown").to_owned(),
            ),
            ("ebsfs", version(PROGRAM)),
            ("coldsnap", installed("coldsnap")),
            ("s3backer", version("s3backer")),
        ])
    }

    pub(crate) fn as_json(&self) -> serde_json::Value {
        let fields = self.0.iter();
        fields
            .map(|(name, value)| ((*name).to_owned(), value.clone().into()))
            .collect::<serde_json::Map<_, _>>()
            .into()
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fields = self.0.iter();
        let fields: Vec<_> = fields
            .map(|(name, value)| format!("{name}: {value}"))
            .collect();
        f.write_str(&fields.join(", "))
    }
}

/// What stands behind the colon of a line of a file in `/proc`.
fn field(path: &str, name: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with(name));
    let value = line.and_then(|line| line.split_once(':'));
    value
        .map_or("unknown", |(_, value)| value.trim())
        .to_owned()
}

/// The version that a program tells, which ends its first line.
fn version(program: &str) -> String {
    let told = told(Command::new(program).arg("--version"));
    let version = told.lines().next().and_then(|line| line.rsplit(' ').next());
    version.unwrap_or("none").to_owned()
}

/// The version of a peer that does not tell it, as cargo noted it.
fn installed(peer: &str) -> String {
    let list = fs::read_to_string(PEERS).unwrap_or_default();
    let versions = list.split_once(&format!("\"{peer} "));
    let version = versions.and_then(|(_, rest)| rest.split(' ').next());
    version.unwrap_or("none").to_owned()
}

/// What a program says, on whatever stream; nothing if it cannot be run.
fn told(command: &mut Command) -> String {
    let Ok(output) = command.stdin(Stdio::null()).output() else {
        return String::new();
    };
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&text).trim().to_owned()
}
