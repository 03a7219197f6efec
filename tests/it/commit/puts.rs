//! What is put, and that it is the edited disk, in every kind of store.

use std::sync::Arc;

use ebsfs::block::{BLOCK_SIZE, BlockIndex};
use ebsfs::commit::Below as _;
use ebsfs::commit::{Event, Wish};
use ebsfs::server::Faults;
use ebsfs::store::Store;
use ebsfs::store::directory::DirectoryStore;
use ebsfs::store::ebs;
use ebsfs::store::memory::MemoryStore;

use super::{Case, of, random};
use crate::common::{at, block_on, filled, present, scratch};
use crate::flaky_store::FlakyStore;
use crate::images::Random;
use crate::wire::Wire;

/// A case over a store that counts.
async fn counted(blocks: &[(u32, u8)]) -> (Case, Arc<FlakyStore>) {
    let store = FlakyStore::new();
    let case = Case::new(Arc::<FlakyStore>::clone(&store), blocks).await;
    store.puts();
    (case, store)
}

/// Random writes, parts of pages among them, and discards.
async fn edit(case: &mut Case, random: &mut Random, times: u32) {
    let blocks = u64::from(case.size().blocks());
    for _ in 0..times {
        // Few blocks, far apart, so that they meet.
        let index = [0, 1, 2, 3, 700, 701, blocks - 1][random.below(7) as usize];
        let start = index * BLOCK_SIZE as u64;
        match random.below(5) {
            0 => {
                let page = start + random.below(128) * 4096;
                let end = (page + (1 + random.below(200)) * 4096).min(case.size().bytes());
                case.zero(page..end);
            }
            1 => {
                let bytes = super::random(random.number());
                case.write(start, &bytes).await;
            }
            _ => {
                let from = random.below(BLOCK_SIZE as u64 - 9000);
                let len = 1 + random.below(9000) as usize;
                let bytes = super::random(random.number());
                case.write(start + from, &bytes[..len]).await;
            }
        }
    }
}

/// Edits and commits, several levels deep, and each is the disk of its time.
async fn each_level_is_the_disk_of_its_time(store: Arc<dyn Store>, seed: u64) {
    let blocks = [(0, 1), (1, 2), (3, 0), (700, 4), (2047, 5)];
    let mut case = Case::new(store, &blocks).await;
    let mut random = Random(seed);
    let mut levels = vec![(case.parent.clone(), case.now())];
    for level in 0..3 {
        if level == 2 {
            case.grow(2);
        }
        edit(&mut case, &mut random, 12).await;
        let id = case.commit().await;
        assert_eq!(case.overlay().header().base, id);
        levels.push((id, case.now()));
        if level == 1 {
            case.reopen().await;
        }
    }
    for (id, disk) in &levels {
        case.assert_is(id, disk).await;
    }
    let sizes = [1, 1, 1, 2];
    for ((id, _), size) in levels.iter().zip(sizes) {
        assert_eq!(case.store.info(id).await.unwrap().volume_size.gib(), size);
    }
}

#[test]
fn in_memory_each_level_is_the_disk_of_its_time() {
    block_on(async {
        for seed in 1..5 {
            let store = Arc::new(MemoryStore::new().unwrap());
            each_level_is_the_disk_of_its_time(store, seed).await;
        }
    });
}

#[test]
fn in_a_directory_each_level_is_the_disk_of_its_time() {
    block_on(async {
        let dir = scratch();
        let store = Arc::new(DirectoryStore::create(&dir.path().join("store")).unwrap());
        each_level_is_the_disk_of_its_time(store, 11).await;
    });
}

#[test]
fn over_the_wire_each_level_is_the_disk_of_its_time() {
    let faults = Faults {
        error: 0.05,
        corrupt: 0.02,
        seed: 5,
        ..Faults::default()
    };
    let wire = Wire::serve(Arc::new(MemoryStore::new().unwrap()), faults);
    block_on(async {
        let (store, _) = wire.client(ebs::Config::default()).await;
        each_level_is_the_disk_of_its_time(store, 12).await;
    });
}

#[test]
fn only_what_differs_is_put_and_only_what_is_merged_is_fetched() {
    block_on(async {
        let blocks = [(0, 1), (1, 2), (2, 3), (3, 4), (5, 6)];
        let (mut case, store) = counted(&blocks).await;
        let gets = store.gets();
        // In whole: nothing of the base is needed.
        case.write(of(0), &random(1)).await;
        // In part, and different; in part, and the same as before; where the base has nothing.
        case.write(of(1) + 4096, &[9; 4096]).await;
        case.write(of(2) + 8192, &[3; 8192]).await;
        case.write(of(9), &[7; 4096]).await;
        // In part, all of it zeros, where the base has nothing.
        case.write(of(10), &[0; 4096]).await;
        let accepted = case.run(&Wish::default()).await.unwrap();
        assert_eq!(store.puts(), [0, 1, 9]);
        assert_eq!(accepted.blocks, 3);
        assert_eq!(store.gets() - gets, 2, "blocks 1 and 2");
        let requests = accepted.requests;
        assert_eq!((requests.puts, requests.gets, requests.listings), (3, 2, 1));
        assert_eq!(requests.others, 2, "a start and a completion");
        case.assert_is(&accepted.id, &case.now()).await;
        case.assert_is(
            &case.parent,
            &Case::new(Arc::clone(&case.store), &blocks).await.now(),
        )
        .await;
    });
}

