//! Which implementation stands on which: the only place that names them together. Here are the runtime and the stores;
//! `snapshots` has what stands on a store, `trees` what stands
//! on that where files are read without a mount.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

use super::Common;
use crate::error::{Error, ErrorKind, Result};
use crate::snapshot::SnapshotInfo;
use crate::source::{INDEX_MEMORY, IndexCache, SnapshotSource};
use crate::stats::Remote;
use crate::store::Store;
use crate::store::directory::DirectoryStore;
use crate::store::ebs::{self, EbsStore};

mod disks;
mod snapshots;
mod trees;

pub(super) use self::disks::{Disk, LINUX_ROOTS, Spot, Volume, partitions};
pub(super) use self::snapshots::{Base, Snapshots};
pub(super) use self::trees::Trees;

/// Threads that poll tasks. Hashing and files are done on others, so few are enough for any machine.
const WORKERS: usize = 4;

/// Threads for files and hashing.
const BLOCKING_THREADS: usize = 32;

/// How long the program waits in the end for what still runs, so that it is done in order. Longer nobody who
/// interrupts it should have to wait for a lock or a disk.
const LAST_WAIT: Duration = Duration::from_secs(2);

/// The runtime that everything asynchronous shares.
pub(super) struct Tasks(Option<Runtime>);

impl Deref for Tasks {
    type Target = Runtime;

    fn deref(&self) -> &Runtime {
        self.0.as_ref().expect("held until dropped")
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_timeout(LAST_WAIT);
        }
    }
}

/// Starts the runtime.
pub(super) fn runtime() -> Result<Tasks> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let runtime = Builder::new_multi_thread()
        .worker_threads(cores.min(WORKERS))
        .max_blocking_threads(BLOCKING_THREADS)
        .enable_all()
        .build()
        .map_err(|e| Error::from(e).context("cannot start the runtime"))?;
    Ok(Tasks(Some(runtime)))
}

/// What `--store` names.
enum Place {
    /// A directory, by its absolute path.
    Directory(PathBuf),
    Aws(ebs::Options),
}

fn place(common: &Common) -> Result<Place> {
    let options = ebs::Options {
        region: common.region.clone(),
        profile: common.profile.clone(),
        endpoint_url: common.endpoint_url.clone(),
    };
    match common.store.as_deref() {
        None | Some("" | "aws") => Ok(Place::Aws(options)),
        Some(path) if options != ebs::Options::default() => Err(Error::new(
            ErrorKind::Invalid,
            format!(
                "--region, --profile and --endpoint-url are for AWS, and the store is the directory {path}: leave them out, or say --store aws"
            ),
        )),
        Some(path) => std::path::absolute(path)
            .map(Place::Directory)
            .map_err(|e| Error::io(e, "find", Path::new(path))),
    }
}

/// A store, and what one must know to work with it.
pub(super) struct Opened {
    pub(super) store: Arc<dyn Store>,
    /// Blocks to have under way at one time.
    pub(super) concurrency: usize,
    /// What happens on the way to it, if it is a remote one.
    pub(super) remote: Option<Arc<Remote>>,
}

impl Opened {
    fn directory(store: DirectoryStore) -> Self {
        Self {
            store: Arc::new(store),
            // Enough that both cores of a small machine hash while the disk reads and writes.
            concurrency: 4,
            remote: None,
        }
    }

    fn aws(options: &ebs::Options, runtime: &Runtime) -> Result<Self> {
        let (config, remote) = (ebs::Config::default(), Arc::new(Remote::default()));
        let opened = EbsStore::open(options, config, Arc::clone(&remote));
        Ok(Self {
            store: Arc::new(runtime.block_on(opened)?),
            // What the store lets through at one time follows what it measures; this is its most.
            concurrency: ebs::MOST_REQUESTS,
            remote: Some(remote),
        })
    }
}

impl Drop for Opened {
    /// Tells what happened on the way, for those who want to know.
    fn drop(&mut self) {
        if let Some(remote) = &self.remote {
            log::info!("{}", serde_json::json!({ "remote": **remote }));
        }
    }
}

/// Whether the store is one that keeps blocks as they are, whatever encryption is asked for.
pub(super) fn keeps_plain(common: &Common) -> bool {
    matches!(place(common), Ok(Place::Directory(_)))
}

/// The store as it is.
pub(super) fn open_store(common: &Common, runtime: &Runtime) -> Result<Opened> {
    match place(common)? {
        Place::Directory(path) => DirectoryStore::open(&path).map(Opened::directory),
        Place::Aws(options) => Opened::aws(&options, runtime),
    }
}

/// The store, made if there is none.
pub(super) fn create_store(common: &Common, runtime: &Runtime) -> Result<Opened> {
    match place(common)? {
        Place::Directory(path) => DirectoryStore::create(&path).map(Opened::directory),
        Place::Aws(options) => Opened::aws(&options, runtime),
    }
}

/// The embedded store, for what only it can do.
pub(super) fn open_directory(common: &Common) -> Result<DirectoryStore> {
    match place(common)? {
        Place::Directory(path) => DirectoryStore::open(&path),
        Place::Aws(_) => Err(Error::new(
            ErrorKind::Unsupported,
            "this is only done to a directory: name one with --store DIR",
        )),
    }
}

/// A completed snapshot, from the store.
pub(super) fn snapshot(store: &Arc<dyn Store>, info: &SnapshotInfo) -> SnapshotSource {
    SnapshotSource::new(
        Arc::clone(store),
        info,
        Arc::new(IndexCache::new(INDEX_MEMORY)),
    )
}
