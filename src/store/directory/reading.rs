//! What the store tells: records, listings, blocks. Takes no lock and writes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use log::warn;

use super::pending::Pending;
use super::tree::{Root, Segment, SegmentRef, first_of, segment_of};
use super::{Inner, Record, SNAPSHOT_RECORD, locked};
use crate::block::{Block, BlockIndex, BlockSet, Digest};
use crate::error::{Error, ErrorKind, Result};
use crate::record;
use crate::snapshot::SnapshotId;
use crate::store::{Listing, check_readable, no_such_snapshot, not_related};

/// Blocks after which a page of a listing ends, at the next segment; the service's largest page.
const PAGE_BLOCKS: u64 = 10_000;

/// Segments read for one page at most, so that a page of few blocks takes no long time either.
const PAGE_SEGMENTS: usize = 256;

impl Inner {
    pub(super) fn completed_record(&self, id: &SnapshotId) -> Result<Record> {
        let record: Record = record::read(SNAPSHOT_RECORD, &self.snapshot_path(id))?;
        if record.info.id != *id {
            let what = format!("its record is that of {}", record.info.id);
            return Err(Error::new(ErrorKind::Corrupt, what));
        }
        Ok(record)
    }

    /// The record in whatever state, with its status as of now.
    pub(super) fn record(&self, id: &SnapshotId) -> Result<Record> {
        match self.completed_record(id) {
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            found => return found.map_err(|e| e.context(format!("{id} is damaged"))),
        }
        let pending = match Pending::open(&self.pending_dir(id)) {
            Err(e) if e.kind() == ErrorKind::NotFound => {
                // It can have been completed in between; it cannot become pending again.
                return match self.completed_record(id) {
                    Err(e) if e.kind() == ErrorKind::NotFound => Err(no_such_snapshot(id)),
                    found => found.map_err(|e| e.context(format!("{id} is damaged"))),
                };
            }
            found => found.map_err(|e| e.context(format!("{id} is damaged")))?,
        };
        let mut record = pending.record.clone();
        record.info.status = pending.status((self.clock)())?;
        Ok(record)
    }

    pub(super) fn list(&self) -> Result<Vec<Record>> {
        // In this order, as that is the way a snapshot goes: completed meanwhile, it is found twice, not never.
        let mut ids = self.ids("pending")?;
        ids.append(&mut self.ids("snapshots")?);
        ids.sort_unstable();
        ids.dedup();
        let mut records = Vec::new();
        for id in ids {
            match self.record(&id) {
                Ok(record) => records.push(record),
                // Deleted since the directory was read.
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                // One that cannot be read must not hide the others.
                Err(e) => warn!("left out of the list: {e:#}"),
            }
        }
        records
            .sort_by(|a, b| (a.info.start_time, &a.info.id).cmp(&(b.info.start_time, &b.info.id)));
        Ok(records)
    }

    fn readable(&self, id: &SnapshotId) -> Result<Arc<Record>> {
        if let Some(record) = locked(&self.completed).get(id) {
            return Ok(Arc::clone(record));
        }
        let record = Arc::new(self.record(id)?);
        check_readable(id, record.info.status)?;
        locked(&self.completed).put(id.clone(), Arc::clone(&record));
        Ok(record)
    }

    pub(super) fn read_root(&self, digest: &Digest) -> Result<Root> {
        self.objects
            .read_tree(digest)
            .and_then(|bytes| Root::decode(&bytes))
    }

    pub(super) fn root(&self, record: &Record) -> Result<Arc<Root>> {
        let Some(digest) = record.root else {
            return Ok(Arc::default());
        };
        if let Some(root) = locked(&self.roots).get(&digest) {
            return Ok(Arc::clone(root));
        }
        let root = Arc::new(self.read_root(&digest)?);
        locked(&self.roots).put(digest, Arc::clone(&root));
        Ok(root)
    }

    pub(super) fn read_segment(&self, reference: &SegmentRef) -> Result<Segment> {
        self.objects
            .read_tree(&reference.digest)
            .and_then(|bytes| Segment::decode(&bytes, reference.number))
            .and_then(|segment| {
                if segment.len() == reference.blocks {
                    return Ok(segment);
                }
                let (is, said) = (segment.len(), reference.blocks);
                Err(Error::new(
                    ErrorKind::Corrupt,
                    format!("segment {} has {is} blocks, not {said}", reference.number),
                ))
            })
    }

