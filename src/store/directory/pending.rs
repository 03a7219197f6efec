//! A snapshot between `start` and `complete`: `pending/ID/record` and a log of puts for each segment.
//!
//! A log, `pending/ID/NUMBER`, is records of 40 bytes, appended; the latest of an index wins:
//!
//! ```text
//!  0  4  block index, little-endian
//!  4 32  digest of what was put
//! 36  4  the first bytes of the SHA-256 of the 36 before
//! ```
//! A record torn by a power failure is stepped over: reading goes on at the next place where a check holds.
//! The record's modification time is the time of the last put. Whoever works on the snapshot keeps a shared
//! lock on the record, by which `gc` tells an unfinished snapshot from an abandoned one.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind as IoKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use rustix::fs::{FlockOperation, flock};

use super::tree::segment_of;
use super::{PENDING_RECORD, Record};
use crate::block::{BlockIndex, Digest};
use crate::durable;
use crate::error::{Error, Result};
use crate::record;
use crate::snapshot::Status;

const RECORD: &str = "record";
const PUT_LEN: usize = 40;

/// A pending snapshot.
pub(super) struct Pending {
    dir: PathBuf,
    /// The record; holds the shared lock of those who have joined.
    file: File,
    pub(super) record: Record,
}

impl Pending {
    /// Starts it; the caller is alone in the store.
    pub(super) fn create(dir: &Path, record: &Record, now: Timestamp) -> Result<Self> {
        durable::create_private_dir(dir)?;
        durable::publish(&dir.join(RECORD), &record::encode(PENDING_RECORD, record)?)?;
        if let Some(parent) = dir.parent() {
            durable::sync_dir(parent)?;
        }
        let pending = Self::join(dir)?;
        pending.touch(now)?;
        Ok(pending)
    }

    /// Joins the work on it; the caller holds the store's lock. `NotFound` if there is none.
    pub(super) fn join(dir: &Path) -> Result<Self> {
        let pending = Self::open(dir)?;
        // Only `gc` locks it exclusively, and only while it is alone in the store.
        flock(&pending.file, FlockOperation::LockShared)
            .map_err(|e| Error::io(e.into(), "lock", &dir.join(RECORD)))?;
        Ok(pending)
    }

    /// Looks at it without joining the work. `NotFound` if there is none.
    pub(super) fn open(dir: &Path) -> Result<Self> {
        let path = dir.join(RECORD);
        let file = File::open(&path).map_err(|e| Error::io(e, "open", &path))?;
        let record = record::read(PENDING_RECORD, &path)?;
        Ok(Self {
            dir: dir.to_owned(),
            file,
            record,
        })
    }

    /// Whether a process works on the snapshot in `dir`.
    pub(super) fn is_in_use(dir: &Path) -> Result<bool> {
        let path = dir.join(RECORD);
        match File::open(&path) {
            Ok(file) => Ok(flock(&file, FlockOperation::NonBlockingLockExclusive).is_err()),
            Err(e) if e.kind() == IoKind::NotFound => Ok(false),
            // Not to know is not to know that nobody does.
            Err(e) => Err(Error::io(e, "open", &path)),
        }
    }

    /// Whether it is still there: another process may have completed or deleted it.
    pub(super) fn exists(&self) -> bool {
        self.dir.join(RECORD).exists()
    }

    /// Pending, or past its timeout.
    pub(super) fn status(&self, now: Timestamp) -> Result<Status> {
        let last_put = self.file.metadata().and_then(|meta| meta.modified())?;
        let idle = SystemTime::from(now)
            .duration_since(last_put)
            .unwrap_or_default();
        Ok(if idle > self.record.new.timeout {
            Status::Error
        } else {
            Status::Pending
        })
    }

    /// Notes a put whose block is stored.
    pub(super) fn append(&self, index: BlockIndex, digest: &Digest, now: Timestamp) -> Result<()> {
        let path = self.log(segment_of(index));
        let mut log = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&path)
            .map_err(|e| Error::io(e, "open", &path))?;
        log.write_all(&encode_put(index, digest))
            .map_err(|e| Error::io(e, "write", &path))?;
        self.touch(now)
    }

    /// Numbers of the segments that have puts, ascending.
    pub(super) fn segments(&self) -> Result<Vec<u32>> {
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(|e| Error::io(e, "read", &self.dir))? {
            numbers.extend(
                entry?
                    .file_name()
                    .to_str()
                    .and_then(|name| name.parse::<u32>().ok()),
            );
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// What was put into segment `number`.
    pub(super) fn puts(&self, number: u32) -> Result<BTreeMap<BlockIndex, Digest>> {
        let path = self.log(number);
        let bytes = fs::read(&path).map_err(|e| Error::io(e, "read", &path))?;
        Ok(decode_puts(&bytes)
            .filter(|(index, _)| segment_of(*index) == number)
            .collect())
    }

    fn log(&self, number: u32) -> PathBuf {
        self.dir.join(number.to_string())
    }

    /// Counts its timeout from a moment that much later.
    pub(super) fn defer(&self, by: Duration) -> Result<()> {
        let last_put = self.file.metadata().and_then(|meta| meta.modified())?;
        Ok(self.file.set_modified(last_put + by)?)
    }

    /// Counts its timeout from now.
    fn touch(&self, now: Timestamp) -> Result<()> {
        self.file
            .set_modified(now.into())
            .map_err(|e| Error::io(e, "set the time of", &self.dir.join(RECORD)))
    }
}

fn encode_put(index: BlockIndex, digest: &Digest) -> [u8; PUT_LEN] {
    let mut bytes = [0; PUT_LEN];
    let (place, rest) = bytes.split_at_mut(4);
    let (hash, check) = rest.split_at_mut(Digest::LEN);
    place.copy_from_slice(&index.get().to_le_bytes());
    hash.copy_from_slice(digest.as_bytes());
    check.copy_from_slice(&check_of(place, hash));
    bytes
}

fn check_of(place: &[u8], hash: &[u8]) -> [u8; 4] {
    let digest = Digest::of(&[place, hash].concat());
    let [a, b, c, d, ..] = *digest.as_bytes();
    [a, b, c, d]
}

fn decode_puts(mut bytes: &[u8]) -> impl Iterator<Item = (BlockIndex, Digest)> + '_ {
    std::iter::from_fn(move || {
        while let Some((put, rest)) = bytes.split_first_chunk::<PUT_LEN>() {
            let (place, tail) = put.split_first_chunk::<4>()?;
            let (hash, check) = tail.split_first_chunk::<32>()?;
            if check == check_of(place, hash) {
                bytes = rest;
                return Some((
                    BlockIndex::new(u32::from_le_bytes(*place)),
                    Digest::from_bytes(*hash),
                ));
            }
            bytes = bytes.get(1..)?;
        }
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn puts_after_a_torn_one_are_found() {
        let puts: Vec<_> = (0..4u32)
            .map(|i| (BlockIndex::new(i), Digest::of(&i.to_le_bytes())))
            .collect();
        let bytes: Vec<Vec<u8>> = puts
            .iter()
            .map(|(index, digest)| encode_put(*index, digest).to_vec())
            .collect();
        for cut in 0..PUT_LEN {
            let log = [&bytes[0], &bytes[1][..cut], &bytes[2], &bytes[3]].concat();
            let found: Vec<_> = decode_puts(&log).collect();
            assert_eq!(found, [puts[0], puts[2], puts[3]], "cut at {cut}");
        }
    }
}
