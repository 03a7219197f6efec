//! Several processes and many readers at once.

use std::sync::atomic::Ordering;
use std::thread;

use ebsfs::block::BlockIndex;
use ebsfs::source::BlockSource as _;

use super::{MIB, Rig};
use crate::images::Random;

#[test]
fn two_processes_fill_one_cache_and_both_use_it() {
    let rig = Rig::new();
    let info = rig.snapshot_of(40, 1);
    let caches = [rig.cache(1 << 30), rig.cache(1 << 30)];
    let readers = caches.each_ref().map(|cache| rig.reader(cache, &info));
    let expected: Vec<_> = (0..40).map(|i| (u32::from(i), i + 1)).collect();
    // Each half by one of them, and some by both.
    readers[0].reads(&expected[..25]);
    readers[1].reads(&expected[25..]);
    readers[0].settles();
    readers[1].settles();
    readers[0].reads(&expected);
    readers[1].reads(&expected);
    assert_eq!(readers[0].counts(), [40, 25, 0, 0]);
    assert_eq!(readers[1].counts(), [40, 15, 0, 0]);
    assert_eq!(rig.store.gets(), 40);
}

#[test]
fn readers_are_right_while_blocks_come_and_go() {
    let rig = Rig::new();
    let infos = [rig.snapshot_of(60, 1), rig.snapshot_of(60, 101)];
    // Less room than either needs, and two processes that take it from each other.
    let caches = [rig.cache(32 * MIB), rig.cache(32 * MIB)];
    let readers = [(0, 0), (0, 1), (1, 1)].map(|(cache, info)| {
        let first: u8 = if info == 0 { 1 } else { 101 };
        (rig.reader(&caches[cache], &infos[info]), first)
    });
    thread::scope(|scope| {
        for seed in 0..6 {
            let (reader, first) = &readers[seed % 3];
            let rig = &rig;
            scope.spawn(move || {
                let mut random = Random(seed as u64);
                for _ in 0..150 {
                    let index = random.below(60) as u8;
                    assert_eq!(reader.byte(index.into()), first + index);
                    rig.now.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
    });
    for (reader, _) in &readers {
        reader.settles();
        assert_eq!(reader.counts()[2], 0, "nothing was ever damaged");
    }
    assert!(readers.iter().any(|(reader, _)| reader.counts()[0] > 0));
    assert!(rig.used() <= 33 * MIB, "{}", rig.used());
}

#[test]
fn many_readers_of_one_new_snapshot_keep_its_listing_once() {
    let rig = Rig::new();
    let info = rig.snapshot_of(30, 1);
    let cache = rig.cache(1 << 30);
    let reader = rig.reader(&cache, &info);
    let all = (0..30).map(|index| reader.source.block(BlockIndex::new(index)));
    let all = rig.runtime.block_on(futures_util::future::join_all(all));
    assert!(all.iter().all(Result::is_ok));
    reader.settles();
    let presence = std::fs::metadata(rig.dir().join("presence")).unwrap();
    assert_eq!(presence.len(), 64 + 28 + 8);
    assert_eq!(rig.store.listings(), 1);
}
