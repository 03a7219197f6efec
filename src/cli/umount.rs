//! `ebsfs umount`: ends a mount in order, and mends one whose daemon is gone.

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use clap::Args;
use rustix::io::Errno;

use super::Outcome;
use super::mount::busy;
use crate::error::{Error, ErrorKind, Result};
use crate::fuse::mountpoint::{FS_TYPE, abort, canonical, detach, mounted_at};

#[derive(Args)]
pub(super) struct Umount {
    /// Where it is mounted; several may be named
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
        self.mountpoints
            .iter()
            .try_for_each(|mountpoint| self.end(mountpoint))
            .map_err(Into::into)
    }

    fn end(&self, mountpoint: &Path) -> Result<()> {
        let path = canonical(mountpoint)?;
        match mounted_at(&path)? {
            Some(entry) if entry.fs_type == FS_TYPE => {}
            _ => {
                let what = format!(
                    "{} is no mount of ebsfs: `findmnt -t {FS_TYPE}` shows those",
                    path.display()
                );
                return Err(Error::new(ErrorKind::Invalid, what));
            }
        }
        if self.force {
            return abort(&path);
        }
        let Err(e) = detach(&path, self.lazy) else {
            return Ok(());
        };
        if e.kind() != ErrorKind::Conflict {
            return Err(e);
        }
        match daemon(&path) {
            Daemon::Gone => detach(&path, true),
            Daemon::Silent => Err(Error::new(ErrorKind::Conflict, silent(&path))),
            Daemon::Answers => Err(Error::new(ErrorKind::Conflict, busy(&path))),
        }
    }
}

/// What there is of a mount's daemon.
enum Daemon {
    Answers,
    /// Whoever still uses the mount gets errors only, and it can be taken away.
    Gone,
    /// It is stopped, or was killed while the kernel waits for it.
    Silent,
}

/// How long a daemon may take to answer what it has at hand.
const PATIENCE: Duration = Duration::from_secs(5);

fn daemon(path: &Path) -> Daemon {
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

fn silent(path: &Path) -> String {
    let shown = path.display();
    format!(
        "{shown} is in use, and its daemon does not answer: `ebsfs umount --force {shown}` ends it, and what was written without fsync may be lost"
    )
}
