//! An export into something that can be written anywhere, and the note of how far all of it is durable.

use std::fs::File;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;

use super::super::interrupt::unless_interrupted;
use super::super::progress::Progress;
use super::super::state::Checkpoint;
use super::super::{Outcome, tell};
use crate::block::{BlockIndex, Buffer};
use crate::download::{Config, Target, to_file};
use crate::durable;
use crate::error::{Error, ErrorKind, Result};
use crate::snapshot::SnapshotInfo;
use crate::source::{BlockSource as _, SnapshotSource};

/// How far an export has come.
#[derive(Deserialize, Serialize)]
struct Unfinished {
    /// Tells the partial file, or the device, from another of the same name.
    inode: u64,
    /// All blocks before it are durable.
    next: u32,
}

/// Bytes between two notes. Each waits for the disk.
const NOTE_EVERY: u64 = 1 << 30;

/// A snapshot on its way to one place.
pub(super) struct InPlace<'a> {
    pub(super) runtime: &'a Runtime,
    pub(super) source: &'a SnapshotSource,
    pub(super) info: &'a SnapshotInfo,
    /// The place as the user named it.
    pub(super) shown: &'a Path,
    pub(super) checkpoint: Checkpoint,
}

impl InPlace<'_> {
    /// The file or device at `path` that an interrupted export wrote to, and where to go on.
    pub(super) fn continued(&self, path: &Path) -> Result<Option<(File, BlockIndex)>> {
        let opened = File::options()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)
            .ok();
        let unfinished: Option<Unfinished> = self.checkpoint.load();
        if let (Some(file), Some(before)) = (opened, unfinished)
            && file.metadata().is_ok_and(|meta| meta.ino() == before.inode)
            && self.holds_last_before(&file, before.next)?
        {
            return Ok(Some((file, BlockIndex::new(before.next))));
        }
        tell("there is no interrupted export of this snapshot to this place: starting one");
        Ok(None)
    }

    /// Whether the block before `next` is there: a device's name can have passed to another device.
    fn holds_last_before(&self, file: &File, next: u32) -> Result<bool> {
        let Some(last) = next.checked_sub(1).map(BlockIndex::new) else {
            return Ok(true);
        };
        let mut bytes = Buffer::new();
        if file.read_exact_at(&mut bytes, last.start()).is_err() {
            return Ok(false);
        }
        let block = self.runtime.block_on(self.source.block(last))?;
        Ok(block.bytes() == &*bytes)
    }

    /// A new partial file. One that is left from before is only replaced when that was asked for.
    pub(super) fn create(&self, partial: &Path, replace: bool) -> Result<File> {
        if !replace && partial.symlink_metadata().is_ok() {
            let what = format!(
                "{} is left from an interrupted export: --continue goes on with it, --force starts again",
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
        durable::create_private(partial)
    }

    /// Writes all from block `from` on to `file`, which is at `path`, and makes it durable.
    pub(super) fn write(
        &self,
        file: File,
        path: &Path,
        target: Target,
        from: BlockIndex,
    ) -> Outcome {
        let file = Arc::new(file);
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
                durable::sync_file(&file, path)?;
                note(next)?;
            }
            Ok(())
        };
        let config = Config::default();
        let work = to_file(self.source, &file, target, from, &config, &reached);
        let go_on = format!(
            "`ebsfs export --continue {} {}` goes on with it",
            self.info.id,
            self.shown.display()
        );
        self.runtime
            .block_on(unless_interrupted(work, &go_on))
            .map_err(|stop| {
                stop.context(&format!("{} is not complete ({go_on})", path.display()))
            })?;
        Ok(durable::sync_file(&file, path)?)
    }
}
