//! Which blocks an upload puts, with and without a parent, and again after it was interrupted.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ebsfs::block::{BlockIndex, blocks_for};
use ebsfs::error::{ErrorKind, Result};
use ebsfs::snapshot::{NewSnapshot, SnapshotId, SnapshotInfo};
use ebsfs::source::{BlockSource, INDEX_MEMORY, IndexCache, RawSource, SnapshotSource};
use ebsfs::store::Store;
use ebsfs::upload::{Config, Difference, Journal, Upload};
use tempfile::TempDir;

use crate::common::{block_on, kind, scratch};
use crate::flaky_store::{Fault, FlakyStore};
use crate::images::{Disk, GIB, MIB};

/// A store, an image, and the journal of its upload.
struct Case {
    store: Arc<FlakyStore>,
    parent: Option<SnapshotInfo>,
    dir: TempDir,
    config: Config,
    zero_blocks: bool,
}

impl Case {
    fn new() -> Self {
        Self {
            store: FlakyStore::new(),
            parent: None,
            dir: scratch(),
            // One after the other, so that a failure has a certain place.
            config: Config { concurrency: 1 },
            zero_blocks: false,
        }
    }

    /// With a parent of 1 GiB: index, and the byte that all of a block is.
    async fn child_of(mut self, blocks: &[(u32, u8)]) -> Self {
        self.parent = Some(self.store.snapshot(blocks).await);
        self.store.puts();
        self
    }

    fn image(&self) -> PathBuf {
        self.dir.path().join("disk.img")
    }

    /// An image of those blocks.
    fn disk(&self, len: u64, blocks: &[(u32, u8)]) {
        let block = |disk: Disk, (index, byte): &(u32, u8)| {
            disk.bytes(BlockIndex::new(*index).start(), &[*byte; 512 << 10])
        };
        blocks.iter().fold(Disk::new(self.image(), len), block);
    }

    async fn start(&self) -> SnapshotId {
        let size = RawSource::open(&self.image()).unwrap().volume_size();
        let parent = self.parent.as_ref();
        let new = NewSnapshot {
            parent: parent.map(|parent| parent.id.clone()),
            ..NewSnapshot::new(parent.map_or(size, |parent| parent.volume_size.max(size))).unwrap()
        };
        self.store.start(&new).await.unwrap().id
    }

    /// Uploads into `id`, noting in the file `journal`; the blocks put.
    async fn upload(&self, id: &SnapshotId, journal: &Path) -> Result<Vec<u32>> {
        let store: Arc<dyn Store> = Arc::<FlakyStore>::clone(&self.store);
        let windows = Arc::new(IndexCache::new(INDEX_MEMORY));
        let image = RawSource::open(&self.image()).unwrap();
        let size = self.store.info(id).await.unwrap().volume_size;
        let parent = self.parent.as_ref().map(|info| {
            let source = SnapshotSource::new(Arc::clone(&store), info, windows);
            Arc::new(source) as Arc<dyn BlockSource>
        });
        let upload = Upload {
            store,
            id: id.clone(),
            changes: Arc::new(Difference {
                source: Arc::new(image.padded_to(size)),
                parent,
                zero_blocks: self.zero_blocks,
            }),
            config: self.config.clone(),
        };
        let (mut journal, known) = Journal::open(journal, id).unwrap();
        upload.run(&mut journal, known, &|_| ()).await?;
        Ok(self.store.puts())
    }

    /// Uploads in one go, and checks that the snapshot is the image; the blocks put.
    async fn puts(&self) -> Vec<u32> {
        let id = self.start().await;
        let puts = self.upload(&id, &self.dir.path().join("journal")).await;
        self.assert_is_the_image(&id).await;
        puts.unwrap()
    }

    async fn assert_is_the_image(&self, id: &SnapshotId) {
        let image = RawSource::open(&self.image()).unwrap();
        let volume = self.store.info(id).await.unwrap().volume_size;
        let len = u32::try_from(blocks_for(image.image_len())).unwrap();
        for index in (0..volume.blocks()).map(BlockIndex::new) {
            let held = self.store.get(id, index).await.unwrap();
            let zero = held.digest() == ebsfs::block::Digest::ZERO_BLOCK;
            if index.get() < len {
                assert_eq!(held, image.block(index).await.unwrap(), "block {index}");
            } else {
                assert!(zero, "block {index}");
            }
        }
    }
}

#[test]
fn without_a_parent_zeros_are_left_out() {
    block_on(async {
        let case = Case::new();
        case.disk(8 * MIB, &[(0, 1), (3, 0), (15, 2)]);
        assert_eq!(case.puts().await, [0, 15]);
    });
}

