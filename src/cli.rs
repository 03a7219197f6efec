//! The command line: what was typed, and what is done about it. One file per verb.
//!
//! Only this module reads arguments and the environment, and only it prints: results on stdout, everything
//! else on stderr. `stack.rs` alone decides which implementations stand on which.

use std::io::{self, BufRead as _, Write as _};

use clap::{ArgAction, Args, Parser, Subcommand};
use log::LevelFilter;

use crate::error::{Error, ErrorKind};

mod browse;
mod cat;
mod commit;
mod counted;
mod cp;
mod daemon;
mod delete;
mod df;
mod diff;
mod disk_cache;
mod export;
mod files;
mod find;
mod gc;
mod holders;
mod import;
mod info;
mod interrupt;
mod list;
mod loops;
mod ls;
mod map;
mod mount;
mod mounted;
mod notice;
mod overlay;
mod place;
mod prices;
mod progress;
mod ps;
mod reading;
mod serve;
mod sockets;
mod stack;
mod state;
mod umount;
mod unmount;
mod warm;
mod wished;

/// Any EBS snapshot as a file: verified, lazily fetched, and with an overlay writable.
#[derive(Parser)]
#[command(name = "ebsfs", version, max_term_width = 100, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "\
Exit codes: 0 done; 1 the machine failed (disk, descriptor, no room), some files could
not be read, or `diff --exit-code` found a difference;
2 the request makes no sense or contradicts what exists; 3 not found;
4 permission denied; 5 data is damaged; 6 not available now, try again;
130 interrupted; 141 the reader of the output went away.";

/// Options that every verb takes, before or after it.
#[derive(Args, Clone)]
struct Common {
    /// Where snapshots are: a directory, or aws [default: aws]
    #[arg(
        long,
        global = true,
        env = "EBSFS_STORE",
        value_name = "DIR",
        display_order = 100
    )]
    store: Option<String>,

    /// The AWS region [default: as your AWS configuration says]
    #[arg(long, global = true, value_name = "REGION", display_order = 100)]
    region: Option<String>,

    /// A profile of your AWS configuration
    #[arg(long, global = true, value_name = "NAME", display_order = 100)]
    profile: Option<String>,

    /// Another server of the EBS direct APIs than AWS's
    #[arg(long, global = true, value_name = "URL", display_order = 100)]
    endpoint_url: Option<String>,

    /// Say more on stderr; twice: everything
    #[arg(short, long, global = true, action = ArgAction::Count, display_order = 101)]
    verbose: u8,
}

impl Common {
    /// Whether anything was said about where snapshots are.
    fn names_a_store(&self) -> bool {
        [&self.store, &self.region, &self.profile, &self.endpoint_url]
            .into_iter()
            .any(Option::is_some)
    }

    /// What a user may type to have `verb` done to the same store.
    fn again(&self, verb: &str) -> String {
        let options = [
            ("store", &self.store),
            ("region", &self.region),
            ("profile", &self.profile),
            ("endpoint-url", &self.endpoint_url),
        ];
        let said = options
            .into_iter()
            .filter_map(|(name, value)| Some(format!("--{name} {} ", value.as_ref()?)));
        format!("`ebsfs {}{verb}`", said.collect::<String>())
    }
}

#[derive(Subcommand)]
enum Command {
    /// Make a snapshot of a disk image; prints its id
    Import(import::Import),
    /// Show the snapshots of a store
    List(list::List),
    /// Show one snapshot: its blocks, its partitions
    Info(info::Info),
    /// Show what is in a directory of a snapshot
    Ls(ls::Ls),
    /// Write files of a snapshot to stdout
    Cat(cat::Cat),
    /// Copy files of snapshots to this machine
    Cp(cp::Cp),
    /// Find files in a snapshot
    Find(find::Find),
    /// Show the file systems of a snapshot, and how full they are
    Df(df::Df),
    /// Show snapshots as image files in a directory
    Mount(mount::Mount),
    /// Fetch a mounted snapshot before it is read
    Warm(warm::Warm),
    /// Show the files of a snapshot in a directory, by the kernel. Only root may
    Browse(browse::Browse),
    /// End a mount or what is browsed, also a dead one
    Umount(umount::Umount),
    /// Show what is mounted and browsed, and what is left of it
    Ps(ps::Ps),
    /// Make a snapshot of what was edited; prints its id
    Commit(commit::Commit),
    /// Look at what was edited, or throw it away
    #[command(subcommand)]
    Overlay(overlay::Overlay),
    /// Write a snapshot to a file, a device or stdout
    Export(export::Export),
    /// Tell what differs between two snapshots: blocks, or files
    Diff(diff::Diff),
    /// Draw a disk: what is present, changed, cached
    Map(map::Map),
    /// Delete snapshots
    Delete(delete::Delete),
    /// Remove blocks that no snapshot refers to
    Gc(gc::Gc),
    /// Serve a store to clients of the EBS direct APIs
    Serve(serve::Serve),
}

