//! Ways to read: at any offset, in any length, mapped, past the page cache, by many at once.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::thread;

use crate::oracle::{BLOCK, GIB, KIB, MIB, Random, assert_disk, open_direct, padded, sparse};
use crate::world::{Mount, World, finish, limited, run};

/// An image of 24 MiB and some bytes, half of it data, with a partition from sector 63 on.
fn mottled(world: &World, name: &str, seed: u64) -> std::path::PathBuf {
    let path = world.path(name);
    let mut random = Random(seed);
    let islands: Vec<_> = (0..12)
        .map(|n| n * 2 * MIB + random.below(MIB))
        .map(|start| start..start + MIB)
        .collect();
    sparse(&path, 24 * MIB + 321, islands, seed);
    path
}

fn random_reads_are_right(file: &File, image: &Path, start: u64, size: u64, seed: u64) {
    eprintln!("seed {seed}");
    let image = File::open(image).unwrap();
    let mut random = Random(seed);
    for round in 0..400 {
        let near = match random.below(6) {
            0 => size - random.below(MIB).min(size),
            1 => random.below(size / BLOCK) * BLOCK,
            2 => size + random.below(MIB),
            _ => random.below(size.min(25 * MIB)),
        };
        let at = near.saturating_sub(random.below(3));
        let len = match random.below(3) {
            0 => random.below(64),
            1 => random.below(64 * KIB),
            _ => random.below(3 * BLOCK),
        };
        let mut found = vec![0xEE; len as usize];
        let mut got = 0;
        while got < found.len() {
            match file.read_at(&mut found[got..], at + got as u64).unwrap() {
                0 => break,
                n => got += n,
            }
        }
        let expected = len.min(size.saturating_sub(at));
        assert_eq!(
            got as u64, expected,
            "seed {seed}, round {round}: {len} bytes at {at}"
        );
        let expected = padded(&image, start + at..start + at + expected);
        assert!(
            found[..got] == expected,
            "seed {seed}, round {round}: {len} bytes at {at}"
        );
    }
}

#[test]
fn reads_at_any_offset_and_of_any_length_are_right() {
    let Some(world) = World::new() else { return };
    let image = mottled(&world, "image", 21);
    let table = world.path("table");
    fs::write(&table, "label: dos\nstart=63, size=49001, type=83\n").unwrap();
    run(
        "sh",
        [
            "-c",
            &format!("sfdisk -q '{}' <'{}'", image.display(), table.display()),
        ],
    )
    .ok();
    let id = world.import(&image);
    let mount = world.mount(&[&id]);
    let (disk, part) = (mount.disk(&id), mount.part(&id, 1));
    random_reads_are_right(&File::open(&disk).unwrap(), &image, 0, GIB, 1);
    random_reads_are_right(&open_direct(&disk), &image, 0, GIB, 2);
    let (start, size) = (63 * 512, 49001 * 512);
    random_reads_are_right(&File::open(&part).unwrap(), &image, start, size, 3);
    random_reads_are_right(&open_direct(&part), &image, start, size, 4);
}

#[test]
fn a_cache_of_one_mebibyte_serves_the_same_bytes() {
    let Some(world) = World::new() else { return };
    let image = mottled(&world, "image", 22);
    let id = world.import(&image);
    let mount = world.mount_with(&[&id], &["--cache-size", "1M"]);
    random_reads_are_right(&open_direct(&mount.disk(&id)), &image, 0, GIB, 5);
}

