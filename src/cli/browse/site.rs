//! What `browse` has set up for a directory: noted before each step, so that all of it can be taken down however the
//! program, its daemon or the machine ended.
//!
//! For each directory there is a private one of mode 0700, called by the digest of its path:
//! ```text
//! record.json   what stands or may stand, durable before it does; removed last
//! lock          locked by who sets up or takes down, and by the tools that it runs
//! mnt           where the snapshot is mounted
//! overlay       what a replayed journal changed; only where it is thrown away
//! ```
//! The record names what is looked for. What is there, the kernel's tables tell.

use std::fs::{self, File};
use std::io::ErrorKind as IoKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use log::debug;
use serde::{Deserialize, Serialize};

use super::super::loops::{self, Device};
use super::super::{holders, sockets, state};
use crate::block::Digest;
use crate::durable;
use crate::error::{Error, ErrorKind, Result};
use crate::fuse::mountpoint::mounted_at;
use crate::lock;
use crate::snapshot::SnapshotId;

/// The form of the record that this program writes and reads.
const VERSION: u32 = 1;

/// What stands or may stand.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(in crate::cli) struct Record {
    version: u32,
    /// What was begun last.
    pub(in crate::cli) step: Step,
    /// Where the file system is to be, as a canonical path.
    pub(in crate::cli) directory: PathBuf,
    pub(in crate::cli) snapshot: SnapshotId,
    /// What is written to goes here.
    pub(in crate::cli) overlay: Option<PathBuf>,
    /// Whether the overlay is the user's, and stays.
    pub(in crate::cli) kept: bool,
    /// The file with the file system, once it is chosen.
    pub(in crate::cli) file: Option<PathBuf>,
    /// What is in it, as mount(8) calls it.
    pub(in crate::cli) fs_type: Option<String>,
    /// The device over that file, once it is known.
    pub(in crate::cli) device: Option<Device>,
}

/// The steps, in their order.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::cli) enum Step {
    /// The snapshot is mounted.
    Showing,
    /// The loop device is attached.
    Attaching,
    /// The file system is mounted.
    Mounting,
    /// All of it stands.
    Done,
    /// It is being taken down.
    Ending,
}

impl Record {
    pub(super) fn new(directory: &Path, snapshot: SnapshotId) -> Self {
        Self {
            version: VERSION,
            step: Step::Showing,
            directory: directory.to_owned(),
            snapshot,
            overlay: None,
            kept: false,
            file: None,
            fs_type: None,
            device: None,
        }
    }
}

/// The private directory.
#[derive(Clone, Debug)]
pub(in crate::cli) struct Site {
    dir: PathBuf,
}

/// How long to wait for who sets up or takes down; also a tool that outlived who started it.
const PATIENCE: Duration = Duration::from_secs(10);

const RECORD: &str = "record.json";
const LOCK: &str = "lock";
const MOUNT: &str = "mnt";

/// Where private directories are: the user's state directory, or that of the daemons' sockets where no state can be
/// kept.
fn tops() -> Vec<PathBuf> {
    let mut tops: Vec<_> = state::dir().into_iter().collect();
    tops.push(sockets::dir());
    tops.iter()
        .map(|dir| resolved(dir.join("browse")))
        .collect()
}

/// As the kernel's tables have it.
fn resolved(path: PathBuf) -> PathBuf {
    fs::canonicalize(&path).unwrap_or(path)
}

fn name_of(directory: &Path) -> String {
    let digest = Digest::of(directory.as_os_str().as_encoded_bytes()).to_string();
    digest.get(..16).unwrap_or(&digest).to_owned()
}

impl Site {
    /// The one of `directory`, which is canonical, if there is one.
    pub(in crate::cli) fn find(directory: &Path) -> Result<Option<Self>> {
        let name = name_of(directory);
        let mut sites = tops().into_iter().map(|top| Self {
            dir: top.join(&name),
        });
        if let Some(site) = sites.find(|site| site.dir.is_dir()) {
            return Ok(Some(site));
        }
        Self::below(directory)
    }

    /// The one that a mounted file system itself leads to. Who calls with another `HOME` than `browse` had, as sudo may,
    /// has another state directory.
    fn below(directory: &Path) -> Result<Option<Self>> {
        let device = mounted_at(directory)?.map(|mount| PathBuf::from(mount.source));
        let file = device.and_then(|device| Some(loops::at(&device)?.file));
        let site = file.as_deref().and_then(Path::parent).and_then(|mount| {
            let dir = mount.parent().filter(|_| mount.ends_with(MOUNT))?;
            Some(Self {
                dir: dir.to_owned(),
            })
        });
        let is_own = |site: &Self| {
            let record = site.dir.join(RECORD);
            let own = fs::symlink_metadata(record)
                .is_ok_and(|meta| meta.uid() == rustix::process::geteuid().as_raw());
            own && site
                .read()
                .is_ok_and(|record| record.is_some_and(|record| record.directory == directory))
        };
        Ok(site.filter(is_own))
    }

