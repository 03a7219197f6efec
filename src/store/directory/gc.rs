//! Removes what nothing refers to: blocks and trees of deleted snapshots, snapshots that nobody goes on with,
//! temporary files. Alone in the store while it works, so it cannot take what an unfinished put relies on.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::lock::StoreLock;
use super::pending::Pending;
use super::{Inner, Record};
use crate::block::Digest;
use crate::error::{Error, Result};
use crate::snapshot::{SnapshotId, Status};

/// What was removed, or would be.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Garbage {
    /// Block files.
    pub blocks: u64,
    /// Tree objects.
    pub trees: u64,
    /// Temporary files of writes that were cut off.
    pub temporary_files: u64,
    /// Snapshots that were started and neither completed nor worked on any more.
    pub snapshots: Vec<SnapshotId>,
    /// Bytes of all that.
    pub bytes: u64,
}

/// What must stay. Of a digest eight bytes are kept: two that agree in them keep one block too many, at most.
#[derive(Default)]
struct Live {
    objects: HashSet<u64>,
    segments: HashSet<Digest>,
}

impl Live {
    fn keep(&mut self, digest: &Digest) {
        self.objects.insert(fingerprint(digest));
    }

    fn keeps(&self, digest: &Digest) -> bool {
        self.objects.contains(&fingerprint(digest))
    }
}

fn fingerprint(digest: &Digest) -> u64 {
    digest
        .as_bytes()
        .first_chunk()
        .map_or(0, |head| u64::from_le_bytes(*head))
}

impl Inner {
    pub(super) fn gc(&self, dry_run: bool) -> Result<Garbage> {
        let _alone = StoreLock::exclusive(&self.top)?;
        self.gc_alone(dry_run)
    }

    /// The same for a caller that is alone in the store. A damaged record or tree stops it before anything is
    /// removed: what it referred to is not known.
    pub(super) fn gc_alone(&self, dry_run: bool) -> Result<Garbage> {
        let mut garbage = Garbage::default();
        let mut live = Live::default();
        let damaged =
            |id: &SnapshotId| format!("{id} is damaged, so nothing is removed: delete it first");
        let completed = self.ids("snapshots")?;
        for id in &completed {
            self.completed_record(id)
                .and_then(|record| self.keep_tree(&record, &mut live))
                .map_err(|e| e.context(damaged(id)))?;
        }
        let mut abandoned = Vec::new();
        for id in self.ids("pending")? {
            let dir = self.pending_dir(&id);
            let expired = Pending::open(&dir).and_then(|pending| pending.status((self.clock)()));
            let stale = completed.contains(&id)
                || !Pending::is_in_use(&dir)
                || matches!(expired, Ok(Status::Error));
            if stale {
                garbage.bytes += bytes_below(&dir);
                garbage
                    .snapshots
                    .extend((!completed.contains(&id)).then_some(id));
                abandoned.push(dir);
                continue;
            }
            let pending = Pending::open(&dir)?;
            self.keep_tree(&pending.record, &mut live)
                .map_err(|e| e.context(damaged(&id)))?;
            for number in pending.segments()? {
                pending
                    .puts(number)?
                    .values()
                    .for_each(|digest| live.keep(digest));
            }
        }
        for dir in abandoned.iter().filter(|_| !dry_run) {
            self.discard(dir)?;
        }
        let sweep =
            |dir: PathBuf, keep: &dyn Fn(&Digest) -> bool, bytes: &mut u64| -> Result<u64> {
                let mut removed = 0;
                for file in files_below(&dir)? {
                    let name = file
                        .file_name()
                        .and_then(|name| name.to_str())
                        .and_then(|name| name.parse().ok());
                    // A name that is no digest is not ours to remove.
                    if name.is_some_and(|digest| !keep(&digest)) {
                        removed += 1;
                        *bytes += remove(&file, dry_run)?;
                    }
                }
                Ok(removed)
            };
        garbage.blocks = sweep(
            self.objects.blocks_dir(),
            &|digest| live.keeps(digest),
            &mut garbage.bytes,
        )?;
        garbage.trees = sweep(
            self.objects.trees_dir(),
            &|digest| live.keeps(digest),
            &mut garbage.bytes,
        )?;
        let tmp = self.objects.tmp_dir();
        let mut temporary = files_below(&tmp)?;
        // A record is written beside its place.
        let records = files_below(&self.top.join("snapshots"))?.into_iter();
        temporary.extend(records.filter(|file| file.extension().is_some_and(|e| e == "tmp")));
        for file in temporary {
            garbage.temporary_files += 1;
            garbage.bytes += remove(&file, dry_run)?;
        }
        if !dry_run {
            remove_empty_dirs(&tmp)?;
        }
        Ok(garbage)
    }

    fn keep_tree(&self, record: &Record, live: &mut Live) -> Result<()> {
        let Some(digest) = &record.root else {
            return Ok(());
        };
        live.keep(digest);
        for reference in self.read_root(digest)?.segments {
            if live.segments.insert(reference.digest) {
                live.keep(&reference.digest);
                self.read_segment(&reference)?
                    .iter()
                    .for_each(|(_, digest)| live.keep(&digest));
            }
        }
        Ok(())
    }
}

fn files_below(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|e| Error::io(e, "read", dir))?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            files.append(&mut files_below(&entry.path())?);
        } else {
            files.push(entry.path());
        }
    }
    Ok(files)
}

/// Removes the directories in `dir`: what is left of pending snapshots that were being discarded.
fn remove_empty_dirs(dir: &Path) -> Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(|e| Error::io(e, "read", dir))?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            let path = entry.path();
            fs::remove_dir(&path).map_err(|e| Error::io(e, "remove", &path))?;
        }
    }
    Ok(())
}

fn bytes_below(dir: &Path) -> u64 {
    let files = files_below(dir).unwrap_or_default();
    files
        .iter()
        .filter_map(|file| fs::symlink_metadata(file).ok())
        .map(|meta| meta.len())
        .sum()
}

fn remove(file: &Path, dry_run: bool) -> Result<u64> {
    let bytes = fs::symlink_metadata(file).map_or(0, |meta| meta.len());
    if !dry_run {
        fs::remove_file(file).map_err(|e| Error::io(e, "remove", file))?;
    }
    Ok(bytes)
}
