//! On the embedded store: import, export, a second read and the daemon's memory, each beside its floor.
//!
//! The files read are in the page cache. What is written stays until the end: ext4 avoids the inodes of files just
//! removed, and would be slow at making new ones.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use ebsfs::block::{Block, BlockIndex};
use ebsfs::snapshot::{NewSnapshot, Seal, VolumeSize};
use ebsfs::store::Store as _;
use ebsfs::store::directory::DirectoryStore;

use crate::Plan;
use crate::measure::{in_turn, time};
use crate::setup::{MountPoint, Scratch, noise, read_through, write_image};
use crate::table::Row;

/// All rows of this part.
pub(crate) fn rows(plan: &Plan) -> Vec<Row> {
    let scratch = Scratch::new();
    let image = scratch.path("disk.img");
    write_image(&image, plan.image_mib);
    let mut rows = vec![];
    rows.extend(copies(plan, &scratch, &image));
    rows.extend(second_read(plan, &scratch, &image));
    rows.push(memory(plan, &scratch));
    rows
}

/// Import and export beside the same bytes read, hashed, written and synced.
fn copies(plan: &Plan, scratch: &Scratch, image: &Path) -> [Row; 2] {
    let this = env::current_exe().unwrap();
    let kept = scratch.path("kept-store");
    let (_, id) = time(scratch.ebsfs(&kept).arg("import").arg(image));
    let path = |name: &str, round: usize| scratch.path(&format!("{name}-{round}"));
    let floor = |round| {
        let target = path("floor.img", round);
        time(Command::new(&this).arg("floor").arg(image).arg(target)).0
    };
    let import = |round| {
        let store = path("store", round);
        time(scratch.ebsfs(&store).arg("import").arg(image)).0
    };
    let export = |round| {
        let target = path("out.img", round);
        let mut command = scratch.ebsfs(&kept);
        time(command.arg("export").arg(id.trim()).arg(target)).0
    };
    let [floor, import, export] = in_turn(plan.rounds, [&floor, &import, &export]);
    [("import", import), ("export", export)]
        .map(|(name, ours)| Row::rates(name, plan.image_mib, &ours, &floor, 0.7))
}

/// A mounted file read again beside a plain file, on the disk and in memory.
///
/// All are in the page cache. There a disk's file lies in large folios, a FUSE file in single pages, on kernels
/// that do not give FUSE large ones; a file in `/dev/shm` lies in single pages everywhere and shows what those
/// cost.
fn second_read(plan: &Plan, scratch: &Scratch, image: &Path) -> [Row; 2] {
    let store = scratch.path("kept-store");
    let (_, id) = time(scratch.ebsfs(&store).arg("import").arg(image));
    let mount = MountPoint::new(scratch, &store, id.trim(), plan.cache_mib);
    let mounted = mount.path.join(format!("{}.img", id.trim()));
    let shm = Scratch::in_memory();
    let in_memory = shm.path("disk.img");
    fs::copy(image, &in_memory).unwrap();
    let ours = |_| read_through(&mounted, plan.image_mib);
    let disk = |_| read_through(image, plan.image_mib);
    let memory = |_| read_through(&in_memory, plan.image_mib);
    ours(0);
    let [ours, disk, memory] = in_turn(plan.rounds * 2, [&ours, &disk, &memory]);
    let row = |peer: &str, floor: &[Duration], bar| {
        let name = format!("second read beside {peer}");
        Row::rates(&name, plan.image_mib, &ours, floor, bar)
    };
    [
        row("a disk's file", &disk, 0.65),
        row("tmpfs", &memory, 0.6),
    ]
}

/// The most memory that the daemon ever had, beside what it may have, after a large snapshot was read through.
fn memory(plan: &Plan, scratch: &Scratch) -> Row {
    let store = scratch.path("large-store");
    let id = large_snapshot(&store, plan.memory_gib);
    let mount = MountPoint::new(scratch, &store, &id, plan.cache_mib);
    read_through(
        &mount.path.join(format!("{id}.img")),
        u64::from(plan.memory_gib) * 1024,
    );
    let name = format!("memory after {} GiB, MiB", plan.memory_gib);
    Row::wanted(
        &name,
        &[mount.peak_mib()],
        plan.cache_mib as f64 + 64.0,
        true,
    )
}

/// A dense snapshot of `gib` GiB, quickly: 1024 different blocks over and over.
fn large_snapshot(store: &Path, gib: u32) -> String {
    let runtime = tokio::runtime::Builder::new_multi_thread().build().unwrap();
    runtime.block_on(async {
        let store = Arc::new(DirectoryStore::create(store).unwrap());
        let size = VolumeSize::from_gib(gib).unwrap();
        let info = store.start(&NewSnapshot::new(size).unwrap()).await.unwrap();
        let blocks: Vec<Block> = (0..1024)
            .map(|seed| Block::seal(noise(seed, 512 * 1024)).unwrap())
            .collect();
        for (index, block) in (0..size.blocks()).zip(blocks.iter().cycle()) {
            store
                .put(&info.id, BlockIndex::new(index), block)
                .await
                .unwrap();
        }
        store
            .complete(
                &info.id,
                &Seal {
                    count: size.blocks().into(),
                    checksum: None,
                },
            )
            .await
            .unwrap();
        info.id.to_string()
    })
}
