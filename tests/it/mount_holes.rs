//! Holes: found where they are, on disks and on partitions, so that copies stay sparse.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Instant;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use crate::images::assert_volume;
use crate::oracle::{
    BLOCK, GIB, KIB, MIB, assert_holds, data_of, expected_data, fixture, random_block, read_direct,
    snapshot, sparse,
};
use crate::world::{World, run};

/// An image with a partition from sector 63 to the last but one byte of a sector in a block, and data on both
/// sides of its ends. It has holes, runs of blocks, and ends in a hole.
fn islands(path: &Path) -> std::ops::Range<u64> {
    let data = [
        3 * BLOCK - 5..3 * BLOCK + 5,
        20 * BLOCK..21 * BLOCK,
        40 * BLOCK + 17..43 * BLOCK,
        60 * BLOCK + 100..60 * BLOCK + 101,
        127 * BLOCK + 9..127 * BLOCK + 10,
    ];
    sparse(path, 128 * MIB, data, 11);
    let (start, sectors) = (63, 123_457);
    let table = format!("label: dos\nstart={start}, size={sectors}, type=83\n");
    let script = path.with_extension("table");
    fs::write(&script, table).unwrap();
    let command = format!(
        "sfdisk -q --no-reread --no-tell-kernel '{}' <'{}'",
        path.display(),
        script.display()
    );
    run("sh", ["-c", &command]).ok();
    start * 512..(start + sectors) * 512
}

#[test]
fn seeks_find_exactly_the_blocks_with_data_on_disk_and_partition() {
    let Some(world) = World::new() else { return };
    let image = world.path("image");
    let partition = islands(&image);
    let id = world.import(&image);
    let mount = world.mount(&[&id]);
    for (path, range) in [(mount.disk(&id), 0..GIB), (mount.part(&id, 1), partition)] {
        let file = File::open(&path).unwrap();
        let expected = expected_data(&image, range.clone());
        assert!(expected.len() >= 4, "{expected:?}");
        assert_eq!(data_of(&file), expected, "{}", path.display());
        // From every place around an edge the answer is the same.
        let size = range.end - range.start;
        for edge in expected.iter().flat_map(|run| [run.start, run.end]) {
            for at in [edge.saturating_sub(1), edge, edge + 1, edge + 4096] {
                let inside = expected.iter().find(|run| run.contains(&at));
                let after = expected.iter().find(|run| run.start > at);
                let data = match (inside, after) {
                    _ if at >= size => Err(Errno::NXIO),
                    (Some(_), _) => Ok(at),
                    (None, Some(run)) => Ok(run.start),
                    (None, None) => Err(Errno::NXIO),
                };
                assert_eq!(seek(&file, SeekFrom::Data(at)), data, "data from {at}");
                let hole = match inside {
                    _ if at >= size => Err(Errno::NXIO),
                    Some(run) => Ok(run.end),
                    None => Ok(at),
                };
                assert_eq!(seek(&file, SeekFrom::Hole(at)), hole, "hole from {at}");
            }
        }
        assert_eq!(seek(&file, SeekFrom::Data(size)), Err(Errno::NXIO));
        assert_eq!(seek(&file, SeekFrom::Hole(size)), Err(Errno::NXIO));
    }
}

#[test]
fn no_byte_of_a_file_system_lies_in_a_hole() {
    let Some(world) = World::new() else { return };
    for (kind, number) in [("mbr63", 1), ("logical", 5)] {
        let image = &fixture(kind).image;
        let id = world.import(image);
        let mount = world.mount(&[&id]);
        let disk = File::open(mount.disk(&id)).unwrap();
        let expected = expected_data(image, 0..GIB);
        assert!(!expected.is_empty());
        assert_eq!(data_of(&disk), expected, "{kind}");
        let part = File::open(mount.part(&id, number)).unwrap();
        let start = match kind {
            "mbr63" => 63 * 512,
            _ => 102_400 * 512,
        };
        let range = start..start + part.metadata().unwrap().len();
        assert_eq!(data_of(&part), expected_data(image, range), "{kind}");
    }
}

/// Kibibytes that a file takes on disk.
fn taken(path: &Path) -> u64 {
    fs::metadata(path).unwrap().blocks() * 512 / KIB
}

