//! The end of a mount: by `umount`, by a signal, in any case with all that was written made durable.

use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

use log::{error, warn};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

use crate::catalog::Catalog;
use crate::error::{Error, ErrorKind, Result};
use crate::fuse::mountpoint::{MountEntry, detach_own, users};

/// What the loop of a mounted daemon waits for.
pub(super) enum Event {
    Ended,
    Signal,
}

/// How often a busy mount is tried again after a signal asked for its end.
const RETRY: Duration = Duration::from_millis(250);

pub(super) fn watch_signals(runtime: &Runtime, tell: &Sender<Event>) -> Result<()> {
    let _context = runtime.enter();
    // SIGHUP, too: a terminal that closes must not leave a dead mount behind.
    for kind in [
        SignalKind::terminate(),
        SignalKind::interrupt(),
        SignalKind::hangup(),
    ] {
        let mut signals =
            signal(kind).map_err(|e| Error::from(e).context("cannot watch for signals"))?;
        let tell = tell.clone();
        runtime.spawn(async move {
            while signals.recv().await.is_some() {
                drop(tell.send(Event::Signal));
            }
        });
    }
    Ok(())
}

/// Waits for the end of the session. A signal asks for it; while something still uses the mount, say a loop
/// device, the daemon waits and does not pull the disk away. A second signal ends it all the same. Either way what
/// was written is durable first.
pub(super) fn until_ended(
    events: &Receiver<Event>,
    mount: &MountEntry,
    catalog: &Catalog,
) -> Result<()> {
    let mut leaving = false;
    loop {
        let event = if leaving {
            events.recv_timeout(RETRY)
        } else {
            events.recv().map_err(RecvTimeoutError::from)
        };
        match event {
            Ok(Event::Ended) | Err(RecvTimeoutError::Disconnected) => return Ok(()),
            Ok(Event::Signal) if leaving => {
                warn!(
                    "{}: ended by a second signal while in use",
                    mount.path.display()
                );
                // It may be out of the tree already.
                drop(detach_own(mount, true));
                flush(catalog);
                return Ok(());
            }
            Ok(Event::Signal) | Err(RecvTimeoutError::Timeout) => {
                let first = !std::mem::replace(&mut leaving, true);
                if first {
                    flush(catalog);
                }
                // Once it is detached the session ends, and says so.
                if let Err(e) = detach_own(mount, false)
                    && first
                {
                    let why = if e.kind() == ErrorKind::Conflict {
                        busy(&mount.path)
                    } else {
                        format!("{e:#}")
                    };
                    warn!("{why}; a second signal ends it at once");
                }
            }
        }
    }
}

/// Makes durable what was written, before it is known when the mount will end.
fn flush(catalog: &Catalog) {
    if let Err(e) = catalog.sync() {
        error!("what was written last may be lost: {e:#}");
    }
}

/// Says who uses a mount, as far as that can be seen.
pub(in crate::cli) fn busy(mountpoint: &Path) -> String {
    let shown = mountpoint.display();
    let users = users(mountpoint);
    if users.is_empty() {
        return format!(
            "{shown} is in use: close the files and leave the directories below it (`fuser -vm {shown}` shows whose they are)"
        );
    }
    format!(
        "{shown} is in use by {}: unmount and detach (`umount`, `losetup -d`) what stands on it first",
        users.join(", ")
    )
}