    /// All there are.
    pub(in crate::cli) fn all() -> Vec<Self> {
        let entries = tops()
            .into_iter()
            .flat_map(|top| fs::read_dir(top).into_iter().flatten().flatten());
        let sites = entries.map(|entry| Self { dir: entry.path() });
        sites.filter(|site| site.dir.is_dir()).collect()
    }

    /// A new one for `directory`.
    pub(super) fn make(directory: &Path) -> Result<Self> {
        let name = name_of(directory);
        let mut last = None;
        for top in tops() {
            let dir = top.join(&name);
            match durable::create_private_dir(&dir) {
                Ok(()) => return Ok(Self { dir: resolved(dir) }),
                Err(e) => last = Some(e),
            }
        }
        let nowhere = || Error::new(ErrorKind::NotFound, "there is no state directory");
        Err(last.unwrap_or_else(nowhere))
    }

    /// Where the snapshot is mounted.
    pub(in crate::cli) fn mount(&self) -> PathBuf {
        self.dir.join(MOUNT)
    }

    /// Where what is thrown away is written.
    pub(super) fn overlay(&self) -> PathBuf {
        self.dir.join("overlay")
    }

    /// What was noted, if anything was.
    pub(in crate::cli) fn read(&self) -> Result<Option<Record>> {
        let path = self.dir.join(RECORD);
        let bytes = match durable::read(&path) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            read => read?,
        };
        let record: Record = serde_json::from_slice(&bytes).map_err(|e| {
            let what = format!("{} cannot be understood: {e}", path.display());
            Error::new(ErrorKind::Corrupt, what)
        })?;
        if record.version != VERSION {
            let what = format!(
                "{} was written by another version of this program: use that",
                path.display()
            );
            return Err(Error::new(ErrorKind::Unsupported, what));
        }
        Ok(Some(record))
    }

    pub(super) fn write(&self, record: &Record) -> Result<()> {
        let bytes =
            serde_json::to_vec(record).map_err(|e| Error::new(ErrorKind::Io, e.to_string()))?;
        durable::publish(&self.dir.join(RECORD), &bytes)
    }

    /// Makes the directory to mount the snapshot on.
    pub(super) fn make_mount(&self) -> Result<PathBuf> {
        let mount = self.mount();
        durable::create_private_dir(&mount)?;
        Ok(mount)
    }

    /// Removes what is left once nothing stands.
    pub(super) fn remove(&self, lock: Lock) -> Result<()> {
        let mount = self.mount();
        match fs::remove_dir(&mount) {
            Err(e) if e.kind() != IoKind::NotFound => {
                return Err(Error::io(e, "remove", &mount));
            }
            _ => {}
        }
        durable::remove(&self.dir.join(RECORD))?;
        // Whoever was killed while it wrote a record has left that.
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let temporary = |path: &PathBuf| path.extension().is_some_and(|end| end == "tmp");
        for path in entries.map(|entry| entry.path()).filter(temporary) {
            drop(fs::remove_file(path));
        }
        // Before the lock is let go of, so that nobody waits at one that is gone.
        drop(fs::remove_file(self.dir.join(LOCK)));
        if let Err(e) = fs::remove_dir(&self.dir) {
            debug!("{} stays: {e}", self.dir.display());
        }
        drop(lock);
        Ok(())
    }

    /// Whether somebody sets up or takes down at the moment.
    pub(in crate::cli) fn is_locked(&self) -> bool {
        lock::is_taken(&self.dir.join(LOCK)).unwrap_or(false)
    }

    /// Keeps others from setting up and taking down. Waits for a while for who does, then tells who: `Conflict`.
    pub(super) fn lock(&self) -> Result<Lock> {
        let path = self.dir.join(LOCK);
        let file = lock::take(&path, PATIENCE)?.ok_or_else(|| {
            let who = holders::of_file(&path).join(", ");
            let what = format!("it is being set up or taken down by {who}: try again");
            Error::new(ErrorKind::Conflict, what)
        })?;
        Ok(Lock(file))
    }
}

/// The private mount of what is browsed at `directory`, if something is.
pub(in crate::cli) fn mount_below(directory: &Path) -> Result<Option<PathBuf>> {
    let Some(site) = Site::find(directory)? else {
        return Ok(None);
    };
    Ok(site.read()?.map(|_| site.mount()))
}

/// Held until dropped, and by the tools that were given it.
pub(super) struct Lock(File);

impl Lock {
    /// For a tool to hold it, too: it may outlive this process, and goes on then.
    pub(super) fn share(&self) -> Result<File> {
        Ok(self.0.try_clone()?)
    }
}
