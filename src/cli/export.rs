//! `ebsfs export`: a snapshot into a file, a block device, or stdout.
//!
//! A file is written beside its place, as `NAME.partial`, and takes its name when all of it is durable. A device
//! is written in place. Both can be interrupted and continued: how far all is durable is noted now and then.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek as _, SeekFrom, Write};
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::Args;
use indicatif::HumanBytes;
use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;

use super::interrupt::unless_interrupted;
use super::progress::Progress;
use super::state::Checkpoint;
use super::{Common, Outcome, Stop, stack, tell};
use crate::block::BlockIndex;
use crate::download::{Config, Target, to_file, to_stream};
use crate::durable;
use crate::error::{Error, ErrorKind, Result};
use crate::snapshot::{SnapshotId, SnapshotInfo};
use crate::source::{BlockSource as _, SnapshotSource};

#[derive(Args)]
pub(super) struct Export {
    /// The snapshot
    snapshot: SnapshotId,

    /// A file, a block device, or - for stdout
    target: PathBuf,

    /// Write over what is there: a file, or a device that does not begin with zeros
    #[arg(short, long)]
    force: bool,

    /// Go on with an interrupted export
    #[arg(long = "continue")]
    go_on: bool,
}

/// How far an export has come.
#[derive(Deserialize, Serialize)]
struct Unfinished {
    /// Tells the partial file, or the device, from another of the same name.
    inode: u64,
    /// All blocks before it are durable.
    next: u32,
}

/// Bytes between two notes of how far it has come. Each waits for the disk.
const NOTE_EVERY: u64 = 1 << 30;

/// A device that begins with so many zeros is taken for a new one.
const BLANK: usize = 1 << 20;

impl Export {
    pub(super) fn run(self, common: &Common) -> Outcome {
        let store = stack::open_store(common)?;
        let runtime = stack::runtime()?;
        let info = runtime.block_on(store.info(&self.snapshot))?;
        let source = stack::snapshot(&store, &info);
        // Before anything is made or written: one that is pending or damaged is refused here.
        runtime.block_on(source.present(BlockIndex::ZERO))?;
        let checkpoint = |path: &Path| {
            Checkpoint::of(
                "export",
                &[&store.identity(), info.id.as_str(), &path.to_string_lossy()],
            )
        };
        if self.target == Path::new("-") {
            // Not through the standard handle, which looks for line feeds in all that it writes.
            let stdout = rustix::io::dup(rustix::stdio::stdout()).map_err(Error::from)?;
            return stream(&runtime, &source, &info, &mut File::from(stdout), "stdout");
        }
        let meta = match std::fs::metadata(&self.target) {
            Ok(meta) => Some(meta),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(Error::io(e, "write", &self.target).into()),
        };
        match meta {
            Some(meta) if meta.is_dir() => {
                let what = format!(
                    "{} is a directory: name a file in it",
                    self.target.display()
                );
                Err(Error::new(ErrorKind::Invalid, what).into())
            }
            Some(meta) if meta.file_type().is_block_device() => {
                let path = std::fs::canonicalize(&self.target)
                    .map_err(|e| Error::io(e, "find", &self.target))?;
                self.to_device(&runtime, &source, &info, &path, &checkpoint(&path))
            }
            Some(meta) if !meta.is_file() => {
                let mut out = File::options()
                    .write(true)
                    .open(&self.target)
                    .map_err(|e| Error::io(e, "open", &self.target))?;
                let shown = self.target.display().to_string();
                stream(&runtime, &source, &info, &mut out, &shown)
            }
            existing => {
                if existing.is_some() && !self.force {
                    let what = format!("{} exists: --force writes over it", self.target.display());
                    return Err(Error::new(ErrorKind::Conflict, what).into());
                }
                // A link is followed, and what it points to replaced.
                let path = match existing {
                    Some(_) => std::fs::canonicalize(&self.target),
                    None => std::path::absolute(&self.target),
                };
                let path = path.map_err(|e| Error::io(e, "find", &self.target))?;
                self.to_new_file(&runtime, &source, &info, &path, &checkpoint(&path))
            }
        }
    }

