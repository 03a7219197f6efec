//! How a snapshot comes to be and goes: start, put, complete, delete. Each holds the store's lock.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use log::warn;

use super::lock::StoreLock;
use super::pending::Pending;
use super::tree::{Root, Segment, SegmentRef};
use super::{Inner, Record, SNAPSHOT_RECORD, locked};
use crate::block::{Block, BlockIndex, Digest, Hasher};
use crate::durable;
use crate::error::{Error, ErrorKind, Result};
use crate::record;
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
                start_time: Some(now),
                description: new.description.clone(),
                tags: new.tags.clone(),
                encryption: match &parent {
                    Some(parent) => parent.info.encryption.clone(),
                    None => new.encryption.clone(),
                },
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
        // Another process may have completed or deleted it, and not have come to remove the rest.
        let there = |pending: &Arc<Pending>| pending.exists() && !self.snapshot_path(id).exists();
        if let Some(pending) = held.filter(there) {
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
        durable::create_private_dir(&self.top.join("snapshots"))?;
        // Most of the waiting is done here, while others may still write.
        let early = durable::flush(&self.dir);
        let _alone = StoreLock::exclusive(&self.top)?;
        let built = self.build(id, seal);
        // An error is reported by one flush only: neither may be overlooked, whatever else failed.
        let flushed = early.and_then(|()| durable::flush(&self.dir));
        if flushed.is_err() {
            self.failed.store(true, Ordering::SeqCst);
        }
        if self.failed.load(Ordering::SeqCst) {
            let before = || {
                Error::new(
                    ErrorKind::Io,
                    "the disk failed to keep what was written before",
                )
            };
            return Err(self.give_up(id, flushed.err().unwrap_or_else(before)));
        }
        let record = built?;
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

    /// The record that `id` will have once it is completed; its trees are written.
    fn build(&self, id: &SnapshotId, seal: &Seal) -> Result<Record> {
        let pending = self.hold(id)?;
        let mut record = pending.record.clone();
        record.root = self.write_tree(&pending, seal)?;
        record.info.status = Status::Completed;
        Ok(record)
    }

    /// After a flush that failed. The next one would report success all the same, and what is read back now may
    /// only be in memory: nothing of this snapshot may be relied on again, by a repetition least of all.
    fn give_up(&self, id: &SnapshotId, e: Error) -> Error {
        self.objects.distrust();
        locked(&self.pending).remove(id);
        let dir = self.pending_dir(id);
        let removed = if dir.exists() {
            self.discard(&dir)
        } else {
            Ok(())
        };
        let cleaned = removed.and_then(|()| self.gc_alone(false));
        let rest = cleaned.map_or_else(
            |e| format!("; it could not be removed ({e:#}): delete it"),
            |_| String::new(),
        );
        e.context(format!(
            "{id} is lost: check the disk, then import again{rest}"
        ))
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
        let dir = self.pending_dir(id);
        let pending = dir.exists();
        if pending {
            // First what a crash may have left of a completed one: it must not seem pending again.
            self.discard(&dir)?;
        }
        let completed = durable::remove(&self.snapshot_path(id))?;
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
        durable::sync_dir(&self.top.join("pending"))?;
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
