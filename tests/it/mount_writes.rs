//! Writes to mounted files: what is written is read, in every way to write and to read; what a block device
//! refuses is refused.

use std::fs::{self, File, FileTimes, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, SystemTime};

use ebsfs::error::ErrorKind;
use ebsfs::read_at::WriteAt as _;
use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};
use rustix::io::Errno;

use crate::oracle::{KIB, MIB, Random, data_of};
use crate::ram_disk::{Mounted, SIZE, open, open_direct, sync};
use crate::world::{World, eventually, finish, is_root, limited, run};

const PUNCH: FallocateFlags = FallocateFlags::PUNCH_HOLE.union(FallocateFlags::KEEP_SIZE);

#[track_caller]
fn refused<T>(errno: Errno, result: io::Result<T>) {
    let code = result.err().and_then(|e| e.raw_os_error());
    assert_eq!(code, Some(errno.raw_os_error()));
}

/// Random operations on `path`, with a page cache and past it, held against `model`.
fn operate(path: &Path, model: &mut [u8], rounds: u64, seed: u64) {
    eprintln!("seed {seed}");
    let files = [open(path), open_direct(path)];
    let mut random = Random(seed);
    let size = model.len() as u64;
    for round in 0..rounds {
        let file = &files[random.below(2) as usize];
        let start = match random.below(4) {
            0 => random.below(size / 4096) * 4096,
            1 => size - random.below(size.min(MIB)) - 1,
            _ => random.below(size),
        };
        let len = match random.below(4) {
            0 => 4096 << random.below(4),
            1 => random.below(1200 * KIB),
            _ => random.below(9000),
        };
        let end = (start + len.max(1)).min(size);
        let range = start as usize..end as usize;
        match random.below(10) {
            0..4 => {
                let bytes = random.bytes(end - start);
                file.write_all_at(&bytes, start).unwrap();
                model[range].copy_from_slice(&bytes);
            }
            4..8 => {
                let mut found = vec![0xEE; range.len()];
                file.read_exact_at(&mut found, start).unwrap();
                assert!(found == model[range.clone()], "round {round}: {range:?}");
            }
            8 => {
                let how = [
                    PUNCH,
                    FallocateFlags::ZERO_RANGE,
                    FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE,
                ];
                let how = how[random.below(3) as usize];
                fallocate(file, how, start, end - start).unwrap();
                model[range].fill(0);
            }
            _ => sync(file).unwrap(),
        }
    }
    // What comes next may use another view.
    sync(&files[0]).unwrap();
    let mut found = vec![0; model.len()];
    files[0].read_exact_at(&mut found, 0).unwrap();
    assert!(found == *model, "what the page cache holds in the end");
}

#[test]
fn whatever_is_written_is_read_through_the_cache_and_past_it() {
    let Some(world) = World::new() else { return };
    // A partition that begins and ends within a page.
    let mount = Mounted::with(&world, SIZE, 63 * 512..SIZE - 512, true);
    for (reluctant, seed) in [(false, 1), (true, 2)] {
        mount.disk.reluctant.store(reluctant, Ordering::Relaxed);
        let mut model = mount.disk.bytes(mount.partition.clone());
        operate(&mount.part, &mut model, 500, seed);
        assert!(mount.disk.bytes(mount.partition.clone()) == model);
        let mut model = mount.disk.bytes(0..SIZE);
        operate(&mount.whole, &mut model, 500, seed + 10);
        assert!(mount.disk.bytes(0..SIZE) == model);
    }
}

#[test]
fn fio_finds_its_checksums_in_what_it_wrote_mapped_direct_or_by_many() {
    let Some(world) = World::new() else { return };
    let mount = Mounted::new(&world);
    for (file, how) in [
        (&mount.part, &["--ioengine=mmap"][..]),
        (&mount.whole, &["--ioengine=mmap", "--bs=64k", "--fsync=7"]),
        (
            &mount.part,
            &["--ioengine=libaio", "--iodepth=16", "--direct=1"],
        ),
        (&mount.whole, &["--bs=3k", "--bs_unaligned", "--fsync=50"]),
    ] {
        let mut fio = limited("fio");
        fio.args(["--name=verify", "--rw=randwrite", "--bs=4k", "--size=16M"])
            .args(["--verify=crc32c", "--verify_fatal=1", "--verify_dump=0"])
            .args(["--output=/dev/null", "--allow_file_create=0"])
            .args(how)
            .arg(format!("--filename={}", file.display()));
        // It leaves a file where it stands.
        finish(fio.current_dir(world.dir())).ok();
    }
}

