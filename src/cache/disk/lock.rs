//! Who uses a snapshot's files: mounts share its lock, and who takes something away is alone.
//!
//! A shared lock becomes an exclusive one, and is shared again, without ever being lost: only who holds the [`Gate`] of
//! the whole cache may try, so nobody else can become alone in between. Locks are those of open files (`flock`): they end
//! with the process.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::private::{self, Mode};
use crate::error::{Error, ErrorKind, Result};

/// The name of a lock's file, which is never removed before all others.
pub(super) const NAME: &str = "lock";

/// Held by the one process that may take something away.
pub(super) struct Gate(
    #[expect(dead_code, reason = "the lock lasts as long as the file is open")] File,
);

impl Gate {
    /// Enters at once, or not at all.
    pub(super) fn try_enter(top: &Path) -> Result<Option<Self>> {
        let path = top.join(NAME);
        let Some(file) = private::open(&path, Mode::Create)? else {
            return Ok(None);
        };
        let entered = try_lock(&file, FlockOperation::NonBlockingLockExclusive, &path)?;
        Ok(entered.then_some(Self(file)))
    }
}

/// A share in the lock of a snapshot's directory.
pub(super) struct Lock(File);

impl Lock {
    /// Takes a share at once; none if somebody is alone there, or has just removed the directory.
    pub(super) fn try_share(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join(NAME);
        let file = match private::open(&path, Mode::Create) {
            Ok(Some(file)) => file,
            Ok(None) => return Ok(None),
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        if !try_lock(&file, FlockOperation::NonBlockingLockShared, &path)? {
            return Ok(None);
        }
        // Whoever was alone may have removed it all, and this file with it.
        let held = file.metadata().map(|held| (held.dev(), held.ino()));
        let named = fs::symlink_metadata(&path).map(|named| (named.dev(), named.ino()));
        match (held, named) {
            (Ok(held), Ok(named)) if held == named => Ok(Some(Self(file))),
            _ => Ok(None),
        }
    }

    /// Whether nobody else has a share any more, and nobody gets one until [`share`](Self::share).
    pub(super) fn try_alone(&self, dir: &Path, _gate: &Gate) -> Result<bool> {
        let path = dir.join(NAME);
        let alone = try_lock(&self.0, FlockOperation::NonBlockingLockExclusive, &path)?;
        if !alone {
            // The kernel gives the share up before it looks for other holders.
            self.share(dir)?;
        }
        Ok(alone)
    }

    /// Lets others have a share again.
    pub(super) fn share(&self, dir: &Path) -> Result<()> {
        let path = dir.join(NAME);
        match try_lock(&self.0, FlockOperation::NonBlockingLockShared, &path)? {
            true => Ok(()),
            false => {
                Err(Error::from(Errno::WOULDBLOCK)
                    .context(format!("lost the lock {}", path.display())))
            }
        }
    }
}

fn try_lock(file: &File, operation: FlockOperation, path: &Path) -> Result<bool> {
    loop {
        match flock(file, operation) {
            Ok(()) => return Ok(true),
            Err(Errno::WOULDBLOCK) => return Ok(false),
            Err(Errno::INTR) => {}
            Err(e) => return Err(Error::io(e.into(), "lock", path)),
        }
    }
}
