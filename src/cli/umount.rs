//! `ebsfs umount`: ends a mount in order, and mends one whose daemon is gone.

use std::path::{Path, PathBuf};

use clap::Args;
use rustix::io::Errno;

use super::Outcome;
use super::mount::busy;
use crate::error::{Error, ErrorKind, Result};
use crate::fuse::mountpoint::{FS_TYPE, canonical, detach, mounted_at};

#[derive(Args)]
pub(super) struct Umount {
    /// Where it is mounted; several may be named
    #[arg(required = true, value_name = "MOUNTPOINT")]
    mountpoints: Vec<PathBuf>,

    /// Take it out of the tree now, even while it is in use; it ends when its last user does
    #[arg(short, long)]
    lazy: bool,
}

impl Umount {
    pub(super) fn run(self) -> Outcome {
        self.mountpoints
            .iter()
            .try_for_each(|mountpoint| self.end(mountpoint))
            .map_err(Into::into)
    }

    fn end(&self, mountpoint: &Path) -> Result<()> {
        let path = canonical(mountpoint)?;
        match mounted_at(&path)? {
            Some(entry) if entry.fs_type == FS_TYPE => {}
            _ => {
                let what = format!(
                    "{} is no mount of ebsfs: `findmnt -t {FS_TYPE}` shows those",
                    path.display()
                );
                return Err(Error::new(ErrorKind::Invalid, what));
            }
        }
        match detach(&path, self.lazy) {
            Err(e) if e.kind() == ErrorKind::Conflict && is_dead(&path) => detach(&path, true),
            Err(e) if e.kind() == ErrorKind::Conflict => {
                Err(Error::new(ErrorKind::Conflict, busy(&path)))
            }
            done => done,
        }
    }
}

/// Whether the daemon is gone: then whoever still uses the mount gets errors only, and it can be taken away.
fn is_dead(path: &Path) -> bool {
    // Not a stat: the kernel answers that for a while from what it remembers.
    matches!(
        rustix::fs::statfs(path),
        Err(Errno::NOTCONN | Errno::CONNABORTED)
    )
}
