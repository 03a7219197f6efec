//! `ebsfs umount`: ends a mount in order, and mends one whose daemon is gone; takes down what `browse` set up.

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use clap::Args;
use rustix::io::Errno;

use super::browse::{Manner, Site};
use super::mount::busy;
use super::{Outcome, notice};
use crate::error::{Error, ErrorKind, Result};
use crate::fuse::mountpoint::{FS_TYPE, abort, canonical, detach, mounted_at};

#[derive(Args)]
pub(super) struct Umount {
    /// Where it is mounted or browsed; several may be named
    #[arg(required = true, value_name = "MOUNTPOINT")]
    mountpoints: Vec<PathBuf>,

    /// Take it out of the tree now, even while it is in use; it ends when its last user does
    #[arg(short, long)]
    lazy: bool,

    /// End it even if its daemon does not answer any more: whatever waits for it gets an error. Only root may
    #[arg(short, long, conflicts_with = "lazy")]
    force: bool,
}

impl Umount {
    pub(super) fn run(self) -> Outcome {
        let ended = self
            .mountpoints
            .iter()
            .try_for_each(|mountpoint| self.end(mountpoint));
        notice::sweep();
        ended.map_err(Into::into)
    }

    fn manner(&self) -> Manner {
        match (self.lazy, self.force) {
            (true, _) => Manner::Lazily,
            (_, true) => Manner::ByForce,
            _ => Manner::InOrder,
        }
    }

    fn end(&self, mountpoint: &Path) -> Result<()> {
        let path = match canonical(mountpoint) {
            // Somebody may have unmounted it by hand, and removed the directory.
            Err(e) if e.kind() == ErrorKind::NotFound => {
                let path = std::path::absolute(mountpoint).map_err(|_| e.clone())?;
                return Site::find(&path)?.ok_or(e)?.end(self.manner());
            }
            path => path?,
        };
        match mounted_at(&path)? {
            Some(entry) if entry.fs_type == FS_TYPE => match self.force {
                true => abort(&path),
                false => end(&path, self.lazy),
            },
            _ => match Site::find(&path)? {
                Some(site) => site.end(self.manner()),
                None => {
                    let what = format!(
                        "{} is no mount of ebsfs: `ebsfs ps` shows those",
                        path.display()
                    );
                    Err(Error::new(ErrorKind::Invalid, what))
                }
            },
        }
    }
}

/// Ends the mount at `path`, by force only if its daemon is dead already. `Conflict`, with who it is, if something
/// uses it, unless lazily.
pub(super) fn end(path: &Path, lazily: bool) -> Result<()> {
    let Err(e) = detach(path, lazily) else {
        return Ok(());
    };
    if e.kind() != ErrorKind::Conflict {
        return Err(e);
    }
    match daemon(path) {
        Daemon::Gone => detach(path, true),
        Daemon::Silent => Err(Error::new(ErrorKind::Conflict, silent(path))),
        Daemon::Answers => Err(Error::new(ErrorKind::Conflict, busy(path))),
    }
}

/// What there is of a mount's daemon.
pub(super) enum Daemon {
    Answers,
    /// Whoever still uses the mount gets errors only, and it can be taken away.
    Gone,
    /// It is stopped, or was killed while the kernel waits for it.
    Silent,
}

/// How long a daemon may take to answer what it has at hand.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) fn daemon(path: &Path) -> Daemon {
    let (tell, told) = mpsc::channel();
    let path = path.to_owned();
    // In a thread that is left behind if need be: nothing ends this wait.
    thread::spawn(move || {
        // Not a stat: the kernel answers that for a while from what it remembers.
        let dead = matches!(
            rustix::fs::statfs(&path),
            Err(Errno::NOTCONN | Errno::CONNABORTED)
        );
        let _ = tell.send(dead);
    });
    match told.recv_timeout(PATIENCE) {
        Ok(false) => Daemon::Answers,
        Ok(true) => Daemon::Gone,
        Err(_) => Daemon::Silent,
    }
}

pub(super) fn silent(path: &Path) -> String {
    let shown = path.display();
    format!(
        "{shown} is in use, and its daemon does not answer: `ebsfs umount --force {shown}` ends it, and what was written without fsync may be lost"
    )
}
