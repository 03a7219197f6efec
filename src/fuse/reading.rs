//! Reads and seeks of exported files: at once where that needs no waiting, else by the pool.

use std::sync::Arc;
use std::time::Instant;

use fuser::{Errno, ReplyData, ReplyLseek};

use super::Export;
use super::failures::failed;
use super::inodes::File;
use super::pool::Pool;
use crate::block::Buffer;
use crate::error::{Error, ErrorKind, Result};
use crate::read_at::{DEADLINE, Extent, Lent, too_late};

/// Answers a read, which is cut at the file's end.
pub(super) fn read(pool: &Pool, file: Arc<File>, offset: u64, wanted: usize, reply: ReplyData) {
    let export = &file.export;
    let left = export.data.size().saturating_sub(offset);
    let len = usize::try_from(left).map_or(wanted, |left| left.min(wanted));
    export.stats.reads.add(1);
    // A direct read across the end is cut into requests some of which lie past it.
    if len == 0 {
        return reply.data(&[]);
    }
    // Most reads lie within one block, which goes to the kernel as it lies in memory.
    match export.data.lend(offset, len, false) {
        Ok(Lent::Later) => answer_late(pool, &file, offset, len, reply),
        Ok(Lent::Bytes(bytes)) => answer(export, offset, len, Ok(&bytes), reply),
        Ok(Lent::Apart) => {
            let mut buffer = Buffer::of(len);
            let bytes = &mut buffer[..len];
            match export.data.try_read_at(offset, bytes) {
                Ok(false) => answer_late(pool, &file, offset, len, reply),
                done => answer(export, offset, len, done.map(|_| &*bytes), reply),
            }
        }
        Err(e) => answer(export, offset, len, Err(e), reply),
    }
}

/// Answers a read that has to wait, if it did not wait too long for a thread already.
fn answer_late(pool: &Pool, file: &Arc<File>, offset: u64, len: usize, reply: ReplyData) {
    let (file, asked) = (Arc::clone(file), Instant::now());
    pool.run(move || {
        let export = &file.export;
        if asked.elapsed() > DEADLINE {
            return answer(export, offset, len, Err(too_late()), reply);
        }
        match export.data.lend(offset, len, true) {
            Ok(Lent::Bytes(bytes)) => answer(export, offset, len, Ok(&bytes), reply),
            Ok(Lent::Apart | Lent::Later) => {
                let mut buffer = Buffer::of(len);
                let bytes = &mut buffer[..len];
                let done = export.data.read_at(offset, bytes);
                answer(export, offset, len, done.map(|()| &*bytes), reply);
            }
            Err(e) => answer(export, offset, len, Err(e), reply),
        }
    });
}

fn answer(export: &Export, offset: u64, len: usize, read: Result<&[u8]>, reply: ReplyData) {
    match read {
        Ok(bytes) => {
            export.stats.bytes.add(u64::try_from(len).unwrap_or(0));
            reply.data(bytes);
        }
        Err(e) => reply.error(failed(
            export,
            &format!("{len} bytes at offset {offset}"),
            &e,
        )),
    }
}

/// Answers a seek to data or to a hole; may wait.
pub(super) fn seek(export: &Export, offset: i64, whence: i32, reply: ReplyLseek) {
    match find(export, offset, whence) {
        Ok(Some(found)) => reply.offset(found),
        Ok(None) => reply.error(Errno::ENXIO),
        Err(e) => reply.error(failed(
            export,
            &format!("looking for holes at offset {offset}"),
            &e,
        )),
    }
}

fn find(export: &Export, offset: i64, whence: i32) -> Result<Option<i64>> {
    let size = export.data.size();
    let Some(offset) = u64::try_from(offset).ok().filter(|offset| *offset < size) else {
        return Ok(None);
    };
    let extent = export.data.extent(offset)?;
    let found = match (whence, extent) {
        // Where a listing's window ends it is not known what follows: either may be claimed, and is corrected
        // by the next call.
        (libc::SEEK_DATA, Extent::Data { .. }) | (libc::SEEK_HOLE, Extent::Hole { .. }) => offset,
        (libc::SEEK_DATA, Extent::Hole { end }) if end >= size => return Ok(None),
        (libc::SEEK_DATA, Extent::Hole { end }) | (libc::SEEK_HOLE, Extent::Data { end }) => end,
        _ => {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("seek of unknown kind {whence}"),
            ));
        }
    };
    Ok(i64::try_from(found).ok())
}
