//! Takes down what `browse` set up, in order: file system, loop device, mount of the snapshot, throw-away overlay, private
//! directory. What somebody has taken down already is not missed; nothing is touched that is not its own.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::super::loops::{self, Loop};
use super::super::unmount::{Daemon, daemon, end, silent};
use super::super::{holders, tell};
use super::site::{Lock, Record, Site, Step};
use crate::error::{Error, ErrorKind, Result};
use crate::fuse::mountpoint::{FS_TYPE, MountEntry, abort, detach, mounted_at, mounts};
use crate::overlay::LocalDirectory;

/// How to deal with those who use it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::cli) enum Manner {
    /// If it is in use, nothing is taken down.
    InOrder,
    /// It disappears from the tree, and ends when its last user does.
    Lazily,
    /// Whoever uses it gets errors.
    ByForce,
}

impl Site {
    /// Takes all of it down.
    pub(in crate::cli) fn end(&self, manner: Manner) -> Result<()> {
        let lock = self.lock()?;
        let Some(mut record) = self.read()? else {
            // It had not begun, or has ended but for this.
            return self.remove(lock);
        };
        if manner == Manner::InOrder {
            Ending::new(self, &record, &lock, manner).check_unused()?;
        }
        if record.step != Step::Ending {
            record.step = Step::Ending;
            self.write(&record)?;
        }
        self.take_down(&record, lock, manner)
    }

    /// The same for who has the lock, and what was never whole.
    pub(super) fn take_down(&self, record: &Record, lock: Lock, manner: Manner) -> Result<()> {
        let ending = Ending::new(self, record, &lock, manner);
        if manner == Manner::ByForce && ending.is_shown()? {
            // Whatever waits for the daemon, the kernel's file system first, gets an error.
            abort(&self.mount())?;
        }
        ending.unmount()?;
        ending.detach()?;
        ending.unmount_snapshot()?;
        if ending.discard()? {
            self.remove(lock)?;
        }
        Ok(())
    }
}

struct Ending<'a> {
    site: &'a Site,
    record: &'a Record,
    lock: &'a Lock,
    manner: Manner,
    /// Loop devices over the mounted snapshot. Looked for before that is taken away, and with it the files' names.
    loops: Vec<Loop>,
}

impl<'a> Ending<'a> {
    fn new(site: &'a Site, record: &'a Record, lock: &'a Lock, manner: Manner) -> Self {
        Self {
            site,
            record,
            lock,
            manner,
            loops: loops::over(&site.mount(), record.device.as_ref()),
        }
    }

    fn is_ours(&self, mount: &MountEntry) -> bool {
        let source = Path::new(&mount.source);
        self.loops.iter().any(|found| found.device.path == source)
    }

    fn is_shown(&self) -> Result<bool> {
        let mounted = mounted_at(&self.site.mount())?;
        Ok(mounted.is_some_and(|mount| mount.fs_type == FS_TYPE))
    }

    /// `Conflict`, with who it is, if anything uses what stands.
    fn check_unused(&self) -> Result<()> {
        let directory = &self.record.directory;
        let mount = self.site.mount();
        if self.is_shown()? && matches!(daemon(&mount), Daemon::Silent) {
            return Err(Error::new(ErrorKind::Conflict, silent(directory)));
        }
        let ours = self.mounted()?;
        if let Some(ours) = &ours {
            let holders = holders::of_mount(directory, &ours.source)?;
            if !holders.is_empty() {
                return Err(in_use(directory, &holders));
            }
        }
        for found in &self.loops {
            let device = &found.device.path;
            // Whoever looks for a free one, or watches them, opens each for a moment.
            let holders = lasting(|| self.holders(device))?;
            if !holders.is_empty() {
                return Err(in_use(device, &holders));
            }
            if ours.is_none() && is_held(device) {
                return Err(held(device));
            }
        }
        Ok(())
    }

    /// Who else uses a loop device.
    fn holders(&self, device: &Path) -> Result<Vec<String>> {
        let mut holders = holders::of_file(device);
        let elsewhere = mounts()?.into_iter().filter(|mount| {
            Path::new(&mount.source) == device && mount.path != self.record.directory
        });
        holders.extend(elsewhere.map(|mount| format!("the mount {}", mount.path.display())));
        Ok(holders)
    }

    /// The file system, if it is mounted still. `Conflict` if something else was mounted over it.
    fn mounted(&self) -> Result<Option<MountEntry>> {
        let directory = &self.record.directory;
        let mut here = mounts()?;
        here.retain(|mount| mount.path == *directory);
        match here.pop() {
            Some(top) if self.is_ours(&top) => Ok(Some(top)),
            Some(top) if here.iter().any(|mount| self.is_ours(mount)) => Err(Error::new(
                ErrorKind::Conflict,
                format!(
                    "something else, {} from {}, is mounted on {} by now: unmount that first",
                    top.fs_type,
                    top.source,
                    directory.display()
                ),
            )),
            _ => Ok(None),
        }
    }