    fn to_new_file(
        &self,
        runtime: &Runtime,
        source: &SnapshotSource,
        info: &SnapshotInfo,
        path: &Path,
        checkpoint: &Checkpoint,
    ) -> Outcome {
        let mut name = path.as_os_str().to_owned();
        name.push(".partial");
        let partial = PathBuf::from(name);
        let (file, from) = match self.continued(&partial, checkpoint)? {
            Some(found) => found,
            None => (
                create(&partial, self.force || self.go_on, checkpoint)?,
                BlockIndex::ZERO,
            ),
        };
        file.set_len(info.volume_size.bytes())
            .map_err(|e| Error::io(e, "size", &partial))?;
        let export = InPlace {
            file: Arc::new(file),
            path: &partial,
            target: Target::New,
            from,
            checkpoint,
        };
        export.run(runtime, source, info, &self.target)?;
        durable::sync_file(&export.file, &partial)?;
        if self.force {
            durable::place(&partial, path)?;
        } else {
            durable::place_new(&partial, path).map_err(|e| match e.kind() {
                ErrorKind::Conflict => e.context(format!(
                    "{} appeared meanwhile; the export is complete in {}",
                    path.display(),
                    partial.display()
                )),
                _ => e,
            })?;
        }
        durable::sync_dir(path.parent().unwrap_or(Path::new("/")))?;
        checkpoint.clear();
        Ok(())
    }

    /// The file or device of an interrupted export, and where to go on.
    fn continued(
        &self,
        path: &Path,
        checkpoint: &Checkpoint,
    ) -> Result<Option<(File, BlockIndex)>> {
        if !self.go_on {
            return Ok(None);
        }
        let opened = File::options()
            .write(true)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)
            .ok();
        let unfinished: Option<Unfinished> = checkpoint.load();
        if let (Some(file), Some(before)) = (opened, unfinished)
            && file.metadata().is_ok_and(|meta| meta.ino() == before.inode)
        {
            return Ok(Some((file, BlockIndex::new(before.next))));
        }
        tell("there is no interrupted export of this snapshot to this place: starting one");
        Ok(None)
    }

    fn to_device(
        &self,
        runtime: &Runtime,
        source: &SnapshotSource,
        info: &SnapshotInfo,
        path: &Path,
        checkpoint: &Checkpoint,
    ) -> Outcome {
        // Exclusive: the kernel refuses if the device or a part of it is mounted or otherwise claimed.
        let mut device = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_EXCL)
            .open(path)
            .map_err(|e| {
                let in_use = e.kind() == io::ErrorKind::ResourceBusy;
                let e = Error::io(e, "open", path);
                if in_use {
                    e.context(format!(
                        "{} is mounted or in use: unmount it first",
                        path.display()
                    ))
                } else {
                    e
                }
            })?;
        let size = device
            .seek(SeekFrom::End(0))
            .map_err(|e| Error::io(e, "find the size of", path))?;
        let bytes = info.volume_size.bytes();
        if size < bytes {
            let what = format!(
                "{} has {}, and {} needs {}",
                path.display(),
                HumanBytes(size),
                info.id,
                info.volume_size
            );
            return Err(Error::new(ErrorKind::Invalid, what).into());
        }
        let from = self.continued(path, checkpoint)?.map(|(_, from)| from);
        let mut head = vec![0; BLANK];
        device
            .read_exact_at(&mut head, 0)
            .map_err(|e| Error::io(e, "read", path))?;
        if from.is_none() && !self.force && head.iter().any(|byte| *byte != 0) {
            let what = format!("{} holds something: --force writes over it", path.display());
            return Err(Error::new(ErrorKind::Conflict, what).into());
        }
        let from = from.unwrap_or(BlockIndex::ZERO);
        let export = InPlace {
            file: Arc::new(device),
            path,
            target: Target::Used,
            from,
            checkpoint,
        };
        export.run(runtime, source, info, &self.target)?;
        durable::sync_file(&export.file, path)?;
        checkpoint.clear();
        if size > bytes {
            tell(&format!(
                "{} is larger than the volume: what lies behind {bytes} bytes is as it was",
                path.display()
            ));
        }
        Ok(())
    }
}

