//! Runs the program as a user would: the real binary, in a directory of its own, with a time limit.
//!
//! `Sandbox::new().run(&["import", "disk.img"])` works on the store `store` in the sandbox unless told
//! otherwise. Whatever is still running when a test ends, also by a panic, is killed.

use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// No call of the program takes longer, on a slow and busy disk either.
const LIMIT: Duration = Duration::from_secs(100);

/// A directory that goes away with everything in it; also the home of who runs the program in it.
pub(crate) struct Sandbox {
    dir: TempDir,
}

impl Sandbox {
    pub(crate) fn new() -> Self {
        let dir = TempDir::with_prefix("ebsfs-it-").unwrap();
        Self { dir }
    }

    /// `name` in the sandbox.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.path("store")
    }

    /// Lets everyone into the sandbox, as tests need that run the program as another user.
    pub(crate) fn open_to_all(&self) {
        fs::set_permissions(self.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// The program with these arguments, not yet started.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        self.wrapped(&[env!("CARGO_BIN_EXE_ebsfs")], arguments)
    }

    /// The same, run by nobody. The binary is copied to where nobody can reach it.
    pub(crate) fn command_as_nobody(&self, arguments: &[&str]) -> Command {
        let binary = self.path("ebsfs");
        if !binary.exists() {
            install(env!("CARGO_BIN_EXE_ebsfs").as_ref(), &binary);
            fs::create_dir(self.path("nobody")).unwrap();
            std::os::unix::fs::chown(self.path("nobody"), Some(65534), Some(65534)).unwrap();
            self.open_to_all();
        }
        let become_nobody = [
            "setpriv",
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
        ];
        let program = [&become_nobody[..], &[binary.to_str().unwrap()]].concat();
        let mut command = self.wrapped(&program, arguments);
        command
            .env("HOME", self.path("nobody"))
            .env_remove("XDG_STATE_HOME")
            .env_remove("XDG_CACHE_HOME");
        command
    }

    fn wrapped(&self, program: &[&str], arguments: &[&str]) -> Command {
        let mut command = Command::new(program[0]);
        command
            .args(&program[1..])
            .args(arguments)
            .current_dir(self.dir.path())
            .env("HOME", self.path("home"))
            .env("XDG_STATE_HOME", self.path("state"))
            .env("XDG_CACHE_HOME", self.path("cache"))
            .env("EBSFS_STORE", "store")
            .env_remove("RUST_LOG");
        without_aws(&mut command);
        command
    }

    /// Runs the program to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        self.start(arguments).finish()
    }

    /// Runs it to its end as nobody.
    pub(crate) fn run_as_nobody(&self, arguments: &[&str]) -> Ran {
        Running::start(self.command_as_nobody(arguments)).finish()
    }

    /// Starts the program.
    pub(crate) fn start(&self, arguments: &[&str]) -> Running {
        Running::start(self.command(arguments))
    }

    /// Imports and returns the id, which must stand alone on stdout.
    pub(crate) fn import(&self, arguments: &[&str]) -> String {
        let ran = self.run(&[&["import"], arguments].concat());
        id_of(&ran.succeeds())
    }

    /// What `list --json` tells.
    pub(crate) fn list(&self) -> Vec<Value> {
        let text = self.run(&["list", "--json"]).succeeds();
        serde_json::from_str(&text).unwrap()
    }

    /// What `info --json` tells.
    pub(crate) fn info(&self, id: &str) -> Value {
        let text = self.run(&["info", "--json", id]).succeeds();
        serde_json::from_str(&text).unwrap()
    }

    /// Block files in the store.
    pub(crate) fn block_files(&self) -> usize {
        files_below(&self.store().join("blocks")).len()
    }

    /// Snapshots that were started and not completed.
    pub(crate) fn pending(&self) -> usize {
        fs::read_dir(self.store().join("pending")).map_or(0, |entries| entries.count())
    }

    /// The notes on unfinished work.
    pub(crate) fn checkpoints(&self) -> Vec<PathBuf> {
        let mut files = files_below(&self.path("state/ebsfs"));
        files.retain(|file| {
            file.extension()
                .is_some_and(|extension| extension == "json")
        });
        files
    }
}

/// Takes away what this machine says about AWS.
pub(crate) fn without_aws(command: &mut Command) {
    let of_aws = |(name, _): &(std::ffi::OsString, _)| name.to_string_lossy().starts_with("AWS_");
    for (name, _) in std::env::vars_os().filter(of_aws) {
        command.env_remove(name);
    }
    command.env("AWS_EC2_METADATA_DISABLED", "true");
}

/// The one line of `out`, an id.
pub(crate) fn id_of(out: &str) -> String {
    let id = out
        .strip_suffix('\n')
        .unwrap_or_else(|| panic!("no line: {out:?}"));
    assert!(
        id.parse::<ebsfs::snapshot::SnapshotId>().is_ok(),
        "not an id alone: {out:?}"
    );
    id.to_owned()
}

/// All files at any depth; what goes away meanwhile is left out.
pub(crate) fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => files.append(&mut files_below(&entry.path())),
            Ok(_) => files.push(entry.path()),
            Err(_) => {}
        }
    }
    files
}

/// What a finished call left.
#[derive(Debug)]
pub(crate) struct Ran {
    /// As a shell tells it: 128 and the signal's number for one that was killed.
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    /// Its stdout; it must have succeeded.
    pub(crate) fn succeeds(self) -> String {
        assert_eq!(self.code, 0, "{self:?}");
        self.out
    }

    /// Like [`succeeds`](Self::succeeds), with nothing on stderr.
    pub(crate) fn succeeds_silently(self) -> String {
        assert_eq!(self.err, "", "{self:?}");
        self.succeeds()
    }

