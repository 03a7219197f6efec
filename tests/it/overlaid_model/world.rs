//! The disk that operations are done to, from its views down to the store, and the array that it must be like.

use std::ops::Range;
use std::sync::{Arc, LazyLock, Mutex};
use std::thread;

use ebsfs::block::{Block, BlockIndex};
use ebsfs::commit::{Accepted, Below, Commits, Config, Depth, Event, Settled, Wish};
use ebsfs::error::{ErrorKind, Result};
use ebsfs::image::OverlaidImage;
use ebsfs::overlay::Overlay;
use ebsfs::partition::Slice;
use ebsfs::read_at::{Extent, Lent, WriteAt};
use ebsfs::snapshot::{NewSnapshot, SnapshotId, SnapshotInfo};
use ebsfs::source::BlockSource;
use ebsfs::store::Store;
use ebsfs::store::memory::MemoryStore;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::Op::{
    self, Commit, Crash, Discard, DiscardFar, Extents, Grow, Kill, Read, Reopen, Settle, Sync,
    Write, WriteBlock,
};
use super::{BLOCKS, BORDERS, HELD, NEW, OLD, PAGE, Place};
use crate::commit::Base;
use crate::commit::cuts::{CUTS, Cutting};
use crate::common::{at, count, gib, present, scratch};
use crate::images::{BLOCK, Random, random_block};
use crate::overlay::model::CONFIG;
use crate::overlay::simulated::{Loss, Simulated};

/// The bytes of [`BLOCKS`], one after the other.
type Bytes = Vec<u8>;

/// The parts of `range` that the array stands for, and where in it they are.
fn spans(range: Range<u64>) -> impl Iterator<Item = (Range<u64>, Range<usize>)> {
    (0..).zip(BLOCKS).filter_map(move |(position, index)| {
        let block = at(index).start()..at(index).end();
        let part = range.start.max(block.start)..range.end.min(block.end);
        let offset = position * BLOCK + part.start.saturating_sub(block.start);
        let len = part.end.checked_sub(part.start).filter(|len| *len > 0)?;
        Some((part, offset as usize..(offset + len) as usize))
    })
}

/// The part of the array for a range all of which it stands for.
fn span(range: Range<u64>) -> Range<usize> {
    let mut all = spans(range.clone()).map(|(_, span)| span);
    let first = all.next().unwrap();
    let end = all.last().map_or(first.end, |last| last.end);
    assert_eq!((end - first.start) as u64, range.end - range.start);
    first.start..end
}

/// All of these are run on one, which no operation may leave anything on.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
});

/// What the snapshot holds.
static BEFORE: LazyLock<Vec<Block>> = LazyLock::new(|| {
    let bytes = HELD.map(|index| random_block(index.into()));
    bytes.map(|bytes| Block::seal(bytes).unwrap()).into()
});

/// What a commit exchanges below the image, as the program does it.
struct Exchanged {
    base: Base,
    image: Arc<OverlaidImage>,
    /// What must be read while it is exchanged.
    expected: Mutex<Bytes>,
}

impl Below for Exchanged {
    fn source(&self) -> Arc<dyn BlockSource> {
        self.base.source()
    }

    fn switch(&self, to: &SnapshotInfo, differs: &dyn Fn(BlockIndex) -> bool) {
        self.compare("before the base is exchanged");
        self.base.switch(to, differs);
        self.compare("with a new base for commits only");
        self.image.rebase(self.base.source());
        self.compare("once the base is exchanged");
    }
}

impl Exchanged {
    fn compare(&self, when: &str) {
        let expected = self.expected.lock().unwrap();
        // Not in this thread, which may be one that must not wait.
        let same = || read_all(&*self.image) == *expected;
        let same = thread::scope(|scope| scope.spawn(same).join().unwrap());
        assert!(same, "other bytes {when}");
    }
}

fn read_all(disk: &dyn WriteAt) -> Bytes {
    let mut bytes = vec![0; BLOCKS.len() * BLOCK as usize];
    for (range, span) in spans(0..disk.size()) {
        read(disk, range.start, &mut bytes[span]);
    }
    bytes
}

/// As a mount does it: without a copy and without waiting, where that is possible.
fn read(disk: &dyn WriteAt, offset: u64, buf: &mut [u8]) {
    buf.fill(0x55);
    if let Lent::Bytes(bytes) = disk.lend(offset, buf.len(), true).unwrap() {
        return buf.copy_from_slice(&bytes);
    }
    if !disk.try_read_at(offset, buf).unwrap() {
        disk.read_at(offset, buf).unwrap();
    }
}

