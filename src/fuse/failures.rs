//! Requests that failed: counted, logged, and turned into what an open file's user is told.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use fuser::Errno;
use log::error;

use super::Export;
use crate::error::{Error, ErrorKind};

/// The failure that was logged last. A bad block read in small pieces would fill the log otherwise.
static LOGGED: Mutex<Option<(String, Instant)>> = Mutex::new(None);

/// How long the same failure is not logged again.
const QUIET: Duration = Duration::from_secs(60);

/// Counts and logs the failure `e` at doing `what`, and returns what to answer to a reader.
///
/// A reader can do nothing about a store that is gone, in the way or forbidden: it is a disk that fails,
/// whatever the cause. So it is with a failed sync: no space or a disk that has become read-only would read as if
/// freeing some or another descriptor helped, and programs take `EROFS` for a file that needs no syncing.
pub(super) fn failed(export: &Export, what: &str, e: &Error) -> Errno {
    export.stats.errors.add(1);
    let failure = format!("{}: {e:#}", export.name);
    let mut logged = LOGGED.lock().unwrap_or_else(PoisonError::into_inner);
    if logged
        .as_ref()
        .is_none_or(|(last, when)| *last != failure || when.elapsed() > QUIET)
    {
        error!("{failure} ({what})");
        *logged = Some((failure, Instant::now()));
    }
    Errno::EIO
}

/// The same, and what to answer to a writer, who can do something about a full disk.
pub(super) fn failed_write(export: &Export, what: &str, e: &Error) -> Errno {
    let failed = failed(export, what, e);
    match e.kind() {
        ErrorKind::NoSpace => Errno::ENOSPC,
        ErrorKind::ReadOnly => Errno::EROFS,
        ErrorKind::NotFound
        | ErrorKind::Corrupt
        | ErrorKind::Unavailable
        | ErrorKind::Denied
        | ErrorKind::Invalid
        | ErrorKind::Conflict
        | ErrorKind::Unsupported
        | ErrorKind::Io => failed,
    }
}
