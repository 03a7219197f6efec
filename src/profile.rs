//! Access profiles: which blocks of a snapshot its readers touched, remembered for the next time.
//!
//! A walk through a file system is one round trip after another: each block tells where the next one is. The next walk
//! takes nearly the same way, so its blocks can be fetched many at a time. [`Profiled`] notes the blocks that readers
//! ask for, in the order of their first touch, and has those that a profile names fetched ahead; [`Profiles`] keeps one
//! small file for each snapshot, from one mount to the next, and hands it on to a snapshot's child.
//!
//! ```text
//! Image -> Profiled -> ... -> CachedSource      a touch is noted, and may have others fetched ahead
//!             |
//!          recorder -> files                    written every few seconds, and in the end
//! ```
//! Nothing is fetched before somebody reads, and nothing depends on a profile: what goes wrong with one is a line in the
//! log. How far ahead it is followed, and that it is not when reads go another way, is decided in `follow`.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use log::debug;
use tokio::runtime::Handle;

use crate::cache::CachedSource;
use crate::snapshot::SnapshotId;
use crate::source::BlockSource;
use crate::stats::Stats;

mod files;
mod follow;
mod record;
mod recorder;

use self::files::Files;
use self::record::Owner;
pub use self::recorder::Profiled;
use self::recorder::Recorder;

/// How often what was touched since is written down: as much is forgotten at most when the process is killed.
const SAVE: Duration = Duration::from_secs(5);

/// The profiles of one store's snapshots.
pub struct Profiles {
    files: Arc<Files>,
    store: String,
    runtime: Handle,
    /// Those being recorded. Guards itself only.
    recorders: Mutex<Vec<Weak<Recorder>>>,
}

impl Profiles {
    /// Those of the store of that identity, kept in `directory`, which is made when the first is written.
    pub fn new(directory: PathBuf, store: String, runtime: Handle) -> Self {
        Self {
            files: Arc::new(Files::new(directory)),
            store,
            runtime,
            recorders: Mutex::default(),
        }
    }

    fn owner(&self, snapshot: &SnapshotId) -> Owner {
        Owner {
            store: self.store.clone(),
            snapshot: snapshot.clone(),
        }
    }

    /// `source`, which stands on `cached`, with the touches of its readers noted, and a profile of `snapshot` followed
    /// into `cached`. Nobody is taken for a reader before [`Profiled::begin`].
    pub fn profiled(
        &self,
        snapshot: &SnapshotId,
        source: Arc<dyn BlockSource>,
        cached: Arc<CachedSource>,
        stats: Arc<Stats>,
    ) -> Profiled {
        let (files, runtime) = (Arc::clone(&self.files), self.runtime.clone());
        let recorder = Recorder::new(self.owner(snapshot), files, cached, runtime, stats);
        let recorder = Arc::new(recorder);
        let mut recorders = self
            .recorders
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        recorders.retain(|other| other.strong_count() > 0);
        recorders.push(Arc::downgrade(&recorder));
        Profiled::new(source, recorder)
    }

    /// Gives `child`, which differs little from `parent`, the profile of that. Waits for local files.
    pub fn inherit(&self, parent: &SnapshotId, child: &SnapshotId) {
        self.save();
        if let Some(profile) = self.files.load(&self.owner(parent)) {
            self.files.save(&self.owner(child), &profile);
            debug!("{child}: has the access profile of {parent}");
        }
    }

    /// Writes down what was touched since the last time. Waits for local files.
    pub fn save(&self) {
        let recorders = self
            .recorders
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let alive: Vec<_> = recorders.iter().filter_map(Weak::upgrade).collect();
        drop(recorders);
        alive.iter().for_each(|recorder| recorder.save());
    }

    /// Saves now and then from now on, as long as this is there. Profiles that nobody used for longest are removed, if
    /// there are too many.
    pub fn keep_saving(self: &Arc<Self>) {
        let (profiles, files) = (Arc::downgrade(self), Arc::clone(&self.files));
        let tidied = self.runtime.spawn_blocking(move || files.tidy());
        self.runtime.spawn(async move {
            drop(tidied.await);
            loop {
                tokio::time::sleep(SAVE).await;
                let Some(profiles) = profiles.upgrade() else {
                    return;
                };
                drop(tokio::task::spawn_blocking(move || profiles.save()).await);
            }
        });
    }
}
