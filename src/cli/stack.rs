//! Which implementation stands on which: the only place that names them together.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

use super::Common;
use crate::cache::{BlockCache, CachedSource};
use crate::catalog::Opener;
use crate::error::{Error, ErrorKind, Result};
use crate::image::Image;
use crate::server;
use crate::snapshot::SnapshotInfo;
use crate::source::{IndexCache, SnapshotSource};
use crate::stats::Stats;
use crate::store::Store;
use crate::store::directory::DirectoryStore;

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

/// The directory that `--store` names, as an absolute path.
fn directory(common: &Common) -> Result<PathBuf> {
    match common.store.as_deref() {
        None | Some("") => Err(Error::new(
            ErrorKind::Invalid,
            "no store: name a directory with --store DIR, or in the variable EBSFS_STORE",
        )),
        Some("aws") => Err(Error::new(
            ErrorKind::Unsupported,
            "this version does not reach AWS: name a directory with --store DIR (./aws for one of that name)",
        )),
        Some(path) => std::path::absolute(path).map_err(|e| Error::io(e, "find", Path::new(path))),
    }
}

/// Whether the store is one that keeps blocks as they are, whatever encryption is asked for.
pub(super) fn keeps_plain(common: &Common) -> bool {
    directory(common).is_ok()
}

/// The store as it is.
pub(super) fn open_store(common: &Common) -> Result<Arc<dyn Store>> {
    Ok(Arc::new(open_directory(common)?))
}

/// The store, made if there is none.
pub(super) fn create_store(common: &Common) -> Result<Arc<dyn Store>> {
    Ok(Arc::new(DirectoryStore::create(&directory(common)?)?))
}

/// The embedded store, for what only it can do.
pub(super) fn open_directory(common: &Common) -> Result<DirectoryStore> {
    DirectoryStore::open(&directory(common)?)
}

/// A completed snapshot, from the store.
pub(super) fn snapshot(store: &Arc<dyn Store>, info: &SnapshotInfo) -> SnapshotSource {
    SnapshotSource::new(
        Arc::clone(store),
        info,
        Arc::new(IndexCache::new(IndexCache::DEFAULT_LIMIT)),
    )
}

/// Snapshots as blocks, all of them through one cache; each counts for itself.
fn cached(
    store: &Arc<dyn Store>,
    cache: &Arc<BlockCache>,
) -> impl Fn(&SnapshotInfo) -> (Arc<CachedSource>, Arc<Stats>) + Send + Sync + use<> {
    let (store, cache) = (Arc::clone(store), Arc::clone(cache));
    let windows = Arc::new(IndexCache::new(IndexCache::DEFAULT_LIMIT));
    move |info| {
        let stats = Arc::new(Stats::default());
        let source = SnapshotSource::new(Arc::clone(&store), info, Arc::clone(&windows));
        let cached = CachedSource::new(Arc::new(source), Arc::clone(&cache), Arc::clone(&stats));
        (Arc::new(cached), stats)
    }
}

/// Snapshots as bytes, for a mount.
pub(super) fn opener(store: &Arc<dyn Store>, cache: &Arc<BlockCache>, runtime: &Runtime) -> Opener {
    let (cached, runtime) = (cached(store, cache), runtime.handle().clone());
    Box::new(move |info| {
        let (source, stats) = cached(info);
        (Arc::new(Image::new(source, runtime.clone())), stats)
    })
}

/// Snapshots as blocks, for a server.
pub(super) fn source_opener(store: &Arc<dyn Store>, cache: &Arc<BlockCache>) -> server::Opener {
    let cached = cached(store, cache);
    Box::new(move |info| cached(info).0)
}
