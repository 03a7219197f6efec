//! The overlay of a mount: taken, or made if there is none, and held against what was asked for.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::runtime::Runtime;

use super::super::Common;
use super::super::commit::Unmounted;
use crate::commit::{Depth, Settled};
use crate::error::{Error, ErrorKind, Result};
use crate::overlay::{LocalDirectory, Overlay, read_header};
use crate::snapshot::{SnapshotId, SnapshotInfo, VolumeSize};
use crate::store::{Store, check_readable};

/// An overlay that this process has.
pub(super) struct Edits {
    pub(super) overlay: Arc<Overlay>,
    pub(super) base: SnapshotInfo,
    pub(super) directory: PathBuf,
}

/// What was typed of it.
pub(super) struct Wanted<'a> {
    pub(super) directory: &'a Path,
    /// The snapshots named: one, or none if the overlay is there and knows.
    pub(super) snapshots: &'a [SnapshotId],
    pub(super) size: Option<VolumeSize>,
    pub(super) mountpoint: &'a Path,
}

impl Wanted<'_> {
    /// Settles the overlay's last commit first, if what was asked for is its snapshot: only then is it the base.
    pub(super) fn settle(&self, common: &Common, runtime: &Runtime) -> Result<()> {
        let path = std::path::absolute(self.directory)
            .map_err(|e| Error::io(e, "find", self.directory))?;
        let header = read_header(&path)?;
        let commit = header.and_then(|header| header.commit.filter(|commit| commit.accepted));
        let ([named], Some(id)) = (self.snapshots, commit.and_then(|commit| commit.snapshot))
        else {
            return Ok(());
        };
        if *named != id {
            return Ok(());
        }
        let unmounted = Unmounted::open(common, runtime, &path)?;
        match runtime.block_on(unmounted.commits.settle(Depth::Sample))? {
            Settled::NotYet(id) => Err(Error::new(
                ErrorKind::Unavailable,
                format!(
                    "{id} is still being completed: try again, or mount without naming it and go on editing"
                ),
            )),
            Settled::Done(_) | Settled::Nothing => Ok(()),
        }
    }

    /// Takes the overlay. Whatever it refuses is as it was.
    pub(super) fn open(&self, store: &Arc<dyn Store>, runtime: &Runtime) -> Result<Edits> {
        let path = std::path::absolute(self.directory)
            .map_err(|e| Error::io(e, "find", self.directory))?;
        let named = match self.snapshots {
            [] => None,
            [one] => Some(one),
            _ => {
                let what = "an overlay is of one snapshot: name one";
                return Err(Error::new(ErrorKind::Invalid, what));
            }
        };
        let identity = store.identity();
        // Before anything is made: a mistyped id leaves no directory behind.
        let base = match read_header(&path)? {
            Some(header) => self.check(&header.store, &header.base, &identity, named)?,
            None => named.cloned().ok_or_else(|| self.nothing())?,
        };
        let info = runtime.block_on(store.info(&base))?;
        check_readable(&base, info.status)?;
        if let Some(size) = self.size.filter(|size| *size < info.volume_size) {
            let what = format!(
                "{base} has {}, and a snapshot can grow only, not shrink to {size}",
                info.volume_size
            );
            return Err(Error::new(ErrorKind::Invalid, what));
        }
        let directory = LocalDirectory::open(&path)?;
        directory.describe(&format!("mounted on {}", self.mountpoint.display()))?;
        let directory = Arc::new(directory);
        let overlay = match Overlay::open(Arc::<LocalDirectory>::clone(&directory))? {
            Some(overlay) => overlay,
            None => Overlay::create(directory, &identity, &base, info.volume_size)?,
        };
        // Who had it until now may have committed it, or made it.
        let header = overlay.header();
        self.check(&header.store, &header.base, &identity, Some(&base))?;
        if let Some(size) = self.size.filter(|size| *size != header.size) {
            overlay.grow(size)?;
        }
        Ok(Edits {
            overlay: Arc::new(overlay),
            base: info,
            directory: path,
        })
    }

    /// The overlay's base, if it is what was asked for.
    fn check(
        &self,
        its_store: &str,
        base: &SnapshotId,
        store: &str,
        named: Option<&SnapshotId>,
    ) -> Result<SnapshotId> {
        let shown = self.directory.display();
        let what = if its_store != store {
            format!(
                "the overlay {shown} is of the store {its_store}, not of {store}: name that store"
            )
        } else if let Some(named) = named.filter(|named| *named != base) {
            format!(
                "the overlay {shown} is of {base}, not of {named}: mount {base}, or name another directory for {named}"
            )
        } else {
            return Ok(base.clone());
        };
        Err(Error::new(ErrorKind::Conflict, what))
    }

    fn nothing(&self) -> Error {
        let shown = self.directory.display();
        let what = format!("there is no overlay in {shown} yet: name the snapshot to edit");
        Error::new(ErrorKind::Invalid, what)
    }
}
