//! Removes what nothing refers to: blocks and trees of deleted snapshots, snapshots that nobody goes on with,
//! temporary files. Alone in the store while it works, so it cannot take what an unfinished put relies on.

use std::collections::HashSet;
use std::fs;
use std::io::ErrorKind as IoKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use super::lock::StoreLock;
use super::pending::Pending;
use super::{Inner, Record};
use crate::block::Digest;
use crate::durable;
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
        let begin = (self.clock)();
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
        let mut worked_on = Vec::new();
        for id in self.ids("pending")? {
            let dir = self.pending_dir(&id);
            let expired = Pending::open(&dir).and_then(|pending| pending.status((self.clock)()));
            let stale = completed.contains(&id)
                || !Pending::is_in_use(&dir)?
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
            worked_on.push(pending);
        }
        for dir in abandoned.iter().filter(|_| !dry_run) {
            self.discard(dir)?;
        }
        let Garbage {
            blocks,
            trees,
            bytes,
            ..
        } = &mut garbage;
        for (dir, removed) in [
            (self.objects.blocks_dir(), blocks),
            (self.objects.trees_dir(), trees),
        ] {
            // One of its 256 parts at a time: the names of all would not fit into memory.
            for part in entries_of(&dir)? {
                for file in files_below(&part)? {
                    let name = file.file_name().and_then(|name| name.to_str());
                    // A name that is no digest is not ours to remove.
                    if name
                        .and_then(|name| name.parse().ok())
                        .is_some_and(|digest| !live.keeps(&digest))
                    {
                        *removed += 1;
                        *bytes += remove(&file, dry_run)?;
                    }
                }
            }
        }
        let tmp = self.objects.tmp_dir();
        let mut temporary = files_below(&tmp)?;
        // A record and the header are written beside their places.
        let beside = entries_of(&self.top.join("snapshots"))?
            .into_iter()
            .chain(entries_of(&self.top)?);
        temporary.extend(
            beside.filter(|file| file.extension().is_some_and(|e| e == "tmp") && file.is_file()),
        );
        for file in temporary {
            garbage.temporary_files += 1;
            garbage.bytes += remove(&file, dry_run)?;
        }
        if !dry_run {
            // What is left of pending snapshots that were being discarded.
            for dir in entries_of(&tmp)? {
                fs::remove_dir_all(&dir).map_err(|e| Error::io(e, "remove", &dir))?;
            }
            let took = (self.clock)().duration_since(begin);
            for pending in &worked_on {
                // Nobody could put anything meanwhile: that was not idleness.
                pending.defer(Duration::try_from(took).unwrap_or_default())?;
            }
            if worked_on.is_empty() {
                durable::remove(&self.objects.suspect())?;
            }
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

/// The files in `dir`, at any depth, or `dir` itself if it is one.
fn files_below(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut waiting = vec![dir.to_owned()];
    while let Some(path) = waiting.pop() {
        match fs::symlink_metadata(&path) {
            Ok(meta) if meta.is_dir() => waiting.append(&mut entries_of(&path)?),
            Ok(_) => files.push(path),
            Err(e) if e.kind() == IoKind::NotFound => {}
            Err(e) => return Err(Error::io(e, "read", &path)),
        }
    }
    Ok(files)
}

/// What stands in `dir`; nothing if it is not there.
fn entries_of(dir: &Path) -> Result<Vec<PathBuf>> {
    match fs::read_dir(dir) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
        Err(e) if e.kind() == IoKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(Error::io(e, "read", dir)),
    }
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
