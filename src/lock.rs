//! A lock file that one process at a time has, and that its holder may remove.
//!
//! The lock is one of an open file description (`flock`): it ends with the process however that ends, a second opener in the
//! same process is refused, too, and closing another descriptor of the file does not release it, as it would a lock of
//! `fcntl`. Whoever is given the descriptor has the lock as well. What a holder writes into the file is its own affair.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind as IoKind};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// Between two tries.
const RETRY: Duration = Duration::from_millis(20);

/// The locked file at `path`, made with mode 0600 if it is missing; none if somebody else still has it after `patience`.
pub fn take(path: &Path, patience: Duration) -> Result<Option<File>> {
    let cannot = |e| Error::io(e, "lock", path);
    let begin = Instant::now();
    loop {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path)
            .map_err(cannot)?;
        match file.try_lock() {
            Ok(()) if is_at(&file, path).map_err(cannot)? => return Ok(Some(file)),
            // Whoever had it has removed it.
            Ok(()) => {}
            Err(TryLockError::Error(e)) => return Err(cannot(e)),
            Err(TryLockError::WouldBlock) if begin.elapsed() >= patience => return Ok(None),
            Err(TryLockError::WouldBlock) => {
                // Who asks who has it looks for those that have it open.
                drop(file);
                thread::sleep(RETRY);
            }
        }
    }
}

/// Whether somebody has the file at `path`; nobody has one that is missing.
pub fn is_taken(path: &Path) -> Result<bool> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == IoKind::NotFound => return Ok(false),
        Err(e) => return Err(Error::io(e, "open", path)),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(e)) => Err(Error::io(e, "lock", path)),
    }
}

/// Whether `path` is a name of `file`.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let (held, named) = (file.metadata()?, fs::metadata(path));
    match named {
        Ok(named) => Ok((held.dev(), held.ino()) == (named.dev(), named.ino())),
        Err(e) if e.kind() == IoKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn one_at_a_time_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        assert!(!is_taken(&path).unwrap());
        let taken = take(&path, Duration::ZERO).unwrap().unwrap();
        assert!(is_taken(&path).unwrap());
        assert!(take(&path, 2 * RETRY).unwrap().is_none());
        drop(taken);
        assert!(!is_taken(&path).unwrap());
        assert!(take(&path, Duration::ZERO).unwrap().is_some());
    }

    #[test]
    fn who_waits_is_not_taken_for_who_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let open = || {
            let links = fs::read_dir("/proc/self/fd").unwrap().flatten();
            let files = links.filter_map(|link| fs::read_link(link.path()).ok());
            files.filter(|file| *file == path).count()
        };
        let taken = take(&path, Duration::ZERO).unwrap().unwrap();
        thread::scope(|scope| {
            let waiting = scope.spawn(|| take(&path, Duration::from_secs(60)).unwrap().unwrap());
            // It has it open for the moment of each try.
            let seen: Vec<usize> = (0..20)
                .map(|_| {
                    thread::sleep(RETRY / 4);
                    open()
                })
                .collect();
            assert!(
                seen.iter().filter(|count| **count == 1).count() > 10,
                "{seen:?}"
            );
            drop(taken);
            waiting.join().unwrap();
        });
    }

    #[test]
    fn nobody_has_one_that_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..3000 {
                        let Some(file) = take(&path, Duration::ZERO).unwrap() else {
                            continue;
                        };
                        assert!(!held.swap(true, Ordering::SeqCst), "two have it");
                        thread::yield_now();
                        held.store(false, Ordering::SeqCst);
                        fs::remove_file(&path).unwrap();
                        drop(file);
                    }
                });
            }
        });
    }
}
