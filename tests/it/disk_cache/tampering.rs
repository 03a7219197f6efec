//! Whatever a hand, a crash or a failing disk does to the files: the bytes are right, it is counted, and it heals.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use ebsfs::durable::place;

use super::{BLOCKS, READ, Rig};

/// Flips a bit of the byte at `at`.
fn flip(path: &Path, at: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    byte[0] ^= 0x10;
    file.write_all_at(&byte, at).unwrap();
}

fn cut(path: &Path, len: u64) {
    File::options()
        .write(true)
        .open(path)
        .unwrap()
        .set_len(len)
        .unwrap();
}

/// Fills a cache, lets `tamper` do its worst to its directory, and reads again: everything is right and at least `corrupt` things
/// were found to be wrong. A third reader finds all of it mended.
///
/// A process that another test is just starting holds all locks of this one until it executes its program; who is not alone does
/// not mend a torn log. That does not happen every time.
#[track_caller]
fn survives(corrupt: u64, tamper: impl Fn(&Path)) {
    let mended = (0..4).any(|_| is_mended(corrupt, &tamper));
    assert!(mended, "less than {corrupt} were found");
}

fn is_mended(corrupt: u64, tamper: impl Fn(&Path)) -> bool {
    let rig = Rig::new();
    let info = rig.snapshot(&BLOCKS);
    rig.fill(&info, &READ);
    tamper(&rig.dir());
    let cache = rig.cache(1 << 30);
    {
        let reader = rig.reader(&cache, &info);
        reader.reads(&READ);
        reader.settles();
        let counts = reader.counts();
        if counts[2] < corrupt {
            return false;
        }
        assert_eq!(counts[3], 0, "{counts:?}");
    }
    let (gets, listings) = (rig.store.gets(), rig.store.listings());
    let healed = rig.reader(&cache, &info);
    healed.reads(&READ);
    assert_eq!(healed.counts(), [4, 0, 0, 0]);
    assert_eq!((rig.store.gets(), rig.store.listings()), (gets, listings));
    true
}

/// Where the entry of a block begins.
fn entry(index: u64) -> u64 {
    64 + index * 64
}

#[test]
fn flipped_bits_of_blocks() {
    for at in [0, 511, (512 << 10) - 1, 5 * (512 << 10) + 77] {
        survives(1, |dir| flip(&dir.join("data.0"), at));
    }
}

#[test]
fn flipped_bits_of_the_table_of_digests() {
    // The header; the digest, and the tag, of data and of zeros.
    for at in [0, 40, entry(0), entry(0) + 60, entry(1) + 3, entry(5) + 50] {
        survives(1, |dir| flip(&dir.join("digests"), at));
    }
    // When a block was used does not make it wrong.
    survives(0, |dir| flip(&dir.join("digests"), entry(0) + 33));
}

#[test]
fn flipped_bits_of_the_listings() {
    // The header, a record's head, its runs.
    for at in [8, 64, 70, 80, 64 + 28, 64 + 28 + 9] {
        survives(1, |dir| flip(&dir.join("presence"), at));
    }
}

#[test]
fn flipped_bits_of_what_the_snapshot_is() {
    for at in [0, 30, 120, 200] {
        survives(1, |dir| flip(&dir.join("info"), at));
    }
}

#[test]
fn files_cut_short() {
    for (name, lens) in [
        ("data.0", [0, 4096, 1 << 20]),
        ("digests", [0, 63, 64]),
        ("presence", [0, 63, 70]),
        ("info", [0, 1, 100]),
    ] {
        for len in lens {
            // A table without entries, or without listings, says nothing wrong.
            let silent = matches!((name, len), ("digests", 0 | 64) | ("presence", 0));
            survives(u64::from(!silent), |dir| cut(&dir.join(name), len));
        }
    }
}

#[test]
fn files_missing() {
    for name in ["data.0", "digests", "presence", "info", "lock"] {
        let corrupt = matches!(name, "data.0" | "info");
        survives(corrupt.into(), |dir| {
            fs::remove_file(dir.join(name)).unwrap();
        });
    }
}

