//! `ebsfs browse`: the files of a snapshot in a directory, by the kernel. The snapshot is mounted on a private directory, a
//! loop device attached to the disk's file or a partition's, and the file system mounted from that.
//!
//! What is set up is noted before (`site`), so that it can be taken down whatever happened (`ending`). The file system's
//! journal is replayed into an overlay that is thrown away, unless it is not to be replayed, or the overlay is the user's.

use std::path::{Path, PathBuf};

use clap::Args;

use super::mount::{Serving, Shown};
use super::{Common, Outcome, daemon, stack, tell};
use crate::error::{Error, ErrorKind, Result};
use crate::fuse::mountpoint::{self, canonical};
use crate::snapshot::SnapshotId;

mod choice;
mod content;
mod ending;
mod setup;
mod site;

pub(super) use self::ending::Manner;
use self::setup::{How, Setup};
pub(super) use self::site::{Record, Site, Step, mount_below};

#[derive(Args)]
pub(super) struct Browse {
    /// The snapshot
    snapshot: SnapshotId,

    /// The empty directory to show its files in
    #[arg(value_name = "DIR")]
    directory: PathBuf,

    /// Which file system, by its partition's number or name, its label or UUID [default: the whole disk's, the only one, or
    /// that of the system's root]
    #[arg(short, long, value_name = "N|LABEL|UUID")]
    partition: Option<String>,

    /// Mount it as it is, without what its journal holds
    #[arg(long, conflicts_with = "rw")]
    no_replay: bool,

    /// Let its files be written to
    #[arg(long, requires = "overlay")]
    rw: bool,

    /// Where what is written goes, made if missing; `ebsfs commit` makes a snapshot of it
    #[arg(long, value_name = "DIR", requires = "rw")]
    overlay: Option<PathBuf>,

    /// More options for mount(8), after `nosuid,nodev,noexec` and what the file system needs
    #[arg(short, long, value_name = "OPTIONS")]
    options: Option<String>,

    #[command(flatten)]
    serving: Serving,

    /// Set by the program for its detached self
    #[arg(long, hide = true, env = daemon::DETACHED)]
    detached: bool,
}

impl Browse {
    pub(super) fn run(self, common: &Common) -> Outcome {
        if self.detached {
            daemon::with_little_memory();
            return daemon::failed(self.serve(common));
        }
        self.check()?;
        let directory = canonical(&self.directory).map_err(|e| match e.kind() {
            ErrorKind::NotFound => e.context(format!(
                "no directory {shown}: `mkdir {shown}` makes it",
                shown = self.directory.display()
            )),
            _ => e,
        })?;
        if Site::find(&directory)?.is_some() {
            return Err(already(&directory).into());
        }
        mountpoint::check(&directory)?;
        let runtime = stack::runtime()?;
        let how = How {
            partition: self.partition.as_deref(),
            replay: !self.no_replay,
            writable: self.rw,
            options: self.options.as_deref(),
        };
        let overlay = self.overlay.as_deref().map(absolute).transpose()?;
        let setup = Setup::begin(&runtime, &directory, &self.snapshot)?;
        setup.run(&how, overlay, &self.serving)
    }

    /// Refuses what cannot be, before anything is made.
    fn check(&self) -> Result<()> {
        if !rustix::process::geteuid().is_root() {
            return Err(Error::new(
                ErrorKind::Denied,
                "the kernel mounts file systems for root only: `ebsfs ls`, `ebsfs cat` and `ebsfs cp` read files without it, or try sudo",
            ));
        }
        let options = self.options.iter().flat_map(|options| options.split(','));
        if options.clone().any(|option| option == "rw") && !self.rw {
            return Err(Error::new(
                ErrorKind::Invalid,
                "what is written would be thrown away: say --rw --overlay DIR, and it is kept in DIR",
            ));
        }
        Ok(())
    }

    /// The daemon's part.
    fn serve(&self, common: &Common) -> Outcome {
        let directory = canonical(&self.directory)?;
        let gone = || Error::new(ErrorKind::NotFound, "what was to be set up is gone");
        let site = Site::find(&directory)?.ok_or_else(gone)?;
        let record = site.read()?.ok_or_else(gone)?;
        let shown = Shown {
            snapshots: vec![self.snapshot.clone()],
            mountpoint: site.mount(),
            named: directory,
            overlay: record.overlay,
            size: None,
            allow_other: false,
        };
        self.serving.serve(common, &shown, true)
    }
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|e| Error::io(e, "find", path))
}

fn already(directory: &Path) -> Error {
    let shown = directory.display();
    Error::new(
        ErrorKind::Conflict,
        format!(
            "something is browsed on {shown}, or was left there: `ebsfs umount {shown}` first, or use another directory"
        ),
    )
}

/// What every user of a kernel's mount is to know.
fn warn_of_trust(directory: &Path) {
    tell(&format!(
        "the kernel trusts the file system: a disk that may be hostile is read by `ebsfs ls`, `ebsfs cat` and `ebsfs cp`, without the kernel; `ebsfs umount {}` takes all of it down",
        directory.display()
    ));
}