#[test]
fn a_child_is_put_only_what_differs_zeros_included() {
    block_on(async {
        let parent = [(0, 1), (1, 2), (2, 3), (3, 0), (5, 9), (6, 4), (2047, 8)];
        let case = Case::new().child_of(&parent).await;
        // 0 is the same, 1 changed, 2 and 6 are zeros now (written, a hole), 3 was zeros before, 4 and 7 are new.
        case.disk(4 * MIB, &[(0, 1), (1, 7), (2, 0), (4, 5), (5, 9), (7, 6)]);
        assert_eq!(case.puts().await, [1, 2, 4, 6, 7, 2047]);
    });
}

#[test]
fn an_unchanged_child_is_put_nothing() {
    block_on(async {
        let case = Case::new().child_of(&[(0, 1), (9, 2)]).await;
        case.disk(GIB, &[(0, 1), (9, 2)]);
        assert_eq!(case.puts().await, [0; 0]);
    });
}

#[test]
fn a_child_may_be_larger_than_its_parent() {
    block_on(async {
        let case = Case::new().child_of(&[(0, 1), (2047, 2)]).await;
        case.disk(2 * GIB, &[(0, 1), (2047, 3), (2048, 4), (4095, 5)]);
        assert_eq!(case.puts().await, [2047, 2048, 4095]);
    });
}

#[test]
fn zero_blocks_are_put_where_nothing_is_inherited() {
    block_on(async {
        let mut case = Case::new();
        case.zero_blocks = true;
        case.disk(MIB, &[(1, 1)]);
        assert_eq!(case.puts().await, (0..2048).collect::<Vec<_>>());

        let mut case = Case::new().child_of(&[(1, 1), (2, 2), (3, 0)]).await;
        case.zero_blocks = true;
        case.disk(MIB, &[(1, 1)]);
        let all_but = (0..2048).filter(|index| ![1, 3].contains(index));
        assert_eq!(case.puts().await, all_but.collect::<Vec<_>>());
    });
}

/// More runs than one page of an image's listing tells.
#[test]
fn pages_of_both_listings_are_joined() {
    block_on(async {
        let parent: Vec<_> = (0..1000).map(|i| (2 * i + 1, 1)).collect();
        let case = Case::new().child_of(&parent).await;
        let image: Vec<_> = (0..1024).map(|i| (2 * i, 2)).chain([(1, 1)]).collect();
        case.disk(GIB, &image);
        let mut expected: Vec<u32> = (0..1024).map(|i| 2 * i).collect();
        expected.extend((1..1000).map(|i| 2 * i + 1));
        expected.sort_unstable();
        assert_eq!(case.puts().await, expected);
    });
}

#[test]
fn an_upload_run_again_puts_the_rest_only() {
    block_on(async {
        let case = Case::new().child_of(&[(1, 1), (4, 4), (5, 5)]).await;
        case.disk(4 * MIB, &[(0, 9), (1, 1), (2, 9), (3, 9), (4, 4), (6, 9)]);
        let (id, journal) = (case.start().await, case.dir.path().join("journal"));
        case.store.put_fault(3, Fault::Fail);
        let failed = case.upload(&id, &journal).await;
        assert_eq!(kind(failed), ErrorKind::Unavailable);
        assert_eq!(case.store.puts(), [0, 2]);
        let gets = case.store.gets();
        assert_eq!(case.upload(&id, &journal).await.unwrap(), [3, 5, 6]);
        // What was compared with the parent's before is not fetched again either.
        assert_eq!(case.store.gets() - gets, 2);
        case.assert_is_the_image(&id).await;
    });
}

#[test]
fn a_block_that_changed_since_is_put_again() {
    block_on(async {
        let case = Case::new();
        case.disk(4 * MIB, &[(0, 1), (1, 1), (2, 1)]);
        let (id, journal) = (case.start().await, case.dir.path().join("journal"));
        case.store.put_fault(2, Fault::Fail);
        case.upload(&id, &journal).await.unwrap_err();
        case.disk(4 * MIB, &[(0, 2), (1, 1), (2, 1)]);
        case.store.puts();
        assert_eq!(case.upload(&id, &journal).await.unwrap(), [0, 2]);
        case.assert_is_the_image(&id).await;
    });
}

#[test]
fn what_was_noted_and_is_not_there_is_put_again() {
    block_on(async {
        let case = Case::new();
        case.disk(4 * MIB, &[(0, 1), (1, 1), (2, 1)]);
        let (id, journal) = (case.start().await, case.dir.path().join("journal"));
        case.store.put_fault(1, Fault::Lie);
        case.store.put_fault(2, Fault::Fail);
        case.upload(&id, &journal).await.unwrap_err();
        case.store.puts();
        assert_eq!(case.upload(&id, &journal).await.unwrap(), [0, 1, 2, 2]);
        case.assert_is_the_image(&id).await;
    });
}