#[test]
fn a_mapping_and_a_file_show_the_same() {
    let Some(world) = World::new() else { return };
    let mount = Mounted::new(&world);
    let script = "
import mmap, os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
with mmap.mmap(fd, 1 << 20) as mapped:
    assert mapped[5000:5005] == bytes(5)
    os.pwrite(fd, b'write', 5000)
    assert mapped[5000:5005] == b'write'
    mapped[5002:5007] = b'mapped'[:5]
    assert os.pread(fd, 7, 5000) == b'wrmappe'
    direct = os.open(sys.argv[1], os.O_RDWR | os.O_DIRECT)
    page = mmap.mmap(-1, 4096)
    page.write(b'direct'.ljust(4096, b'.'))
    os.pwrite(direct, page, 8192)
    assert mapped[8192:8198] == b'direct'
    mapped.flush()
";
    run(
        "python3",
        ["-c".as_ref(), script.as_ref(), mount.part.as_os_str()],
    )
    .ok();
    let start = mount.partition.start;
    assert_eq!(mount.disk.bytes(start + 5000..start + 5007), b"wrmappe");
    assert_eq!(mount.disk.bytes(start + 8192..start + 8198), b"direct");
    assert!(mount.disk.is_durable(), "msync is a sync");
}

#[test]
fn holes_are_punched_and_found() {
    let Some(world) = World::new() else { return };
    let mount = Mounted::new(&world);
    let file = open(&mount.part);
    assert_eq!(data_of(&file), []);
    file.write_all_at(&[7; 1 << 20], MIB).unwrap();
    assert_eq!(data_of(&file), std::slice::from_ref(&(MIB..2 * MIB)));
    assert_eq!(file.metadata().unwrap().blocks(), MIB / 512);
    let tool = |args: &[&str]| {
        let file = mount.part.to_str().unwrap();
        run("fallocate", [args, &[file]].concat()).ok();
    };
    tool(&["-p", "-o", "1114112", "-l", "65536"]);
    tool(&["-z", "-n", "-o", "1310720", "-l", "65536"]);
    tool(&["-z", "-o", "1966080", "-l", "65536"]);
    let edge = MIB + 64 * KIB;
    let expected = [
        MIB..edge,
        edge + 64 * KIB..MIB + 256 * KIB,
        MIB + 320 * KIB..2 * MIB - 128 * KIB,
    ];
    let last = 2 * MIB - 64 * KIB..2 * MIB;
    assert_eq!(data_of(&file)[..2], expected[..2]);
    assert_eq!(data_of(&file)[2].start, expected[2].start);
    assert_eq!(seek(&file, SeekFrom::Hole(last.end - 1)), Ok(last.end));
    // Through the whole disk they lie behind the partition's start.
    let whole = File::open(&mount.whole).unwrap();
    let start = mount.partition.start;
    assert_eq!(seek(&whole, SeekFrom::Hole(start + MIB)), Ok(start + edge));
    // What reaches past the end is cut there, as on a block device, unless the file would have to grow.
    let size = file.metadata().unwrap().len();
    fallocate(&file, PUNCH, size - 4096, MIB).unwrap();
    let grown = fallocate(&file, FallocateFlags::ZERO_RANGE, size - 4096, MIB);
    assert_eq!(grown, Err(Errno::INVAL));
    assert_eq!(fallocate(&file, PUNCH, size, 4096), Err(Errno::INVAL));
    for plain in [FallocateFlags::empty(), FallocateFlags::KEEP_SIZE] {
        let set_aside = fallocate(&file, plain, 0, 4096);
        assert_eq!(set_aside, Err(Errno::OPNOTSUPP));
    }
}