#[test]
fn fio_finds_its_checksums_on_random_reads_mapped_or_direct() {
    let Some(world) = World::new() else { return };
    let image = world.path("image");
    let file = |path: &Path| format!("--filename={}", path.display());
    let common = [
        "--name=verify",
        "--bs=16k",
        "--size=32M",
        "--verify=crc32c",
        "--output=/dev/null",
    ];
    let lay = ["--rw=randwrite", "--do_verify=0"];
    let mut fio = limited("fio");
    fio.args(common).args(lay).arg(file(&image));
    // It leaves a file where it stands.
    finish(fio.current_dir(world.dir())).ok();
    let damaged = world.path("damaged");
    fs::copy(&image, &damaged).unwrap();
    let options = File::options().write(true).open(&damaged).unwrap();
    options
        .write_all_at(b"not what was written here", 20 * MIB + 777)
        .unwrap();

    let (good, bad) = (world.import(&image), world.import(&damaged));
    let mount = world.mount(&[&good, &bad]);
    let verify = |id: &str, how: &[&str]| {
        let read = [
            "--readonly",
            "--rw=randread",
            "--verify_fatal=1",
            "--verify_dump=0",
        ];
        let file = file(&mount.disk(id));
        let mut fio = limited("fio");
        fio.args(common).args(read).args(how).arg(file);
        finish(fio.current_dir(world.dir()))
    };
    for how in [
        &["--direct=1"][..],
        &["--ioengine=mmap"],
        &["--bs=3k", "--bs_unaligned", "--verify=0"],
        &["--ioengine=libaio", "--iodepth=16", "--direct=1"],
        &["--numjobs=4", "--group_reporting"],
    ] {
        verify(&good, how).ok();
    }
    // Without this, nothing says that fio looks at all.
    assert_ne!(verify(&bad, &["--direct=1"]).code, Some(0));
}

#[test]
fn ten_snapshots_in_one_mount_are_read_by_many_at_once() {
    let Some(world) = World::new() else { return };
    let images: Vec<_> = (0..10)
        .map(|n| mottled(&world, &format!("image{n}"), 100 + n))
        .collect();
    let ids: Vec<_> = images.iter().map(|image| world.import(image)).collect();
    let refs: Vec<_> = ids.iter().map(String::as_str).collect();
    let mount = world.mount_with(&refs, &["--cache-size", "32M"]);
    assert_eq!(mount.names().len(), 10);
    thread::scope(|scope| {
        for (n, (id, image)) in ids.iter().zip(&images).enumerate() {
            let disk = mount.disk(id);
            scope.spawn(move || {
                let file = open_direct(&disk);
                random_reads_are_right(&file, image, 0, GIB, 200 + n as u64);
            });
        }
    });
    assert_disk(&mount.disk(&ids[9]), &images[9]);
    for id in &ids {
        assert_eq!(mount.count(id, "errors"), 0);
    }
}

#[test]
fn memory_stays_within_the_cache_and_64_mib() {
    let Some(world) = World::new() else { return };
    let image = world.path("image");
    // A counter in every word: no two blocks are equal, and it is quickly made.
    let mut block = Random(7).bytes(BLOCK);
    let file = File::create(&image).unwrap();
    for n in 0..1024_u64 {
        block[..8].copy_from_slice(&n.to_le_bytes());
        file.write_all_at(&block, n * BLOCK).unwrap();
    }
    let id = world.import(&image);
    for cache in [16, 128, 256] {
        let mount = world.mount_with(&[&id], &["--cache-size", &format!("{cache}M")]);
        read_through(&mount.disk(&id), &image);
        assert_eq!(mount.count(&id, "errors"), 0);
        assert!(mount.count(&id, "fetches") >= 1024);
        let most = crate::kernel::memory(mount.pid, "VmHWM");
        eprintln!("cache of {cache} MiB: at most {} MiB", most / MIB);
        assert!(most <= (cache + 64) * MIB, "{} MiB", most / MIB);
        let held = cached_bytes(&mount);
        assert!(held <= cache * MIB, "{held} bytes in the cache");
        world.unmount(&mount);
    }
}

/// Reads 512 MiB with one reader through the page cache, then with eight beside each other past it.
fn read_through(disk: &Path, image: &Path) {
    let bytes = format!("--bytes={}", 512 * MIB);
    run("cmp", [bytes.as_ref(), disk.as_os_str(), image.as_os_str()]).ok();
    thread::scope(|scope| {
        for part in 0..8 {
            let file = open_direct(disk);
            scope.spawn(move || {
                let mut buffer = vec![0; MIB as usize];
                for n in 0..64 {
                    let at = (part * 64 + n) * MIB;
                    file.read_exact_at(&mut buffer, at).unwrap();
                    assert_eq!(buffer[..8], (at / BLOCK).to_le_bytes());
                }
            });
        }
    });
}

fn cached_bytes(mount: &Mount) -> u64 {
    let text = fs::read_to_string(mount.dir.join(".ebsfs/stats.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    json["cache"]["bytes"].as_u64().unwrap()
}
