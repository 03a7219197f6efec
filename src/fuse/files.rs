//! What the directory shows: files by number, their attributes, listings, and what is open.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use fuser::{FileAttr, FileHandle, FileType, INodeNo};

use super::inodes::{CONTROL_DIR, FIRST_CONTROL, File, Inodes};
use super::views::Forgetter;
use super::{Content, Control, Export, Exports};
use crate::block::BLOCK_SIZE;
use crate::error::Result;

/// Loop devices take the unit of their discards from it.
pub(super) const STATFS_BLOCK: u32 = 4096;

/// The files of one mount.
pub(super) struct Files {
    pub(super) exports: Arc<dyn Exports>,
    control: Vec<Control>,
    pub(super) inodes: Inodes,
    pub(super) opened: Opened,
    pub(super) forgetter: Forgetter,
    /// Whether something was written after the last sync had begun.
    unsynced: AtomicBool,
    uid: u32,
    gid: u32,
    /// Whether others than the owner may read.
    allow_other: bool,
    mounted: SystemTime,
}

/// What open directories and control files show until they are closed.
#[derive(Default)]
pub(super) struct Opened {
    next: AtomicU64,
    /// Guards map operations only.
    handles: Mutex<HashMap<FileHandle, Handle>>,
}

#[derive(Clone)]
pub(super) enum Handle {
    Text(Arc<str>),
    Listing(Arc<Vec<(INodeNo, FileType, String)>>),
}

impl Opened {
    pub(super) fn insert(&self, handle: Handle) -> FileHandle {
        let number = FileHandle(self.next.fetch_add(1, Ordering::Relaxed) + 1);
        self.handles
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(number, handle);
        number
    }

    pub(super) fn get(&self, number: FileHandle) -> Option<Handle> {
        self.handles
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&number)
            .cloned()
    }

    pub(super) fn remove(&self, number: FileHandle) {
        self.handles
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&number);
    }
}

impl Files {
    pub(super) fn new(
        exports: Arc<dyn Exports>,
        control: Vec<Control>,
        allow_other: bool,
        forgetter: Forgetter,
    ) -> Self {
        Self {
            exports,
            control,
            inodes: Inodes::default(),
            opened: Opened::default(),
            forgetter,
            unsynced: AtomicBool::new(false),
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            allow_other,
            mounted: SystemTime::now(),
        }
    }

    /// Attributes of file `ino`, if there is one.
    pub(super) fn attr(&self, ino: INodeNo) -> Option<FileAttr> {
        if ino == INodeNo::ROOT || ino == CONTROL_DIR {
            return Some(self.attributes(ino, FileType::Directory, 0, 1, self.mounted));
        }
        if let Some(control) = self.control(ino) {
            let (kind, size, time) = match &control.content {
                Content::Text(text) => (FileType::RegularFile, text().len(), SystemTime::now()),
                Content::Link(target) => {
                    (FileType::Symlink, target.as_os_str().len(), self.mounted)
                }
            };
            let size = u64::try_from(size).unwrap_or(u64::MAX);
            return Some(self.attributes(ino, kind, size, 1, time));
        }
        let file = self.inodes.file(ino)?;
        let export = &file.export;
        let size = export.data.size();
        // Programs take a file for sparse if its blocks are fewer than its size: until all is listed, say one.
        let sectors = export
            .data
            .allocated(0..size)
            .map_or(1, |bytes| bytes.div_ceil(512).max(1));
        let time = file.notes.last().unwrap_or(export.time);
        let mut attr = self.attributes(ino, FileType::RegularFile, size, sectors, time);
        if export.writable.is_some() {
            attr.perm |= 0o200;
        }
        Some(attr)
    }

    /// Notes that `len` bytes from `offset` of `file` were written, or may have been in part. To be called
    /// before the answer.
    pub(super) fn written(&self, file: &File, offset: u64, len: u64) {
        file.notes.written(offset, len);
        self.unsynced.store(true, Ordering::SeqCst);
    }

    /// Makes durable what was written, through whatever file.
    pub(super) fn sync(&self, export: &Export) -> Result<()> {
        // Before the sync: what is written meanwhile may be no part of it.
        self.unsynced.store(false, Ordering::SeqCst);
        match &export.writable {
            Some(writable) => writable.data.sync(),
            None => Ok(()),
        }
    }

    /// Whether there is something to sync.
    pub(super) fn is_unsynced(&self) -> bool {
        self.unsynced.load(Ordering::SeqCst)
    }

    /// A file through which all that was written can be synced: they are views of one disk.
    pub(super) fn any_writable(&self) -> Option<Arc<File>> {
        let mut files = self.inodes.all().into_iter();
        files.find(|file| file.export.writable.is_some())
    }

    fn attributes(
        &self,
        ino: INodeNo,
        kind: FileType,
        size: u64,
        blocks: u64,
        time: SystemTime,
    ) -> FileAttr {
        let perm = match (kind, self.allow_other) {
            (FileType::Symlink, _) => 0o777,
            (FileType::Directory, false) => 0o500,
            (FileType::Directory, true) => 0o555,
            (_, false) => 0o400,
            (_, true) => 0o444,
        };
        FileAttr {
            ino,
            size,
            blocks,
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind,
            perm,
            nlink: if kind == FileType::Directory { 2 } else { 1 },
            uid: self.uid,
            gid: self.gid,
            rdev: 0,
            // Copying tools read in this unit: one request, one block.
            blksize: u32::try_from(BLOCK_SIZE).unwrap_or(STATFS_BLOCK),
            flags: 0,
        }
    }

    /// The control file `ino`, if it is one.
    pub(super) fn control(&self, ino: INodeNo) -> Option<&Control> {
        self.control
            .get(usize::try_from(ino.0.checked_sub(FIRST_CONTROL)?).ok()?)
    }

    pub(super) fn controls(&self) -> impl Iterator<Item = (INodeNo, &Control)> {
        (FIRST_CONTROL..).map(INodeNo).zip(&self.control)
    }

    /// What directory `ino` holds now; may wait.
    pub(super) fn listing(&self, ino: INodeNo) -> Result<Vec<(INodeNo, FileType, String)>> {
        let dot = (ino, FileType::Directory, ".".to_owned());
        let parent = (INodeNo::ROOT, FileType::Directory, "..".to_owned());
        let mut entries = vec![dot, parent];
        if ino == CONTROL_DIR {
            entries.extend(self.controls().map(|(ino, control)| {
                let kind = match control.content {
                    Content::Text(_) => FileType::RegularFile,
                    Content::Link(_) => FileType::Symlink,
                };
                (ino, kind, control.name.to_owned())
            }));
        } else {
            for export in self.exports.list()? {
                entries.push((
                    self.inodes.number(&export),
                    FileType::RegularFile,
                    export.name.clone(),
                ));
            }
        }
        Ok(entries)
    }
}
