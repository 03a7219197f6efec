//! The table `digests`: what each block that is kept hashes to, and when it was last used.
//!
//! After the header, an entry for each block of the volume, in order of index:
//!
//! ```text
//! digest     32 bytes: the SHA-256 of the block
//! used       u32: when it was last used, nearly; seconds since 1970
//! zeros      12 bytes
//! tag        16 bytes: the beginning of the SHA-256 of the key, the index as a u32, and the digest
//! ```
//! All zeros, or past the end of the file: the block is not kept. The file is sparse, so an entry costs room only
//! near others. `used` is not covered by the tag: it only decides which block goes first.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use super::header;
use super::private::Mode;
use crate::block::{BlockIndex, Digest};
use crate::error::{Error, ErrorKind, Result};
use crate::read_at::read_padded;

pub(super) const NAME: &str = "digests";
const MAGIC: &[u8; 8] = b"ebsfscdg";
const ENTRY: usize = 64;
const ENTRY_BYTES: u64 = 64;
/// Where `used` lies in an entry.
const USED: u64 = 32;

/// Entries read at one time when many are.
const MANY: u32 = 16384;

/// What is known of a block that is kept.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Entry {
    pub(super) digest: Digest,
    pub(super) used: u32,
}

pub(super) struct Digests {
    file: File,
    path: PathBuf,
    key: Digest,
}

impl Digests {
    pub(super) fn open(dir: &Path, key: &Digest, mode: Mode) -> Result<Option<Self>> {
        let path = dir.join(NAME);
        let file = header::open(&path, MAGIC, key, mode)?;
        Ok(file.map(|file| Self {
            file,
            path,
            key: *key,
        }))
    }

    /// The entry of `index`, if there is one; `Corrupt` if it is not that of this block of this snapshot.
    pub(super) fn get(&self, index: BlockIndex) -> Result<Option<Entry>> {
        let mut bytes = [0; ENTRY];
        self.read(offset(index), &mut bytes)?;
        self.decode(index, &bytes)
    }

    /// Says that `index` is kept, and was used at `now`.
    pub(super) fn put(&self, index: BlockIndex, digest: &Digest, now: u32) -> Result<()> {
        let mut bytes = [0; ENTRY];
        bytes[..32].copy_from_slice(digest.as_bytes());
        bytes[32..36].copy_from_slice(&now.to_le_bytes());
        bytes[48..].copy_from_slice(&self.tag(index, digest));
        self.write(offset(index), &bytes)
    }

    /// Says that `index` was used at `now`.
    pub(super) fn touch(&self, index: BlockIndex, now: u32) -> Result<()> {
        self.write(offset(index) + USED, &now.to_le_bytes())
    }

    /// Says that `index` is not kept.
    pub(super) fn clear(&self, index: BlockIndex) -> Result<()> {
        self.write(offset(index), &[0; ENTRY])
    }

    /// Tells `each` when every block from `start` to before `end` was last used; 0 for one that is not kept.
    pub(super) fn ages(
        &self,
        start: u32,
        end: u32,
        mut each: impl FnMut(BlockIndex, u32),
    ) -> Result<()> {
        let mut from = start;
        while from < end {
            let to = end.min(from.saturating_add(MANY));
            let count = usize::try_from(to - from).unwrap_or_default();
            let mut bytes = vec![0; count * ENTRY];
            self.read(offset(BlockIndex::new(from)), &mut bytes)?;
            let (entries, _) = bytes.as_chunks::<ENTRY>();
            for (index, entry) in (from..to).map(BlockIndex::new).zip(entries) {
                let entry = self.decode(index, entry).ok().flatten();
                each(index, entry.map_or(0, |entry| entry.used));
            }
            from = to;
        }
        Ok(())
    }

    /// The blocks before `end` of which something may be said: of the others the table takes no room.
    pub(super) fn written(&self, end: u32) -> Result<Vec<Range<u32>>> {
        let cannot = |e: Errno| Error::io(e.into(), "look for holes in", &self.path);
        let block = |at: u64| u32::try_from(at.saturating_sub(header::END) / ENTRY_BYTES);
        let mut runs: Vec<Range<u32>> = Vec::new();
        let mut at = header::END;
        loop {
            let start = match seek(&self.file, SeekFrom::Data(at)) {
                Ok(start) => start,
                Err(Errno::NXIO) => return Ok(runs),
                Err(e) => return Err(cannot(e)),
            };
            at = seek(&self.file, SeekFrom::Hole(start)).map_err(cannot)?;
            let first = block(start).unwrap_or(end);
            let after = block(at.saturating_add(ENTRY_BYTES - 1))
                .unwrap_or(end)
                .min(end);
            // It may have been cut in between.
            if first >= after || at <= start {
                return Ok(runs);
            }
            match runs.last_mut() {
                Some(last) if last.end >= first => last.end = after,
                _ => runs.push(first..after),
            }
        }
    }