pub(super) struct World {
    store: Arc<dyn Store>,
    /// For the notes of what was put.
    notes: TempDir,
    disk: Simulated,
    overlay: Arc<Overlay>,
    below: Arc<Exchanged>,
    /// The disk, the partition that is not aligned, and the one that is.
    views: Vec<Arc<dyn WriteAt>>,
    now: Bytes,
    synced: Bytes,
    /// What pages became since: their number in the array, and their bytes.
    later: Vec<(usize, Bytes)>,
    /// The disk when it was sealed, as long as there is a sealed layer.
    sealed: Option<Bytes>,
    /// What each snapshot must hold for ever.
    snapshots: Vec<(SnapshotId, Bytes)>,
    stamp: u64,
}

impl World {
    pub(super) fn new() -> Self {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new().unwrap());
        let mut now = vec![0; BLOCKS.len() * BLOCK as usize];
        let info = RUNTIME.block_on(async {
            let new = NewSnapshot::new(gib(1)).unwrap();
            let id = store.start(&new).await.unwrap().id;
            for (index, block) in HELD.into_iter().zip(&*BEFORE) {
                store.put(&id, at(index), block).await.unwrap();
                now[span(at(index).start()..at(index).end())].copy_from_slice(block.bytes());
            }
            store.complete(&id, &count(3)).await.unwrap();
            store.info(&id).await.unwrap()
        });
        let disk = Simulated::new();
        let directory = Arc::new(disk.clone());
        let size = info.volume_size;
        let identity = store.identity();
        let overlay = Overlay::create_with(directory, &identity, &info.id, size, CONFIG);
        let overlay = Arc::new(overlay.unwrap());
        let (below, views) = over(&store, &overlay);
        Self {
            store,
            notes: scratch(),
            disk,
            overlay,
            below,
            views,
            synced: now.clone(),
            snapshots: vec![(info.id, now.clone())],
            now,
            later: Vec::new(),
            sealed: None,
            stamp: 0,
        }
    }

    fn size(&self) -> u64 {
        self.views[0].size()
    }

    /// The bytes of the disk that a view shows.
    fn shown(&self, view: usize) -> Range<u64> {
        [0..self.size(), OLD, NEW][view].clone()
    }

    /// Bytes of the disk, cut where the view ends.
    fn range(&self, view: usize, place: Place) -> Range<u64> {
        let shown = self.shown(view);
        let start = BORDERS[place.border].saturating_add_signed(place.from);
        let cut = |offset: u64| offset.clamp(shown.start, shown.end);
        cut(start)..cut(start + place.len)
    }

    pub(super) fn apply(&mut self, op: &Op) {
        match *op {
            Write { view, place, zeros } => {
                let range = self.range(view, place);
                let bytes = match zeros {
                    true => vec![0; (range.end - range.start) as usize],
                    false => self.stamp(range.clone()),
                };
                self.write(view, range, &bytes);
            }
            WriteBlock { block, what } => {
                let index = at(BLOCKS[block]);
                let range = index.start()..index.end();
                if range.end <= self.size() {
                    let bytes = match what {
                        0 => vec![0; BLOCK as usize],
                        1 => self.now[span(range.clone())].to_vec(),
                        _ => self.stamp(range.clone()),
                    };
                    self.write(0, range, &bytes);
                }
            }
            Discard { view, place } => self.discard(view, self.range(view, place)),
            DiscardFar { view, from, to } => {
                let (from, to) = (self.range(view, from), self.range(view, to));
                self.discard(view, from.start.min(to.start)..from.end.max(to.end));
            }
            Read { view, place } => self.compare_in(view, self.range(view, place)),
            Extents { view } => self.compare_extents(view),
            Sync => {
                self.views[self.later.len() % 3].sync().unwrap();
                self.all_synced();
            }
            Reopen => {
                self.overlay.sync().unwrap();
                self.all_synced();
                self.open();
            }
            // What it finds is not durable for that.
            Kill => self.open(),
            Crash { seed } => {
                let mut random = Random(seed);
                let loss = [Loss::All, Loss::Nothing, Loss::Some(128)][(seed % 3) as usize];
                let state = self.disk.lose_power(loss, &mut random);
                self.disk = Simulated::holding(state);
                self.open();
                self.all_synced();
            }
            Commit { restart, cut } => self.commit(restart, cut),
            Settle => self.settle(),
            Grow => {
                let size = self.overlay.header().size.gib();
                if size < 3 {
                    self.overlay.grow(gib(size + 1)).unwrap();
                    (self.below, self.views) = over(&self.store, &self.overlay);
                }
            }
        }
    }

    /// Bytes that no other write has, and that differ from place to place.
    fn stamp(&mut self, range: Range<u64>) -> Bytes {
        self.stamp += 1;
        let word = |offset: u64| ((self.stamp << 40) | (offset / 8)).to_le_bytes();
        let byte = |offset: u64| word(offset)[(offset % 8) as usize];
        range.map(byte).collect()
    }

    fn write(&mut self, view: usize, range: Range<u64>, bytes: &[u8]) {
        if range.is_empty() {
            return;
        }
        let offset = range.start - self.shown(view).start;
        if !self.views[view].try_write_at(offset, bytes).unwrap() {
            self.views[view].write_at(offset, bytes).unwrap();
        }
        self.change(range.clone(), |now, position| {
            now.copy_from_slice(&bytes[(position - range.start) as usize..][..now.len()]);
        });
        self.compare_around(range);
    }

    fn discard(&mut self, view: usize, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let start = self.shown(view).start;
        self.views[view]
            .zero(range.start - start..range.end - start)
            .unwrap();
        self.change(range.clone(), |now, _| now.fill(0));
        self.compare_around(range.clone());
        let mut page = range.start.next_multiple_of(PAGE);
        while page < range.end - range.end % PAGE {
            match self.views[0].extent(page).unwrap() {
                Extent::Hole { end } => page = end,
                Extent::Data { .. } => panic!("the discarded page at {page} is data"),
            }
        }
    }

    /// Notes what changed.
    fn change(&mut self, range: Range<u64>, change: impl Fn(&mut [u8], u64)) {
        for (part, span) in spans(range) {
            change(&mut self.now[span.clone()], part.start);
            for page in span.start / PAGE as usize..span.end.div_ceil(PAGE as usize) {
                let bytes = self.now[page_of(page)].to_vec();
                self.later.push((page, bytes));
            }
        }
    }

    fn all_synced(&mut self) {
        self.synced.clone_from(&self.now);
        self.later.clear();
    }

    /// As a process that comes back: what was synced is there, and of what was written later all or nothing of a page.
    fn open(&mut self) {
        let header = self.overlay.header();
        let directory = Arc::new(self.disk.clone());
        let overlay = Overlay::open_with(directory, CONFIG).unwrap().unwrap();
        self.overlay = Arc::new(overlay);
        assert_eq!(self.overlay.header(), header);
        (self.below, self.views) = over(&self.store, &self.overlay);
        let found = read_all(&*self.views[0]);
        for (page, bytes) in found.chunks(PAGE as usize).enumerate() {
            let mut later = self.later.iter().filter(|(other, _)| *other == page);
            assert!(
                bytes == &self.synced[page_of(page)] || later.any(|(_, value)| value == bytes),
                "page {page} is neither as synced nor as later written"
            );
        }
        self.now = found;
    }

    fn commits(&self, store: Arc<dyn Store>) -> Commits {
        let (overlay, below) = (Arc::clone(&self.overlay), Arc::clone(&self.below));
        let config = Config { concurrency: 2 };
        Commits::new(store, overlay, below, self.notes.path().into(), config)
    }

    fn commit(&mut self, restart: bool, cut: Option<(usize, usize)>) {
        let before = self.overlay.header().commit;
        let wish = Wish {
            restart,
            ..Wish::default()
        };
        let is_new = Mutex::new(false);
        let tell = |event| {
            if let Event::Sealed { since: None, .. } = event {
                *is_new.lock().unwrap() = true;
            }
        };
        // Without a cut at a call that there is not.
        let (cut, nth) = cut.map_or((CUTS[0], usize::MAX), |(cut, nth)| (CUTS[cut], nth));
        let store = Cutting::new(&self.store, cut, nth);
        let commits = self.commits(Arc::<Cutting>::clone(&store));
        let ended: Option<Result<Accepted>> =
            RUNTIME.block_on(store.until_killed(commits.run(&wish, &tell)));
        if is_new.into_inner().unwrap() {
            assert!(before.is_none() || restart);
            self.sealed = Some(self.now.clone());
            self.all_synced();
        }
        match ended {
            Some(Ok(accepted)) => {
                let sealed = self.sealed.clone().unwrap();
                assert!(restart || before.is_none_or(|commit| !commit.accepted));
                assert_eq!(accepted.parent, self.overlay.header().base);
                self.compare_child(&accepted, &sealed);
                self.snapshots.push((accepted.id, sealed));
            }
            Some(Err(e)) if e.kind() == ErrorKind::Conflict => {
                assert!(!restart && before.is_some_and(|commit| commit.accepted));
            }
            Some(Err(e)) => assert_eq!(e.kind(), ErrorKind::Unavailable, "{e:#}"),
            None => {}
        }
        self.compare();
    }

    fn settle(&mut self) {
        self.below.expected.lock().unwrap().clone_from(&self.now);
        let accepted = self.commits(Arc::clone(&self.store)).accepted();
        let settled = RUNTIME.block_on(self.commits(Arc::clone(&self.store)).settle(Depth::All));
        match accepted {
            Some((_, id)) => {
                assert_eq!(settled.unwrap(), Settled::Done(id.clone()));
                assert_eq!(self.overlay.header().base, id);
                assert_eq!(self.overlay.header().commit, None);
                self.sealed = None;
            }
            None => assert_eq!(settled.unwrap(), Settled::Nothing),
        }
        self.compare();
    }

    /// The child is the disk, and no blocks are in it for nothing.
    fn compare_child(&self, child: &Accepted, disk: &Bytes) {
        self.compare_snapshot(&child.id, disk);
        let [parents, own] = RUNTIME.block_on(async {
            [
                present(&*self.store, &child.parent, 0).await,
                present(&*self.store, &child.id, 0).await,
            ]
        });
        for index in own.into_iter().filter(|index| !parents.contains(index)) {
            let bytes = BLOCKS.contains(&index).then(|| &disk[block_of(index)]);
            assert!(
                bytes.is_some_and(|bytes| bytes.iter().any(|byte| *byte != 0)),
                "block {index} is zeros, which the parent does not have"
            );
        }
    }

    fn compare_snapshot(&self, id: &SnapshotId, disk: &Bytes) {
        RUNTIME.block_on(async {
            let size = self.store.info(id).await.unwrap().volume_size;
            for index in BLOCKS {
                let expected = &disk[block_of(index)];
                let same = match index < size.blocks() {
                    true => self.store.get(id, at(index)).await.unwrap().bytes() == expected,
                    false => expected.iter().all(|byte| *byte == 0),
                };
                assert!(same, "block {index} of {id}");
            }
        });
    }

    /// The range, and the pages beside it.
    fn compare_around(&self, range: Range<u64>) {
        let around = range.start.saturating_sub(PAGE)..(range.end + PAGE).min(self.size());
        self.compare_in(0, around);
    }

    fn compare_in(&self, view: usize, range: Range<u64>) {
        let start = self.shown(view).start;
        for (range, span) in spans(range) {
            let mut bytes = vec![0; span.len()];
            read(&*self.views[view], range.start - start, &mut bytes);
            assert!(bytes == self.now[span], "{range:?} through view {view}");
        }
    }

    fn compare(&self) {
        assert!(read_all(&*self.views[0]) == self.now, "the whole disk");
    }

    /// Holes are zeros, and what is said to take room is data.
    fn compare_extents(&self, view: usize) {
        let (shown, disk) = (self.shown(view), &self.views[view]);
        let mut data = 0;
        let mut position = 0;
        while position < disk.size() {
            let extent = disk.extent(position).unwrap();
            assert!(extent.end() > position && extent.end() <= disk.size());
            let range = shown.start + position..shown.start + extent.end();
            match extent {
                Extent::Data { .. } => data += extent.end() - position,
                Extent::Hole { .. } => {
                    for (range, span) in spans(range) {
                        let is_zero = self.now[span].iter().all(|byte| *byte == 0);
                        assert!(is_zero, "a hole with data in {range:?} of view {view}");
                    }
                }
            }
            position = extent.end();
        }
        let allocated = disk.allocated(0..disk.size());
        assert!(allocated.is_none_or(|bytes| bytes == data));
    }

    /// Looks through every view, commits what is there, and loses power: nothing of a snapshot has changed.
    pub(super) fn end(&mut self) {
        for view in 0..self.views.len() {
            self.compare_in(view, self.shown(view));
            self.compare_extents(view);
        }
        self.commit(false, None);
        self.settle();
        self.apply(&Sync);
        self.apply(&Crash { seed: 0 });
        self.compare();
        for (id, disk) in &self.snapshots {
            self.compare_snapshot(id, disk);
        }
    }
}

