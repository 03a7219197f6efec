//! Reading over HTTP through a mount, beside the same without FUSE and beside what one would use instead.
//!
//! The disk is an ext4 of which half is data; absent blocks are read by nobody, as `cp --sparse` and `tar -S` do not
//! read them. Servers are warm: each has had all blocks once. Every measurement has a mount of its own that begins with
//! nothing: no block in memory, none on disk, no profile. Caches on disk lie in the scratch directory, everything else in
//! memory. Client, server and peer share the machine's cores. Loop devices need root.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::Plan;
use crate::server::Server;
use crate::setup::{MountPoint, Scratch};
use crate::table::Row;

mod huge;
mod image;
mod offline;
mod parallel;
mod random;
mod s3backer;
mod sequential;
mod synthetic;
mod through_loop;

use self::image::DiskImage;

/// All rows of this part.
pub(crate) fn rows(plan: &Plan) -> Vec<Row> {
    let world = World::new(plan);
    let mut rows = vec![];
    rows.extend(sequential::rows(plan, &world));
    rows.extend(through_loop::rows(plan, &world));
    rows.extend(random::rows(plan, &world));
    rows.extend(parallel::rows(plan, &world));
    rows.extend(offline::rows(plan, &world));
    drop(world);
    rows.extend(huge::rows(plan));
    rows
}

/// What all rows of this part have in common.
struct World {
    /// On a real disk: caches, mount points.
    disk: Scratch,
    memory: Scratch,
    store: PathBuf,
    image: DiskImage,
    /// Next door.
    near: Server,
    /// 20 ms away.
    middle: Server,
    /// 50 ms away.
    far: Server,
    fresh: AtomicU32,
}

impl World {
    fn new(plan: &Plan) -> Self {
        let (disk, memory) = (Scratch::new(), Scratch::in_memory());
        let store = memory.path("store");
        let image = DiskImage::make(&memory, &store, plan.disk_gib, plan.tree_mib);
        let [near, middle, far] = ["0ms", "20ms", "50ms"].map(|latency| {
            let fault = format!("latency={latency}");
            let server = Server::start(&memory, &store, &["--fault", &fault]);
            server.warm(&memory, &image.id);
            server
        });
        Self {
            disk,
            memory,
            store,
            image,
            near,
            middle,
            far,
            fresh: AtomicU32::new(0),
        }
    }

    /// A path in the scratch directory that nobody used before.
    fn path(&self, name: &str) -> PathBuf {
        let number = self.fresh.fetch_add(1, Ordering::Relaxed);
        self.disk.path(&format!("{name}-{number}"))
    }

    /// Where mounts keep what outlives them; empty.
    fn caches(&self) -> Caches {
        let directory = tempfile::tempdir_in(self.disk.path("")).unwrap();
        Caches(directory)
    }

    /// A mount of the disk.
    fn mount(&self, server: &Server, caches: &Caches, options: &[&str]) -> Mounted<'_> {
        let mut command = server.ebsfs(&self.memory);
        command
            .env("XDG_CACHE_HOME", caches.0.path())
            .args(["mount", &self.image.id])
            .args(options);
        Mounted {
            mount: MountPoint::by(self.path("mnt"), &mut command),
            id: &self.image.id,
        }
    }
}

/// A directory of caches.
struct Caches(tempfile::TempDir);

impl Caches {
    fn path(&self) -> &Path {
        self.0.path()
    }
}

/// The disk, mounted.
struct Mounted<'a> {
    mount: MountPoint,
    id: &'a str,
}

impl Mounted<'_> {
    /// The disk's file.
    fn file(&self) -> PathBuf {
        self.mount.path.join(format!("{}.img", self.id))
    }

    /// Blocks fetched so far, from the cache on disk or from the store.
    fn fetches(&self) -> u64 {
        self.counted("fetches")
    }

    /// Blocks that were not in the cache on disk, so that the store was asked.
    fn disk_misses(&self) -> u64 {
        self.counted("disk_misses")
    }

    fn counted(&self, name: &str) -> u64 {
        let stats = self.mount.stats();
        stats["snapshots"][self.id][name].as_u64().unwrap()
    }
}
