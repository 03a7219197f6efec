//! How a snapshot comes to be and goes: start, put, complete, delete. Each holds the store's lock.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use log::warn;

use super::lock::StoreLock;
use super::pending::Pending;
use super::record;
use super::tree::{Root, Segment, SegmentRef};
use super::{Inner, Record, SNAPSHOT_RECORD, locked};
use crate::block::{Block, BlockIndex, Digest, Hasher};
use crate::durable;
use crate::error::{Error, ErrorKind, Result};
use crate::snapshot::{NewSnapshot, Seal, SnapshotId, SnapshotInfo, Status, random_hex};
use crate::store::{check_new, check_pending, check_repeat, check_seal, no_such_snapshot};

impl Inner {
    pub(super) fn start(&self, new: &NewSnapshot) -> Result<SnapshotInfo> {
        let _alone = StoreLock::exclusive(&self.top)?;
        if let Some(first) = self
            .list()?
            .into_iter()
            .find(|record| record.new.client_token == new.client_token)
        {
            let id = &first.info.id;
            check_repeat(&first.new, new, id)?;
            if first.info.status == Status::Pending {
                self.hold(id)?;
            }
            return Ok(first.info);
        }
        let parent = new.parent.as_ref().map(|id| self.record(id)).transpose()?;
        check_new(new, parent.as_ref().map(|parent| &parent.info))?;
        let id = SnapshotId::random()?;
        let now = (self.clock)();
        let record = Record {
            info: SnapshotInfo {
                id: id.clone(),
                parent: new.parent.clone(),
                volume_size: new.volume_size,
                status: Status::Pending,
                start_time: now,
                description: new.description.clone(),
                tags: new.tags.clone(),
            },
            new: new.clone(),
            lineage: parent
                .as_ref()
                .map_or_else(|| id.clone(), |parent| parent.lineage.clone()),
            boot: boot_id(),
            root: parent.and_then(|parent| parent.root),
        };
        let pending = Pending::create(&self.pending_dir(&id), &record, now)?;
        locked(&self.pending).insert(id, Arc::new(pending));
        Ok(record.info)
    }

    /// The pending snapshot `id`, from now on in use by this process. The caller holds the store's lock.
    fn hold(&self, id: &SnapshotId) -> Result<Arc<Pending>> {
        let held = locked(&self.pending).get(id).cloned();
        if let Some(pending) = held.filter(|pending| pending.exists()) {
            check_pending(id, pending.status((self.clock)())?)?;
            return Ok(pending);
        }
        locked(&self.pending).remove(id);
        check_pending(id, self.record(id)?.info.status)?;
        let pending = Arc::new(Pending::join(&self.pending_dir(id))?);
        locked(&self.pending).insert(id.clone(), Arc::clone(&pending));
        Ok(pending)
    }

    pub(super) fn put(&self, id: &SnapshotId, index: BlockIndex, block: &Block) -> Result<()> {
        let _writing = StoreLock::shared(&self.top)?;
        let pending = self.hold(id)?;
        pending.record.info.volume_size.check(index)?;
        self.objects.write_block(block)?;
        pending.append(index, &block.digest(), (self.clock)())
    }

    pub(super) fn complete(&self, id: &SnapshotId, seal: &Seal) -> Result<()> {
        // Most of the waiting is done here, while others may still write.
        let early = durable::flush(&self.dir);
        let _alone = StoreLock::exclusive(&self.top)?;
        let pending = self.hold(id)?;
        let mut record = pending.record.clone();
        record.root = self.write_tree(&pending, seal)?;
        record.info.status = Status::Completed;
        let flushed = early.and_then(|()| durable::flush(&self.dir));
        if let Err(e) = flushed {
            // The next flush would report success all the same, and what is read back now may only be in
            // memory. So nothing of this snapshot may be relied on again, by a repetition least of all.
            locked(&self.pending).remove(id);
            drop(pending);
            self.discard(&self.pending_dir(id))?;
            self.gc_alone(false)?;
            return Err(e.context(format!(
                "{id} is lost and was removed: check the disk, then import again"
            )));
        }
        durable::create_private_dir(&self.top.join("snapshots"))?;
        durable::publish(
            &self.snapshot_path(id),
            &record::encode(SNAPSHOT_RECORD, &record)?,
        )?;
        locked(&self.pending).remove(id);
        if let Err(e) = self.discard(&self.pending_dir(id)) {
            warn!("{id}: completed, but its log of puts stays until the next gc: {e:#}");
        }
        Ok(())
    }

    /// Writes the trees that `pending` will have, and returns their root.
    fn write_tree(&self, pending: &Pending, seal: &Seal) -> Result<Option<Digest>> {
        let id = &pending.record.info.id;
        let may_have_lost_puts = pending.record.boot != boot_id();
        if may_have_lost_puts && seal.checksum.is_none() {
            // A count cannot tell a block from the one that it had replaced.
            let what = format!(
                "{id}: the machine was restarted since it was started: a checksum is needed"
            );
            return Err(Error::new(ErrorKind::Invalid, what));
        }
        let mut root = Root::clone(&*self.root(&pending.record)?);
        let mut count = 0;
        let mut linear = Hasher::default();
        for number in pending.segments()? {
            let inherited = self.segment(&root, number)?;
            let mut blocks: BTreeMap<_, _> = inherited
                .iter()
                .flat_map(|segment| segment.iter())
                .collect();
            for (index, digest) in pending.puts(number)? {
                if may_have_lost_puts {
                    self.objects.read_block(&digest).map_err(|e| {
                        e.context(format!(
                            "{id}: block {index} was lost in a crash: put it again"
                        ))
                    })?;
                }
                count += 1;
                linear.update(digest.as_bytes());
                blocks.insert(index, digest);
            }
            let segment = Segment::new(number, &blocks);
            let digest = self.objects.write_tree(&segment.encode())?;
            root.set(SegmentRef {
                number,
                blocks: segment.len(),
                digest,
            });
        }
        check_seal(
            id,
            &Seal {
                count,
                checksum: Some(linear.finish()),
            },
            seal,
        )?;
        if root.segments.is_empty() {
            return Ok(None);
        }
        self.objects.write_tree(&root.encode()).map(Some)
    }

    pub(super) fn delete(&self, id: &SnapshotId) -> Result<()> {
        let _alone = StoreLock::exclusive(&self.top)?;
        locked(&self.completed).pop(id);
        locked(&self.pending).remove(id);
        let completed = durable::remove(&self.snapshot_path(id))?;
        let dir = self.pending_dir(id);
        let pending = dir.exists();
        if pending {
            self.discard(&dir)?;
        }
        if completed || pending {
            Ok(())
        } else {
            Err(no_such_snapshot(id))
        }
    }

    /// Removes the directory of a pending snapshot; it disappears in one step.
    pub(super) fn discard(&self, dir: &Path) -> Result<()> {
        let tmp = self.objects.tmp_dir();
        durable::create_private_dir(&tmp)?;
        let gone = tmp.join(durable::unique_name());
        durable::place(dir, &gone)?;
        fs::remove_dir_all(&gone).map_err(|e| Error::io(e, "remove", &gone))
    }
}

/// Identifies this run of the machine; never equal to itself where the kernel does not tell.
fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|id| id.trim().to_owned())
        .or_else(|_| random_hex::<16>())
        .unwrap_or_default()
}