/// The image over what the overlay is over, as a mount assembles it, and its views.
fn over(store: &Arc<dyn Store>, overlay: &Arc<Overlay>) -> (Arc<Exchanged>, Vec<Arc<dyn WriteAt>>) {
    let info = RUNTIME.block_on(store.info(&overlay.header().base));
    let base = Base::new(store, &info.unwrap());
    let (overlay, handle) = (Arc::clone(overlay), RUNTIME.handle().clone());
    let image = Arc::new(OverlaidImage::new(overlay, base.source(), handle));
    let slice = |range| -> Arc<dyn WriteAt> {
        let disk = Arc::<OverlaidImage>::clone(&image);
        Arc::new(Slice::new(disk, range).unwrap())
    };
    let whole = Arc::<OverlaidImage>::clone(&image);
    let views: Vec<Arc<dyn WriteAt>> = vec![whole, slice(OLD), slice(NEW)];
    let exchanged = Exchanged {
        base,
        image,
        expected: Mutex::default(),
    };
    (Arc::new(exchanged), views)
}

/// Where a page of the array is in it.
fn page_of(page: usize) -> Range<usize> {
    page * PAGE as usize..(page + 1) * PAGE as usize
}

/// Where a block of the disk is in the array.
fn block_of(index: u32) -> Range<usize> {
    span(at(index).start()..at(index).end())
}
