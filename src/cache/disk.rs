//! The disk tier of the cache: blocks of a remote store's snapshots in local files, which survive the process.
//!
//! ```text
//! lock              held by the one process that takes something away    (disk/lock.rs)
//! KEY/              a snapshot; KEY is a hash of the store's identity and its id
//!   lock            shared by those who use it
//!   info            record: the store's identity, what the store told of the snapshot    (disk/files.rs)
//!   presence        which blocks it has, as far as it was listed                         (disk/presence.rs)
//!   digests         what each block that is kept hashes to, when it was last used        (disk/digests.rs)
//!   data.0 ...      the blocks, each at its place; 1 TiB each                            (disk/data.rs)
//! ```
//! Nothing is ever synced, and nothing is believed: every load is hashed, every table has its checksums, and all of them are
//! bound to the store, the snapshot and the index. Whatever a crash, a power failure or a hand on the files leaves there is
//! either right or a miss. A failing, hanging or full disk costs a counter and a bounded delay, never an error.
//!
//! Any number of processes share the directory. Its size stays within the limit, and leaves the file system some room: what was
//! not used for longest goes first, of the snapshots that nobody else has mounted (`disk/room.rs`, `disk/eviction.rs`). All is
//! private to its owner. [`DiskSource`] stands between the memory and the store; [`KeptInfos`] answers for a store that does not;
//! [`glance`] only tells what there is.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use log::warn;
use tokio::sync::Semaphore;

use self::eviction::Eviction;
use self::files::{Files, Identity};
use self::health::Health;
use self::lock::Gate;
use self::pace::Pace;
use self::room::{Room, Taken};
use crate::block::{Block, BlockIndex, Digest};
use crate::error::{Error, ErrorKind, Result};
use crate::snapshot::SnapshotId;
use crate::stats::Stats;
use crate::store::{Clock, system_clock};

mod data;
mod digests;
mod eviction;
mod files;
mod glance;
mod header;
mod health;
mod infos;
mod lock;
mod pace;
mod presence;
mod private;
mod room;
mod source;

pub use self::glance::glance;
pub use self::infos::KeptInfos;
pub use self::source::DiskSource;

/// How much is kept, and for how long the disk is waited for.
pub struct Config {
    /// Bytes of all files together.
    pub limit: u64,
    /// Loads at one time: more than a disk needs to be busy.
    pub loads: usize,
    /// Blocks that wait to be written or are: as many as come while a disk takes its time, and 32 MiB, most of which the
    /// memory cache holds as well.
    pub writes: usize,
    /// Threads that write. All write to one file: a second one would spin until the first lets go of it, and a core with it.
    pub writers: usize,
    /// How long a reader waits for a thread, and then for the disk, before the store is asked instead.
    pub patience: Duration,
    /// How long a fetched block waits for a place among those before it is not kept: so a disk that is a little slower than the
    /// store slows reads down and keeps all of them.
    pub wait: Duration,
    /// How long a store may take to describe a snapshot before what is kept of it is used.
    pub outage: Duration,
    /// By which blocks grow old.
    pub clock: Clock,
}

impl Config {
    /// The root disks of a few machines, and little beside what a machine has that works on disk images.
    pub const DEFAULT_LIMIT: u64 = 10 << 30;
    /// Below this room is looked for at every block.
    pub const LEAST_LIMIT: u64 = 64 << 20;
}

impl Default for Config {
    fn default() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            limit: Self::DEFAULT_LIMIT,
            loads: (2 * processors).clamp(4, 16),
            writes: 64,
            writers: 1,
            patience: Duration::from_secs(2),
            wait: Duration::from_millis(250),
            outage: Duration::from_secs(1),
            clock: system_clock(),
        }
    }
}

/// Blocks in a directory, for any number of snapshots and processes.
pub struct DiskCache {
    top: PathBuf,
    config: Config,
    room: Room,
    health: Health,
    pace: Pace,
    loads: Arc<Semaphore>,
    writes: Arc<Semaphore>,
    writers: Arc<Semaphore>,
    /// Guards map operations only.
    open: Mutex<Open>,
    /// Held by the thread that makes room.
    making_room: Mutex<()>,
}

#[derive(Default)]
struct Open {
    files: HashMap<Digest, Weak<Files>>,
    /// Snapshots of which nothing that is kept may be used.
    forgotten: HashSet<Digest>,
}

impl DiskCache {
    /// The cache in the directory `top`, made if it is missing. `Denied` if others may write there, too.
    pub fn open(top: &Path, config: Config) -> Result<Self> {
        private::directory(top)?;
        let room = Room::new(top, config.limit);
        // Whoever asks how full it is need not wait for the first block.
        room.measure()?;
        Ok(Self {
            top: top.to_owned(),
            room,
            health: Health::default(),
            pace: Pace::default(),
            loads: Arc::new(Semaphore::new(config.loads)),
            writes: Arc::new(Semaphore::new(config.writes)),
            writers: Arc::new(Semaphore::new(config.writers)),
            open: Mutex::default(),
            making_room: Mutex::default(),
            config,
        })
    }

