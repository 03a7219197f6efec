//! The directory stays within its limit and within what the disk has, and what was used lately stays; and a disk that is full or
//! hangs is nobody's trouble.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use super::{MIB, Rig};
use crate::devices::Mounted;
use crate::program::{is_root, tool};

const LIMIT: u64 = 32 * MIB;

fn expected(count: u8, first: u8) -> Vec<(u32, u8)> {
    (0..count).map(|i| (i.into(), first + i)).collect()
}

#[test]
fn the_limit_holds_and_the_oldest_blocks_of_all_snapshots_go_first() {
    let rig = Rig::new();
    let infos = [(28, 1), (20, 51), (20, 101)].map(|(count, first)| rig.snapshot_of(count, first));
    let cache = rig.cache(LIMIT);
    let old = rig.reader(&cache, &infos[0]);
    old.reads(&expected(28, 1));
    old.settles();
    rig.advance(100);
    let newer = rig.reader(&cache, &infos[1]);
    newer.reads(&expected(20, 51));
    newer.settles();
    rig.advance(100);
    // This one is used again.
    old.reads(&[(3, 4)]);
    assert_eq!(old.counts(), [1, 28, 0, 0]);
    rig.advance(100);
    let newest = rig.reader(&cache, &infos[2]);
    newest.reads(&expected(20, 101));
    newest.settles();
    assert_eq!(newest.counts(), [0, 20, 0, 0]);
    assert!(rig.used() <= LIMIT, "{}", rig.used());
    assert!(cache.bytes() <= cache.capacity());

    let left = rig.kept(&infos[0]);
    assert!(left.len() < 24 && left.contains(&3), "{left:?}");
    assert_eq!(rig.kept(&infos[1]).len(), 20);
    assert_eq!(rig.kept(&infos[2]).len(), 20);
    // What is left is right, and what went is fetched again.
    old.reads(&expected(28, 1));
    assert_eq!(old.counts()[2], 0);
}

#[test]
fn a_snapshot_larger_than_the_cache_is_read_and_the_rest_of_it_kept() {
    let rig = Rig::new();
    let info = rig.snapshot_of(100, 1);
    let cache = rig.cache(LIMIT);
    let reader = rig.reader(&cache, &info);
    for (index, byte) in expected(100, 1) {
        reader.reads(&[(index, byte)]);
        rig.advance(1);
        reader.settles();
        assert!(rig.used() <= LIMIT, "{}", rig.used());
    }
    assert_eq!(reader.counts(), [0, 100, 0, 0]);
    reader.reads(&expected(100, 1)[90..]);
    assert_eq!(reader.counts(), [10, 100, 0, 0], "the last are there");
}

#[test]
fn a_snapshot_that_nobody_has_open_goes_with_its_directory() {
    let rig = Rig::new();
    let (old, new) = (rig.snapshot_of(40, 1), rig.snapshot_of(70, 101));
    rig.fill(&old, &expected(40, 1));
    let dir = rig.dir();
    // What a process was writing when it was killed, and nobody knows of.
    let data = fs::File::options()
        .write(true)
        .open(dir.join("data.0"))
        .unwrap();
    std::os::unix::fs::FileExt::write_all_at(&data, &[1; 4096], 900 << 20).unwrap();
    drop(data);
    rig.advance(100);
    let cache = rig.cache(LIMIT);
    let reader = rig.reader(&cache, &new);
    reader.reads(&expected(70, 101));
    reader.settles();
    assert!(rig.used() <= LIMIT, "{}", rig.used());
    assert!(!dir.exists());
    // It can be kept again.
    rig.fill(&old, &expected(40, 1));
}

