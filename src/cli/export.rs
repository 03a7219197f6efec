//! `ebsfs export`: a snapshot into a file, a block device, or stdout.
//!
//! A file is written beside its place, as `NAME.partial`, and takes its name when all of it is durable. A device
//! is written in place. Both can be interrupted and continued: how far all is durable is noted now and then.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek as _, SeekFrom};
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use indicatif::HumanBytes;
use tokio::runtime::Runtime;

use self::in_place::InPlace;
use super::interrupt::unless_interrupted;
use super::progress::Progress;
use super::state::Checkpoint;
use super::{Common, Outcome, Stop, stack, tell};
use crate::block::BlockIndex;
use crate::download::{Config, Streamed, Target, to_stream};
use crate::durable;
use crate::error::{Error, ErrorKind, Result};
use crate::snapshot::{SnapshotId, SnapshotInfo};
use crate::source::{BlockSource as _, SnapshotSource};

mod in_place;

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

/// A device that begins with so many zeros is taken for a new one.
const BLANK: usize = 1 << 20;

impl Export {
    pub(super) fn run(self, common: &Common) -> Outcome {
        let runtime = stack::runtime()?;
        let opened = stack::open_store(common, &runtime)?;
        let store = &opened.store;
        let config = Config {
            concurrency: opened.concurrency,
        };
        let info = runtime.block_on(store.info(&self.snapshot))?;
        let source = stack::snapshot(store, &info);
        // Before anything is made or written: one that is pending or damaged is refused here.
        runtime.block_on(source.present(BlockIndex::ZERO))?;
        let in_place = |path: &Path| InPlace {
            runtime: &runtime,
            source: &source,
            info: &info,
            config: &config,
            again: common.again(&format!(
                "export --continue {} {}",
                info.id,
                self.target.display()
            )),
            checkpoint: Checkpoint::of(
                "export",
                &[&store.identity(), info.id.as_str(), &path.to_string_lossy()],
            ),
        };
        if self.target == Path::new("-") {
            // Not through the standard handle, which looks for line feeds in all that it writes.
            let stdout = rustix::io::dup(rustix::stdio::stdout()).map_err(Error::from)?;
            return stream(
                &runtime,
                &source,
                &info,
                &config,
                File::from(stdout),
                "stdout",
            );
        }
        let meta = match std::fs::metadata(&self.target) {
            Ok(meta) => Some(meta),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                if self.target.symlink_metadata().is_ok() {
                    let what = format!(
                        "{} is a link to nothing: name its target",
                        self.target.display()
                    );
                    return Err(Error::new(ErrorKind::Invalid, what).into());
                }
                None
            }
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
                self.to_device(&in_place(&path), &path)
            }
            Some(meta) if !meta.is_file() => {
                let out = File::options()
                    .write(true)
                    .open(&self.target)
                    .map_err(|e| Error::io(e, "open", &self.target))?;
                let shown = self.target.display().to_string();
                stream(&runtime, &source, &info, &config, out, &shown)
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
                self.to_new_file(&in_place(&path), &path)
            }
        }
    }

    fn to_new_file(&self, export: &InPlace<'_>, path: &Path) -> Outcome {
        let mut name = path.as_os_str().to_owned();
        name.push(".partial");
        let partial = PathBuf::from(name);
        let continued = if self.go_on {
            export.continued(&partial)?
        } else {
            None
        };
        let (file, from) = match continued {
            Some(found) => found,
            None => {
                let file = export.create(&partial, self.force)?;
                self.tell_if_not_continued();
                (file, BlockIndex::ZERO)
            }
        };
        let bytes = export.info.volume_size.bytes();
        if let Err(e) = file.set_len(bytes) {
            if from == BlockIndex::ZERO {
                // Nothing is in it yet, and it would be in the way of the next try.
                durable::remove(&partial)?;
            }
            return Err(Error::io(e, "size", &partial).into());
        }
        // Kept open, and with it the claim on its name, until it has its own.
        let file = Arc::new(file);
        export.write(&file, &partial, Target::New, from)?;
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
        export.checkpoint.clear();
        Ok(())
    }

    fn tell_if_not_continued(&self) {
        if self.go_on {
            tell("there is no interrupted export of this snapshot to this place: starting one");
        }
    }

    fn to_device(&self, export: &InPlace<'_>, path: &Path) -> Outcome {
        let shown = path.display();
        // Exclusive: the kernel refuses if the device or a part of it is mounted or otherwise claimed.
        let claimed = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_EXCL)
            .open(path);
        let mut device = claimed.map_err(|e| match e.kind() {
            io::ErrorKind::ResourceBusy => Error::io(e, "open", path)
                .context(format!("{shown} is mounted or in use: unmount it first")),
            _ => Error::io(e, "open", path),
        })?;
        let size = device
            .seek(SeekFrom::End(0))
            .map_err(|e| Error::io(e, "find the size of", path))?;
        let bytes = export.info.volume_size.bytes();
        if size < bytes {
            let (has, info) = (HumanBytes(size), export.info);
            let what = format!(
                "{shown} has {has}, and {} needs {}",
                info.id, info.volume_size
            );
            return Err(Error::new(ErrorKind::Invalid, what).into());
        }
        let continued = if self.go_on {
            export.continued(path)?
        } else {
            None
        };
        let from = match continued {
            Some((_, from)) => from,
            None => {
                self.tell_if_not_continued();
                if !self.force && !is_blank(&device, path)? {
                    let what = format!("{shown} holds something: --force writes over it");
                    return Err(Error::new(ErrorKind::Conflict, what).into());
                }
                BlockIndex::ZERO
            }
        };
        export.write(&Arc::new(device), path, Target::Used, from)?;
        export.checkpoint.clear();
        if size > bytes {
            tell(&format!(
                "{shown} is larger than the volume: what lies behind {bytes} bytes is as it was"
            ));
        }
        Ok(())
    }
}

fn is_blank(device: &File, path: &Path) -> Result<bool> {
    let mut head = vec![0; BLANK];
    device
        .read_exact_at(&mut head, 0)
        .map_err(|e| Error::io(e, "read", path))?;
    Ok(head.iter().all(|byte| *byte == 0))
}

fn stream(
    runtime: &Runtime,
    source: &SnapshotSource,
    info: &SnapshotInfo,
    config: &Config,
    out: File,
    shown: &str,
) -> Outcome {
    let progress = Progress::new("export", info.volume_size.bytes());
    let reached = |index| progress.reached(index);
    let out = Arc::new(out);
    let work = to_stream(source, &out, config, &reached);
    let done = runtime.block_on(unless_interrupted(
        work,
        "an export to a stream cannot be continued",
    ));
    match done.map_err(|stop| stop.context(&format!("the export to {shown} is not complete")))? {
        Streamed::Whole => Ok(()),
        Streamed::ReaderGone => Err(Stop::BrokenPipe),
    }
}
