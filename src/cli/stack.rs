//! Which implementation stands on which: the only place that names them together.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};

use super::Common;
use crate::block::{BlockIndex, blocks_for};
use crate::cache::disk::{DiskCache, DiskSource, KeptInfos};
use crate::cache::{BlockCache, CachedSource};
use crate::catalog::{self, Begin, Opener};
use crate::commit::Below;
use crate::error::{Error, ErrorKind, Result};
use crate::image::{Image, OverlaidImage};
use crate::overlay::Overlay;
use crate::prefetch::ReadAhead;
use crate::profile::{Profiled, Profiles};
use crate::server;
use crate::snapshot::{SnapshotId, SnapshotInfo};
use crate::source::{BlockSource, INDEX_MEMORY, IndexCache, SnapshotSource};
use crate::stats::{Remote, Stats};
use crate::store::Store;
use crate::store::directory::DirectoryStore;
use crate::store::ebs::{self, EbsStore};
use crate::warm::Warm;

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

/// Snapshots of one store as blocks, all of them through one cache and with their listings within one bound; each
/// counts for itself.
#[derive(Clone)]
pub(super) struct Snapshots {
    store: Arc<dyn Store>,
    cache: Arc<BlockCache>,
    windows: Arc<IndexCache>,
    disk: Option<Arc<DiskCache>>,
    /// Whether what is mounted is read ahead.
    ahead: bool,
    profiles: Option<Arc<Profiles>>,
    warm: Arc<Warm>,
}

/// What readers of a mounted snapshot see of it.
struct Top {
    source: Arc<dyn BlockSource>,
    /// Called when all who read from then on are readers.
    begin: Begin,
}

impl Snapshots {
    pub(super) fn new(store: &Arc<dyn Store>, cache: &Arc<BlockCache>) -> Self {
        Self {
            store: Arc::clone(store),
            cache: Arc::clone(cache),
            windows: Arc::new(IndexCache::new(INDEX_MEMORY)),
            disk: None,
            ahead: false,
            profiles: None,
            warm: Arc::default(),
        }
    }

    /// The same, of which what is mounted is read ahead.
    pub(super) fn reading_ahead(self) -> Self {
        Self {
            ahead: true,
            ..self
        }
    }

    /// The same, with access profiles noted and followed.
    pub(super) fn remembering(mut self, profiles: Option<Arc<Profiles>>) -> Self {
        self.profiles = profiles;
        self
    }

    /// What warms those that are opened to be mounted.
    pub(super) fn warm(&self) -> Arc<Warm> {
        Arc::clone(&self.warm)
    }

    /// The same, with a disk cache before the store.
    pub(super) fn on_disk(self, disk: Option<Arc<DiskCache>>) -> Self {
        Self { disk, ..self }
    }

    /// The store, which then describes its snapshots even while it is away, as far as the disk cache knows them.
    pub(super) fn described(&self) -> Arc<dyn Store> {
        let store = Arc::clone(&self.store);
        match &self.disk {
            Some(disk) => {
                let (disk, windows) = (Arc::clone(disk), Arc::clone(&self.windows));
                Arc::new(KeptInfos::new(store, disk, windows))
            }
            None => store,
        }
    }

    fn source(&self, info: &SnapshotInfo, stats: &Arc<Stats>) -> Arc<dyn BlockSource> {
        let (store, windows) = (Arc::clone(&self.store), Arc::clone(&self.windows));
        let source = Arc::new(SnapshotSource::new(store, info, Arc::clone(&windows)));
        match &self.disk {
            Some(disk) => {
                let (disk, identity) = (Arc::clone(disk), self.store.identity());
                let stats = Arc::clone(stats);
                Arc::new(DiskSource::new(
                    source, disk, identity, info, windows, stats,
                ))
            }
            None => source,
        }
    }

    fn cached(&self, info: &SnapshotInfo) -> (Arc<CachedSource>, Arc<Stats>) {
        let stats = Arc::new(Stats::default());
        let cache = Arc::clone(&self.cache);
        let source = self.source(info, &stats);
        let cached = CachedSource::new(source, cache, Arc::clone(&stats));
        (Arc::new(cached), stats)
    }

