//! Sets up what is browsed, step by step, each noted before it is done; a failure or a signal undoes what was done.

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::future::{Either, select};
use futures_util::pin_mut;
use rustix::process::{Pid, Signal, kill_process};
use tokio::runtime::Runtime;
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::timeout;

use super::super::interrupt::Signals;
use super::super::mount::Serving;
use super::super::{Outcome, Stop, daemon, loops, tell};
use super::choice::{Candidate, candidates, choose, others};
use super::ending::Manner;
use super::site::{Lock, Record, Site, Step};
use super::{already, warn_of_trust};
use crate::error::{Error, ErrorKind, Result};
use crate::fuse::mountpoint::{abort, mounts};
use crate::snapshot::SnapshotId;

/// How the file system is to be mounted.
pub(super) struct How<'a> {
    pub(super) partition: Option<&'a str>,
    pub(super) replay: bool,
    pub(super) writable: bool,
    /// Words for mount(8).
    pub(super) options: Option<&'a str>,
}

pub(super) struct Setup<'a> {
    runtime: &'a Runtime,
    signals: Signals,
    site: Site,
    record: Record,
    lock: Lock,
}

/// How long a tool may take to end when it is told to, before its daemon is taken from it.
const PATIENCE: Duration = Duration::from_secs(3);

/// How often a loop device is tried for that another program takes first.
const TRIES: u32 = 10;

impl<'a> Setup<'a> {
    /// Makes a private directory for `directory`, for which there is none yet.
    pub(super) fn begin(
        runtime: &'a Runtime,
        directory: &Path,
        snapshot: &SnapshotId,
    ) -> Result<Self> {
        // First, so that no signal ends this process once something is made.
        let signals = {
            let _context = runtime.enter();
            Signals::watch()?
        };
        let site = Site::make(directory)?;
        let lock = site.lock()?;
        // Another may have been first.
        if site.read()?.is_some() {
            return Err(already(directory));
        }
        Ok(Self {
            runtime,
            signals,
            site,
            record: Record::new(directory, snapshot.clone()),
            lock,
        })
    }

    /// All of it, or nothing.
    pub(super) fn run(
        mut self,
        how: &How<'_>,
        overlay: Option<PathBuf>,
        serving: &Serving,
    ) -> Outcome {
        self.record.kept = overlay.is_some();
        self.record.overlay = overlay.or_else(|| how.replay.then(|| self.site.overlay()));
        let done = self
            .show(serving)
            .and_then(|()| self.choose(how))
            .and_then(|chosen| self.attach(how, &chosen))
            .and_then(|()| self.mount(how));
        match done {
            Ok(()) => {
                warn_of_trust(&self.record.directory);
                Ok(())
            }
            Err(stop) => Err(self.undo(stop)),
        }
    }

    fn undo(self, stop: Stop) -> Stop {
        let directory = self.record.directory.clone();
        match self
            .site
            .take_down(&self.record, self.lock, Manner::InOrder)
        {
            Ok(()) => {}
            Err(e) => tell(&format!(
                "not all that was set up could be taken down: {e:#}; `ebsfs umount {}` does",
                directory.display()
            )),
        }
        stop
    }

    fn note(&mut self, step: Step) -> Result<()> {
        self.record.step = step;
        self.site.write(&self.record)
    }

    /// Mounts the snapshot.
    fn show(&mut self, serving: &Serving) -> Outcome {
        self.note(Step::Showing)?;
        self.site.make_mount()?;
        let log = serving.open_log(&self.record.directory)?;
        let daemon = daemon::spawn(log, self.lock.share()?.into())?;
        let pid = daemon.pid();
        self.step(move || Ok(daemon.wait()), Some(pid))?
    }

    /// Finds out which file system is meant.
    fn choose(&mut self, how: &How<'_>) -> Outcome<Candidate> {
        let (mount, snapshot) = (self.site.mount(), self.record.snapshot.clone());
        let lock = self.lock.share()?;
        let candidates = self.step(move || candidates(&mount, &snapshot, &lock), None)?;
        let chosen = choose(&candidates, how.partition)?;
        let beside = match how.partition {
            Some(_) => String::new(),
            None => others(&candidates, &chosen),
        };
        tell(&match &*beside {
            "" => format!("mounting {chosen}"),
            beside => format!("mounting {chosen}; beside it there are:{beside}"),
        });
        // Before a device shows it to the kernel, which could take that for the other's.
        if let Some(content) = chosen
            .content
            .as_ref()
            .filter(|found| found.kind == "btrfs")
            && let Some(uuid) = &content.uuid
        {
            check_btrfs(uuid)?;
        }
        self.record.file = Some(chosen.file.clone());
        self.record.fs_type = chosen.content.as_ref().map(|content| content.kind.clone());
        Ok(chosen)
    }

