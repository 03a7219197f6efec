//! Writes, discards and syncs of exported files.
//!
//! A writable file behaves as a block device does: what reaches past its end is cut there, and past the end there
//! is no space. A write that needs no waiting is done in the thread that took it from the kernel. Else its bytes
//! are copied and the pool writes them. Syncs have threads of their own: they wait for a local disk, and must not
//! stand behind requests that wait for a store.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use fuser::{Errno, ReplyEmpty, ReplyWrite};

use super::failures::{failed, failed_write};
use super::files::Files;
use super::inodes::File;
use super::pool::Pool;
use crate::error::{Error, Result};
use crate::read_at::{DEADLINE, too_late};

/// Syncs under way at one time. A second one is joined by the disk's journal as a rule.
const SYNCING_THREADS: usize = 2;

/// How long what was written may stay unsynced when nobody asks: what a daemon that is killed can lose. The same
/// as for the journal of ext4.
const FLUSH_EVERY: Duration = Duration::from_secs(5);

/// What a writable mount has beyond a read-only one.
pub(super) struct Writing {
    files: Arc<Files>,
    syncs: Pool,
    /// The thread that flushes ends when this is dropped.
    _flushing: Sender<()>,
}

impl Writing {
    pub(super) fn new(files: &Arc<Files>) -> Result<Self> {
        let (flushing, ended) = mpsc::channel();
        let flushed = Arc::clone(files);
        thread::Builder::new()
            .name("fuse-flush".to_owned())
            .spawn(move || flush_until(&ended, &flushed))
            .map_err(|e| Error::from(e).context("cannot start a thread"))?;
        Ok(Self {
            files: Arc::clone(files),
            syncs: Pool::new(SYNCING_THREADS)?,
            _flushing: flushing,
        })
    }

    /// Answers an `fsync`: once what was written before is durable, and seen through the other files.
    pub(super) fn sync(&self, file: Arc<File>, reply: ReplyEmpty) {
        let files = Arc::clone(&self.files);
        self.syncs.run(move || match files.sync(&file.export) {
            Ok(()) => files.forgetter.publish(&file, &files.inodes, reply),
            Err(e) => reply.error(failed(&file.export, "syncing", &e)),
        });
    }

    /// Makes durable what was written, when the last request was answered.
    pub(super) fn end(self) {
        flush(&self.files, "at the end of the mount");
    }
}

fn flush_until(ended: &Receiver<()>, files: &Files) {
    while ended.recv_timeout(FLUSH_EVERY) == Err(RecvTimeoutError::Timeout) {
        if files.is_unsynced() {
            flush(files, "in the background");
        }
    }
}

fn flush(files: &Files, when: &str) {
    if let Some(file) = files.any_writable()
        && let Err(e) = files.sync(&file.export)
    {
        failed(&file.export, &format!("syncing {when}"), &e);
    }
}

/// Answers a write.
pub(super) fn write(
    files: &Arc<Files>,
    pool: &Pool,
    file: Arc<File>,
    offset: u64,
    data: &[u8],
    reply: ReplyWrite,
) {
    let Some(writable) = &file.export.writable else {
        return reply.error(Errno::EROFS);
    };
    let left = writable.data.size().saturating_sub(offset);
    if left == 0 {
        return reply.error(Errno::ENOSPC);
    }
    let data = usize::try_from(left)
        .ok()
        .and_then(|left| data.get(..left))
        .unwrap_or(data);
    file.export.stats.writes.add(1);
    match writable.data.try_write_at(offset, data) {
        Ok(false) => {
            let (files, file, data) = (Arc::clone(files), Arc::clone(&file), data.to_vec());
            let asked = Instant::now();
            pool.run(move || write_late(&files, &file, asked, offset, &data, reply));
        }
        done => answer(files, &file, offset, data.len(), done.map(drop), reply),
    }
}

/// Answers a write that had to wait, if it has not waited too long for a thread already.
fn write_late(
    files: &Files,
    file: &File,
    asked: Instant,
    offset: u64,
    data: &[u8],
    reply: ReplyWrite,
) {
    let done = match &file.export.writable {
        _ if asked.elapsed() > DEADLINE => Err(too_late()),
        Some(writable) => writable.data.write_at(offset, data),
        None => return reply.error(Errno::EROFS),
    };
    answer(files, file, offset, data.len(), done, reply);
}

fn answer(
    files: &Files,
    file: &File,
    offset: u64,
    len: usize,
    done: Result<()>,
    reply: ReplyWrite,
) {
    let bytes = u64::try_from(len).unwrap_or(u64::MAX);
    // Also after a failure: a part may have been written.
    files.written(file, offset, bytes);
    match done {
        Ok(()) => {
            file.export.stats.written_bytes.add(bytes);
            // A request is at most a block.
            reply.written(u32::try_from(len).unwrap_or(u32::MAX));
        }
        Err(e) => {
            let what = format!("writing {len} bytes at offset {offset}");
            reply.error(failed_write(&file.export, &what, &e));
        }
    }
}

/// Answers an `fallocate`: ranges can be made zero, and there is nothing to set aside.
pub(super) fn allocate(
    files: &Files,
    file: &File,
    asked: Instant,
    offset: u64,
    len: u64,
    mode: i32,
    reply: ReplyEmpty,
) {
    let Some(writable) = &file.export.writable else {
        return reply.error(Errno::EROFS);
    };
    let keep_size = mode & libc::FALLOC_FL_KEEP_SIZE != 0;
    match mode & !libc::FALLOC_FL_KEEP_SIZE {
        libc::FALLOC_FL_ZERO_RANGE => {}
        libc::FALLOC_FL_PUNCH_HOLE if keep_size => {}
        _ => return reply.error(Errno::EOPNOTSUPP),
    }
    let size = writable.data.size();
    let end = offset.saturating_add(len);
    // As a block device has it: cut at the end, unless the file would have to grow.
    if offset >= size || (end > size && !keep_size) {
        return reply.error(Errno::EINVAL);
    }
    let range = offset..end.min(size);
    file.export.stats.writes.add(1);
    let done = if asked.elapsed() > DEADLINE {
        Err(too_late())
    } else {
        writable.data.zero(range.clone())
    };
    files.written(file, offset, range.end - offset);
    match done {
        Ok(()) => reply.ok(),
        Err(e) => {
            let what = format!("zeroing bytes {} to {}", range.start, range.end);
            reply.error(failed_write(&file.export, &what, &e));
        }
    }
}
