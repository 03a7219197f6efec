//! Bytes as files: a FUSE directory of named exports, some of which may be writable.
//!
//! This module translates and never decides: what files there are and what they hold is asked of [`Exports`].
//! It promises that a read answers its full length or an error, that requests which wait never hold up others,
//! and that the errors of this crate reach the kernel by one table, [`errno`].
//!
//! A read or write that needs no waiting is answered in the thread that took it from the kernel; whatever may
//! wait goes to a bounded pool. What was written is durable and seen through all files that show the same bytes
//! once `fsync` has been answered, and is synced besides every few seconds and at the end of the mount. Files
//! have the sizes and names that they have: nothing is created, removed, truncated or enlarged.
//!
//! Beside the exports there is `.ebsfs`, a directory of files about the mount itself. It can be entered but is
//! not listed, so that copying the directory copies images only.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use fuser::{Errno, Session, SessionACL};
use log::debug;

use self::mountpoint::MountEntry;
use self::views::Idle;
use crate::error::{Error, ErrorKind, Result};
use crate::read_at::{ReadAt, WriteAt};
use crate::stats::Stats;

mod failures;
mod files;
mod filesystem;
mod inodes;
pub mod mountpoint;
mod notes;
mod pool;
mod ranges;
mod read_ahead;
mod reading;
mod views;
mod writing;

/// A file.
pub struct Export {
    /// Its name in the directory.
    pub name: String,
    /// What it holds.
    pub data: Arc<dyn ReadAt>,
    /// How it is written to, if it can be.
    pub writable: Option<Writable>,
    /// All its times, until it is written to.
    pub time: SystemTime,
    /// Where its reads and writes are counted.
    pub stats: Arc<Stats>,
}

/// A file that can be written to. All such files of a mount are views of one disk.
pub struct Writable {
    /// What it holds: the same as the file's `data`.
    pub data: Arc<dyn WriteAt>,
    /// Where on the disk its first byte lies.
    pub start: u64,
}

/// What the directory holds. All calls may wait; they are made on the pool's threads.
pub trait Exports: Send + Sync {
    /// The files to list, in order.
    fn list(&self) -> Result<Vec<Arc<Export>>>;

    /// The file of that name, listed or not.
    fn lookup(&self, name: &str) -> Result<Option<Arc<Export>>>;
}

/// A file in the control directory.
pub struct Control {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub content: Content,
}

/// What a control file is.
pub enum Content {
    /// Text, made anew at every open.
    Text(Box<dyn Fn() -> String + Send + Sync>),
    /// A symbolic link.
    Link(PathBuf),
}

/// Where and for whom to mount.
#[derive(Clone, Debug)]
pub struct Config {
    /// An empty directory, as a canonical path.
    pub mountpoint: PathBuf,
    /// Whether others than the owner may read, root among them.
    pub allow_other: bool,
    /// Whether there are files that can be written to. Only the owner may.
    pub writable: bool,
}

/// Threads that read requests. A second one takes over while the first copies a large hit.
const SESSION_THREADS: usize = 2;

/// Mounts `exports` with the control files `control`, and calls `ended` once the session is over, for whatever
/// reason: unmounted, aborted, failed. When this returns, the mount answers.
pub fn mount(
    exports: Arc<dyn Exports>,
    control: Vec<Control>,
    config: &Config,
    ended: Box<dyn FnOnce() + Send + Sync>,
) -> Result<MountEntry> {
    let path = &config.mountpoint;
    let (filesystem, idle) = filesystem::Directory::new(exports, control, config, ended)?;
    let fuse = mountpoint::attach(config)?;
    // Without writes there is nothing to forget.
    let idle = config.writable.then_some(idle);
    let mounted = serve(filesystem, idle, fuse, path);
    if mounted.is_err() {
        // Without a session it would be a dead mount.
        drop(mountpoint::detach(path, true));
    }
    mounted
}

/// Tells the kernel that this thread, and every thread that it starts from now on, writes out what others'
/// memory is freed by: its own memory must then be found without waiting for that. Without this a loop device on
/// a writable mount could wait for itself when memory is short. Has no effect without the right to do so.
pub fn become_io_flusher() {
    if let Err(e) = rustix::process::configure_io_flusher_behavior(true) {
        debug!("memory is not set aside for writing: {e}");
    }
}

fn serve(
    filesystem: filesystem::Directory,
    idle: Option<Idle>,
    fuse: OwnedFd,
    path: &Path,
) -> Result<MountEntry> {
    let cannot = |e| Error::io(e, "serve", path);
    let mut options = fuser::Config::default();
    options.n_threads = Some(SESSION_THREADS);
    // The kernel has checked the owner already; once more here would only refuse root.
    let session = Session::from_fd(filesystem, fuse, SessionACL::All, options).map_err(cannot)?;
    if let Some(idle) = idle {
        idle.start(session.notifier())?;
    }
    session.spawn().map_err(cannot)?;
    // That it answers is what the caller waits for.
    std::fs::metadata(path).map_err(|e| Error::io(e, "reach", path))?;
    let missing = || {
        Error::new(
            ErrorKind::NotFound,
            format!("{} was unmounted at once", path.display()),
        )
    };
    let mounted = mountpoint::mounted_at(path)?.ok_or_else(missing)?;
    read_ahead::raise(&mounted);
    Ok(mounted)
}

/// What the kernel is told.
fn errno(kind: ErrorKind) -> Errno {
    match kind {
        ErrorKind::NotFound => Errno::ENOENT,
        ErrorKind::Denied => Errno::EACCES,
        ErrorKind::ReadOnly => Errno::EROFS,
        ErrorKind::NoSpace => Errno::ENOSPC,
        ErrorKind::Invalid => Errno::EINVAL,
        ErrorKind::Conflict => Errno::EBUSY,
        ErrorKind::Unsupported => Errno::EOPNOTSUPP,
        // Not ETIMEDOUT or EAGAIN: programs that read disks understand EIO, and a loop device passes only that.
        ErrorKind::Unavailable | ErrorKind::Corrupt | ErrorKind::Io => Errno::EIO,
    }
}