#[test]
fn a_file_keeps_its_size_its_mode_and_its_name() {
    let Some(world) = World::new() else { return };
    let mount = Mounted::new(&world);
    let file = open(&mount.part);
    let meta = file.metadata().unwrap();
    assert_eq!(meta.mode() & 0o7777, 0o600);
    let size = meta.len();
    refused(Errno::INVAL, file.set_len(size - 1));
    refused(Errno::INVAL, file.set_len(size + 1));
    refused(Errno::INVAL, File::create(&mount.part));
    file.set_len(size).unwrap();
    file.set_times(FileTimes::new().set_modified(SystemTime::UNIX_EPOCH))
        .unwrap();
    assert_eq!(
        rustix::fs::chmod(&mount.part, 0o666.into()),
        Err(Errno::PERM)
    );
    if is_root() {
        let chown = std::os::unix::fs::chown(&mount.part, Some(1), None);
        refused(Errno::PERM, chown);
    }
    assert_eq!(file.metadata().unwrap().len(), size);

    // What there is does not change. Without root the modes say so already.
    let new = mount.dir.join("new");
    if is_root() {
        refused(Errno::ROFS, File::create(&new));
        refused(Errno::ROFS, fs::create_dir(&new));
        refused(Errno::ROFS, fs::remove_file(&mount.part));
        refused(Errno::ROFS, fs::remove_dir(mount.dir.join(".ebsfs")));
        let moved = run("mv", [&mount.part, &new]);
        assert!(moved.err.contains("Read-only file system"), "{moved:?}");
        refused(Errno::ROFS, fs::hard_link(&mount.part, &new));
        refused(Errno::ROFS, std::os::unix::fs::symlink("x", &new));
    }
}

#[test]
fn past_the_end_is_no_space() {
    let Some(world) = World::new() else { return };
    let mount = Mounted::with(&world, SIZE, 63 * 512..SIZE - 512, true);
    let size = mount.partition.end - mount.partition.start;
    for (file, is_direct) in [(open(&mount.part), false), (open_direct(&mount.part), true)] {
        let across = file.write_at(&[1; 8192], size - 512);
        if is_direct {
            // The kernel makes an error of it when less is written than was sent past its cache.
            refused(Errno::IO, across);
        } else {
            assert_eq!(across.unwrap(), 512);
        }
        refused(Errno::NOSPC, file.write_at(&[1; 4096], size));
        refused(Errno::NOSPC, file.write_at(&[1; 4096], size + MIB));
        assert_eq!(file.metadata().unwrap().len(), size);
        let mut end = [0; 1024];
        assert_eq!(file.read_at(&mut end, size - 512).unwrap(), 512);
        assert_eq!(end[..512], [1; 512]);
    }
    let behind = mount.disk.bytes(mount.partition.end..SIZE);
    assert_eq!(behind, [0; 512], "bytes of the disk behind the partition");
    let appended = OpenOptions::new().append(true).open(&mount.part).unwrap();
    refused(Errno::NOSPC, io::Write::write(&mut &appended, b"x"));
}

#[test]
fn a_write_that_fails_says_why_and_leaves_what_was_there() {
    let Some(world) = World::new() else { return };
    let mount = Mounted::new(&world);
    let file = open(&mount.part);
    file.write_all_at(&[1; 4096], 0).unwrap();
    for reluctant in [false, true] {
        mount.disk.reluctant.store(reluctant, Ordering::Relaxed);
        for (kind, errno) in [
            (ErrorKind::NoSpace, Errno::NOSPC),
            (ErrorKind::ReadOnly, Errno::ROFS),
            (ErrorKind::Unavailable, Errno::IO),
            (ErrorKind::Io, Errno::IO),
        ] {
            mount.disk.fail_write(kind);
            refused(errno, file.write_at(&[2; 4096], 0));
            mount.disk.fail_write(kind);
            let punched = fallocate(&file, PUNCH, 0, 4096);
            assert_eq!(punched, Err(errno));
            let mut found = [0; 4096];
            file.read_exact_at(&mut found, 0).unwrap();
            assert_eq!(found, [1; 4096]);
            // Whatever a sync fails with, it is the disk that failed.
            mount.disk.fail_sync(kind);
            refused(Errno::IO, sync(&file));
        }
    }
    file.write_all_at(&[3; 4096], 0).unwrap();
    sync(&file).unwrap();
}