#[test]
fn a_zeroed_block_is_put_where_the_base_has_it_and_left_out_where_not() {
    block_on(async {
        let (mut case, store) = counted(&[(1, 1), (3, 3), (2047, 9)]).await;
        case.zero(of(0)..of(2047));
        // Zeros that were written, and not discarded.
        case.write(of(2047), &vec![0; BLOCK_SIZE]).await;
        case.write(of(1000), &vec![0; BLOCK_SIZE]).await;
        let gets = store.gets();
        let accepted = case.run(&Wish::default()).await.unwrap();
        assert_eq!(store.puts(), [1, 3, 2047]);
        assert_eq!(store.gets(), gets, "by listings alone");
        case.assert_is(&accepted.id, &case.now()).await;
        assert_eq!(present(&*case.store, &accepted.id, 0).await, [1, 3, 2047]);
    });
}

#[test]
fn what_was_grown_holds_only_what_was_written_there() {
    block_on(async {
        let (mut case, store) = counted(&[(2047, 1)]).await;
        case.grow(3);
        case.write(of(2047) + 4096, &[8; 4096 + BLOCK_SIZE]).await;
        case.zero(of(3000)..of(5000));
        case.write(of(6143), &random(2)).await;
        let id = case.commit().await;
        assert_eq!(store.puts(), [2047, 2048, 6143]);
        case.assert_is(&id, &case.now()).await;
        assert_eq!(case.store.info(&id).await.unwrap().volume_size.gib(), 3);
        assert_eq!(case.overlay().header().base_size.gib(), 3);
    });
}

#[test]
fn a_disk_without_edits_makes_an_empty_child() {
    block_on(async {
        let (case, store) = counted(&[(1, 1)]).await;
        let id = case.commit().await;
        assert_eq!(store.puts(), [0; 0]);
        case.assert_is(&id, &case.now()).await;
        let info = case.store.info(&id).await.unwrap();
        assert_eq!(info.parent, Some(case.parent.clone()));
    });
}

#[test]
fn a_commit_is_a_moment_and_writes_go_on() {
    block_on(async {
        let (mut case, store) = counted(&[(1, 1), (2, 2)]).await;
        case.write(of(1) + 4096, b"first").await;
        let then = case.now();
        let accepted = case.run(&Wish::default()).await.unwrap();
        // The sealed layer is still there, and this goes over it.
        case.write(of(1) + 4098, b"second").await;
        case.zero(of(2)..of(2) + 4096);
        case.settle().await;
        case.assert_is(&accepted.id, &then).await;
        store.puts();
        let second = case.commit().await;
        assert_eq!(store.puts(), [1, 2]);
        case.assert_is(&second, &case.now()).await;
        case.assert_is(&accepted.id, &then).await;
    });
}

#[test]
fn a_plan_touches_nothing_and_is_what_happens() {
    block_on(async {
        let (mut case, store) = counted(&[(1, 1), (3, 3)]).await;
        case.write(of(0), &random(1)).await;
        case.write(of(1), &[5; 4096]).await;
        case.write(of(2), &[6; 4096]).await;
        case.zero(of(3)..of(2000));
        case.overlay().sync().unwrap();
        let files = || {
            let mut files = crate::program::files_below(&case.directory());
            files.sort();
            let read = |path: &std::path::PathBuf| std::fs::read(path).unwrap();
            files
                .iter()
                .map(|path| (path.clone(), read(path)))
                .collect::<Vec<_>>()
        };
        let before = files();
        let plan = case.commits().plan().await.unwrap();
        assert!(files() == before);
        assert_eq!(case.store.list().await.unwrap().len(), 1);
        assert_eq!((plan.whole, plan.part, plan.zero), (1, 2, 1));
        assert_eq!(plan.bytes, 4 * BLOCK_SIZE as u64);
        assert!(!plan.resumes);
        let accepted = case.run(&Wish::default()).await.unwrap();
        assert_eq!(plan.requests.puts, accepted.requests.puts);
        assert_eq!(plan.requests.gets, accepted.requests.gets);
        assert_eq!(plan.requests.others, accepted.requests.others);
        assert_eq!(store.puts(), [0, 1, 2, 3]);
    });
}

#[test]
fn progress_is_told_in_order_and_the_id_last() {
    block_on(async {
        let (mut case, _) = counted(&[]).await;
        for index in [3, 7, 9] {
            case.write(of(index), &random(1)).await;
        }
        let accepted = case.run(&Wish::default()).await.unwrap();
        let told = std::mem::take(&mut *case.told.lock().unwrap());
        assert!(matches!(told[0], Event::Sealed { since: None, .. }));
        let progress = [3, 7, 9].map(|index| Event::Progress { index });
        assert_eq!(told[1..4], progress);
        assert_eq!(told[4..], [Event::Accepted(accepted)]);
    });
}

#[test]
fn cached_blocks_that_were_not_put_stay_cached() {
    block_on(async {
        let (mut case, store) = counted(&[(1, 1), (2, 2), (3, 3)]).await;
        for index in 1..4 {
            case.base.source().block(at(index)).await.unwrap();
        }
        case.write(of(2), &[9; 4096]).await;
        case.commit().await;
        let gets = store.gets();
        let source = case.base.source();
        let ready = |index: u32| source.ready(BlockIndex::new(index));
        assert_eq!(ready(1), Some(filled(1)));
        assert_eq!(ready(3), Some(filled(3)));
        assert_eq!(ready(2), None);
        let changed = source.block(at(2)).await.unwrap();
        assert!(changed.bytes()[..4096] == [9; 4096]);
        assert_eq!(store.gets() - gets, 1);
    });
}
