//! `ebsfs mount`: checks, mounts, serves until the mount ends.

use std::path::{Path, PathBuf};

use clap::Args;

use super::{Common, Outcome, daemon};
use crate::error::{Error, ErrorKind, Result};
use crate::fuse::mountpoint::{self, canonical};
use crate::snapshot::{SnapshotId, VolumeSize};

mod about;
mod edits;
mod ending;
mod serving;

pub(super) use self::ending::busy;
pub(super) use self::serving::{Serving, Shown};

#[derive(Args)]
#[command(override_usage = "ebsfs mount [OPTIONS] [SNAPSHOT]... MOUNTPOINT")]
pub(super) struct Mount {
    /// Snapshots to show, and the empty directory to show them in. Without a snapshot: all of the store
    #[arg(required = true, value_name = "SNAPSHOT... MOUNTPOINT")]
    arguments: Vec<String>,

    /// Stay in the foreground; log to stderr unless --log-file is given
    #[arg(short, long)]
    foreground: bool,

    #[command(flatten)]
    serving: Serving,

    /// Let the snapshot be written to: what is written goes to this directory, made if missing
    #[arg(long, value_name = "DIR")]
    overlay: Option<PathBuf>,

    /// Grow the disk to so many GiB; what is beyond the snapshot's is zeros
    #[arg(long, value_name = "GIB", requires = "overlay", value_parser = parse_size)]
    size: Option<VolumeSize>,

    /// Let other users read too, root among them; as an ordinary user this needs user_allow_other in /etc/fuse.conf
    #[arg(long)]
    allow_other: bool,

    /// Set by the program for its detached self
    #[arg(long, hide = true, env = daemon::DETACHED)]
    detached: bool,
}

impl Mount {
    pub(super) fn run(self, common: &Common) -> Outcome {
        if self.foreground || self.detached {
            daemon::with_little_memory();
            let served = self
                .shown()
                .map_err(Into::into)
                .and_then(|shown| self.serving.serve(common, &shown, self.detached));
            // Whoever started the daemon waits for what became of it.
            return if self.detached {
                daemon::failed(served)
            } else {
                served
            };
        }
        let shown = self.shown()?;
        daemon::start(self.serving.open_log(&shown.mountpoint)?)
    }

    /// What is to be shown, and where.
    fn shown(&self) -> Result<Shown> {
        let (snapshots, mountpoint) = self.what_and_where()?;
        Ok(Shown {
            snapshots,
            named: mountpoint.clone(),
            mountpoint,
            overlay: self.overlay.clone(),
            size: self.size,
            allow_other: self.allow_other,
        })
    }

    /// The snapshots and the mount point, as typed.
    fn what_and_where(&self) -> Result<(Vec<SnapshotId>, PathBuf)> {
        let Some((mountpoint, ids)) = self.arguments.split_last() else {
            return Err(Error::new(ErrorKind::Invalid, "name a mount point"));
        };
        if mountpoint.parse::<SnapshotId>().is_ok() && !Path::new(mountpoint).exists() {
            let what = format!("name a mount point after {mountpoint}: an empty directory");
            return Err(Error::new(ErrorKind::Invalid, what));
        }
        let mut snapshots = Vec::new();
        for id in ids {
            let id: SnapshotId = id.parse()?;
            if !snapshots.contains(&id) {
                snapshots.push(id);
            }
        }
        let mountpoint = canonical(Path::new(mountpoint)).map_err(|e| match e.kind() {
            ErrorKind::NotFound => e.context(format!(
                "no mount point {mountpoint}: `mkdir {mountpoint}` makes it"
            )),
            _ => e,
        })?;
        mountpoint::check(&mountpoint)?;
        Ok((snapshots, mountpoint))
    }
}

fn parse_size(text: &str) -> Result<VolumeSize, String> {
    let gib = text.parse().map_err(|_| "not a number of GiB".to_owned())?;
    VolumeSize::from_gib(gib).map_err(|e| e.to_string())
}