#[test]
fn links_pipes_directories_and_other_modes_in_place_of_files() {
    for name in ["data.0", "digests", "presence", "info"] {
        survives(1, |dir| {
            let aside = dir.parent().unwrap().join("aside");
            place(&dir.join(name), &aside).unwrap();
            symlink(&aside, dir.join(name)).unwrap();
        });
        survives(1, |dir| {
            fs::remove_file(dir.join(name)).unwrap();
            fs::create_dir(dir.join(name)).unwrap();
        });
        survives(1, |dir| {
            fs::remove_file(dir.join(name)).unwrap();
            crate::program::tool("mkfifo", &[dir.join(name).to_str().unwrap()]);
        });
        survives(1, |dir| {
            fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o644)).unwrap();
        });
        survives(1, |dir| {
            fs::hard_link(dir.join(name), dir.parent().unwrap().join("aside")).unwrap();
        });
        if rustix::process::geteuid().is_root() {
            survives(1, |dir| {
                std::os::unix::fs::chown(dir.join(name), Some(65534), None).unwrap();
            });
        }
    }
}

#[test]
fn a_directory_that_others_may_enter_is_not_used() {
    let rig = Rig::new();
    let info = rig.snapshot(&BLOCKS);
    rig.fill(&info, &READ);
    fs::set_permissions(rig.dir(), fs::Permissions::from_mode(0o755)).unwrap();
    let cache = rig.cache(1 << 30);
    let reader = rig.reader(&cache, &info);
    reader.reads(&READ);
    assert_eq!(reader.counts()[0], 0);
    drop((reader, cache));
    // Nor is the whole.
    fs::set_permissions(rig.top(), fs::Permissions::from_mode(0o770)).unwrap();
    let opened = ebsfs::cache::disk::DiskCache::open(&rig.top(), Default::default());
    let e = opened.map(drop).unwrap_err();
    assert!(e.to_string().contains("only you may use"), "{e}");
}

/// Two snapshots of the same blocks with other bytes.
fn with_two(tamper: impl FnOnce(&Path, &Path)) {
    let rig = Rig::new();
    let (one, two) = (rig.snapshot_of(5, 1), rig.snapshot_of(5, 101));
    let expected = |first: u8| {
        (0..5)
            .map(|i| (u32::from(i), first + i))
            .collect::<Vec<_>>()
    };
    rig.fill(&one, &expected(1));
    let first = rig.dir();
    rig.fill(&two, &expected(101));
    let second = rig.dirs().into_iter().find(|dir| *dir != first).unwrap();
    tamper(&first, &second);
    let cache = rig.cache(1 << 30);
    let mut corrupt = 0;
    for (info, first) in [(&one, 1), (&two, 101)] {
        let reader = rig.reader(&cache, info);
        reader.reads(&expected(first));
        corrupt += reader.counts()[2];
    }
    assert!(corrupt > 0);
}

fn swap(a: &Path, b: &Path) {
    let aside = a.with_extension("aside");
    place(a, &aside).unwrap();
    place(b, a).unwrap();
    place(&aside, b).unwrap();
}

#[test]
fn files_of_two_snapshots_that_were_exchanged() {
    let sets: [&[&str]; 6] = [
        &["data.0"],
        &["digests"],
        &["digests", "data.0"],
        &["presence"],
        &["info"],
        &["info", "digests", "data.0", "presence"],
    ];
    for names in sets {
        with_two(|one, two| {
            for name in names {
                swap(&one.join(name), &two.join(name));
            }
        });
    }
    with_two(swap);
}

#[test]
fn entries_and_blocks_moved_to_other_places() {
    let rig = Rig::new();
    let info = rig.snapshot(&[(0, 1), (1, 2)]);
    let expected = [(0, 1), (1, 2)];
    rig.fill(&info, &expected);
    let (table, data) = (rig.dir().join("digests"), rig.dir().join("data.0"));
    for (path, at, len) in [(table, 64, 64), (data, 0, 512 << 10)] {
        let file = File::options().read(true).write(true).open(path).unwrap();
        let (mut one, mut two) = (vec![0; len], vec![0; len]);
        file.read_exact_at(&mut one, at).unwrap();
        file.read_exact_at(&mut two, at + len as u64).unwrap();
        file.write_all_at(&two, at).unwrap();
        file.write_all_at(&one, at + len as u64).unwrap();
    }
    let cache = rig.cache(1 << 30);
    let reader = rig.reader(&cache, &info);
    reader.reads(&expected);
    assert_eq!(reader.counts()[..3], [0, 2, 2]);
}
