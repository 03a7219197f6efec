//! Snapshots from the store up to what a mount, a server or a commit sees of them.
//!
//! ```text
//! Image, OverlaidImage     bytes
//!   Profiled               notes and follows what is touched      mounts of remote stores
//!   ReadAhead              fetches what will be read              mounts
//!   SharingSource          takes from another what is the same    the second of two that are compared
//!   CachedSource           memory, one fetch for all
//!   DiskSource             this machine's disk                    remote stores
//!   SnapshotSource         the store
//! ```

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use tokio::runtime::{Handle, Runtime};

use crate::block::{BlockIndex, blocks_for};
use crate::cache::disk::{DiskCache, DiskSource, KeptInfos};
use crate::cache::{BlockCache, CachedSource};
use crate::catalog::{self, Begin, Opener};
use crate::commit::Below;
use crate::image::{Image, OverlaidImage};
use crate::overlay::Overlay;
use crate::prefetch::ReadAhead;
use crate::profile::{Profiled, Profiles};
use crate::read_at::ReadAt;
use crate::server;
use crate::snapshot::{SnapshotId, SnapshotInfo};
use crate::source::{
    BlockSource, Differences, INDEX_MEMORY, IndexCache, SharingSource, SnapshotSource,
};
use crate::stats::Stats;
use crate::store::Store;
use crate::warm::Warm;

/// Snapshots of one store as blocks, all of them through one cache and with their listings within one bound; each
/// counts for itself.
#[derive(Clone)]
pub(in crate::cli) struct Snapshots {
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
    pub(in crate::cli) fn new(store: &Arc<dyn Store>, cache: &Arc<BlockCache>) -> Self {
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
    pub(in crate::cli) fn reading_ahead(self) -> Self {
        Self {
            ahead: true,
            ..self
        }
    }

    /// The same, with access profiles noted and followed.
    pub(in crate::cli) fn remembering(mut self, profiles: Option<Arc<Profiles>>) -> Self {
        self.profiles = profiles;
        self
    }

    /// What warms those that are opened to be mounted.
    pub(in crate::cli) fn warm(&self) -> Arc<Warm> {
        Arc::clone(&self.warm)
    }

    /// The same, with a disk cache before the store.
    pub(in crate::cli) fn on_disk(self, disk: Option<Arc<DiskCache>>) -> Self {
        Self { disk, ..self }
    }

    /// The store, which then describes its snapshots even while it is away, as far as the disk cache knows them.
    pub(in crate::cli) fn described(&self) -> Arc<dyn Store> {
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
    pub(in crate::cli) fn opener(self, runtime: &Runtime) -> Opener {
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

    /// Two as bytes, each with where it counts. The second takes from the first what `differences` tells to be the same
    /// in both.
    pub(in crate::cli) fn both(
        &self,
        (from, to): (&SnapshotInfo, &SnapshotInfo),
        differences: Option<&Arc<Differences>>,
        runtime: &Runtime,
    ) -> [(Arc<dyn ReadAt>, Arc<Stats>); 2] {
        let ((first, first_stats), (own, own_stats)) = (self.cached(from), self.cached(to));
        let second: Arc<dyn BlockSource> = match differences {
            Some(differences) => Arc::new(SharingSource::new(
                own,
                Arc::<CachedSource>::clone(&first),
                Arc::clone(differences),
            )),
            None => own,
        };
        let image =
            |source| -> Arc<dyn ReadAt> { Arc::new(Image::new(source, runtime.handle().clone())) };
        [(image(first), first_stats), (image(second), own_stats)]
    }

    /// The same, and `base` with `overlay` over it; also what lies below that.
    pub(in crate::cli) fn opener_over(
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
    pub(in crate::cli) fn below(self, base: &SnapshotInfo) -> Base {
        let (cached, stats) = self.cached(base);
        Base {
            snapshots: self,
            stats,
            below: RwLock::new((base.id.clone(), cached)),
            mounted: None,
        }
    }

    /// As blocks, for a server.
    pub(in crate::cli) fn source_opener(self) -> server::Opener {
        Box::new(move |info| self.cached(info).0)
    }
}

/// The snapshot below an overlay, which a commit exchanges.
pub(in crate::cli) struct Base {
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

impl Base {
    fn below(&self) -> RwLockReadGuard<'_, (SnapshotId, Arc<CachedSource>)> {
        self.below.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Below for Base {
    fn source(&self) -> Arc<dyn BlockSource> {
        Arc::<CachedSource>::clone(&self.below().1)
    }

    fn switch(&self, to: &SnapshotInfo, differs: &dyn Fn(BlockIndex) -> bool) {
        let next = self.snapshots.source(to, &self.stats);
        if let Some(profiles) = &self.snapshots.profiles {
            let from = self.below().0.clone();
            // A small file or two, once in a commit: not worth another thread.
            profiles.inherit(&from, &to.id);
        }
        let mut below = self.below.write().unwrap_or_else(PoisonError::into_inner);
        let cached = Arc::new(below.1.succeeding(next, differs));
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
