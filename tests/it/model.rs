//! Random operations on the embedded store and on the memory store, which must not tell them apart.
//!
//! Operations are data. A snapshot is named by a number that wraps onto those that were ever started, deleted
//! ones included; an index wraps onto a table of places where things change: edges of bitmap words, of
//! segments, of volumes. A failure prints the smallest operations that show it: keep them below as a test.

use std::collections::BTreeSet;

use ebsfs::block::BlockIndex;
use ebsfs::error::Result;
use ebsfs::snapshot::{NewSnapshot, Seal, SnapshotId, SnapshotInfo, Status};
use ebsfs::store::Store;
use ebsfs::store::directory::DirectoryStore;
use ebsfs::store::memory::MemoryStore;
use proptest::prelude::*;
use proptest::test_runner::Config;

use crate::common::{
    Turnable, at, block_on, changed, filled, gc_once_abandoned, gib, minutes, pages, scratch,
};

#[derive(Clone, Debug)]
enum Op {
    Start { parent: Option<usize>, gib: u32 },
    Put { to: usize, place: usize, byte: u8 },
    Complete { what: usize },
    Miscount { what: usize },
    Delete { what: usize },
    Wait { minutes: u64 },
    Gc,
    Reopen,
}

use Op::{Complete, Delete, Gc, Miscount, Put, Reopen, Start, Wait};

/// Mostly inside the volumes, which have 2048, 4096 or 6144 blocks.
const PLACES: [u32; 12] = [0, 1, 63, 64, 65, 2047, 2048, 4095, 4096, 4097, 6143, 6144];

fn op() -> impl Strategy<Value = Op> {
    let what = 0..8usize;
    prop_oneof![
        4 => (proptest::option::weighted(0.7, what.clone()), 1..4u32)
            .prop_map(|(parent, gib)| Start { parent, gib }),
        12 => (what.clone(), 0..PLACES.len(), 0..4u8)
            .prop_map(|(to, place, byte)| Put { to, place, byte }),
        5 => what.clone().prop_map(|what| Complete { what }),
        1 => what.clone().prop_map(|what| Miscount { what }),
        2 => what.prop_map(|what| Delete { what }),
        1 => (1..35u64).prop_map(|minutes| Wait { minutes }),
        2 => Just(Gc),
        2 => Just(Reopen),
    ]
}

/// Both stores, and what only one of them knows: which pending snapshots its handle works on.
struct Pair {
    dir: tempfile::TempDir,
    time: Turnable,
    memory: MemoryStore,
    directory: DirectoryStore,
    /// Every snapshot ever started: in memory, in the directory.
    ids: Vec<[SnapshotId; 2]>,
    /// What was put, as far as it counts, to complete with the right seal.
    puts: Vec<crate::common::Snap>,
    held: BTreeSet<usize>,
}

/// Both succeed, or both fail alike.
#[track_caller]
fn alike<T>(memory: Result<T>, directory: Result<T>) -> Option<[T; 2]> {
    match (memory, directory) {
        (Ok(memory), Ok(directory)) => Some([memory, directory]),
        (Err(memory), Err(directory)) => {
            assert_eq!(memory.kind(), directory.kind(), "{memory:?}, {directory:?}");
            None
        }
        (memory, directory) => panic!("{:?} but {:?}", memory.err(), directory.err()),
    }
}

impl Pair {
    fn new() -> Self {
        let (dir, time) = (scratch(), Turnable::new());
        Self {
            memory: MemoryStore::with_clock(time.clock()).unwrap(),
            directory: DirectoryStore::create_with_clock(dir.path(), time.clock()).unwrap(),
            dir,
            time,
            ids: Vec::new(),
            puts: Vec::new(),
            held: BTreeSet::new(),
        }
    }

    fn wrap(&self, what: usize) -> Option<usize> {
        what.checked_rem(self.ids.len())
    }

    async fn apply(&mut self, op: &Op) {
        match *op {
            Start { parent, gib: size } => {
                let parent = parent.and_then(|parent| self.wrap(parent));
                let new = |store: usize| NewSnapshot {
                    parent: parent.map(|parent| self.ids[parent][store].clone()),
                    timeout: minutes(30),
                    client_token: self.ids.len().to_string(),
                    ..NewSnapshot::new(gib(size)).unwrap()
                };
                let started = alike(
                    self.memory.start(&new(0)).await,
                    self.directory.start(&new(1)).await,
                );
                if let Some(started) = started {
                    self.held.insert(self.ids.len());
                    self.ids.push(started.map(|info| info.id));
                    self.puts.push(crate::common::snap(1));
                }
            }
            Put { to, place, byte } => {
                let Some(to) = self.wrap(to) else { return };
                let [memory, directory] = &self.ids[to];
                let (index, block) = (PLACES[place], filled(byte));
                let put = alike(
                    self.memory.put(memory, at(index), &block).await,
                    self.directory.put(directory, at(index), &block).await,
                );
                self.held.insert(to);
                if put.is_some() {
                    self.puts[to] = self.puts[to].clone().block(index, byte);
                }
            }
            Complete { what } => {
                let Some(what) = self.wrap(what) else { return };
                let seal = self.puts[what].seal();
                self.complete(what, &seal).await;
            }
            Miscount { what } => {
                let Some(what) = self.wrap(what) else { return };
                let seal = Seal {
                    count: self.puts[what].seal().count + 1,
                    checksum: None,
                };
                self.complete(what, &seal).await;
            }
            Delete { what } => {
                let Some(what) = self.wrap(what) else { return };
                let [memory, directory] = &self.ids[what];
                alike(
                    self.memory.delete(memory).await,
                    self.directory.delete(directory).await,
                );
            }
            Wait { minutes: n } => self.time.advance(minutes(n)),
            Gc => self.gc().await,
            Reopen => {
                self.held.clear();
                let path = self.dir.path();
                self.directory =
                    DirectoryStore::create_with_clock(path, self.time.clock()).unwrap();
            }
        }
    }

