//! `ebsfs warm`: everything at hand, for what was estimated, and readers who notice nothing.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use ebsfs::cache::{BlockCache, CachedSource};
use ebsfs::error::ErrorKind;
use ebsfs::source::{BlockSource as _, IndexCache, SnapshotSource};
use ebsfs::stats::Stats;
use ebsfs::store::Store;
use ebsfs::warm::{Warm, Wish};
use rustix::process::Signal;
use serde_json::Value;

use crate::common::{at, block_on};
use crate::flaky_store::{Fault, FlakyStore, filled};
use crate::images::{BLOCK, Disk, GIB, MIB, assert_same, random_block};
use crate::oracle::fixture;
use crate::overlaid::client;
use crate::program::{Running, files_below};
use crate::serving::Server;
use crate::world::{Mount, World};

const DATA: u64 = 200;

fn image(world: &World, name: &str) -> PathBuf {
    let image = Disk::new(world.path(name), GIB).blocks(0, DATA - 1, 5);
    let last = GIB / BLOCK - 1;
    image.block(last, 5 << 32 | last).path().to_owned()
}

/// Mounts a snapshot of `disk.img` that is served with these faults.
fn served(world: &World, faults: &str) -> (Server, Mount, String) {
    let id = world.import(&image(world, "disk.img"));
    let server = Server::start(world.dir(), &["--fault", faults]);
    let mountpoint = world.empty("remote");
    client(
        world,
        &server,
        &["mount", &id, mountpoint.to_str().unwrap()],
    )
    .ok();
    (server, Mount::at(mountpoint), id)
}

fn warm(world: &World, mount: &Mount, options: &[&str]) -> crate::world::Said {
    world.ebsfs([&["warm", mount.dir.to_str().unwrap()], options].concat())
}

#[track_caller]
fn told(world: &World, mount: &Mount, options: &[&str]) -> Value {
    let said = warm(world, mount, &[options, &["--json"]].concat());
    serde_json::from_str(&said.ok()).unwrap()
}

#[test]
fn what_is_estimated_is_fetched_and_then_no_service_is_needed() {
    let Some(world) = World::new() else { return };
    let (server, mount, id) = served(&world, "latency=5ms");
    let before = mount.count(&id, "fetches");
    let estimate = told(&world, &mount, &["--dry-run"]);
    assert_eq!(estimate["snapshot"], *id);
    assert_eq!(estimate["blocks"], DATA);
    // The partition table was looked for.
    assert_eq!(estimate["kept"], before);
    assert_eq!(estimate["fetches"], DATA - before);
    assert_eq!(estimate["cost"], 0.0);
    assert_eq!(mount.count(&id, "fetches"), before, "nothing was fetched");
    let done = told(&world, &mount, &[]);
    assert_eq!(done["fetches"], estimate["fetches"]);
    assert_eq!(mount.count(&id, "fetches"), DATA);
    server.kill();
    let (disk, expected) = (
        fs::File::open(mount.disk(&id)).unwrap(),
        fs::File::open(world.path("disk.img")).unwrap(),
    );
    assert_same(&disk, &expected, GIB, "the warm disk");
    assert_eq!(mount.count(&id, "fetches"), DATA);
    let said = warm(&world, &mount, &[]);
    assert!(said.err.contains("fetched 0 blocks"), "{said:?}");
    said.ok();
}

#[test]
fn only_the_ranges_are_fetched() {
    let Some(world) = World::new() else { return };
    let id = world.import(&image(&world, "disk.img"));
    let mount = world.mount(&["--no-read-ahead", &id]);
    // Half of a block is a block, overlapping ranges are one, and holes are nothing.
    let ranges = [
        "--range=10MiB-12MiB",
        "--range=11776k-12800k",
        "--range=500MiB-600MiB",
        "--range=1023MiB-",
    ];
    let done = told(&world, &mount, &ranges);
    // The last one may have been read for the partition table's copy.
    let count = |name: &str| done[name].as_u64().unwrap();
    assert_eq!(count("fetches") + count("kept"), 4 + 1 + 1, "{done}");
    let fetches = mount.count(&id, "fetches");
    for block in [20, 21, 22, 23, 24] {
        let disk = fs::File::open(mount.disk(&id)).unwrap();
        let mut page = [0; 4096];
        disk.read_exact_at(&mut page, block * BLOCK).unwrap();
        assert!(page == random_block(5 << 32 | block)[..4096]);
    }
    assert_eq!(mount.count(&id, "fetches"), fetches);
}

#[test]
fn a_partition_is_a_range() {
    let Some(world) = World::new() else { return };
    let id = world.import(&fixture("gpt").image);
    let mount = world.mount(&[&id]);
    let size = fs::metadata(mount.part(&id, 1)).unwrap().len();
    let whole = told(&world, &mount, &["--dry-run"]);
    let part = told(&world, &mount, &["--dry-run", "--range=p1"]);
    let (whole, part) = (whole["blocks"].as_u64(), part["blocks"].as_u64().unwrap());
    assert!(part > 0 && part < whole.unwrap());
    assert!(part <= size / BLOCK + 2);
    warm(&world, &mount, &["--range=p99"]).refused(3, &["no partition 99"]);
}

