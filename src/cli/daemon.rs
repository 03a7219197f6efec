//! Into the background: a fresh process, started with the same arguments, that says through a pipe what
//! became of it.
//!
//! The daemon has a session of its own and stands in `/`. Its stdin is empty, its stdout is the pipe until the
//! mount answers and nothing after that, its stderr is the log.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use super::{Outcome, Stop, tell};
use crate::durable;
use crate::error::{Error, ErrorKind, Result};

/// Tells the program that it is the daemon.
pub(super) const DETACHED: &str = "EBSFS_INTERNAL_DETACHED";

/// How glibc keeps memory, which it can be told only before the process begins; what the user says goes before.
const MEMORY: [(&str, &str); 3] = [
    // Eight heaps for each core otherwise. What one thread has let go of is then of no use to the others, and a commit came to
    // hold 60 MiB more than it needs.
    ("MALLOC_ARENA_MAX", "2"),
    // A listing takes several MiB for a moment, and its tokens are kept for a while. From the heap, they and blocks would leave
    // holes of each other's sizes: 50 MiB of them, or 12 with blocks alone in it. So what is as large as a block is
    // the kernel's, and blocks are used again (`block/buffer.rs`). A connection's buffers are smaller, and stay in the heap.
    ("MALLOC_MMAP_THRESHOLD_", "458752"),
    ("MALLOC_TRIM_THRESHOLD_", "4194304"),
];

/// What of it nobody has said yet.
fn unsaid() -> impl Iterator<Item = (&'static str, &'static str)> {
    let unsaid = |(name, _): &(&str, &str)| std::env::var_os(name).is_none();
    MEMORY.into_iter().filter(unsaid)
}

/// What it writes once the mount answers. Anything else is an exit code, a line feed and the reason.
const READY: &str = "ready";

/// After so long without a verdict the user is told that there is none.
const PATIENCE: Duration = Duration::from_secs(5);

/// Starts this program again as a daemon and waits until it is mounted or has failed.
pub(super) fn start(log: Option<File>) -> Outcome {
    spawn(log, Stdio::null())?.wait()
}

/// A daemon that was started and has not told yet what became of it.
pub(super) struct Starting(Child);

/// Starts this program again, with the same arguments, as a daemon. It has `stdin` until the mount answers.
pub(super) fn spawn(log: Option<File>, stdin: Stdio) -> Result<Starting> {
    let program =
        std::env::current_exe().map_err(|e| Error::from(e).context("cannot find this program"))?;
    let log = log.map_or_else(Stdio::null, Stdio::from);
    let daemon = Command::new(program)
        .args(std::env::args_os().skip(1))
        .env(DETACHED, "true")
        .envs(unsaid())
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .map_err(|e| Error::from(e).context("cannot start the daemon"))?;
    Ok(Starting(daemon))
}

impl Starting {
    /// The daemon's number.
    pub(super) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Waits until it is mounted or has failed.
    pub(super) fn wait(self) -> Outcome {
        let mut daemon = self.0;
        let mut verdict = String::new();
        let (_done, waiting) = mpsc::channel::<()>();
        thread::spawn(move || {
            if waiting.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                tell(
                    "the store has not answered yet, still trying; the log says why (-v names it)",
                );
            }
        });
        if let Some(mut stdout) = daemon.stdout.take() {
            stdout
                .read_to_string(&mut verdict)
                .map_err(|e| Error::from(e).context("cannot hear from the daemon"))?;
        }
        if verdict == READY {
            return Ok(());
        }
        // It said why in words that already begin with the program's name, or died without a word.
        let status = daemon
            .wait()
            .map_err(|e| Error::from(e).context("cannot wait for the daemon"))?;
        match verdict
            .split_once('\n')
            .and_then(|(code, reason)| Some((code.parse().ok()?, reason)))
        {
            Some((code, reason)) => {
                tell(reason);
                Err(Stop::Told(code))
            }
            None => {
                let what = format!(
                    "the daemon ended before it had mounted ({status}); the log may say why"
                );
                Err(Error::new(ErrorKind::Io, what).into())
            }
        }
    }
}

/// Begins this program anew in its place, with memory kept as a daemon's is, unless it was begun so. Where that
/// cannot be done it takes more memory, and works.
pub(super) fn with_little_memory() {
    if unsaid().next().is_none() {
        return;
    }
    let failed = std::env::current_exe().map(|program| {
        let mut again = Command::new(program);
        again
            .args(std::env::args_os().skip(1))
            .envs(unsaid())
            .exec()
    });
    let (Ok(e) | Err(e)) = failed;
    log::debug!("the program is not begun anew: {e}");
}

/// Sends stderr, and with it the log, to a file.
pub(super) fn log_to(path: &Path) -> Result<()> {
    Ok(rustix::stdio::dup2_stderr(open_log(path)?)?)
}

/// Opens a log to append to; only its owner may read it.
pub(super) fn open_log(path: &Path) -> Result<File> {
    if let Some(parent) = path.parent() {
        durable::create_private_dir(parent)?;
    }
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .map_err(|e| Error::io(e, "open the log", path))
}

/// In the daemon: leaves the terminal's session and the directory it was started in, tells that the mount
/// answers, and lets go of the pipe and of what it was given as stdin.
pub(super) fn ready() -> Result<()> {
    // Fails only for the leader of a group, which has left its terminal's session already.
    let _ = rustix::process::setsid();
    std::env::set_current_dir("/").map_err(|e| Error::from(e).context("cannot enter /"))?;
    say(READY)?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    Ok(rustix::stdio::dup2_stdout(null)?)
}

/// In the daemon: tells why there will be no mount, if there is none.
pub(super) fn failed(served: Outcome) -> Outcome {
    if let Err(stop) = &served {
        let reason = match stop {
            Stop::Failed(error) => format!("{error:#}"),
            Stop::Interrupted(_) | Stop::BrokenPipe | Stop::Told(_) => "interrupted".to_owned(),
        };
        // After the mount had answered nobody listens any more; then the log has it.
        say(&format!("{}\n{reason}", stop.exit_code()))?;
    }
    served
}

fn say(verdict: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout
        .write_all(verdict.as_bytes())
        .and_then(|()| stdout.flush())
        .map_err(|e| Error::from(e).context("nobody waits for the daemon"))
}
