//! A disk and its partitions are views of the same bytes: what was synced through one is seen through the others.

use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, fallocate};

use crate::devices::{Loop, Mounted as Inner};
use crate::oracle::{MIB, Random};
use crate::ram_disk::{Mounted, SIZE, open, sync};
use crate::world::{World, finish, limited, run, umount};

fn read(file: &File, range: Range<u64>) -> Vec<u8> {
    let mut bytes = vec![0xEE; (range.end - range.start) as usize];
    file.read_exact_at(&mut bytes, range.start).unwrap();
    bytes
}

#[test]
fn what_was_synced_through_one_view_is_seen_through_the_other() {
    let Some(world) = World::new() else { return };
    for (n, partition) in [MIB..31 * MIB, 63 * 512..SIZE - 512]
        .into_iter()
        .enumerate()
    {
        let world = if n == 0 {
            &world
        } else {
            &World::new().unwrap()
        };
        let mount = Mounted::with(world, SIZE, partition.clone(), true);
        let (whole, part) = (open(&mount.whole), open(&mount.part));
        let size = partition.end - partition.start;
        let mut random = Random(n as u64);
        for round in 0..60 {
            // Both caches hold all of it.
            let (all, all_part) = (read(&whole, 0..SIZE), read(&part, 0..size));
            let inside = partition.start as usize..partition.end as usize;
            assert!(all[inside] == all_part, "before round {round}");
            let mut written = Vec::new();
            for _ in 0..=random.below(4) {
                let start = random.below(size - MIB);
                let len = 1 + random.below(if round % 2 == 0 { 600 } else { MIB });
                written.push(start..start + len);
            }
            let forth = random.below(2) == 0;
            let (from, shift) = if forth {
                (&part, 0)
            } else {
                (&whole, partition.start)
            };
            for range in &written {
                let (start, len) = (shift + range.start, range.end - range.start);
                if random.below(4) == 0 {
                    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                    fallocate(from, punch, start, len).unwrap();
                } else {
                    from.write_all_at(&random.bytes(len), start).unwrap();
                }
            }
            sync(from).unwrap();
            for range in written {
                let on_disk = partition.start + range.start..partition.start + range.end;
                let expected = mount.disk.bytes(on_disk.clone());
                assert!(
                    read(&whole, on_disk) == expected,
                    "round {round}: whole disk"
                );
                assert!(read(&part, range) == expected, "round {round}: partition");
            }
        }
    }
}

#[test]
fn more_scattered_writes_than_are_kept_apart_are_all_seen() {
    let Some(world) = World::new() else { return };
    let mount = Mounted::new(&world);
    let (whole, part) = (open(&mount.whole), open(&mount.part));
    read(&whole, 0..SIZE);
    for n in 0..3000 {
        part.write_all_at(b"x", n * 8192).unwrap();
    }
    sync(&part).unwrap();
    assert!(read(&whole, 0..SIZE) == mount.disk.bytes(0..SIZE));
}

#[test]
fn what_was_written_outside_a_view_stays_in_its_cache() {
    let Some(world) = World::new() else { return };
    let mount = Mounted::new(&world);
    let (whole, part) = (open(&mount.whole), open(&mount.part));
    read(&part, 0..MIB);
    // What nobody told the kernel of can only be seen if it forgets.
    let write_below = |offset: u64, bytes: &[u8]| {
        ebsfs::read_at::WriteAt::write_at(&*mount.disk, offset, bytes).unwrap();
    };
    write_below(mount.partition.start + 8192, b"below");
    whole.write_all_at(b"x", 4096).unwrap();
    whole
        .write_all_at(b"x", mount.partition.start + 16384)
        .unwrap();
    sync(&whole).unwrap();
    assert_eq!(read(&part, 8192..8197), [0; 5], "it was not touched");
    assert_eq!(read(&part, 16384..16385), b"x");
    whole
        .write_all_at(b"x", mount.partition.start + 8200)
        .unwrap();
    sync(&whole).unwrap();
    assert_eq!(read(&part, 8192..8197), b"below");
}