    /// Its stdout; it must have succeeded and told all of `words` on stderr.
    pub(crate) fn succeeds_and_tells(self, words: &[&str]) -> String {
        self.assert_tells(words);
        self.succeeds()
    }

    /// It must have failed with this code, told all of `words` on stderr, and printed nothing.
    pub(crate) fn fails(self, code: i32, words: &[&str]) -> String {
        assert_eq!(self.code, code, "{self:?}");
        assert_eq!(self.out, "", "{self:?}");
        assert!(!self.err.contains("panicked"), "{self:?}");
        self.assert_tells(words);
        self.err
    }

    fn assert_tells(&self, words: &[&str]) {
        for word in words {
            assert!(self.err.contains(word), "{word:?} is not told: {self:?}");
        }
    }
}

/// A call under way. Killed when dropped.
pub(crate) struct Running {
    child: Child,
    shown: String,
    out: Option<JoinHandle<Vec<u8>>>,
    err: Option<JoinHandle<Vec<u8>>>,
}

impl Running {
    /// Starts `command` with stdin from nowhere; stdout and stderr are collected.
    pub(crate) fn start(mut command: Command) -> Self {
        command.stdout(Stdio::piped());
        Self::start_with_stdout(command)
    }

    /// Like [`start`](Self::start), with stdout as `command` has it.
    pub(crate) fn start_with_stdout(mut command: Command) -> Self {
        let shown = format!("{command:?}");
        let mut child = command
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("cannot start {shown}: {e}"));
        let out = child.stdout.take().map(collect);
        let err = child.stderr.take().map(collect);
        Self {
            child,
            shown,
            out,
            err,
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).unwrap_or_else(|e| panic!("cannot signal {}: {e}", self.shown));
    }

    /// Whether it still runs.
    pub(crate) fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits until `progress` holds, or the program has ended, which it tells.
    pub(crate) fn until(&mut self, mut progress: impl FnMut() -> bool) -> bool {
        let mut ended = false;
        wait_until(&self.shown.clone(), || {
            ended = !self.runs();
            ended || progress()
        });
        !ended
    }

    /// Kills it in the middle of whatever it does.
    pub(crate) fn kill(mut self) -> Ran {
        // It may have ended by itself.
        if self.runs() {
            self.signal(Signal::KILL);
        }
        self.finish()
    }

    /// Waits for its end.
    pub(crate) fn finish(mut self) -> Ran {
        let deadline = Instant::now() + LIMIT;
        let status = loop {
            match self.child.try_wait().unwrap() {
                Some(status) => break status,
                None if Instant::now() > deadline => panic!("still running: {}", self.shown),
                None => std::thread::sleep(Duration::from_millis(1)),
            }
        };
        let text = |handle: &mut Option<JoinHandle<Vec<u8>>>| {
            let bytes = handle.take().map(|handle| handle.join().unwrap());
            String::from_utf8(bytes.unwrap_or_default()).unwrap()
        };
        Ran {
            code: status
                .code()
                .unwrap_or_else(|| 128 + status.signal().unwrap_or(0)),
            out: text(&mut self.out),
            err: text(&mut self.err),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail when it has ended, as it should have.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn collect(mut pipe: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).unwrap();
        bytes
    })
}

/// Polls until `condition` holds; panics when that takes longer than any call of the program may.
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < deadline, "waited too long: {what}");
        std::thread::sleep(Duration::from_micros(500));
    }
}

/// No other program takes longer, in seconds.
const TOOL_LIMIT: &str = "60";

/// `program` under a time limit, in plain English.
pub(crate) fn limited(program: impl AsRef<OsStr>) -> Command {
    static TIMEOUT: OnceLock<PathBuf> = OnceLock::new();
    let path = std::env::var("PATH").unwrap_or_default();
    let search = || {
        let mut places = std::env::split_paths(&path).map(|dir| dir.join("timeout"));
        places.find(|place| place.exists()).unwrap()
    };
    // By its path: where it has to be searched in another PATH the standard library forks all of this process, and the
    // child has every file of every test open until it runs its program.
    let mut command = Command::new(TIMEOUT.get_or_init(search));
    // sbin is in nobody's path but root's.
    command
        .args(["-s", "KILL", TOOL_LIMIT])
        .arg(program)
        .env("LC_ALL", "C")
        .env("PATH", format!("{path}:/usr/sbin:/sbin"))
        .stdin(Stdio::null());
    command
}

/// Runs another program, which must succeed; returns what it printed.
pub(crate) fn tool(program: &str, arguments: &[&str]) -> String {
    let mut command = limited(program);
    command.args(arguments);
    Running::start(command).finish().succeeds()
}

/// Puts the program `from` at `to`, for everyone to run.
///
/// By a process of its own: what this one writes may still be open in a child that another test is just
/// starting, and Linux runs no program that somebody has open for writing (ETXTBSY).
pub(crate) fn install(from: &Path, to: &Path) {
    tool(
        "install",
        &["-m", "755", from.to_str().unwrap(), to.to_str().unwrap()],
    );
}

/// Makes `to` a script of this text, for everyone to run.
pub(crate) fn script(text: &str, to: &Path) {
    let written = to.with_extension("text");
    fs::write(&written, text).unwrap();
    install(&written, to);
    fs::remove_file(written).unwrap();
}

/// Whether the test may go on: it needs root. Without it is skipped, and fails where nothing may be skipped.
pub(crate) fn is_root(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        assert!(
            std::env::var_os("REQUIRE_FUSE").is_none(),
            "{test} needs root"
        );
        eprintln!("SKIPPED: {test} needs root");
    }
    root
}
