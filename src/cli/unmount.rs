//! The end of one mount of snapshots, for the verbs that end some: with a daemon that answers, or is dead, or neither.

use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::io::Errno;

use super::mount::busy;
use crate::error::{Error, ErrorKind, Result};
use crate::fuse::mountpoint::detach;

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