/// Mapped pages that are dirty must be written back before they can be dropped, by the daemon that waits.
#[test]
fn writers_readers_and_syncs_of_both_views_never_wait_for_each_other() {
    let Some(world) = World::new() else { return };
    let mount = Mounted::new(&world);
    mount.disk.reluctant.store(true, Ordering::Relaxed);
    let (end, rounds) = (AtomicBool::new(false), AtomicU64::new(0));
    let fio = |file: &Path, name: &str| {
        let mut fio = limited("fio");
        fio.args(["--rw=randrw", "--bs=16k", "--size=24M", "--ioengine=mmap"])
            .args([
                "--time_based",
                "--runtime=6",
                "--fsync=5",
                "--output=/dev/null",
            ])
            .args(["--allow_file_create=0", &format!("--name={name}")])
            .arg(format!("--filename={}", file.display()));
        finish(fio.current_dir(world.dir()))
    };
    thread::scope(|scope| {
        for (n, path) in [&mount.whole, &mount.part, &mount.whole, &mount.part]
            .into_iter()
            .enumerate()
        {
            let (end, rounds) = (&end, &rounds);
            scope.spawn(move || {
                let (file, mut random) = (open(path), Random(n as u64));
                while !end.load(Ordering::Relaxed) {
                    let at = MIB + random.below(24 * MIB);
                    let len = 1 + random.below(200_000);
                    if random.below(2) == 0 {
                        file.write_all_at(&random.bytes(len), at).unwrap();
                        sync(&file).unwrap();
                    } else {
                        read(&file, at..at + len);
                    }
                    rounds.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let mapped = scope.spawn(|| fio(&mount.part, "part"));
        let begin = Instant::now();
        fio(&mount.whole, "whole").ok();
        mapped.join().unwrap().ok();
        assert!(begin.elapsed() < Duration::from_secs(40));
        end.store(true, Ordering::Relaxed);
    });
    let rounds = rounds.into_inner();
    assert!(rounds > 500, "{rounds} rounds");
    // Both see the same in the end.
    let (whole, part) = (open(&mount.whole), open(&mount.part));
    for file in [&whole, &part, &whole] {
        sync(file).unwrap();
    }
    assert!(read(&part, 0..24 * MIB) == read(&whole, MIB..25 * MIB));
}

#[test]
fn a_file_system_is_made_filled_trimmed_and_sound_through_both_views() {
    let Some(world) = World::for_root() else {
        return;
    };
    const DISK: u64 = 128 * MIB;
    let partition = MIB..DISK - MIB;
    let mount = Mounted::with(&world, DISK, partition.clone(), true);
    // The whole disk's cache holds what was there before.
    let whole = open(&mount.whole);
    read(&whole, 0..DISK);
    let device = Loop::over(&mount.part);
    run("mkfs.ext4", ["-q", device.path()]).ok();
    let at = world.path("inner");
    let inner = Inner::device(device, &at);
    let mut random = Random(5);
    for n in 0..400 {
        let dir = at.join(format!("d{}", n % 20));
        fs::create_dir_all(&dir).unwrap();
        let bytes = random.below(200_000);
        fs::write(dir.join(format!("f{n}")), random.bytes(bytes)).unwrap();
    }
    let sums = |at: &Path| {
        let mut sums = limited("sh");
        sums.args([
            "-c",
            "find . -type f -print0 | sort -z | xargs -0 sha256sum",
        ]);
        finish(sums.current_dir(at)).ok()
    };
    let before = sums(&at);
    assert_eq!(before.lines().count(), 400);
    // What is removed before it reached the disk leaves nothing to trim.
    run("sync", ["-f".as_ref(), at.as_os_str()]).ok();
    for n in 0..10 {
        fs::remove_dir_all(at.join(format!("d{n}"))).unwrap();
    }
    run("sync", ["-f".as_ref(), at.as_os_str()]).ok();
    let pages = mount.disk.pages();
    run("fstrim", [&at]).ok();
    assert!(mount.disk.pages() < pages - 3000, "discards give room back");
    drop(inner);
    run("e2fsck", ["-fn".as_ref(), mount.part.as_os_str()]).ok();
    let through_whole = format!("{}?offset={MIB}", mount.whole.display());
    run("e2fsck", ["-fn", &through_whole]).ok();
    assert!(read(&whole, 0..DISK) == mount.disk.bytes(0..DISK));

    // Mounted again through the other view, every file is what it was.
    let again = world.empty("again");
    let options = format!("loop,offset={MIB}");
    let args = [
        "-o".as_ref(),
        options.as_ref(),
        mount.whole.as_os_str(),
        again.as_os_str(),
    ];
    run("mount", args).ok();
    let left: String = before
        .lines()
        .filter(|line| line.contains("./d1") && !line.contains("./d1/"))
        .map(|line| format!("{line}\n"))
        .collect();
    assert_eq!(left.lines().count(), 200);
    assert!(sums(&again) == left);
    umount(&again);
}