    /// Bytes that all files take, nearly.
    pub fn bytes(&self) -> u64 {
        self.room.used()
    }

    /// Bytes that they take at most.
    pub fn capacity(&self) -> u64 {
        self.room.limit()
    }

    /// Waits until all that readers have by now is kept, or is not.
    pub async fn settle(&self) {
        let all = u32::try_from(self.config.writes).unwrap_or(u32::MAX);
        drop(self.writes.acquire_many(all).await);
    }

    fn opened(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time, as entries have it.
    fn now(&self) -> u32 {
        let seconds = (self.config.clock)().as_second();
        u32::try_from(seconds).unwrap_or_default()
    }

    /// The files of a snapshot.
    fn files(&self, identity: &Identity, stats: &Stats) -> Result<Arc<Files>> {
        let key = identity.key();
        if let Some(files) = self.files_open(&key) {
            return Ok(files);
        }
        let (files, mended) = Files::open(&self.top, identity)?;
        if mended {
            stats.disk_corrupt.add(1);
        }
        let files = Arc::new(files);
        self.opened().files.insert(key, Arc::downgrade(&files));
        Ok(files)
    }

    fn files_open(&self, key: &Digest) -> Option<Arc<Files>> {
        self.opened().files.get(key).and_then(Weak::upgrade)
    }

    fn is_forgotten(&self, key: &Digest) -> bool {
        self.opened().forgotten.contains(key)
    }

    /// What is kept of a snapshot is not used any more, by this process and by those that open it later.
    fn forget(&self, store: &str, id: &SnapshotId) -> Result<()> {
        let key = files::key(store, id.as_str());
        self.opened().forgotten.insert(key);
        files::forget_identity(&self.dir(&key))
    }

    fn dir(&self, key: &Digest) -> PathBuf {
        self.top.join(key.to_string())
    }

    /// Keeps a block, if there is room for it or can be made.
    fn keep(&self, files: &Files, index: BlockIndex, block: &Block) -> Result<bool> {
        let taken = match self.room.take() {
            Some(taken) => Some(taken),
            None => self.make_room()?,
        };
        let Some(_taken) = taken else {
            return Ok(false);
        };
        let behind = 2 * self.writes.available_permits() < self.config.writes;
        let (way, begun) = (self.pace.way(behind), Instant::now());
        files.keep(index, block, self.now(), way)?;
        self.pace.took(way, begun.elapsed());
        Ok(true)
    }

    /// Takes room for a block after looking how much there is, and what is oldest away if that is too little. One thread of a
    /// process does it at one time, while the others wait, and one process of all.
    fn make_room(&self) -> Result<Option<Taken<'_>>> {
        let turn = self.making_room.lock();
        let _turn = turn.unwrap_or_else(PoisonError::into_inner);
        // Another thread may have made it meanwhile, or found that there is none.
        if let Some(taken) = self.room.take() {
            return Ok(Some(taken));
        }
        if !self.room.may_look() {
            return Ok(None);
        }
        let mut measured = self.room.measure()?;
        if let Some(wanted) = measured.excess() {
            let taken = self.evict(wanted)?;
            measured = self.room.measure()?;
            // To take a few at a time would cost as much as to take many.
            let hardly_any = taken.is_some_and(|taken| taken < wanted.div_ceil(2));
            if hardly_any {
                self.room.pause();
            }
            if hardly_any || measured.excess().is_some() {
                return Ok(None);
            }
        }
        self.room.grant(measured);
        Ok(self.room.take())
    }

    /// Takes up to `wanted` blocks away; tells how many, or nothing if another process is about it.
    fn evict(&self, wanted: u64) -> Result<Option<u64>> {
        let Some(gate) = Gate::try_enter(&self.top)? else {
            return Ok(None);
        };
        let eviction = Eviction {
            top: &self.top,
            gate: &gate,
            open: &|key| self.files_open(key),
        };
        eviction.run(wanted).map(Some)
    }

    /// The disk failed, and nobody is told but the log. A full one can be read all the same.
    fn failed(&self, why: &Error) {
        if why.kind() == ErrorKind::NoSpace {
            self.room.pause();
            return;
        }
        warn!("{why:#}");
        self.health.failed(why);
    }

    /// The disk did not answer in time.
    fn hung(&self) {
        let seconds = self.config.patience.as_secs_f32();
        let what = format!("the disk did not answer for {seconds} s");
        self.health.hung(&Error::new(ErrorKind::Unavailable, what));
    }
}
