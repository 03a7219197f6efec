//! Who may do what at one time: writers share, `start`, `complete`, `delete` and `gc` are alone.
//!
//! Two files are locked in turn, as through a turnstile: whoever wants to be alone holds `gate` while it waits
//! for `lock`, so that a steady stream of writers cannot keep it waiting for ever. Locks end with the process.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use log::warn;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::error::{Error, Result};

/// Held until dropped.
pub(super) struct StoreLock(
    #[expect(dead_code, reason = "the lock lasts as long as the file is open")] File,
);

impl StoreLock {
    /// Waits until nobody is alone in the store.
    pub(super) fn shared(top: &Path) -> Result<Self> {
        Self::take(top, FlockOperation::NonBlockingLockShared)
    }

    /// Waits until nobody else is in the store.
    pub(super) fn exclusive(top: &Path) -> Result<Self> {
        Self::take(top, FlockOperation::NonBlockingLockExclusive)
    }

    fn take(top: &Path, operation: FlockOperation) -> Result<Self> {
        let gate = open(&top.join("gate"))?;
        wait(&gate, FlockOperation::NonBlockingLockExclusive)?;
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

/// How long a wait may be before the user is told of it.
const PATIENCE: Duration = Duration::from_secs(3);

/// Between two tries; a put holds its lock for about as long.
const RETRY: Duration = Duration::from_millis(1);

/// Waits as long as it takes, as a gc of a large store may; a signal ends it.
fn wait(file: &File, at_once: FlockOperation) -> Result<()> {
    let begin = Instant::now();
    let mut told = false;
    while let Err(e) = flock(file, at_once) {
        if e != Errno::WOULDBLOCK && e != Errno::INTR {
            return Err(Error::from(e).context("cannot lock the store"));
        }
        if !told && begin.elapsed() > PATIENCE {
            warn!("waiting for another ebsfs that works in this store");
            told = true;
        }
        thread::sleep(RETRY);
    }
    Ok(())
}
