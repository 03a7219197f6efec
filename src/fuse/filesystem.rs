//! The kernel's requests, one method each: find the file, ask it, reply.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags, Generation,
    INodeNo, InitFlags, IoctlFlags, KernelConfig, LockOwner, OpenAccMode, OpenFlags, RenameFlags,
    ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyIoctl,
    ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use log::{error, warn};

use super::files::{Files, Handle, STATFS_BLOCK};
use super::inodes::CONTROL_DIR;
use super::pool::Pool;
use super::views::{Forgetter, Idle};
use super::writing::{self, Writing};
use super::{Config, Content, Control, Exports, errno, reading};
use crate::block::BLOCK_SIZE;
use crate::error::Result;

/// The name of the control directory.
const CONTROL_NAME: &str = ".ebsfs";

/// How long the kernel may believe an attribute or a name. Contents are kept for ever, as they change by its own
/// requests only and are otherwise dropped; the number of allocated blocks becomes known little by little.
const TTL: Duration = Duration::from_secs(1);

/// Threads for requests that wait: more than a local disk can use at once. Each takes a request's buffer of
/// memory, 512 KiB at most.
const WAITING_THREADS: usize = 16;

/// Requests that the kernel may have under way on its own account; its default of 16 starves ten readers.
const MAX_BACKGROUND: u16 = 64;

pub(super) struct Directory {
    files: Arc<Files>,
    pool: Pool,
    /// None if nothing can be written.
    writing: Option<Writing>,
    ended: Option<Box<dyn FnOnce() + Send + Sync>>,
}

impl Directory {
    pub(super) fn new(
        exports: Arc<dyn Exports>,
        control: Vec<Control>,
        config: &Config,
        ended: Box<dyn FnOnce() + Send + Sync>,
    ) -> Result<(Self, Idle)> {
        let (forgetter, idle) = Forgetter::new();
        let files = Files::new(exports, control, config.allow_other, forgetter);
        let files = Arc::new(files);
        let directory = Self {
            pool: Pool::new(WAITING_THREADS)?,
            writing: config.writable.then(|| Writing::new(&files)).transpose()?,
            files,
            ended: Some(ended),
        };
        Ok((directory, idle))
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

/// Requests that always get the same error.
macro_rules! refused {
    ($error:ident: $($request:ident($($argument:ty),*) -> $reply:ty;)*) => {
        $(fn $request(&self, _: &Request, $(_: $argument,)* reply: $reply) {
            reply.error(Errno::$error);
        })*
    };
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
        if let Some(writing) = self.writing.take() {
            writing.end();
        }
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
        if let Some(ino) = files.inodes.named(name) {
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

    fn open(&self, _req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let file = self.files.inodes.file(ino);
        let read_only = file
            .as_ref()
            .is_none_or(|file| file.export.writable.is_none());
        if read_only && flags.acc_mode() != OpenAccMode::O_RDONLY {
            return reply.error(Errno::EROFS);
        }
        if let Some(file) = file {
            file.notes.opened();
        }
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
        let Some(file) = self.files.inodes.file(ino) else {
            return reply.error(Errno::ENOENT);
        };
        reading::read(&self.pool, file, offset, wanted, reply);
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
        let Some(file) = self.files.inodes.file(ino) else {
            return reply.error(Errno::EINVAL);
        };
        self.wait(move |_| reading::seek(&file.export, offset, whence, reply));
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
        let files = self.files.inodes.all();
        let bytes: u64 = files
            .iter()
            .map(|file| file.export.data.size())
            .fold(0, u64::saturating_add);
        let files = u64::try_from(files.len()).unwrap_or(u64::MAX);
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

    fn write(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.files.inodes.file(ino) {
            Some(file) => writing::write(&self.files, &self.pool, file, offset, data, reply),
            None => reply.error(Errno::EROFS),
        }
    }

    fn fallocate(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let Some(file) = self.files.inodes.file(ino) else {
            return reply.error(Errno::EROFS);
        };
        let asked = Instant::now();
        self.wait(move |files| {
            writing::allocate(files, &file, asked, offset, length, mode, reply);
        });
    }

    fn fsync(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        match (&self.writing, self.files.inodes.file(ino)) {
            (Some(writing), Some(file)) => writing.sync(file, reply),
            // Nothing is ever written, so all of it is durable. Loop devices ask.
            _ => reply.ok(),
        }
    }

    fn setattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let writable = self
            .files
            .inodes
            .file(ino)
            .is_some_and(|file| file.export.writable.is_some());
        match self.files.attr(ino) {
            None => reply.error(Errno::ENOENT),
            Some(_) if !writable => reply.error(Errno::EROFS),
            Some(_) if mode.or(uid).or(gid).is_some() => reply.error(Errno::EPERM),
            // As a block device answers ftruncate.
            Some(attr) if size.is_some_and(|size| size != attr.size) => {
                reply.error(Errno::EINVAL);
            }
            // Times that are set are not kept, and refusing them would make copying tools fail at the end. The
            // present size is what the kernel asks for after a direct write past the end has failed.
            Some(attr) => reply.attr(&TTL, &attr),
        }
    }

    // What files there are does not change, in a writable mount neither.
    refused! { EROFS:
        mknod(INodeNo, &OsStr, u32, u32, u32) -> ReplyEntry;
        mkdir(INodeNo, &OsStr, u32, u32) -> ReplyEntry;
        create(INodeNo, &OsStr, u32, u32, i32) -> ReplyCreate;
        symlink(INodeNo, &OsStr, &Path) -> ReplyEntry;
        link(INodeNo, INodeNo, &OsStr) -> ReplyEntry;
        rename(INodeNo, &OsStr, INodeNo, &OsStr, RenameFlags) -> ReplyEmpty;
        unlink(INodeNo, &OsStr) -> ReplyEmpty;
        rmdir(INodeNo, &OsStr) -> ReplyEmpty;
    }

    // Not implemented, deliberately: the kernel remembers ENOSYS and does not ask again.
    refused! { ENOSYS:
        getxattr(INodeNo, &OsStr, u32) -> ReplyXattr;
        listxattr(INodeNo, u32) -> ReplyXattr;
        setxattr(INodeNo, &OsStr, &[u8], i32, u32) -> ReplyEmpty;
        removexattr(INodeNo, &OsStr) -> ReplyEmpty;
        fsyncdir(INodeNo, FileHandle, bool) -> ReplyEmpty;
        copy_file_range(INodeNo, FileHandle, u64, INodeNo, FileHandle, u64, u64, CopyFileRangeFlags) -> ReplyWrite;
        flush(INodeNo, FileHandle, LockOwner) -> ReplyEmpty;
    }

    refused! { ENOTTY:
        ioctl(INodeNo, FileHandle, IoctlFlags, u32, &[u8], u32) -> ReplyIoctl;
    }
}
