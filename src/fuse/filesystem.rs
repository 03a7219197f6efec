//! The kernel's requests, one method each: find the file, ask it, reply.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use fuser::{
    Errno, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, InitFlags, IoctlFlags,
    KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEmpty,
    ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyXattr, Request,
};
use log::{error, warn};

use super::files::{Files, Handle, STATFS_BLOCK};
use super::inodes::CONTROL_DIR;
use super::pool::Pool;
use super::{Content, Control, Export, Exports, errno};
use crate::block::BLOCK_SIZE;
use crate::error::{Error, ErrorKind, Result};
use crate::read_at::{DEADLINE, Extent, too_late};

/// The name of the control directory.
const CONTROL_NAME: &str = ".ebsfs";

/// How long the kernel may believe an attribute or a name. Contents never change and are kept for ever; the
/// number of allocated blocks becomes known little by little.
const TTL: Duration = Duration::from_secs(1);

/// Threads for requests that wait: more than a local disk can use at once. Each takes a request's buffer of
/// memory, 512 KiB at most.
const WAITING_THREADS: usize = 16;

/// Requests that the kernel may have under way on its own account; its default of 16 starves ten readers.
const MAX_BACKGROUND: u16 = 64;

thread_local! {
    /// A read's bytes on their way to the kernel, kept by each thread for the next one.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

pub(super) struct Directory {
    files: Arc<Files>,
    pool: Pool,
    ended: Option<Box<dyn FnOnce() + Send + Sync>>,
}

impl Directory {
    pub(super) fn new(
        exports: Arc<dyn Exports>,
        control: Vec<Control>,
        allow_other: bool,
        ended: Box<dyn FnOnce() + Send + Sync>,
    ) -> Result<Self> {
        Ok(Self {
            files: Arc::new(Files::new(exports, control, allow_other)),
            pool: Pool::new(WAITING_THREADS)?,
            ended: Some(ended),
        })
    }

    fn wait(&self, work: impl FnOnce(&Files) + Send + 'static) {
        let files = Arc::clone(&self.files);
        self.pool.run(move || work(&files));
    }
}

fn entry(files: &Files, found: Option<INodeNo>, reply: ReplyEntry) {
    match found.and_then(|ino| files.attr(ino)) {
        Some(attr) => reply.entry(&TTL, &attr, Generation(0)),
        None => reply.error(Errno::ENOENT),
    }
}

/// The failure that was logged last. A bad block read in small pieces would fill the log otherwise.
static LOGGED: Mutex<Option<(String, Instant)>> = Mutex::new(None);

/// How long the same failure is not logged again.
const QUIET: Duration = Duration::from_secs(60);

/// Counts and logs a failed read, and returns what to answer.
fn failed(export: &Export, what: &str, e: &Error) -> Errno {
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
    // An open file's reader can do nothing about a store that is gone, in the way or forbidden: it is a disk
    // that fails, whatever the cause.
    Errno::EIO
}

/// Answers a read that had to wait, if it has not waited too long for a thread already.
fn answer_late(export: &Export, asked: Instant, offset: u64, len: usize, reply: ReplyData) {
    BUFFER.with_borrow_mut(|buffer| {
        buffer.resize(len, 0);
        let late = asked.elapsed() > DEADLINE;
        let done = if late {
            Err(too_late())
        } else {
            export.data.read_at(offset, buffer)
        };
        answer(export, offset, buffer, done, reply);
    });
}

fn answer(export: &Export, offset: u64, buffer: &[u8], done: Result<()>, reply: ReplyData) {
    let len = buffer.len();
    match done {
        Ok(()) => {
            export.stats.bytes.add(u64::try_from(len).unwrap_or(0));
            reply.data(buffer);
        }
        Err(e) => reply.error(failed(
            export,
            &format!("{len} bytes at offset {offset}"),
            &e,
        )),
    }
}

fn seek(export: &Export, offset: i64, whence: i32) -> Result<Option<i64>> {
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

impl Filesystem for Directory {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let unexpected = |what: &str| io::Error::other(format!("the kernel refuses {what}"));
        let block = u32::try_from(BLOCK_SIZE).map_err(io::Error::other)?;
        // Bounds reads, too: a request is at most one block, and one aligned block where it can be.
        config
            .set_max_write(block)
            .map_err(|_| unexpected("the size of requests"))?;
        config
            .set_max_background(MAX_BACKGROUND)
            .map_err(|_| unexpected("the number of requests"))?;
        // Old kernels lack them and lose speed only.
        for flag in [
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_ASYNC_DIO,
            InitFlags::FUSE_CACHE_SYMLINKS,
        ] {
            let _ = config.add_capabilities(flag);
        }
        Ok(())
    }

    fn destroy(&mut self) {
        if let Some(ended) = self.ended.take() {
            ended();
        }
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let Some(name) = name.to_str() else {
            return reply.error(Errno::ENOENT);
        };
        let files = &self.files;
        if parent == CONTROL_DIR {
            let found = files
                .controls()
                .find(|(_, control)| control.name == name)
                .map(|(ino, _)| ino);
            return entry(files, found, reply);
        }
        if name == CONTROL_NAME {
            return entry(files, Some(CONTROL_DIR), reply);
        }
        if let Some((ino, _)) = files.inodes.named(name) {
            return entry(files, Some(ino), reply);
        }
        let name = name.to_owned();
        self.wait(move |files| match files.exports.lookup(&name) {
            Ok(found) => entry(
                files,
                found.map(|export| files.inodes.number(&export)),
                reply,
            ),
            Err(e) => {
                warn!("{name}: cannot be opened: {e:#}");
                reply.error(errno(e.kind()));
            }
        });
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        match self.files.attr(ino) {
            Some(attr) => reply.attr(&TTL, &attr),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        match self.files.control(ino).map(|control| &control.content) {
            Some(Content::Link(target)) => reply.data(target.as_os_str().as_encoded_bytes()),
            _ => reply.error(Errno::EINVAL),
        }
    }

    fn open(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.files.control(ino).map(|control| &control.content) {
            Some(Content::Text(text)) => {
                // Past the page cache, so that it is as long as it is now.
                let handle = self.files.opened.insert(Handle::Text(text().into()));
                reply.opened(handle, FopenFlags::FOPEN_DIRECT_IO);
            }
            _ => reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE),
        }
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let wanted = usize::try_from(size).unwrap_or(usize::MAX);
        if let Some(Handle::Text(text)) = self.files.opened.get(fh) {
            let start = usize::try_from(offset)
                .unwrap_or(usize::MAX)
                .min(text.len());
            let end = start.saturating_add(wanted).min(text.len());
            return reply.data(text.as_bytes().get(start..end).unwrap_or_default());
        }
        let Some(export) = self.files.inodes.export(ino) else {
            return reply.error(Errno::ENOENT);
        };
        let left = export.data.size().saturating_sub(offset);
        let len = usize::try_from(left).map_or(wanted, |left| left.min(wanted));
        export.stats.reads.add(1);
        // A direct read across the end is cut into requests some of which lie past it.
        if len == 0 {
            return reply.data(&[]);
        }
        BUFFER.with_borrow_mut(|buffer| {
            buffer.resize(len, 0);
            match export.data.try_read_at(offset, buffer) {
                Ok(false) => {
                    let asked = Instant::now();
                    self.wait(move |_| answer_late(&export, asked, offset, len, reply));
                }
                done => answer(&export, offset, buffer, done.map(drop), reply),
            }
        });
    }

    fn lseek(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let Some(export) = self.files.inodes.export(ino) else {
            return reply.error(Errno::EINVAL);
        };
        self.wait(move |_| match seek(&export, offset, whence) {
            Ok(Some(found)) => reply.offset(found),
            Ok(None) => reply.error(Errno::ENXIO),
            Err(e) => reply.error(failed(
                &export,
                &format!("looking for holes at offset {offset}"),
                &e,
            )),
        });
    }

    fn release(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.files.opened.remove(fh);
        reply.ok();
    }

    fn opendir(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        self.wait(move |files| match files.listing(ino) {
            Ok(entries) => {
                reply.opened(
                    files.opened.insert(Handle::Listing(Arc::new(entries))),
                    FopenFlags::empty(),
                );
            }
            Err(e) => {
                error!("the directory cannot be listed: {e:#}");
                reply.error(errno(e.kind()));
            }
        });
    }

    fn readdir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let Some(Handle::Listing(entries)) = self.files.opened.get(fh) else {
            return reply.error(Errno::EBADF);
        };
        let skip = usize::try_from(offset).unwrap_or(usize::MAX);
        for (next, (ino, kind, name)) in (1..).zip(&*entries).skip(skip) {
            if reply.add(*ino, next, *kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.files.opened.remove(fh);
        reply.ok();
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let exports = self.files.inodes.all();
        let bytes: u64 = exports
            .iter()
            .map(|export| export.data.size())
            .fold(0, u64::saturating_add);
        let files = u64::try_from(exports.len()).unwrap_or(u64::MAX);
        reply.statfs(
            bytes / u64::from(STATFS_BLOCK),
            0,
            0,
            files,
            0,
            STATFS_BLOCK,
            255,
            STATFS_BLOCK,
        );
    }

    /// Nothing is ever written, so all of it is durable. Loop devices ask.
    fn fsync(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    // Not implemented, deliberately: the kernel remembers ENOSYS and does not ask again.

    fn getxattr(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _name: &OsStr,
        _size: u32,
        reply: ReplyXattr,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn listxattr(&self, _req: &Request, _ino: INodeNo, _size: u32, reply: ReplyXattr) {
        reply.error(Errno::ENOSYS);
    }

    fn flush(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        _cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }
}