    async fn complete(&mut self, what: usize, seal: &Seal) {
        let [memory, directory] = &self.ids[what];
        alike(
            self.memory.complete(memory, seal).await,
            self.directory.complete(directory, seal).await,
        );
        self.held.insert(what);
    }

    /// Takes exactly the snapshots that are past their timeout or that the handle does not work on.
    async fn gc(&mut self) {
        let mut lost = BTreeSet::new();
        for (position, [memory, directory]) in self.ids.iter().enumerate() {
            let status = self.memory.info(memory).await.map(|info| info.status);
            let is_lost = match status {
                Ok(Status::Pending) => !self.held.contains(&position),
                Ok(Status::Error) => true,
                Ok(Status::Completed) | Err(_) => false,
            };
            if is_lost {
                self.memory.delete(memory).await.unwrap();
                lost.insert(directory.clone());
            }
        }
        let garbage = gc_once_abandoned(&self.directory, lost.len()).await;
        assert_eq!(garbage.snapshots.into_iter().collect::<BTreeSet<_>>(), lost);
    }

    /// The same lists, but for the ids.
    async fn compare_lists(&self) {
        let [memory, directory] = [
            self.listed(&self.memory, 0).await,
            self.listed(&self.directory, 1).await,
        ];
        assert_eq!(memory, directory);
    }

    async fn listed(&self, store: &dyn Store, which: usize) -> BTreeSet<String> {
        let position = |id: &SnapshotId| self.ids.iter().position(|ids| ids[which] == *id);
        let tell = |info: SnapshotInfo| {
            let parent = info.parent.as_ref().map(position);
            let (size, status, time) = (info.volume_size, info.status, info.start_time);
            format!(
                "{:?} of {parent:?}: {size}, {status}, {time:?}",
                position(&info.id)
            )
        };
        store.list().await.unwrap().into_iter().map(tell).collect()
    }

    /// The same blocks in every snapshot, and the same differences between any two.
    async fn compare_contents(&self) {
        for [memory, directory] in &self.ids {
            let first = alike(
                self.memory.blocks(memory, at(0)).await,
                self.directory.blocks(directory, at(0)).await,
            );
            if first.is_none() {
                continue;
            }
            let whole = async |store: &dyn Store, id: &SnapshotId| -> Vec<BlockIndex> {
                let all = pages(0, async |at| store.blocks(id, at).await).await;
                all.iter().flat_map(|page| page.set.iter()).collect()
            };
            let present = whole(&self.memory, memory).await;
            assert_eq!(whole(&self.directory, directory).await, present);
            for index in present {
                let expected = self.memory.get(memory, index).await.unwrap();
                let block = self.directory.get(directory, index).await.unwrap();
                assert!(block.bytes() == expected.bytes(), "block {index}");
            }
            for [to_memory, to_directory] in &self.ids {
                let first = alike(
                    self.memory.changed(memory, to_memory, at(0)).await,
                    self.directory.changed(directory, to_directory, at(0)).await,
                );
                if first.is_some() {
                    let expected = changed(&self.memory, memory, to_memory, 0).await;
                    let named = changed(&self.directory, directory, to_directory, 0).await;
                    assert_eq!(named, expected);
                }
            }
        }
    }

    /// Nothing is left but what a completed snapshot needs, once the others are gone.
    async fn compare_files(&mut self) {
        self.apply(&Reopen).await;
        self.gc().await;
        self.compare_contents().await;
        let path = self.dir.path();
        let extra: Vec<_> = crate::directory::files(path)
            .difference(&crate::directory::reachable(path))
            .cloned()
            .collect();
        assert!(extra.is_empty(), "{extra:?}");
    }
}

fn replay(ops: &[Op]) {
    block_on(async {
        let mut pair = Pair::new();
        for op in ops {
            pair.apply(op).await;
            pair.compare_lists().await;
            if matches!(op, Gc | Reopen | Complete { .. }) {
                pair.compare_contents().await;
            }
        }
        pair.compare_contents().await;
        pair.compare_files().await;
    });
}

#[test]
fn the_embedded_store_does_as_the_memory_store_does() {
    let config = Config {
        cases: 384,
        failure_persistence: None,
        max_shrink_iters: 2000,
        ..Config::default()
    };
    proptest!(config, |(ops in prop::collection::vec(op(), 1..60))| replay(&ops));
}

#[test]
fn a_larger_child_is_compared_with_its_smaller_parent() {
    replay(&[
        Start {
            parent: None,
            gib: 1,
        },
        Complete { what: 0 },
        Start {
            parent: Some(0),
            gib: 3,
        },
        Put {
            to: 1,
            place: 6,
            byte: 1,
        },
        Complete { what: 1 },
    ]);
}

#[test]
fn a_wrong_seal_after_reopening_takes_the_snapshot_up() {
    replay(&[
        Start {
            parent: None,
            gib: 1,
        },
        Put {
            to: 0,
            place: 0,
            byte: 1,
        },
        Reopen,
        Miscount { what: 0 },
        Gc,
        Complete { what: 0 },
        Delete { what: 0 },
        Put {
            to: 0,
            place: 0,
            byte: 1,
        },
    ]);
}