    /// The file system.
    fn unmount(&self) -> Result<()> {
        let directory = &self.record.directory;
        while let Some(mount) = self.mounted()? {
            match detach(directory, self.manner != Manner::InOrder) {
                Err(e) if e.kind() == ErrorKind::Conflict => {
                    let holders = holders::of_mount(directory, &mount.source)?;
                    return Err(in_use(directory, &holders));
                }
                detached => detached?,
            }
        }
        Ok(())
    }

    /// The loop device.
    fn detach(&self) -> Result<()> {
        let in_order = self.manner == Manner::InOrder;
        for found in &self.loops {
            if in_order && is_held(&found.device.path) {
                return Err(held(&found.device.path));
            }
            loops::detach(&found.device, in_order, self.lock.share()?).map_err(|e| {
                let holders = holders::of_file(&found.device.path);
                match holders.is_empty() {
                    true => e,
                    false => in_use(&found.device.path, &holders),
                }
            })?;
        }
        Ok(())
    }

    /// The mount of the snapshot.
    fn unmount_snapshot(&self) -> Result<()> {
        // One that was begun when its starter was killed may come up still; it ends by itself then.
        while self.is_shown()? {
            end(&self.site.mount(), self.manner == Manner::Lazily)?;
        }
        Ok(())
    }

    /// The overlay that is thrown away; `false` if the daemon has it still.
    fn discard(&self) -> Result<bool> {
        let throw_away = self.site.overlay();
        let overlay = self.record.overlay.as_ref().filter(|path| path.is_dir());
        let Some(overlay) = overlay else {
            return Ok(true);
        };
        if !wait_for_daemon(overlay, self.manner)? {
            let what = format!(
                "{} is still in use; what is left ends with its users, and `ebsfs umount {}` removes the rest then",
                self.record.directory.display(),
                self.record.directory.display()
            );
            tell(&what);
            return Ok(false);
        }
        if !self.record.kept && *overlay == throw_away {
            LocalDirectory::open(overlay)?.erase()?;
        }
        Ok(true)
    }
}

/// Once it is unmounted a daemon makes durable what is not.
const PATIENCE: Duration = Duration::from_secs(30);
const RETRY: Duration = Duration::from_millis(10);

/// Waits until the daemon has let go of its overlay, so that whoever wants it next need not.
fn wait_for_daemon(overlay: &Path, manner: Manner) -> Result<bool> {
    let begin = Instant::now();
    while let Some(holder) = LocalDirectory::holder(overlay)? {
        if manner == Manner::Lazily {
            return Ok(false);
        }
        if begin.elapsed() > PATIENCE {
            let pid = holder
                .pid
                .map_or("another process".to_owned(), |pid| format!("process {pid}"));
            let what = format!("{pid} still has the overlay {}", overlay.display());
            return Err(Error::new(ErrorKind::Conflict, what));
        }
        thread::sleep(RETRY);
    }
    Ok(true)
}

/// How long somebody may have a device for a moment, or the kernel after a file system on it was unmounted.
const SOON: Duration = Duration::from_secs(1);

/// Who uses something for longer than that.
fn lasting(look: impl Fn() -> Result<Vec<String>>) -> Result<Vec<String>> {
    let begin = Instant::now();
    loop {
        let found = look()?;
        if found.is_empty() || begin.elapsed() > SOON {
            return Ok(found);
        }
        thread::sleep(RETRY);
    }
}

/// Whether a file system is mounted from the device that no table of ours shows: in another namespace, or out of the tree.
fn is_held(device: &Path) -> bool {
    let flags = OFlags::RDONLY | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let begin = Instant::now();
    while matches!(
        rustix::fs::open(device, flags, Mode::empty()),
        Err(Errno::BUSY)
    ) {
        if begin.elapsed() > SOON {
            return true;
        }
        thread::sleep(RETRY);
    }
    false
}

fn held(device: &Path) -> Error {
    let what = format!(
        "{} is in use by a file system that is out of the tree or in another namespace: it is let go of when its last user ends",
        device.display()
    );
    Error::new(ErrorKind::Conflict, what)
}

fn in_use(what: &Path, holders: &[String]) -> Error {
    let shown = what.display();
    let text = match holders {
        [] => format!("{shown} is in use: `fuser -vm {shown}` may show by whom"),
        _ => format!(
            "{shown} is in use by {}: end that first",
            holders.join(", ")
        ),
    };
    Error::new(ErrorKind::Conflict, text)
}
