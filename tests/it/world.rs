//! A directory of its own for each test, the real program in it, and the certainty that nothing outlives it:
//! mounts, loop devices and daemons go when a [`World`] is dropped, also by a panic.
//!
//! A test that hangs is ended: a watchdog kills its daemons, so that whoever waits for an answer gets an error.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::kernel::{abort, backing_file, daemons, gone, kill, loops_below, mounts_below};
pub(crate) use crate::program::limited;
use crate::program::{install, without_aws};

/// After this a test's daemons are killed.
const TEST_LIMIT: Duration = Duration::from_secs(120);

const EBSFS: &str = env!("CARGO_BIN_EXE_ebsfs");

/// What a command said and how it ended.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    /// Its stdout; panics unless the command succeeded.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.out
    }

    /// Panics unless it failed with that code, and with all these words on stderr.
    #[track_caller]
    pub(crate) fn refused(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert_eq!(self.out, "", "{self:?}");
        for word in words {
            assert!(self.err.contains(word), "no {word:?} in {self:?}");
        }
    }
}

/// Runs a command to its end, and no longer than a minute.
pub(crate) fn run<S: AsRef<OsStr>>(program: &str, args: impl IntoIterator<Item = S>) -> Said {
    finish(limited(program).args(args))
}

/// Unmounts, and lets it take a while until nobody uses it: a file that was just closed may still be open in a child
/// that another test is starting, until that runs its program.
pub(crate) fn unless_busy(umount: impl Fn() -> Said) -> Said {
    let begin = Instant::now();
    loop {
        let said = umount();
        let is_busy = ["busy", "in use"]
            .iter()
            .any(|word| said.err.contains(word));
        if !is_busy || begin.elapsed() > Duration::from_secs(5) {
            return said;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Unmounts by the system's tool.
#[track_caller]
pub(crate) fn umount(at: impl AsRef<OsStr>) {
    unless_busy(|| run("umount", [&at])).ok();
}

pub(crate) fn finish(command: &mut Command) -> Said {
    let output = command.output().unwrap();
    Said {
        code: output.status.code(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Waits until `what` gives something; panics after twenty seconds.
#[track_caller]
pub(crate) fn eventually<T>(why: &str, mut what: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(20) {
        if let Some(found) = what() {
            return found;
        }
        thread::sleep(Duration::from_millis(20));
    }
    panic!("never: {why}");
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// One test's directory.
pub(crate) struct World {
    dir: PathBuf,
    /// Removes the directory, after all else.
    _dir: TempDir,
    watchdog: Option<(Sender<()>, JoinHandle<()>)>,
    /// Loop devices and the names of the files below them, which a lazy umount leaves without a directory.
    attached: Mutex<Vec<(String, String)>>,
}

impl World {
    /// None where there is no FUSE; a failure instead with `REQUIRE_FUSE=1`.
    pub(crate) fn new() -> Option<Self> {
        if !Path::new("/dev/fuse").exists() {
            let required = std::env::var_os("REQUIRE_FUSE").is_some_and(|value| value == "1");
            assert!(!required, "REQUIRE_FUSE=1, and there is no /dev/fuse");
            eprintln!("SKIPPED: there is no /dev/fuse");
            return None;
        }
        Some(Self::within(&std::env::temp_dir()))
    }

    /// None also for other users than root, who alone has loop devices.
    pub(crate) fn for_root() -> Option<Self> {
        let world = Self::new()?;
        if !is_root() {
            eprintln!("SKIPPED: this test needs root");
            return None;
        }
        Some(world)
    }

    /// A world that every user can enter.
    pub(crate) fn for_everyone() -> Option<Self> {
        let world = Self::for_root()?;
        let open =
            |dir: &Path| fs::metadata(dir).is_ok_and(|meta| meta.permissions().mode() & 0o5 == 0o5);
        let world = if world.dir.ancestors().skip(1).all(open) {
            world
        } else {
            Self::within(Path::new("/var/tmp"))
        };
        fs::set_permissions(&world.dir, fs::Permissions::from_mode(0o755)).unwrap();
        Some(world)
    }

    fn within(parent: &Path) -> Self {
        let temporary = tempfile::Builder::new()
            .prefix("ebsfs-it.")
            .tempdir_in(parent)
            .unwrap();
        let dir = fs::canonicalize(temporary.path()).unwrap();
        fs::create_dir(dir.join("run")).unwrap();
        let (end, ended) = mpsc::channel();
        let watched = dir.clone();
        let watchdog = thread::spawn(move || {
            if ended.recv_timeout(TEST_LIMIT) == Err(RecvTimeoutError::Timeout) {
                eprintln!("time is up: killing the daemons of {}", watched.display());
                daemons(&watched).into_iter().for_each(kill);
                abort(&watched);
            }
        });
        Self {
            dir,
            _dir: temporary,
            watchdog: Some((end, watchdog)),
            attached: Mutex::default(),
        }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.path("store")
    }

    /// An empty directory.
    pub(crate) fn empty(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir(&path).unwrap();
        path
    }

    /// The program, with this world for its home and no store chosen.
    pub(crate) fn bare(&self) -> Command {
        self.surround(limited(EBSFS))
    }

    /// The same, to be started and left running.
    pub(crate) fn unlimited(&self) -> Command {
        self.surround(Command::new(EBSFS))
    }

    /// A copy where every user can reach it.
    pub(crate) fn program_for_all(&self) -> PathBuf {
        let path = self.path("ebsfs");
        if !path.exists() {
            install(EBSFS.as_ref(), &path);
        }
        path
    }

    /// Makes this world the home of `command`.
    pub(crate) fn surround(&self, mut command: Command) -> Command {
        command
            .current_dir(&self.dir)
            .env("HOME", &self.dir)
            .env("XDG_STATE_HOME", self.path("state"))
            .env("XDG_CACHE_HOME", self.path("cache"))
            .env("XDG_RUNTIME_DIR", self.path("run"))
            .env_remove("RUST_LOG")
            .env_remove("EBSFS_STORE")
            .env_remove("EBSFS_INTERNAL_DETACHED");
        without_aws(&mut command);
        command
    }

    /// Runs the program on this world's store.
    pub(crate) fn ebsfs<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Said {
        finish(self.bare().arg("--store").arg(self.store()).args(args))
    }

    /// Imports an image and gives the new snapshot's id.
    #[track_caller]
    pub(crate) fn import(&self, image: &Path) -> String {
        let out = self.ebsfs([OsStr::new("import"), image.as_os_str()]).ok();
        out.trim_end().to_owned()
    }

    /// Mounts these snapshots, or the whole store, on a new directory.
    #[track_caller]
    pub(crate) fn mount(&self, ids: &[&str]) -> Mount {
        self.mount_with(ids, &[])
    }

    #[track_caller]
    pub(crate) fn mount_with(&self, ids: &[&str], options: &[&str]) -> Mount {
        let at = tempfile::Builder::new()
            .prefix("mnt.")
            .tempdir_in(&self.dir)
            .unwrap()
            .keep();
        let at_text = at.to_str().unwrap();
        let said = self.ebsfs([&["mount"], options, ids, &[at_text]].concat());
        assert_eq!(said.ok(), "", "mount prints nothing");
        Mount::at(at)
    }

    /// Unmounts in order, and waits for the daemon's end.
    #[track_caller]
    pub(crate) fn unmount(&self, mount: &Mount) {
        let umount = [OsStr::new("umount"), mount.dir.as_os_str()];
        unless_busy(|| self.ebsfs(umount)).ok();
        eventually("the daemon ends", || gone(mount.pid).then_some(()));
    }

    /// Attaches a loop device that cannot be written to; it goes with the world.
    #[track_caller]
    pub(crate) fn attach(&self, file: &Path, options: &[&str]) -> String {
        self.attach_writable(file, &[&["-r"], options].concat())
    }

    /// Attaches a loop device; it goes with the world.
    #[track_caller]
    pub(crate) fn attach_writable(&self, file: &Path, options: &[&str]) -> String {
        let args = [&["--show", "-f"], options, &[file.to_str().unwrap()]].concat();
        let device = run("losetup", args).ok().trim_end().to_owned();
        let name = file.file_name().unwrap().to_str().unwrap().to_owned();
        self.attached.lock().unwrap().push((device.clone(), name));
        device
    }

    /// Takes loop devices and mounts away, as far as nothing uses them.
    pub(crate) fn unmount_all(&self) {
        for device in loops_below(&self.dir) {
            run("losetup", ["-d", &device]);
        }
        for (_, _, path) in mounts_below(&self.dir) {
            self.ebsfs([OsStr::new("umount"), path.as_os_str()]);
        }
    }

    /// The processes of the program that were started in this world.
    pub(crate) fn daemons(&self) -> Vec<Pid> {
        daemons(&self.dir)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for (_, _, path) in mounts_below(&self.dir).iter().filter(|(fuse, ..)| !fuse) {
            let path = path.as_os_str();
            if run("umount", [path]).code != Some(0) {
                run("umount", [OsStr::new("-l"), path]);
            }
        }
        let mut devices = loops_below(&self.dir);
        let attached = self
            .attached
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        for (device, name) in attached.drain(..) {
            if backing_file(&device).is_some_and(|file| file.ends_with(&*name)) {
                devices.push(device);
            }
        }
        for device in devices {
            run("losetup", ["-d", &device]);
        }
        // A stopped daemon does not hear that it is to end.
        for pid in self.daemons() {
            let _ = kill_process(pid, Signal::CONT);
        }
        for (_, _, path) in mounts_below(&self.dir) {
            let path = path.as_os_str();
            if self.ebsfs([OsStr::new("umount"), path]).code != Some(0) {
                abort(&self.dir);
                run("umount", [OsStr::new("-l"), path]);
            }
        }
        let start = Instant::now();
        while !self.daemons().is_empty() {
            if start.elapsed() > Duration::from_secs(5) {
                self.daemons().into_iter().for_each(kill);
                break;
            }
            thread::sleep(Duration::from_millis(10));
        }
        if let Some((end, watchdog)) = self.watchdog.take() {
            drop(end);
            drop(watchdog.join());
        }
    }
}

/// A mounted directory of images.
pub(crate) struct Mount {
    pub(crate) dir: PathBuf,
    pub(crate) pid: Pid,
}

impl Mount {
    /// The one that answers at `dir`.
    #[track_caller]
    pub(crate) fn at(dir: PathBuf) -> Self {
        let text = fs::read_to_string(dir.join(".ebsfs/mount.json")).unwrap();
        let json: Value = serde_json::from_str(&text).unwrap();
        let pid = i32::try_from(json["pid"].as_i64().unwrap()).unwrap();
        Self {
            dir,
            pid: Pid::from_raw(pid).unwrap(),
        }
    }

    /// The file of a whole snapshot.
    pub(crate) fn disk(&self, id: &str) -> PathBuf {
        self.dir.join(format!("{id}.img"))
    }

    /// The file of one of its partitions.
    pub(crate) fn part(&self, id: &str, number: u32) -> PathBuf {
        self.dir.join(format!("{id}.p{number}.img"))
    }

    /// The counters of a snapshot, by name.
    #[track_caller]
    pub(crate) fn count(&self, id: &str, name: &str) -> u64 {
        let text = fs::read_to_string(self.dir.join(".ebsfs/stats.json")).unwrap();
        let json: Value = serde_json::from_str(&text).unwrap();
        json["snapshots"][id][name]
            .as_u64()
            .unwrap_or_else(|| panic!("no {name} of {id} in {text}"))
    }

    /// What the log says.
    #[track_caller]
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.join(".ebsfs/log")).unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid, signal).unwrap();
    }

    /// Names in the directory, sorted.
    pub(crate) fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(&self.dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}