    /// Attaches a loop device.
    fn attach(&mut self, how: &How<'_>, chosen: &Candidate) -> Outcome {
        self.note(Step::Attaching)?;
        let writable = how.writable || how.replay;
        for left in (0..TRIES).rev() {
            let file = chosen.file.clone();
            let losetup = loops::attach(&file, writable, self.lock.share()?)?;
            let pid = losetup.id();
            match self.step(move || loops::attached(losetup, &file), Some(pid)) {
                Err(Stop::Failed(e)) if e.kind() == ErrorKind::Conflict && left > 0 => {}
                attached => {
                    self.record.device = Some(attached?);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Mounts the file system.
    fn mount(&mut self, how: &How<'_>) -> Outcome {
        self.note(Step::Mounting)?;
        let (Some(device), Some(fs_type)) = (&self.record.device, &self.record.fs_type) else {
            return Err(Error::new(ErrorKind::Io, "there is nothing to mount").into());
        };
        let mut mount = loops::tool("mount", self.lock.share()?);
        mount
            .args(["-t", fs_type, "-o", &options(how, fs_type), "--"])
            .args([&device.path, &self.record.directory]);
        let deed = format!("mount {fs_type} on {}", self.record.directory.display());
        let mount = loops::start(&mut mount)?;
        let pid = mount.id();
        self.step(move || loops::finish(mount, &deed), Some(pid))?;
        self.note(Step::Done)?;
        Ok(())
    }

    /// The result of `work`, which may wait; or `Interrupted` once it has ended, which process `pid` is made to do, when
    /// a signal comes first.
    fn step<T: Send + 'static>(
        &mut self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
        pid: Option<u32>,
    ) -> Outcome<T> {
        let signals = &mut self.signals;
        let mount = self.site.mount();
        self.runtime.block_on(async {
            let mut work = spawn_blocking(work);
            let done = {
                let signalled = signals.next();
                pin_mut!(signalled);
                match select(&mut work, signalled).await {
                    Either::Left((done, _)) => Some(done),
                    Either::Right(_) => None,
                }
            };
            match done.map(ended) {
                Some(Ok(done)) => return Ok(done),
                // A signal of the terminal has come to the daemon, too, and may have ended it.
                Some(Err(e)) if !signals.has_come().await => return Err(e.into()),
                Some(Err(_)) => {}
                None => {
                    send(pid, Signal::TERM);
                    if timeout(PATIENCE, &mut work).await.is_err() {
                        // Who waits for the daemon hears no signal until that has answered.
                        send(pid, Signal::KILL);
                        drop(abort(&mount));
                        drop(work.await);
                    }
                }
            }
            Err(Stop::Interrupted(
                "what was set up is taken down".to_owned(),
            ))
        })
    }
}

fn ended<T>(done: Result<Result<T>, JoinError>) -> Result<T> {
    done.unwrap_or_else(|e| {
        Err(Error::new(
            ErrorKind::Io,
            format!("a step ended early: {e}"),
        ))
    })
}

fn send(pid: Option<u32>, signal: Signal) {
    let pid = pid.and_then(|pid| Pid::from_raw(pid.try_into().ok()?));
    if let Some(pid) = pid {
        // It may just have ended.
        let _ = kill_process(pid, signal);
    }
}

/// The options of mount(8): what is safe, what this file system needs, what the user says.
fn options(how: &How<'_>, fs_type: &str) -> String {
    let mut options = vec![
        if how.writable { "rw" } else { "ro" },
        "nosuid,nodev,noexec",
    ];
    // Its origin may be mounted beside it, and has the same UUID.
    if fs_type == "xfs" {
        options.push("nouuid");
    }
    if !how.replay {
        match fs_type {
            "ext3" | "ext4" => options.push("noload"),
            "xfs" => options.push("norecovery"),
            "btrfs" => options.push("rescue=nologreplay"),
            // The device cannot be written to, and whoever wants to replay says so.
            _ => {}
        }
    }
    options.extend(how.options);
    options.join(",")
}

/// `Conflict` if a btrfs of that id is mounted: the kernel would take both for one.
fn check_btrfs(uuid: &str) -> Result<()> {
    let known = Path::new("/sys/fs/btrfs").join(uuid);
    if !known.is_dir() {
        return Ok(());
    }
    let devices: Vec<_> = std::fs::read_dir(known.join("devices"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| Path::new("/dev").join(entry.file_name()))
        .collect();
    let mounts = mounts()?;
    let at = mounts.iter().find(|mount| {
        devices
            .iter()
            .any(|device| Path::new(&mount.source) == device)
    });
    let at = at.map_or(String::new(), |mount| {
        format!(" on {}", mount.path.display())
    });
    Err(Error::new(
        ErrorKind::Conflict,
        format!(
            "this btrfs ({uuid}) is mounted already{at}, and the kernel takes all of that id for one file system: unmount it first, or browse on another machine"
        ),
    ))
}
