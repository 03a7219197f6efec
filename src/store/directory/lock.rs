//! Who may do what at one time: writers share, `start`, `complete`, `delete` and `gc` are alone.
//!
//! Two files are locked in turn, as through a turnstile: whoever wants to be alone holds `gate` while it waits
//! for `lock`, so that a steady stream of writers cannot keep it waiting for ever. Locks end with the process.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use crate::error::{Error, Result};

/// Held until dropped.
pub(super) struct StoreLock(
    #[expect(dead_code, reason = "the lock lasts as long as the file is open")] File,
);

impl StoreLock {
    /// Waits until nobody is alone in the store.
    pub(super) fn shared(top: &Path) -> Result<Self> {
        Self::take(top, FlockOperation::LockShared)
    }

    /// Waits until nobody else is in the store.
    pub(super) fn exclusive(top: &Path) -> Result<Self> {
        Self::take(top, FlockOperation::LockExclusive)
    }

    fn take(top: &Path, operation: FlockOperation) -> Result<Self> {
        let gate = open(&top.join("gate"))?;
        wait(&gate, FlockOperation::LockExclusive)?;
        let lock = open(&top.join("lock"))?;
        wait(&lock, operation)?;
        Ok(Self(lock))
    }
}

fn open(path: &Path) -> Result<File> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)
        .map_err(|e| Error::io(e, "lock", path))
}

fn wait(file: &File, operation: FlockOperation) -> Result<()> {
    rustix::io::retry_on_intr(|| flock(file, operation))
        .map_err(|e| Error::from(e).context("cannot lock the store"))
}