    /// Segment `number` of a volume, if it has any block.
    pub(super) fn segment(&self, root: &Root, number: u32) -> Result<Option<Arc<Segment>>> {
        let Some(reference) = root.segment(number) else {
            return Ok(None);
        };
        // Segments of equal contents share their object, but not their indexes.
        let key = (reference.digest, number);
        if let Some(segment) = locked(&self.segments).get(&key) {
            return Ok(Some(Arc::clone(segment)));
        }
        let segment = Arc::new(self.read_segment(reference)?);
        locked(&self.segments).put(key, Arc::clone(&segment));
        Ok(Some(segment))
    }

    /// What was read of `id`; if it is missing because the snapshot was deleted and collected by another process
    /// since it was opened here, that is no damage.
    fn unless_deleted<T>(&self, id: &SnapshotId, read: Result<T>) -> Result<T> {
        read.map_err(|e| match e.kind() {
            ErrorKind::Corrupt
                if self.top.join("format").exists() && !self.snapshot_path(id).exists() =>
            {
                no_such_snapshot(id)
            }
            _ => e,
        })
    }

    pub(super) fn get(&self, id: &SnapshotId, index: BlockIndex) -> Result<Block> {
        self.unless_deleted(id, self.read_block(id, index))
    }

    pub(super) fn blocks(&self, id: &SnapshotId, from: BlockIndex) -> Result<Listing> {
        self.unless_deleted(id, self.list_blocks(id, from))
    }

    pub(super) fn changed(
        &self,
        from: &SnapshotId,
        to: &SnapshotId,
        at: BlockIndex,
    ) -> Result<Listing> {
        self.unless_deleted(
            from,
            self.unless_deleted(to, self.list_changed(from, to, at)),
        )
    }

    fn read_block(&self, id: &SnapshotId, index: BlockIndex) -> Result<Block> {
        let record = self.readable(id)?;
        record.info.volume_size.check(index)?;
        let segment = self.segment(&*self.root(&record)?, segment_of(index))?;
        match segment.and_then(|segment| segment.get(index)) {
            Some(digest) => self.objects.read_block(&digest),
            None => Ok(Block::Zero),
        }
    }

    fn list_blocks(&self, id: &SnapshotId, from: BlockIndex) -> Result<Listing> {
        let record = self.readable(id)?;
        let root = self.root(&record)?;
        let numbers = root.segments.iter().map(|segment| segment.number);
        page(&record, from, numbers, |number| {
            let segment = self.segment(&root, number)?;
            Ok(segment
                .iter()
                .flat_map(|segment| segment.indexes())
                .collect())
        })
    }

    fn list_changed(&self, from: &SnapshotId, to: &SnapshotId, at: BlockIndex) -> Result<Listing> {
        let (old, new) = (self.readable(from)?, self.readable(to)?);
        if old.lineage != new.lineage {
            return Err(not_related(from, to));
        }
        let (old_root, new_root) = (self.root(&old)?, self.root(&new)?);
        let both = old_root.segments.iter().chain(&new_root.segments);
        let numbers: BTreeSet<u32> = both.map(|segment| segment.number).collect();
        let differing = numbers
            .into_iter()
            .filter(|number| old_root.segment(*number) != new_root.segment(*number));
        page(&new, at, differing, |number| {
            let digests = |root: &Root| -> Result<BTreeMap<BlockIndex, Digest>> {
                Ok(self
                    .segment(root, number)?
                    .iter()
                    .flat_map(|segment| segment.iter())
                    .collect())
            };
            let (old, new) = (digests(&old_root)?, digests(&new_root)?);
            let both: BTreeSet<_> = old.keys().chain(new.keys()).copied().collect();
            Ok(both
                .into_iter()
                .filter(|index| old.get(index) != new.get(index))
                .collect())
        })
    }
}

/// One page of a listing from `from` on: what `list` tells of the segments `numbers`, which ascend.
fn page(
    record: &Record,
    from: BlockIndex,
    numbers: impl Iterator<Item = u32>,
    list: impl Fn(u32) -> Result<Vec<BlockIndex>>,
) -> Result<Listing> {
    let volume_size = record.info.volume_size;
    volume_size.check(from)?;
    let mut set = BlockSet::new();
    let mut end = volume_size.blocks();
    let numbers = numbers
        .skip_while(|number| *number < segment_of(from))
        .take_while(|number| first_of(*number) < volume_size.blocks());
    for (visited, number) in numbers.enumerate() {
        if visited >= PAGE_SEGMENTS || set.len() >= PAGE_BLOCKS {
            end = first_of(number);
            break;
        }
        list(number)?
            .into_iter()
            // The other snapshot of `changed` may have a larger volume.
            .filter(|index| *index >= from && volume_size.check(*index).is_ok())
            .for_each(|index| set.push(index));
    }
    Ok(Listing {
        set,
        covered: from.get()..end,
        volume_size,
    })
}