#[test]
fn a_write_that_waits_holds_up_no_other() {
    let Some(world) = World::new() else { return };
    let mount = Mounted::new(&world);
    let (file, whole) = (open(&mount.part), open(&mount.whole));
    mount.disk.hold(Some(0..8 * MIB));
    thread::scope(|scope| {
        let writing = scope.spawn(|| whole.write_all_at(&[7; 4096], 4096));
        // More of them than there are threads in the pool.
        let reading: Vec<_> = (2..30)
            .map(|n| {
                let file = open_direct(&mount.whole);
                scope.spawn(move || file.read_exact_at(&mut [0; 4096], 4096 * n))
            })
            .collect();
        for n in 8..16 {
            file.write_all_at(&[9; 4096], n * MIB).unwrap();
            let mut found = [0; 4096];
            file.read_exact_at(&mut found, n * MIB).unwrap();
            assert_eq!(found, [9; 4096]);
            sync(&file).unwrap();
        }
        assert!(!writing.is_finished() && !reading.iter().any(|thread| thread.is_finished()));
        mount.disk.hold(None);
        for thread in reading {
            thread.join().unwrap().unwrap();
        }
        writing.join().unwrap().unwrap();
    });
    assert_eq!(mount.disk.bytes(4096..8192), [7; 4096]);
}

#[test]
fn the_time_of_a_file_is_that_of_its_last_write() {
    let Some(world) = World::new() else { return };
    let mount = Mounted::new(&world);
    let (part, whole) = (open(&mount.part), open(&mount.whole));
    let modified = |file: &File| file.metadata().unwrap().modified().unwrap();
    let before = modified(&whole);
    part.read_exact_at(&mut [0; 512], 0).unwrap();
    assert_eq!(modified(&part), before);
    let mut last = before;
    for write in [&|| part.write_all_at(b"x", 0), &|| {
        Ok(fallocate(&part, PUNCH, 0, 4096)?)
    }] as [&dyn Fn() -> io::Result<()>; 2]
    {
        thread::sleep(Duration::from_millis(5));
        let now = SystemTime::now();
        write().unwrap();
        let then = modified(&part);
        assert!(
            then > last && then >= now && then <= SystemTime::now(),
            "{then:?}"
        );
        last = then;
    }
    assert_eq!(modified(&whole), before);
}

#[test]
fn what_nobody_syncs_is_synced_soon_and_only_then() {
    let Some(world) = World::new() else { return };
    let mount = Mounted::new(&world);
    let syncs = || mount.disk.syncs.load(Ordering::Relaxed);
    let before = syncs();
    let file = open(&mount.part);
    file.write_all_at(b"x", 0).unwrap();
    assert!(!mount.disk.is_durable());
    eventually("it is synced", || mount.disk.is_durable().then_some(()));
    assert_eq!(syncs(), before + 1);
    thread::sleep(Duration::from_secs(6));
    assert_eq!(syncs(), before + 1, "nothing was written meanwhile");
}

#[test]
fn what_was_written_is_synced_when_the_mount_ends() {
    let Some(world) = World::new() else { return };
    let mount = Mounted::new(&world);
    let file = open(&mount.part);
    file.write_all_at(b"x", 0).unwrap();
    drop(file);
    assert!(!mount.disk.is_durable());
    mount.unmount();
    // The session's end is told to nobody who unmounts.
    let begin = SystemTime::now();
    eventually("it is synced", || mount.disk.is_durable().then_some(()));
    assert!(
        begin.elapsed().unwrap() < Duration::from_secs(2),
        "by the end"
    );
}