    fn decode(&self, index: BlockIndex, bytes: &[u8; ENTRY]) -> Result<Option<Entry>> {
        if *bytes == [0; ENTRY] {
            return Ok(None);
        }
        let (digest, rest) = bytes.split_first_chunk().unwrap_or((&[0; 32], &[]));
        let digest = Digest::from_bytes(*digest);
        let (used, rest) = rest.split_first_chunk().unwrap_or((&[0; 4], &[]));
        if rest.ends_with(&self.tag(index, &digest)) {
            let used = u32::from_le_bytes(*used);
            return Ok(Some(Entry { digest, used }));
        }
        let what = format!("{}: the entry of block {index}", self.path.display());
        Err(Error::new(ErrorKind::Corrupt, what))
    }

    fn tag(&self, index: BlockIndex, digest: &Digest) -> [u8; 16] {
        header::bound(&self.key, &[&index.get().to_le_bytes(), digest.as_bytes()])
    }

    fn read(&self, at: u64, bytes: &mut [u8]) -> Result<()> {
        read_padded(&self.file, at, bytes).map_err(|e| Error::io(e, "read", &self.path))
    }

    fn write(&self, at: u64, bytes: &[u8]) -> Result<()> {
        self.file
            .write_all_at(bytes, at)
            .map_err(|e| Error::io(e, "write", &self.path))
    }
}

fn offset(index: BlockIndex) -> u64 {
    header::END + u64::from(index.get()) * ENTRY_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(index: u32) -> BlockIndex {
        BlockIndex::new(index)
    }

    #[test]
    fn an_entry_is_good_for_its_block_of_its_snapshot_only() {
        let dir = tempfile::tempdir().unwrap();
        let (key, other) = (Digest::of(b"a"), Digest::of(b"b"));
        let table = Digests::open(dir.path(), &key, Mode::Create)
            .unwrap()
            .unwrap();
        let digest = Digest::of(b"block");
        table.put(at(3), &digest, 7).unwrap();
        assert_eq!(table.get(at(3)).unwrap(), Some(Entry { digest, used: 7 }));
        assert_eq!(table.get(at(2)).unwrap(), None);
        assert_eq!(table.get(at(99_999)).unwrap(), None);
        table.touch(at(3), 9).unwrap();
        assert_eq!(table.get(at(3)).unwrap(), Some(Entry { digest, used: 9 }));

        // Moved to another block, or with a bit flipped, it is nobody's.
        let mut bytes = [0; ENTRY];
        table.read(offset(at(3)), &mut bytes).unwrap();
        table.write(offset(at(4)), &bytes).unwrap();
        assert_eq!(table.get(at(4)).unwrap_err().kind(), ErrorKind::Corrupt);
        bytes[0] ^= 1;
        table.write(offset(at(3)), &bytes).unwrap();
        assert_eq!(table.get(at(3)).unwrap_err().kind(), ErrorKind::Corrupt);
        table.clear(at(3)).unwrap();
        assert_eq!(table.get(at(3)).unwrap(), None);

        // And the table of one snapshot is not that of another.
        let opened = Digests::open(dir.path(), &other, Mode::Existing);
        assert_eq!(opened.map(drop).unwrap_err().kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn ages_are_told_of_every_block_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let key = Digest::of(b"a");
        let table = Digests::open(dir.path(), &key, Mode::Create)
            .unwrap()
            .unwrap();
        table.put(at(1), &key, 5).unwrap();
        table.put(at(MANY + 1), &key, 6).unwrap();
        let mut told = Vec::new();
        let tell = |index: BlockIndex, used| told.push((index.get(), used));
        table.ages(1, MANY + 3, tell).unwrap();
        let kept: Vec<_> = told.iter().filter(|(_, used)| *used > 0).collect();
        assert_eq!(kept, [&(1, 5), &(MANY + 1, 6)]);
        assert!(told.iter().map(|(index, _)| *index).eq(1..MANY + 3));
    }
}