#[test]
fn interrupted_it_goes_on_where_it_was() {
    let Some(world) = World::new() else { return };
    let (_server, mount, id) = served(&world, "latency=0ms");
    let mut slowly = world.unlimited();
    slowly.args(["warm", "--rate=4MiB"]).arg(&mount.dir);
    let mut slowly = Running::start(slowly);
    assert!(slowly.until(|| mount.count(&id, "fetches") > 10));
    slowly.signal(Signal::INT);
    slowly.finish().fails(130, &["goes on with the rest"]);
    let done = told(&world, &mount, &[]);
    assert!(done["kept"].as_u64().unwrap() > 10);
    assert!(done["fetches"].as_u64().unwrap() > DATA / 2, "{done}");
    // No block was fetched twice.
    assert_eq!(mount.count(&id, "fetches"), DATA);
    warm(&world, &mount, &[]).ok();
}

#[test]
fn what_the_caches_cannot_hold_is_refused_before_anything_is_paid() {
    let Some(world) = World::new() else { return };
    let id = world.import(&image(&world, "disk.img"));
    let mount = world.mount_with(&[&id], &["--cache-size=8MiB"]);
    let before = mount.count(&id, "fetches");
    let words = ["100 MiB are to be warm", "7 MiB", "--range"];
    warm(&world, &mount, &[]).refused(2, &words);
    let said = warm(&world, &mount, &["--dry-run"]);
    assert!(said.err.contains("7 MiB"), "{said:?}");
    assert!(said.ok().contains("200 blocks"));
    assert_eq!(mount.count(&id, "fetches"), before);
    let done = told(&world, &mount, &["--range=4MiB-8MiB"]);
    assert_eq!(done["fetches"], 8);
    assert_eq!(done["bytes"], 4 * MIB);
}

#[test]
fn what_makes_no_sense_is_refused_with_the_reason() {
    let Some(world) = World::new() else { return };
    let first = world.import(&image(&world, "disk.img"));
    let second = world.import(Disk::new(world.path("other.img"), GIB).block(7, 7).path());
    let mount = world.mount(&[&first, &second]);
    warm(&world, &mount, &[]).refused(2, &["--snapshot", &first, &second]);
    let unknown = "snap-0123456789abcdef0";
    warm(&world, &mount, &["--snapshot", unknown]).refused(3, &[unknown, &first]);
    for (range, word) in [
        ("5-5", "empty"),
        ("2GiB-", "past the disk's end"),
        ("x", "0-1GiB"),
    ] {
        let options = ["--snapshot", &second, "--range", range];
        warm(&world, &mount, &options).refused(2, &[word]);
    }
    let done = told(&world, &mount, &["--snapshot", &second]);
    assert_eq!(done["fetches"], 1);
    let said = world.ebsfs(["warm", world.dir().to_str().unwrap()]);
    said.refused(3, &["no mount of ebsfs"]);
}

#[test]
fn a_damaged_block_hinders_no_other() {
    let Some(world) = World::new() else { return };
    let id = world.import(&image(&world, "disk.img"));
    let mount = world.mount(&[&id]);
    let kept = mount.count(&id, "fetches");
    // Of the mounted disk's first block, which holds no partition table, the daemon knows already.
    let damaged = &files_below(&world.store().join("blocks"))
        .into_iter()
        .find(|file| fs::read(file).unwrap() == random_block(5 << 32 | 77))
        .unwrap();
    fs::write(damaged, [1; 512 << 10]).unwrap();
    let said = warm(&world, &mount, &[]);
    said.refused(5, &["block 77", "the others are at hand"]);
    let done = warm(&world, &mount, &["--range=0-38MiB"]);
    assert!(done.err.contains("fetched 0 blocks"), "{done:?}");
    assert_eq!(mount.count(&id, "failed_fetches"), 1);
    assert!(mount.count(&id, "fetches") >= DATA - kept);
}

#[test]
fn through_every_fault_all_of_it_is_right() {
    let Some(world) = World::new() else { return };
    let faults = "error=0.1,throttle=0.05,truncate=0.05,reset=0.05,corrupt=0.05,seed=7";
    let (server, mount, id) = served(&world, faults);
    warm(&world, &mount, &[]).ok();
    assert_eq!(mount.count(&id, "failed_fetches"), 0);
    server.kill();
    let (disk, expected) = (
        fs::File::open(mount.disk(&id)).unwrap(),
        fs::File::open(world.path("disk.img")).unwrap(),
    );
    assert_same(&disk, &expected, GIB, "the warm disk");
}

#[test]
fn a_store_that_fails_ends_it_and_what_was_fetched_stays() {
    block_on(async {
        let store = FlakyStore::new();
        let blocks: Vec<_> = (0..250).map(|index| (index, 7)).collect();
        let info = store.snapshot(&blocks).await;
        let below = Arc::<FlakyStore>::clone(&store) as Arc<dyn Store>;
        let windows = Arc::new(IndexCache::new(1 << 20));
        let source = Arc::new(SnapshotSource::new(below, &info, windows));
        let cache = Arc::new(BlockCache::new(256 << 20));
        let cached = CachedSource::new(source, cache, Arc::new(Stats::default()));
        let (cached, warm) = (Arc::new(cached), Warm::default());
        warm.register(&info.id, Arc::clone(&cached), 511);
        store.fault(20, Fault::Fail);
        let failed = warm.run(&Wish::default(), &|_| ()).await.unwrap_err();
        assert_eq!(failed.kind(), ErrorKind::Unavailable);
        assert!(
            format!("{failed:#}").contains("get 20 is to fail"),
            "{failed:#}"
        );
        let begun = store.gets();
        assert!(begun < 200, "it ended, and not with the last of {begun}");
        // Readers notice nothing.
        assert_eq!(cached.block(at(249)).await.unwrap(), filled(7));
        warm.run(&Wish::default(), &|_| ()).await.unwrap();
        assert_eq!(cached.kept(0..300).await.len(), 250);
        // None was fetched twice but the one that failed.
        assert_eq!(store.gets(), 251);
    });
}