#[test]
fn what_another_process_has_open_stays_and_nothing_is_added() {
    let rig = Rig::new();
    let (one, two) = (rig.snapshot_of(58, 1), rig.snapshot_of(40, 101));
    let (ours, theirs) = (rig.cache(LIMIT), rig.cache(LIMIT));
    let mounted = rig.reader(&theirs, &one);
    mounted.reads(&expected(58, 1));
    mounted.settles();
    rig.advance(100);
    let reader = rig.reader(&ours, &two);
    reader.reads(&expected(40, 101));
    reader.settles();
    assert!(reader.counts()[3] > 30, "{:?}", reader.counts());
    assert!(rig.used() <= LIMIT, "{}", rig.used());
    mounted.reads(&expected(58, 1));
    assert_eq!(mounted.counts()[0], 58);
}

#[test]
fn a_full_disk_is_spared_and_no_reader_hears_of_it() {
    if !is_root("a_full_disk_is_spared_and_no_reader_hears_of_it") {
        return;
    }
    let outside = TempDir::with_prefix("ebsfs-it-").unwrap();
    let small = outside.path().join("small");
    let _mounted = Mounted::ext4(&outside.path().join("small.fs"), 64 * MIB, &small);
    let free = || {
        let disk = rustix::fs::statvfs(&small).unwrap();
        (disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize)
    };
    let rig = Rig::on(TempDir::new_in(&small).unwrap());
    let info = rig.snapshot_of(200, 1);
    let cache = rig.cache(1 << 30);
    let reader = rig.reader(&cache, &info);
    for block in expected(200, 1) {
        reader.reads(&[block]);
        reader.settles();
        rig.advance(1);
    }
    let (left, all) = free();
    assert!(left >= all / 21, "{left} of {all} bytes are left");
    let [hits, misses, corrupt, skipped] = reader.counts();
    assert_eq!([hits, misses, corrupt, skipped], [0, 200, 0, 0]);
    reader.reads(&expected(200, 1)[190..]);
    assert_eq!(reader.counts()[0], 10);

    // And when others fill it to the last byte.
    let mut ballast = fs::File::create(small.join("ballast")).unwrap();
    while std::io::Write::write_all(&mut ballast, &[1; 4096]).is_ok() {}
    let other = rig.snapshot_of(100, 101);
    let reader = rig.reader(&cache, &other);
    reader.reads(&expected(100, 101));
    reader.settles();
    let again = rig.reader(&cache, &info);
    again.reads(&expected(200, 1));
    again.settles();
}

/// A file system on which every write hangs, as long as this exists.
struct Frozen(PathBuf);

impl Frozen {
    fn new(at: &Path) -> Self {
        tool("fsfreeze", &["-f", at.to_str().unwrap()]);
        Self(at.to_owned())
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let thawed = Command::new("/usr/sbin/fsfreeze")
            .arg("-u")
            .arg(&self.0)
            .status();
        assert!(thawed.is_ok_and(|status| status.success()));
    }
}

#[test]
fn a_disk_that_hangs_fails_no_reader_and_leaves_nothing_wrong() {
    if !is_root("a_disk_that_hangs_fails_no_reader_and_leaves_nothing_wrong") {
        return;
    }
    let outside = TempDir::with_prefix("ebsfs-it-").unwrap();
    let small = outside.path().join("small");
    let _mounted = Mounted::ext4(&outside.path().join("small.fs"), 64 * MIB, &small);
    let rig = Rig::on(TempDir::new_in(&small).unwrap());
    let info = rig.snapshot_of(60, 1);
    let short = Duration::from_millis(50);
    let cache = rig.impatient_cache(1 << 30, short, short);
    let reader = rig.reader(&cache, &info);
    reader.reads(&expected(20, 1));
    reader.settles();
    // Blocks that were used long ago are noted as used again: a write.
    rig.advance(1000);
    let frozen = Frozen::new(&small);
    // More of them than there are threads for.
    reader.reads(&expected(60, 1));
    let other = rig.reader_of(&cache, &info, "another store");
    other.reads(&expected(60, 1));
    assert!(reader.counts()[3] > 0, "{:?}", reader.counts());
    assert_eq!(other.counts()[0], 0);
    drop(frozen);
    reader.settles();
    let cache = rig.cache(1 << 30);
    let reader = rig.reader(&cache, &info);
    reader.reads(&expected(60, 1));
    assert_eq!(reader.counts()[2], 0);
}