#[test]
fn copies_by_cp_tar_and_qemu_img_are_equal_and_sparse() {
    let Some(world) = World::new() else { return };
    let image = world.path("image");
    let partition = islands(&image);
    let id = world.import(&image);
    let mount = world.mount(&[&id]);
    let (disk, part) = (mount.disk(&id), mount.part(&id, 1));

    let copy = world.path("copy");
    let paths = |flag: &'static str, from: &Path, to: &Path| {
        [
            flag.into(),
            from.as_os_str().to_owned(),
            to.as_os_str().to_owned(),
        ]
    };
    run("cp", paths("--sparse=auto", &disk, &copy)).ok();
    assert!(taken(&copy) < 16 * 1024, "cp: {} KiB", taken(&copy));
    assert_volume(&copy, &image);
    run("cp", paths("--sparse=auto", &part, &copy)).ok();
    assert!(taken(&copy) < 16 * 1024, "cp: {} KiB", taken(&copy));
    assert_holds(&copy, &image, partition);

    let archive = world.path("archive.tar");
    let name = disk.file_name().unwrap();
    let args = [
        OsStr::new("-S"),
        OsStr::new("-C"),
        mount.dir.as_os_str(),
        OsStr::new("-cf"),
        archive.as_os_str(),
        name,
    ];
    run("tar", args).ok();
    let archived = fs::metadata(&archive).unwrap().len();
    assert!(archived < 16 * MIB, "tar: {archived} bytes");
    let unpacked = world.empty("unpacked");
    run(
        "tar",
        [
            OsStr::new("-C"),
            unpacked.as_os_str(),
            OsStr::new("-xf"),
            archive.as_os_str(),
        ],
    )
    .ok();
    assert_volume(&unpacked.join(name), &image);

    let args = ["compare", "-f", "raw", "-F", "raw"].map(OsStr::new);
    run(
        "qemu-img",
        [&args[..], &[disk.as_os_str(), image.as_os_str()]].concat(),
    )
    .ok();
    let different = run(
        "qemu-img",
        [&args[..], &[disk.as_os_str(), part.as_os_str()]].concat(),
    );
    assert_eq!(
        different.code,
        Some(1),
        "qemu-img sees a difference: {different:?}"
    );
    let converted = world.path("converted");
    let args = ["convert", "-f", "raw", "-O", "raw"].map(OsStr::new);
    run(
        "qemu-img",
        [&args[..], &[disk.as_os_str(), converted.as_os_str()]].concat(),
    )
    .ok();
    assert!(
        taken(&converted) < 16 * 1024,
        "qemu-img: {} KiB",
        taken(&converted)
    );
    assert_volume(&converted, &image);
}

#[test]
fn a_snapshot_of_64_tib_is_quick_and_small() {
    let Some(world) = World::new() else { return };
    let last = (1 << 27) - 1;
    let indexes = [0, 1 << 26, last];
    let blocks = indexes.map(|index| (index, random_block(u64::from(index))));
    let id = snapshot(&world, 65536, blocks.clone());
    let start = Instant::now();
    let mount = world.mount(&[&id]);
    let path = mount.disk(&id);
    let meta = fs::metadata(&path).unwrap();
    assert_eq!(meta.len(), 65536 * GIB);
    assert!(meta.blocks() >= 1, "no blocks");
    for (index, bytes) in &blocks {
        let at = u64::from(*index) * BLOCK;
        assert!(
            read_direct(&path, at, BLOCK).unwrap() == *bytes,
            "block {index}"
        );
    }
    let file = File::open(&path).unwrap();
    let expected = indexes.map(|index| u64::from(index) * BLOCK..u64::from(index + 1) * BLOCK);
    assert_eq!(data_of(&file), expected);
    assert!(
        read_direct(&path, 12_345 * GIB, BLOCK)
            .unwrap()
            .iter()
            .all(|byte| *byte == 0)
    );
    let sectors = fs::metadata(&path).unwrap().blocks();
    assert!(
        (1..=3 * BLOCK / 512).contains(&sectors),
        "{sectors} sectors"
    );
    let took = start.elapsed();
    assert!(took.as_secs() < 10, "{took:?}");
    let rss = crate::kernel::memory(mount.pid, "VmHWM");
    assert!(rss < 64 * MIB, "{rss} bytes");
}

#[test]
fn a_large_snapshot_with_data_all_over_is_listed_window_by_window() {
    let Some(world) = World::new() else { return };
    // One block in each of 2000 segments of 2 GiB: more than one page of a listing.
    let bytes = random_block(1);
    let indexes: Vec<u32> = (0..2000).map(|n| n * 4096 + n).collect();
    let id = snapshot(
        &world,
        4000,
        indexes.iter().map(|index| (*index, bytes.clone())),
    );
    let mount = world.mount(&[&id]);
    let path = mount.disk(&id);
    let blocks = fs::metadata(&path).unwrap().blocks();
    assert!((1..4000 * GIB / 512).contains(&blocks), "{blocks}");
    let file = File::open(&path).unwrap();
    // At the edge of a window data may be claimed where none is, but none may be left out.
    let found = data_of(&file);
    for index in &indexes {
        let at = u64::from(*index) * BLOCK;
        assert!(
            found
                .iter()
                .any(|run| run.start <= at && at + BLOCK <= run.end),
            "block {index}"
        );
    }
    let claimed: u64 = found.iter().map(|run| run.end - run.start).sum();
    assert!(claimed < 4000 * BLOCK, "{claimed} bytes of data");
    for index in [0, 4097, indexes[1999]] {
        let at = u64::from(index) * BLOCK;
        assert!(read_direct(&path, at, BLOCK).unwrap() == bytes);
    }
}
