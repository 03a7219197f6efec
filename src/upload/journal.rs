//! What an upload has done, block by block, so that it need not be done again.
//!
//! A file: one line of text that says which snapshot it is of, then records of 44 bytes, in ascending order of index.
//!
//! ```text
//! ebsfs-puts 1 snap-0123...\n
//!
//! index     u32, little-endian
//! verdict   u32, little-endian: 1 put, 0 left out
//! digest    32 bytes, of the block
//! checksum  the first 4 bytes of the SHA-256 of the snapshot's id and the 40 bytes above
//! ```
//! Nothing is synced, as nothing depends on it: a record that is missing or torn costs one put more, and one that
//! tells of other bytes than the block now has is passed over.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use log::warn;

use crate::block::{BlockIndex, Digest, Hasher};
use crate::error::{Error, Result};
use crate::snapshot::SnapshotId;

/// What was found of a block.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Verdict {
    /// It differs from what the snapshot has anyway, and was put.
    Put,
    /// The snapshot has it anyway.
    LeftOut,
}

struct Record {
    index: BlockIndex,
    verdict: Verdict,
    digest: Digest,
}

const RECORD_LEN: u64 = 4 + 4 + 32 + 4;

impl Record {
    fn encode(&self, id: &SnapshotId) -> Vec<u8> {
        let verdict: u32 = match self.verdict {
            Verdict::Put => 1,
            Verdict::LeftOut => 0,
        };
        let mut bytes = self.index.get().to_le_bytes().to_vec();
        bytes.extend(verdict.to_le_bytes());
        bytes.extend(self.digest.as_bytes());
        bytes.extend(checksum(id, &bytes));
        bytes
    }

    /// The next record; none if there is no whole one.
    fn read(from: &mut impl Read, id: &SnapshotId) -> Option<Self> {
        let (mut index, mut verdict) = ([0; 4], [0; 4]);
        let (mut digest, mut sum) = ([0; Digest::LEN], [0; 4]);
        from.read_exact(&mut index).ok()?;
        from.read_exact(&mut verdict).ok()?;
        from.read_exact(&mut digest).ok()?;
        from.read_exact(&mut sum).ok()?;
        let record = Self {
            index: BlockIndex::new(u32::from_le_bytes(index)),
            verdict: match u32::from_le_bytes(verdict) {
                0 => Verdict::LeftOut,
                1 => Verdict::Put,
                _ => return None,
            },
            digest: Digest::from_bytes(digest),
        };
        record.encode(id).ends_with(&sum).then_some(record)
    }
}

fn header(id: &SnapshotId) -> String {
    format!("ebsfs-puts 1 {id}\n")
}

fn checksum(id: &SnapshotId, record: &[u8]) -> [u8; 4] {
    let mut hasher = Hasher::default();
    hasher.update(id.as_str().as_bytes());
    hasher.update(record);
    let [a, b, c, d, ..] = *hasher.finish().as_bytes();
    [a, b, c, d]
}

/// Where what is done is noted.
pub struct Journal {
    id: SnapshotId,
    /// Positioned at its end; none: nothing is noted.
    file: Option<File>,
}

impl Journal {
    /// Notes nothing.
    pub fn none(id: &SnapshotId) -> Self {
        Self {
            id: id.clone(),
            file: None,
        }
    }

    /// The journal at `path`, made if there is none, and what it knows. One of another snapshot is begun anew.
    pub fn open(path: &Path, id: &SnapshotId) -> Result<(Self, Known)> {
        let opened = Self::open_file(path, id);
        opened.map_err(|e| Error::io(e, "use", path))
    }

    fn open_file(path: &Path, id: &SnapshotId) -> io::Result<(Self, Known)> {
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)?;
        let header = header(id);
        let mut known = Known::at_start(File::open(path)?, &header, id)?;
        let mut records = 0;
        while known.take().is_some() {
            records += 1;
        }
        if records == 0 {
            file.set_len(0)?;
            file.write_all(header.as_bytes())?;
            known = Known::default();
        } else {
            let start = u64::try_from(header.len()).unwrap_or(0);
            let end = start + records * RECORD_LEN;
            file.set_len(end)?;
            file.seek(SeekFrom::Start(end))?;
            known = Known::at_start(File::open(path)?, &header, id)?;
        }
        let journal = Self {
            id: id.clone(),
            file: Some(file),
        };
        Ok((journal, known))
    }

    /// Notes what was done about a block; blocks come in ascending order.
    pub(super) fn note(&mut self, index: BlockIndex, verdict: Verdict, digest: &Digest) {
        let Some(file) = &mut self.file else { return };
        let record = Record {
            index,
            verdict,
            digest: *digest,
        };
        if let Err(e) = file.write_all(&record.encode(&self.id)) {
            warn!(
                "{}: an interrupted upload will put the rest again: {e}",
                self.id
            );
            self.file = None;
        }
    }
}

