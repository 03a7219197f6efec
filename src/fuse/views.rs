//! What was written through each file, and its way into the others that show the same bytes.
//!
//! The kernel keeps pages of every file on its own account and does not know that a disk and its partitions are
//! the same bytes. Written ranges are noted by file; once they are durable, the pages of all other files that
//! show them are dropped from the kernel's cache, and only then is the `fsync` answered.
//!
//! Dropping a page waits for whoever reads it and writes it back if it is dirty, so it waits for requests that
//! this daemon answers. It is done in a thread that answers none. A daemon that is killed in the middle of this
//! wait cannot end, as the kernel does not interrupt it: then `ebsfs umount --force` ends the mount.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

use fuser::{Errno, INodeNo, Notifier, ReplyEmpty};
use log::error;

use super::inodes::{File, Inodes};
use super::ranges::Ranges;
use crate::error::{Error, Result};

/// Pages to drop, and who waits for it.
struct Job {
    pages: Vec<Pages>,
    reply: ReplyEmpty,
}

/// Bytes of a file, as the kernel wants them told.
#[derive(Debug, Eq, PartialEq)]
struct Pages {
    ino: INodeNo,
    offset: i64,
    len: i64,
}

/// The thread that makes the kernel forget. It ends when this is dropped and the queue is empty.
pub(super) struct Forgetter {
    queue: Sender<Job>,
    /// Jobs that are not yet done.
    unfinished: Arc<AtomicUsize>,
}

/// The thread, before there is a session that it could speak through.
pub(super) struct Idle {
    jobs: Receiver<Job>,
    unfinished: Arc<AtomicUsize>,
}

impl Forgetter {
    pub(super) fn new() -> (Self, Idle) {
        let (queue, jobs) = mpsc::channel();
        let unfinished = Arc::default();
        let idle = Idle {
            jobs,
            unfinished: Arc::clone(&unfinished),
        };
        (Self { queue, unfinished }, idle)
    }

    /// Answers the `fsync` of a file whose bytes are durable, once what was written to it is seen through all
    /// others.
    pub(super) fn publish(&self, file: &File, inodes: &Inodes, reply: ReplyEmpty) {
        let mut written = file.notes.lock();
        let ranges = std::mem::take(&mut written.ranges);
        let pages = if ranges.is_empty() {
            Vec::new()
        } else {
            aliases(file, &ranges, &inodes.all())
        };
        // What an earlier fsync took on is not told yet, and this one's caller may count on it, too.
        if pages.is_empty() && self.unfinished.load(Ordering::SeqCst) == 0 {
            drop(written);
            return reply.ok();
        }
        self.unfinished.fetch_add(1, Ordering::SeqCst);
        // Fails if the thread is gone; then the reply says EIO when it is dropped.
        drop(self.queue.send(Job { pages, reply }));
    }
}

/// Where in the other files `ranges` of `file` are seen, if the kernel may have pages of them.
fn aliases(file: &File, ranges: &Ranges, all: &[Arc<File>]) -> Vec<Pages> {
    let Some(start) = file.start() else {
        return Vec::new();
    };
    let others = all
        .iter()
        .filter(|other| other.ino != file.ino && other.notes.was_opened());
    others
        .filter_map(|other| Some((other, other.start()?)))
        .flat_map(|(other, other_start)| {
            let end = other_start.saturating_add(other.export.data.size());
            ranges.iter().filter_map(move |range| {
                let from = start.saturating_add(range.start).max(other_start);
                let to = start.saturating_add(range.end).min(end);
                let len = to.checked_sub(from).filter(|len| *len > 0)?;
                Some(Pages {
                    ino: other.ino,
                    offset: i64::try_from(from - other_start).ok()?,
                    len: i64::try_from(len).ok()?,
                })
            })
        })
        .collect()
}

impl Idle {
    pub(super) fn start(self, notifier: Notifier) -> Result<()> {
        thread::Builder::new()
            .name("fuse-forget".to_owned())
            .spawn(move || self.work(&notifier))
            .map_err(|e| Error::from(e).context("cannot start a thread"))?;
        Ok(())
    }

    fn work(&self, notifier: &Notifier) {
        for Job { pages, reply } in &self.jobs {
            let told = pages.iter().try_for_each(|Pages { ino, offset, len }| {
                notifier.inval_inode(*ino, *offset, *len).inspect_err(|e| {
                    error!("file {ino}: {len} bytes at {offset} may be stale: {e}")
                })
            });
            match told {
                Ok(()) => reply.ok(),
                Err(_) => reply.error(Errno::EIO),
            }
            self.unfinished.fetch_sub(1, Ordering::SeqCst);
        }
    }
}