/// Why the program ends before its work is done.
#[derive(Debug)]
pub enum Stop {
    /// Something failed.
    Failed(Error),
    /// The user interrupted; the text says how to go on.
    Interrupted(String),
    /// The reader of stdout is gone.
    BrokenPipe,
    /// It failed, with this exit code, and the reason has been printed.
    Told(u8),
}

/// The result of a verb.
type Outcome<T = ()> = Result<T, Stop>;

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl Stop {
    /// The same, with what can be done if something failed.
    fn context(self, what: &str) -> Self {
        match self {
            Self::Failed(error) => Self::Failed(error.context(what)),
            other => other,
        }
    }

    /// What the shell is told.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Failed(error) => exit_code(error.kind()),
            Self::Interrupted(_) => 130,
            Self::BrokenPipe => 141,
            Self::Told(code) => *code,
        }
    }
}

/// Kept in step with `EXIT_CODES`.
fn exit_code(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::Io | ErrorKind::NoSpace | ErrorKind::ReadOnly => 1,
        ErrorKind::Invalid | ErrorKind::Unsupported | ErrorKind::Conflict => 2,
        ErrorKind::NotFound => 3,
        ErrorKind::Denied => 4,
        ErrorKind::Corrupt => 5,
        ErrorKind::Unavailable => 6,
    }
}

impl Cli {
    /// Does what was asked for.
    pub fn run(self) -> Outcome {
        let common = self.common;
        start_log(match common.verbose {
            0 => LevelFilter::Warn,
            1 => LevelFilter::Info,
            _ => LevelFilter::Debug,
        });
        match self.command {
            Command::Import(verb) => verb.run(&common),
            Command::List(verb) => verb.run(&common),
            Command::Info(verb) => verb.run(&common),
            Command::Ls(verb) => verb.run(&common),
            Command::Cat(verb) => verb.run(&common),
            Command::Cp(verb) => verb.run(&common),
            Command::Find(verb) => verb.run(&common),
            Command::Df(verb) => verb.run(&common),
            Command::Mount(verb) => verb.run(&common),
            Command::Warm(verb) => verb.run(),
            Command::Browse(verb) => verb.run(&common),
            Command::Umount(verb) => verb.run(),
            Command::Ps(verb) => verb.run(),
            Command::Commit(verb) => verb.run(&common),
            Command::Overlay(verb) => verb.run(&common),
            Command::Export(verb) => verb.run(&common),
            Command::Diff(verb) => verb.run(&common),
            Command::Map(verb) => verb.run(&common),
            Command::Delete(verb) => verb.run(&common),
            Command::Gc(verb) => verb.run(&common),
            Command::Serve(verb) => verb.run(&common),
        }
    }
}

/// Logs to stderr; `RUST_LOG` says more precisely what.
fn start_log(level: LevelFilter) {
    let env = env_logger::Env::default();
    let mut log = env_logger::Builder::new();
    log.filter_level(level.min(LevelFilter::Warn))
        .filter_module("ebsfs", level)
        .parse_env(env);
    // A second call, in tests, changes nothing.
    drop(log.try_init());
}

/// Prints a result.
fn print(text: &str) -> Outcome {
    let mut stdout = io::stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Err(Stop::BrokenPipe),
        Err(e) => Err(Error::from(e).context("cannot write to stdout").into()),
    }
}

/// Prints a result for a program.
fn print_json(value: &impl serde::Serialize) -> Outcome {
    let text = serde_json::to_string_pretty(value)
        .map_err(|e| Error::new(ErrorKind::Io, e.to_string()).context("cannot write JSON"))?;
    print(&(text + "\n"))
}

/// Tells the user something that is not a result.
fn tell(text: &str) {
    // Nobody may be there to read it, which is no reason to stop.
    drop(writeln!(io::stderr(), "ebsfs: {text}"));
}

/// Whether the user says yes to a question.
fn agreed(question: &str) -> Result<bool, Error> {
    let mut stderr = io::stderr().lock();
    stderr
        .write_all(format!("{question} [y/N] ").as_bytes())
        .and_then(|()| stderr.flush())?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// A number of bytes as typed: `256MiB`, `64M`, `1g`, `4194304`.
fn parse_bytes(text: &str) -> Result<usize, String> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        "t" | "tib" => 40,
        _ => {
            return Err(format!(
                "unknown unit {unit:?}: use K, M, G or T, as in 256M"
            ));
        }
    };
    let bytes = number
        .parse::<usize>()
        .ok()
        .and_then(|number| number.checked_mul(1 << shift));
    bytes.ok_or_else(|| "not a number of bytes; write for example 256M".into())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes_are_read_with_binary_units() {
        assert_eq!(parse_bytes("256MiB"), Ok(256 << 20));
        assert_eq!(parse_bytes("64m"), Ok(64 << 20));
        assert_eq!(parse_bytes("4096"), Ok(4096));
        for bad in [
            "",
            "M",
            "1.5G",
            "-1",
            "1X",
            "99999999999999999999",
            "99999999T",
        ] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
    }
}
