//! A mount over HTTP: how little it asks of the service, and what it does without it.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ebsfs::cache::{BlockCache, CachedSource};
use ebsfs::catalog::{Catalog, Opened};
use ebsfs::fuse::{self, Content, Control};
use ebsfs::image::Image;
use ebsfs::server::Faults;
use ebsfs::snapshot::{SnapshotId, SnapshotInfo};
use ebsfs::source::{IndexCache, SnapshotSource};
use ebsfs::stats::Stats;
use ebsfs::store::Store;
use ebsfs::store::directory::DirectoryStore;
use ebsfs::store::ebs::{self, Limits};
use ebsfs::store::memory::MemoryStore;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::common::{block_on, snap};
use crate::images::BLOCK;
use crate::serving::Server;
use crate::wire::Wire;
use crate::world::{Mount, World, finish, run};

#[test]
fn a_mount_of_64_tib_lists_once_and_fetches_what_is_read() {
    let Some(world) = World::new() else { return };
    let id = block_on(async {
        let store = DirectoryStore::create(&world.store()).unwrap();
        let last = (1 << 27) - 1;
        let snapshot = snap(65536).block(0, 1).block(70_000, 2).block(last, 3);
        snapshot.build(&store).await.to_string()
    });
    let server = Server::start(world.dir(), &[]);
    let at = world.empty("remote");
    let mut command = world.bare();
    server.environment(&mut command);
    let said = finish(command.args(["mount", &id]).arg(&at));
    assert_eq!(said.ok(), "");
    let mount = Mount::at(at);
    let disk = File::open(mount.disk(&id)).unwrap();
    assert_eq!(disk.metadata().unwrap().len(), 64 << 40);
    let byte = |offset| {
        let mut byte = [0xEE];
        disk.read_exact_at(&mut byte, offset).unwrap();
        byte[0]
    };
    // Of the first block, an absent one, one in the middle, and the last.
    let read = [0, BLOCK, 70_000 * BLOCK, (64 << 40) - 1].map(byte);
    assert_eq!(read, [1, 0, 2, 3]);
    let stats = std::fs::read_to_string(mount.dir.join(".ebsfs/stats.json")).unwrap();
    let stats: Value = serde_json::from_str(&stats).unwrap();
    let remote = &stats["remote"];
    assert_eq!(remote["listings"], 1, "{stats:#}");
    assert_eq!(stats["snapshots"][&id]["fetches"], 3, "{stats:#}");
}

/// A mount of this process: what reads it must be another one.
fn mount_here(world: &World, store: Arc<dyn Store>, runtime: &Runtime, id: &SnapshotId) -> Mount {
    let (windows, cache) = (IndexCache::new(1 << 20), BlockCache::new(8 << 20));
    let (windows, cache) = (Arc::new(windows), Arc::new(cache));
    let (below, handle) = (Arc::clone(&store), runtime.handle().clone());
    let open = move |info: &SnapshotInfo| -> Opened {
        let stats = Arc::new(Stats::default());
        let source = SnapshotSource::new(Arc::clone(&below), info, Arc::clone(&windows));
        let cached = CachedSource::new(Arc::new(source), Arc::clone(&cache), Arc::clone(&stats));
        Opened {
            data: Arc::new(Image::new(Arc::new(cached), handle.clone())),
            writable: None,
            stats,
            begin: Arc::new(|| ()),
        }
    };
    let named = Some(vec![id.clone()]);
    let catalog = Catalog::open(store, runtime.handle().clone(), Box::new(open), named).unwrap();
    let pid = std::process::id();
    let control = Control {
        name: "mount.json",
        content: Content::Text(Box::new(move || json!({ "pid": pid }).to_string())),
    };
    let config = fuse::Config {
        mountpoint: world.empty("here"),
        allow_other: false,
        writable: false,
    };
    fuse::mount(Arc::new(catalog), vec![control], &config, Box::new(|| ())).unwrap();
    Mount::at(config.mountpoint)
}

#[test]
fn an_endless_outage_is_an_io_error_and_reads_work_again_afterwards() {
    let Some(world) = World::new() else { return };
    let memory: Arc<dyn Store> = Arc::new(MemoryStore::new().unwrap());
    let id = block_on(snap(1).block(0, 1).block(1, 2).build(&*memory));
    let wire = Wire::serve(Arc::clone(&memory), Faults::default());
    let runtime = Runtime::new().unwrap();
    let reads = Limits {
        deadline: Duration::from_secs(2),
        attempt: Duration::from_secs(1),
    };
    let config = ebs::Config {
        reads,
        ..ebs::Config::default()
    };
    let (store, _) = runtime.block_on(wire.client(config));
    let mount = mount_here(&world, store, &runtime, &id);
    let disk = mount.disk(id.as_str());
    let byte_of = |block: u64| {
        let at = (block * BLOCK).to_string();
        run(
            "od",
            ["-An", "-tu1", "-N1", "-j", &at, disk.to_str().unwrap()],
        )
    };
    assert_eq!(byte_of(0).ok().trim(), "1");

    let address = wire.address;
    wire.end();
    let begin = Instant::now();
    let failed = byte_of(1);
    assert_eq!(failed.code, Some(1), "{failed:?}");
    assert!(failed.err.contains("Input/output error"), "{failed:?}");
    assert!(begin.elapsed() >= reads.deadline);
    // What was read before needs nobody.
    assert_eq!(byte_of(0).ok().trim(), "1");

    let _back = Wire::serve_at(memory, Faults::default(), address);
    assert_eq!(byte_of(1).ok().trim(), "2");
    let umount = world.bare().arg("umount").arg(&mount.dir).output().unwrap();
    assert!(umount.status.success(), "{umount:?}");
}
