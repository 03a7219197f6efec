//! A look at what is kept, which leaves nothing behind and stands in nobody's way.

use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::time::{Duration, Instant};

use ebsfs::cache::disk::glance;
use ebsfs::error::{ErrorKind, Result};
use ebsfs::snapshot::SnapshotInfo;
use jiff::Timestamp;

use super::Rig;

fn seen_in(rig: &Rig, store: &str, info: &SnapshotInfo) -> Result<Vec<Range<u32>>> {
    let mut seen = Vec::new();
    glance(&rig.top(), store, info, |run| seen.push(run))?;
    Ok(seen)
}

#[track_caller]
fn seen(rig: &Rig, info: &SnapshotInfo) -> Vec<Range<u32>> {
    seen_in(rig, "a store", info).unwrap()
}

const SCATTERED: [(u32, u8); 7] = [
    (0, 1),
    (1, 2),
    (2, 3),
    (63, 4),
    (64, 5),
    (700, 6),
    (2047, 7),
];

#[test]
fn exactly_what_was_read_is_seen() {
    let rig = Rig::new();
    let info = rig.snapshot(&SCATTERED);
    assert_eq!(seen(&rig, &info), []);
    assert!(!rig.top().exists());
    rig.fill(&info, &SCATTERED);
    assert_eq!(seen(&rig, &info), [0..3, 63..65, 700..701, 2047..2048]);
    // What is absent, and so was never fetched, is not.
    rig.fill(&info, &[(5, 0), (2046, 0)]);
    assert_eq!(seen(&rig, &info), [0..3, 63..65, 700..701, 2047..2048]);
}

#[test]
fn only_this_snapshot_of_this_store_is_seen() {
    let rig = Rig::new();
    let info = rig.snapshot(&SCATTERED);
    rig.fill(&info, &SCATTERED);
    assert_eq!(seen_in(&rig, "another store", &info).unwrap(), []);
    let mut later = info.clone();
    later.start_time = Some(Timestamp::from_second(5).unwrap());
    assert_eq!(seen(&rig, &later), []);
    let other = rig.snapshot(&SCATTERED);
    assert_eq!(seen(&rig, &other), []);
    assert_eq!(rig.dirs().len(), 1);
}

#[test]
fn what_was_tampered_with_is_not_taken_for_kept() {
    let rig = Rig::new();
    let info = rig.snapshot(&SCATTERED);
    rig.fill(&info, &SCATTERED);
    let table = rig.dir().join("digests");
    let file = File::options().write(true).open(&table).unwrap();
    // The second entry's digest, and one of nobody.
    file.write_all_at(&[9], 64 + 64 + 3).unwrap();
    file.write_all_at(&[7; 64], 64 + 100 * 64).unwrap();
    let expected = [0..1, 2..3, 63..65, 700..701, 2047..2048];
    assert_eq!(seen(&rig, &info), expected);
    fs::set_permissions(&table, fs::Permissions::from_mode(0o644)).unwrap();
    let refused = seen_in(&rig, "a store", &info);
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Denied);
}

#[test]
fn looking_changes_nothing_and_waits_for_nobody() {
    let rig = Rig::new();
    let info = rig.snapshot(&SCATTERED);
    rig.fill(&info, &SCATTERED);
    let state = || {
        let files = crate::program::files_below(&rig.top());
        let state = files.into_iter().map(|path| {
            let meta = fs::metadata(&path).unwrap();
            (path, meta.len(), meta.mtime_nsec(), meta.ctime_nsec())
        });
        let mut state: Vec<_> = state.collect();
        state.sort();
        state
    };
    let before = state();
    let lock = File::open(rig.dir().join("lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let gate = File::open(rig.top().join("lock")).unwrap();
    rustix::fs::flock(&gate, rustix::fs::FlockOperation::LockExclusive).unwrap();
    assert_eq!(seen(&rig, &info).len(), 4);
    assert_eq!(state(), before);
}

#[test]
fn the_entries_of_a_sparse_table_are_found_at_once() {
    let rig = Rig::new();
    let mut info = rig.snapshot(&SCATTERED);
    // As that of the largest volume would be: 8 GiB of holes.
    info.volume_size = ebsfs::snapshot::VolumeSize::from_gib(65536).unwrap();
    let cache = rig.cache(1 << 30);
    let reader = rig.reader(&cache, &info);
    reader.reads(&SCATTERED);
    reader.settles();
    let table = File::options()
        .write(true)
        .open(rig.dir().join("digests"))
        .unwrap();
    table.set_len(64 + 64 * (1 << 27)).unwrap();
    let begin = Instant::now();
    assert_eq!(seen(&rig, &info).len(), 4);
    assert!(
        begin.elapsed() < Duration::from_secs(1),
        "{:?}",
        begin.elapsed()
    );
}