#[test]
fn the_catalog_syncs_what_was_written() {
    let Some(world) = World::new() else { return };
    let mount = Mounted::new(&world);
    open(&mount.part).write_all_at(b"x", 0).unwrap();
    mount.catalog.sync().unwrap();
    assert!(mount.disk.is_durable());
    mount.disk.fail_sync(ErrorKind::NoSpace);
    let kind = mount.catalog.sync().map_err(|e| e.kind());
    assert_eq!(kind, Err(ErrorKind::NoSpace));
}

#[test]
fn a_mount_without_writable_files_is_read_only() {
    let Some(world) = World::new() else { return };
    let mount = Mounted::with(&world, SIZE, 1 << 20..SIZE, false);
    assert!(!mount.catalog.is_writable());
    for path in [&mount.whole, &mount.part] {
        let opened = OpenOptions::new().write(true).open(path);
        refused(Errno::ROFS, opened);
        assert_eq!(fs::metadata(path).unwrap().mode() & 0o7777, 0o400);
        sync(&File::open(path).unwrap()).unwrap();
    }
    let options = |at: &Path| {
        run(
            "findmnt",
            ["-no".as_ref(), "OPTIONS".as_ref(), at.as_os_str()],
        )
    };
    let options = options(&mount.dir).ok();
    for option in ["ro,", "nosuid", "nodev", "noexec", "noatime"] {
        assert!(options.contains(option), "{options}");
    }
}

#[test]
fn a_writable_mount_is_as_guarded_as_another() {
    let Some(world) = World::new() else { return };
    ebsfs::fuse::become_io_flusher();
    let mount = Mounted::new(&world);
    let args = ["-no".as_ref(), "OPTIONS".as_ref(), mount.dir.as_os_str()];
    let options = run("findmnt", args).ok();
    for option in [
        "rw,",
        "nosuid",
        "nodev",
        "noexec",
        "noatime",
        "default_permissions",
    ] {
        assert!(options.contains(option), "{options}");
    }
    // Threads that write must find memory without writing, if that is permitted.
    if let Err(e) = rustix::process::configure_io_flusher_behavior(true) {
        eprintln!("SKIPPED in part: no thread may become an I/O flusher: {e}");
        return;
    }
    const MEMALLOC_NOIO: u64 = 0x8_0000;
    let mut seen = 0;
    for task in fs::read_dir("/proc/self/task").unwrap().flatten() {
        let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        if stat.contains("(fuse-flush)") {
            let after = stat.rsplit(") ").next().unwrap();
            let flags: u64 = after.split(' ').nth(6).unwrap().parse().unwrap();
            assert!(flags & MEMALLOC_NOIO != 0, "{stat}");
            seen += 1;
        }
    }
    assert!(seen > 0);
}

#[test]
fn a_slice_of_a_disk_writes_only_within() {
    let disk = crate::ram_disk::RamDisk::new(SIZE, &(1 << 20..2 << 20));
    let slice = ebsfs::partition::Slice::new(std::sync::Arc::clone(&disk), 1000..6000).unwrap();
    slice.write_at(0, &[1; 5000]).unwrap();
    slice.zero(10..20).unwrap();
    assert!(slice.try_write_at(4999, &[2]).unwrap());
    let mut expected = vec![1; 5000];
    expected[10..20].fill(0);
    expected[4999] = 2;
    assert_eq!(disk.bytes(1000..6000), expected);
    let invalid = |result: ebsfs::error::Result<()>| {
        assert_eq!(result.map_err(|e| e.kind()), Err(ErrorKind::Invalid));
    };
    for offset in [4999, 5000, u64::MAX - 1, u64::MAX] {
        invalid(slice.write_at(offset, &[3; 2]));
        invalid(slice.try_write_at(offset, &[3; 2]).map(drop));
        invalid(slice.zero(offset..offset.saturating_add(2).max(5001)));
    }
    #[allow(clippy::reversed_empty_ranges)]
    invalid(slice.zero(9..8));
    invalid(slice.zero(0..u64::MAX));
    assert_eq!(disk.bytes(1000..6000), expected);
    assert_eq!(disk.bytes(6000..8000), [0; 2000]);
}
