//! `ebsfs umount`: ends a mount in order, and mends one whose daemon is gone; takes down what `browse` set up.

use std::path::{Path, PathBuf};

use clap::Args;

use super::browse::{Manner, Site};
use super::unmount::end;
use super::{Outcome, notice};
use crate::error::{Error, ErrorKind, Result};
use crate::fuse::mountpoint::{FS_TYPE, abort, canonical, mounted_at};

#[derive(Args)]
pub(super) struct Umount {
    /// Where it is mounted or browsed; several may be named
    #[arg(required = true, value_name = "MOUNTPOINT")]
    mountpoints: Vec<PathBuf>,

    /// Take it out of the tree now, even while it is in use; it ends when its last user does
    #[arg(short, long)]
    lazy: bool,

    /// End it even if its daemon does not answer any more: whatever waits for it gets an error. Only root may
    #[arg(short, long, conflicts_with = "lazy")]
    force: bool,
}

impl Umount {
    pub(super) fn run(self) -> Outcome {
        let ended = self
            .mountpoints
            .iter()
            .try_for_each(|mountpoint| self.end(mountpoint));
        notice::sweep();
        ended.map_err(Into::into)
    }

    fn manner(&self) -> Manner {
        match (self.lazy, self.force) {
            (true, _) => Manner::Lazily,
            (_, true) => Manner::ByForce,
            _ => Manner::InOrder,
        }
    }

    fn end(&self, mountpoint: &Path) -> Result<()> {
        let path = match canonical(mountpoint) {
            // Somebody may have unmounted it by hand, and removed the directory.
            Err(e) if e.kind() == ErrorKind::NotFound => {
                let path = std::path::absolute(mountpoint).map_err(|_| e.clone())?;
                return Site::find(&path)?.ok_or(e)?.end(self.manner());
            }
            path => path?,
        };
        match mounted_at(&path)? {
            Some(entry) if entry.fs_type == FS_TYPE => match self.force {
                true => abort(&path),
                false => end(&path, self.lazy),
            },
            _ => match Site::find(&path)? {
                Some(site) => site.end(self.manner()),
                None => {
                    let what = format!(
                        "{} is no mount of ebsfs: `ebsfs ps` shows those",
                        path.display()
                    );
                    Err(Error::new(ErrorKind::Invalid, what))
                }
            },
        }
    }
}