/// What an earlier upload noted, in ascending order of index; memory for one record.
#[derive(Default)]
pub struct Known {
    records: Option<(BufReader<File>, SnapshotId)>,
    next: Option<Record>,
    last: Option<BlockIndex>,
}

impl Known {
    /// What the journal at `path` knows of snapshot `id`, without touching it; nothing if there is none.
    pub fn read(path: &Path, id: &SnapshotId) -> Result<Self> {
        let read = File::open(path).and_then(|file| Self::at_start(file, &header(id), id));
        match read {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            read => read.map_err(|e| Error::io(e, "read", path)),
        }
    }

    /// The next block that was put.
    pub fn next_put(&mut self) -> Option<BlockIndex> {
        loop {
            let record = self.take()?;
            if record.verdict == Verdict::Put {
                return Some(record.index);
            }
        }
    }

    /// Empty if the file begins with something else than `header`.
    fn at_start(file: File, header: &str, id: &SnapshotId) -> io::Result<Self> {
        let mut reader = BufReader::new(file);
        let mut start = vec![0; header.len()];
        match reader.read_exact(&mut start) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(Self::default()),
            read => read?,
        }
        let mut known = Self::default();
        if start == header.as_bytes() {
            known.records = Some((reader, id.clone()));
            known.advance();
        }
        Ok(known)
    }

    /// Whether there is nothing (more) that it knows.
    pub fn is_empty(&self) -> bool {
        self.next.is_none()
    }

    /// What was found of block `index` when it had the digest told; asked for in ascending order.
    pub(super) fn verdict(&mut self, index: BlockIndex) -> Option<(Verdict, Digest)> {
        while self.next.as_ref()?.index < index {
            self.take();
        }
        let record = self.next.as_ref().filter(|record| record.index == index)?;
        Some((record.verdict, record.digest))
    }

    fn take(&mut self) -> Option<Record> {
        let record = self.next.take();
        self.advance();
        record
    }

    /// Reads the next record; what does not ascend is not ours, and ends it.
    fn advance(&mut self) {
        let record = match &mut self.records {
            Some((reader, id)) => Record::read(reader, id),
            None => None,
        };
        self.next = record.filter(|record| self.last.is_none_or(|last| last < record.index));
        self.last = self.next.as_ref().map(|record| record.index);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const INDEXES: [u32; 3] = [1, 5, 6];

    fn digest(index: u32) -> Digest {
        Digest::of(&index.to_le_bytes())
    }

    fn id() -> SnapshotId {
        "snap-0a".parse().unwrap()
    }

    /// A journal of three records.
    fn written(path: &Path) {
        let (mut journal, known) = Journal::open(path, &id()).unwrap();
        assert!(known.is_empty());
        for index in INDEXES {
            let verdict = if index == 5 {
                Verdict::LeftOut
            } else {
                Verdict::Put
            };
            journal.note(BlockIndex::new(index), verdict, &digest(index));
        }
    }

    /// The indexes of which the journal at `path` knows.
    fn known(path: &Path, id: &SnapshotId) -> Vec<u32> {
        let (_, mut known) = Journal::open(path, id).unwrap();
        let verdict = |index| Some((index, known.verdict(BlockIndex::new(index))?));
        let found = (0..10).filter_map(verdict);
        let check = |(index, (verdict, told))| {
            assert_eq!(told, digest(index));
            assert_eq!(verdict == Verdict::LeftOut, index == 5);
            index
        };
        found.map(check).collect()
    }

    #[test]
    fn what_was_noted_is_known_again_and_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("puts");
        written(&path);
        assert_eq!(known(&path, &id()), INDEXES);
        let (mut journal, _) = Journal::open(&path, &id()).unwrap();
        journal.note(BlockIndex::new(8), Verdict::Put, &digest(8));
        assert_eq!(known(&path, &id()), [1, 5, 6, 8]);
    }

    #[test]
    fn a_torn_or_flipped_record_ends_what_is_known() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("puts");
        written(&path);
        let whole = fs::read(&path).unwrap();
        let start = whole.len() - 3 * 44;
        for at in start..whole.len() {
            let before = (at - start) / 44;
            fs::write(&path, &whole[..at]).unwrap();
            assert_eq!(known(&path, &id()), INDEXES[..before], "cut at {at}");
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            fs::write(&path, &flipped).unwrap();
            assert_eq!(known(&path, &id()), INDEXES[..before], "flipped at {at}");
            // What was cut off stays away.
            assert!(fs::read(&path).unwrap().len() <= start + before * 44);
        }
    }

    #[test]
    fn the_journal_of_another_snapshot_knows_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("puts");
        written(&path);
        assert_eq!(known(&path, &"snap-0b".parse().unwrap()), [0; 0]);
        assert_eq!(known(&path, &id()), [0; 0]);
    }
}