    /// What stands above `cached`, the blocks of `id`, in a mount that shows them as `shown`.
    fn top(
        &self,
        id: &SnapshotId,
        shown: &SnapshotId,
        cached: &Arc<CachedSource>,
        stats: &Arc<Stats>,
        runtime: &Handle,
    ) -> Top {
        let room = match &self.disk {
            Some(disk) => blocks_for(disk.capacity()),
            None => u64::try_from(self.cache.blocks()).unwrap_or(u64::MAX),
        };
        self.warm.register(shown, Arc::clone(cached), room);
        let source: Arc<dyn BlockSource> = match self.ahead {
            true => Arc::new(ReadAhead::new(Arc::clone(cached), runtime.clone())),
            false => Arc::<CachedSource>::clone(cached),
        };
        let Some(profiles) = &self.profiles else {
            return Top {
                source,
                begin: Arc::new(|| ()),
            };
        };
        let profiled = profiles.profiled(id, source, Arc::clone(cached), Arc::clone(stats));
        let profiled = Arc::new(profiled);
        Top {
            source: Arc::<Profiled>::clone(&profiled),
            begin: Arc::new(move || profiled.begin()),
        }
    }

    /// As bytes, for a mount.
    pub(super) fn opener(self, runtime: &Runtime) -> Opener {
        let runtime = runtime.handle().clone();
        Box::new(move |info| {
            let (cached, stats) = self.cached(info);
            let top = self.top(&info.id, &info.id, &cached, &stats, &runtime);
            catalog::Opened {
                data: Arc::new(Image::new(top.source, runtime.clone())),
                writable: None,
                stats,
                begin: top.begin,
            }
        })
    }

    /// The same, and `base` with `overlay` over it; also what lies below that.
    pub(super) fn opener_over(
        self,
        overlay: &Arc<Overlay>,
        base: &SnapshotInfo,
        runtime: &Runtime,
    ) -> (Opener, Base) {
        let (cached, stats) = self.cached(base);
        let handle = runtime.handle().clone();
        let top = self.top(&base.id, &base.id, &cached, &stats, &handle);
        let image = Arc::new(OverlaidImage::new(
            Arc::clone(overlay),
            top.source,
            handle.clone(),
        ));
        let begin = top.begin;
        let below = Base {
            snapshots: self.clone(),
            stats: Arc::clone(&stats),
            below: RwLock::new((base.id.clone(), cached)),
            mounted: Some(Mounted {
                shown: base.id.clone(),
                image: Arc::clone(&image),
                runtime: handle,
            }),
        };
        let (id, others) = (base.id.clone(), self.opener(runtime));
        let opener = move |info: &SnapshotInfo| {
            if info.id != id {
                return others(info);
            }
            catalog::Opened {
                data: Arc::<OverlaidImage>::clone(&image),
                writable: Some(Arc::<OverlaidImage>::clone(&image)),
                stats: Arc::clone(&stats),
                begin: Arc::clone(&begin),
            }
        };
        (Box::new(opener), below)
    }

    /// What lies below an overlay that is not mounted.
    pub(super) fn below(self, base: &SnapshotInfo) -> Base {
        let (cached, stats) = self.cached(base);
        Base {
            snapshots: self,
            stats,
            below: RwLock::new((base.id.clone(), cached)),
            mounted: None,
        }
    }

    /// As blocks, for a server.
    pub(super) fn source_opener(self) -> server::Opener {
        Box::new(move |info| self.cached(info).0)
    }
}

/// The snapshot below an overlay, which a commit exchanges.
pub(super) struct Base {
    snapshots: Snapshots,
    /// Where all snapshots that are the base one after the other count.
    stats: Arc<Stats>,
    /// Held to look it up and to exchange it.
    below: RwLock<(SnapshotId, Arc<CachedSource>)>,
    mounted: Option<Mounted>,
}

/// An overlay's disk in a mount.
struct Mounted {
    /// By which name, whatever is committed.
    shown: SnapshotId,
    image: Arc<OverlaidImage>,
    /// Where what lies below is fetched.
    runtime: Handle,
}

impl Below for Base {
    fn source(&self) -> Arc<dyn BlockSource> {
        let below = self.below.read().unwrap_or_else(PoisonError::into_inner);
        Arc::<CachedSource>::clone(&below.1)
    }

    fn switch(&self, to: &SnapshotInfo, differs: &dyn Fn(BlockIndex) -> bool) {
        let next = self.snapshots.source(to, &self.stats);
        let mut below = self.below.write().unwrap_or_else(PoisonError::into_inner);
        let cached = Arc::new(below.1.succeeding(next, differs));
        if let Some(profiles) = &self.snapshots.profiles {
            // A small file or two, once in a commit: not worth another thread.
            profiles.inherit(&below.0, &to.id);
        }
        if let Some(Mounted {
            shown,
            image,
            runtime,
        }) = &self.mounted
        {
            let top = self
                .snapshots
                .top(&to.id, shown, &cached, &self.stats, runtime);
            image.rebase(top.source);
            (top.begin)();
        }
        *below = (to.id.clone(), cached);
    }
}