/// An export into something that can be written anywhere.
struct InPlace<'a> {
    file: Arc<File>,
    path: &'a Path,
    target: Target,
    from: BlockIndex,
    checkpoint: &'a Checkpoint,
}

impl InPlace<'_> {
    fn run(
        &self,
        runtime: &Runtime,
        source: &SnapshotSource,
        info: &SnapshotInfo,
        shown: &Path,
    ) -> Outcome {
        let inode = self
            .file
            .metadata()
            .map_err(|e| Error::io(e, "read", self.path))?
            .ino();
        let note = |next: BlockIndex| {
            self.checkpoint.save(&Unfinished {
                inode,
                next: next.get(),
            })
        };
        note(self.from)?;
        let progress = Progress::new("export", info.volume_size.bytes());
        progress.starts_at(self.from);
        let noted = AtomicU64::new(self.from.start());
        let reached = |next: BlockIndex| {
            progress.reached(next);
            if next.start() - noted.load(Ordering::Relaxed) >= NOTE_EVERY {
                noted.store(next.start(), Ordering::Relaxed);
                durable::sync_file(&self.file, self.path)?;
                note(next)?;
            }
            Ok(())
        };
        let config = Config::default();
        let work = to_file(
            source,
            &self.file,
            self.target,
            self.from,
            &config,
            &reached,
        );
        let go_on = format!(
            "`ebsfs export --continue {} {}` goes on with it",
            info.id,
            shown.display()
        );
        runtime
            .block_on(unless_interrupted(work, &go_on))
            .map_err(|stop| match stop {
                Stop::Failed(e) => Stop::Failed(
                    e.context(format!("{} is not complete ({go_on})", self.path.display())),
                ),
                other => other,
            })
    }
}

/// A new partial file. One that is left from before is only replaced when that was asked for.
fn create(partial: &Path, replace: bool, checkpoint: &Checkpoint) -> Result<File> {
    if !replace && partial.symlink_metadata().is_ok() {
        let what = format!(
            "{} is left from an interrupted export: --continue goes on with it, --force starts again",
            partial.display()
        );
        return Err(Error::new(ErrorKind::Conflict, what));
    }
    // A new file can get the number of one that was removed. If the note of that one were still there when
    // this is interrupted, it would be gone on with from where the other had come to.
    checkpoint.clear();
    if replace {
        durable::remove(partial)?;
    }
    durable::create_private(partial)
}

fn stream(
    runtime: &Runtime,
    source: &SnapshotSource,
    info: &SnapshotInfo,
    out: &mut dyn Write,
    shown: &str,
) -> Outcome {
    let progress = Progress::new("export", info.volume_size.bytes());
    let mut out = Pipe { out, broken: false };
    let reached = |index| progress.reached(index);
    let config = Config::default();
    let work = to_stream(source, &mut out, &config, &reached);
    let done = runtime.block_on(unless_interrupted(
        work,
        "an export to a stream cannot be continued",
    ));
    match done {
        _ if out.broken => Err(Stop::BrokenPipe),
        Err(Stop::Failed(e)) => Err(Stop::Failed(
            e.context(format!("the export to {shown} is not complete")),
        )),
        done => done,
    }
}

/// A stream that remembers whether its reader went away, which is no error of ours.
struct Pipe<'a> {
    out: &'a mut dyn Write,
    broken: bool,
}

impl Write for Pipe<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes);
        self.broken |= written
            .as_ref()
            .is_err_and(|e| e.kind() == io::ErrorKind::BrokenPipe);
        written
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
