//! An export into something that can be written anywhere, and the note of how far all of it is durable.

use std::fs::File;
use std::io::ErrorKind as IoKind;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::{TryStreamExt as _, pin_mut};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;

use super::super::Outcome;
use super::super::interrupt::unless_interrupted;
use super::super::progress::Progress;
use super::super::state::Checkpoint;
use crate::block::{BlockIndex, Buffer};
use crate::download::{Config, Target, to_file};
use crate::durable;
use crate::error::{Error, ErrorKind, Result};
use crate::snapshot::SnapshotInfo;
use crate::source::{BlockSource as _, SnapshotSource, indexes};

/// How far an export has come.
#[derive(Deserialize, Serialize)]
struct Unfinished {
    /// Tells the partial file, or the device, from another of the same name.
    inode: u64,
    /// All blocks before it are durable. Unless it is 0, the one before it holds data.
    next: u32,
}

/// Bytes between two notes. Each waits for the disk.
const NOTE_EVERY: u64 = 1 << 30;

/// A snapshot on its way to one place.
pub(super) struct InPlace<'a> {
    pub(super) runtime: &'a Runtime,
    pub(super) source: &'a SnapshotSource,
    pub(super) info: &'a SnapshotInfo,
    pub(super) config: &'a Config,
    /// What the user would type to go on.
    pub(super) again: String,
    pub(super) checkpoint: Checkpoint,
}

impl InPlace<'_> {
    /// The file or device at `path` that an interrupted export wrote to, and where to go on.
    pub(super) fn continued(&self, path: &Path) -> Result<Option<(File, BlockIndex)>> {
        let options = File::options()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path);
        let file = match options {
            Ok(file) => Some(file),
            Err(e) if e.kind() == IoKind::NotFound => None,
            Err(e) => return Err(Error::io(e, "open", path)),
        };
        let unfinished: Option<Unfinished> = self.checkpoint.load();
        if let (Some(file), Some(before)) = (file, unfinished)
            && file.metadata().is_ok_and(|meta| meta.ino() == before.inode)
            && self.holds_ours(&file, before.next)?
        {
            claim(&file, path)?;
            return Ok(Some((file, BlockIndex::new(before.next))));
        }
        Ok(None)
    }

    /// Whether the last block noted is there, or the first of all if none was: the name of a device, and its
    /// node's number too, can have passed to another one.
    fn holds_ours(&self, file: &File, next: u32) -> Result<bool> {
        let index = match next.checked_sub(1) {
            Some(last) => BlockIndex::new(last),
            None => {
                let indexes = indexes(self.source, BlockIndex::ZERO);
                pin_mut!(indexes);
                match self.runtime.block_on(indexes.try_next())? {
                    Some(first) => first,
                    None => return Ok(true),
                }
            }
        };
        let mut bytes = Buffer::new();
        if file.read_exact_at(&mut bytes, index.start()).is_err() {
            return Ok(false);
        }
        let block = self.runtime.block_on(self.source.block(index))?;
        Ok(block.bytes() == &*bytes)
    }

    /// A new partial file. One that is left from before is only replaced when that was asked for, and one that
    /// is being written never.
    pub(super) fn create(&self, partial: &Path, replace: bool) -> Result<File> {
        match File::options()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW)
            .open(partial)
        {
            Ok(left) => claim(&left, partial)?,
            Err(e) if e.kind() == IoKind::NotFound => {}
            Err(e) if !replace => return Err(Error::io(e, "open", partial)),
            Err(_) => {}
        }
        if !replace && partial.symlink_metadata().is_ok() {
            let what = format!(
                "{} is left from an interrupted export: --continue goes on with one of the same snapshot, \
                 --force starts again",
                partial.display()
            );
            return Err(Error::new(ErrorKind::Conflict, what));
        }
        // A new file can get the number of one that was removed. If the note of that one were still there when
        // this is interrupted, it would be gone on with from where the other had come to.
        self.checkpoint.clear();
        if replace {
            durable::remove(partial)?;
        }
        let file = durable::create_private(partial)?;
        claim(&file, partial)?;
        Ok(file)
    }

    /// Writes all from block `from` on to `file`, which is at `path`, and makes it durable.
    pub(super) fn write(
        &self,
        file: &Arc<File>,
        path: &Path,
        target: Target,
        from: BlockIndex,
    ) -> Outcome {
        let inode = file
            .metadata()
            .map_err(|e| Error::io(e, "read", path))?
            .ino();
        let note = |next: BlockIndex| {
            self.checkpoint.save(&Unfinished {
                inode,
                next: next.get(),
            })
        };
        note(from)?;
        let progress = Progress::new("export", self.info.volume_size.bytes());
        progress.starts_at(from);
        let noted = AtomicU64::new(from.start());
        let reached = |next: BlockIndex| {
            progress.reached(next);
            if next.start() - noted.load(Ordering::Relaxed) >= NOTE_EVERY {
                noted.store(next.start(), Ordering::Relaxed);
                durable::sync_file(file, path)?;
                note(next)?;
            }
            Ok(())
        };
        let work = to_file(self.source, file, target, from, self.config, &reached);
        let go_on = format!("{} goes on with it", self.again);
        self.runtime
            .block_on(unless_interrupted(work, &go_on))
            .map_err(|stop| {
                stop.context(&format!("{} is not complete ({go_on})", path.display()))
            })?;
        Ok(durable::sync_file(file, path)?)
    }
}

/// Keeps others from writing the same file as long as it is open.
fn claim(file: &File, path: &Path) -> Result<()> {
    flock(file, FlockOperation::NonBlockingLockExclusive).map_err(|e| match e {
        Errno::WOULDBLOCK => Error::new(
            ErrorKind::Conflict,
            format!("{} is being written by another export", path.display()),
        ),
        e => Error::io(e.into(), "lock", path),
    })
}
