//! A profile as a value, and as bytes in a file.
//!
//! ```text
//! magic      "ebsfs profile 1\n"
//! store      u32, its length; the identity of the store
//! snapshot   u32, its length; the id
//! count      u32
//! indexes    count times u32, in the order of their first touch
//! checksum   SHA-256 of all of the above, 32 bytes
//! ```
//! Numbers are little-endian. The file's name is the SHA-256 of the first three, so that each snapshot of each store has
//! its own. Nothing depends on it: one that is damaged, or of another version, is none.

use std::collections::HashSet;

use crate::block::{BlockIndex, Digest, MAX_BLOCKS};
use crate::error::{Error, ErrorKind, Result};
use crate::snapshot::SnapshotId;

const MAGIC: &[u8] = b"ebsfs profile 1\n";

/// Blocks in a profile: 8 GiB. A reader of more than that reads whole files, which read-ahead sees by itself; what a
/// profile is for, the metadata and small files that are found one by another, is far less. It costs 64 KiB of disk, half
/// a MiB of memory while it is followed, and $0.05 if all of it is fetched.
pub(super) const MOST: usize = 16 << 10;

/// Bytes of a file at most: the indexes, and beside them far less than this.
pub(super) const MAX_BYTES: u64 = 128 << 10;

/// Whose profile it is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Owner {
    pub(super) store: String,
    pub(super) snapshot: SnapshotId,
}

impl Owner {
    /// How a file of its begins.
    fn header(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        for field in [&*self.store, self.snapshot.as_str()] {
            bytes.extend(number(field.len()).to_le_bytes());
            bytes.extend(field.as_bytes());
        }
        bytes
    }

    /// The name of its file.
    pub(super) fn file_name(&self) -> String {
        Digest::of(&self.header()).to_string()
    }
}

/// Lengths here are of what is short.
fn number(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// Blocks in the order in which they were first touched, each once, [`MOST`] at most.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Profile {
    blocks: Vec<BlockIndex>,
}

impl Profile {
    pub(super) fn blocks(&self) -> &[BlockIndex] {
        &self.blocks
    }

    /// What was touched this time, in this time's order, and then what was touched before: what is not touched any
    /// more moves to the end, and off it.
    pub(super) fn renewed(&self, touched: &[BlockIndex]) -> Self {
        let mut seen = HashSet::new();
        let all = touched.iter().chain(&self.blocks).copied();
        let blocks = all.filter(|index| seen.insert(*index)).take(MOST).collect();
        Self { blocks }
    }

    pub(super) fn encode(&self, owner: &Owner) -> Vec<u8> {
        let mut bytes = owner.header();
        bytes.extend(number(self.blocks.len()).to_le_bytes());
        for index in &self.blocks {
            bytes.extend(index.get().to_le_bytes());
        }
        let checksum = Digest::of(&bytes);
        bytes.extend(checksum.as_bytes());
        bytes
    }

    /// `Corrupt` if `bytes` are not what a profile of `owner` was encoded to.
    pub(super) fn decode(bytes: &[u8], owner: &Owner) -> Result<Self> {
        let corrupt = |what: &str| Error::new(ErrorKind::Corrupt, what);
        let (content, checksum) = bytes
            .split_last_chunk::<{ Digest::LEN }>()
            .ok_or_else(|| corrupt("it is cut short"))?;
        if Digest::of(content) != Digest::from_bytes(*checksum) {
            return Err(corrupt("its checksum is wrong"));
        }
        let other = || corrupt("it is of another snapshot, or of another version");
        let rest = content.strip_prefix(&*owner.header()).ok_or_else(other)?;
        let (count, indexes) = rest
            .split_first_chunk::<4>()
            .ok_or_else(|| corrupt("it has no count"))?;
        let (indexes, left) = indexes.as_chunks::<4>();
        let count_is = u32::from_le_bytes(*count) == number(indexes.len());
        if !count_is || !left.is_empty() || indexes.len() > MOST {
            return Err(corrupt("it has another length than it says"));
        }
        let indexes = indexes.iter().map(|bytes| u32::from_le_bytes(*bytes));
        if indexes.clone().any(|index| index >= MAX_BLOCKS) {
            return Err(corrupt("it names a block that no volume has"));
        }
        let blocks = indexes.map(BlockIndex::new).collect::<Vec<_>>();
        Ok(Self::default().renewed(&blocks))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(store: &str, snapshot: &str) -> Owner {
        Owner {
            store: store.into(),
            snapshot: snapshot.parse().unwrap(),
        }
    }

    fn of(blocks: impl IntoIterator<Item = u32>) -> Profile {
        let blocks: Vec<_> = blocks.into_iter().map(BlockIndex::new).collect();
        Profile::default().renewed(&blocks)
    }

    #[test]
    fn a_profile_comes_out_as_it_went_in_and_only_for_its_owner() {
        let mine = owner("aws:aws:eu-west-1", "snap-0a");
        for profile in [of([]), of([7, 3, 9]), of(0..20_000)] {
            let bytes = profile.encode(&mine);
            assert!(u64::try_from(bytes.len()).unwrap() <= MAX_BYTES);
            assert_eq!(Profile::decode(&bytes, &mine).unwrap(), profile);
            for other in [
                owner("aws:aws:eu-west-1", "snap-0b"),
                owner("aws:aws:eu-west-2", "snap-0a"),
            ] {
                assert!(Profile::decode(&bytes, &other).is_err());
                assert_ne!(other.file_name(), mine.file_name());
            }
        }
    }

    #[test]
    fn whatever_is_changed_in_it_makes_it_none() {
        let mine = owner("store", "snap-0a");
        let bytes = of([7, 3, 9]).encode(&mine);
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            assert!(Profile::decode(&flipped, &mine).is_err(), "byte {at}");
            assert!(Profile::decode(&bytes[..at], &mine).is_err(), "cut at {at}");
        }
        // With a checksum that is right, too.
        let sealed = |content: &[u8]| [content, Digest::of(content).as_bytes()].concat();
        let head = [&mine.header()[..], &1_u32.to_le_bytes()].concat();
        let past_the_end = [&head[..], &MAX_BLOCKS.to_le_bytes()].concat();
        assert!(Profile::decode(&sealed(&past_the_end), &mine).is_err());
        assert!(Profile::decode(&sealed(&head), &mine).is_err());
        let good = [&head[..], &5_u32.to_le_bytes()].concat();
        assert_eq!(Profile::decode(&sealed(&good), &mine).unwrap(), of([5]));
    }

    #[test]
    fn what_was_touched_last_comes_first_and_the_oldest_goes() {
        let old = of([1, 2, 3, 4]);
        let new = [9, 3].map(BlockIndex::new);
        assert_eq!(old.renewed(&new), of([9, 3, 1, 2, 4]));
        let full = of(0..16 << 10);
        assert_eq!(full.blocks().len(), MOST);
        let renewed = full.renewed(&new.map(|i| BlockIndex::new(i.get() + 50_000)));
        assert_eq!(renewed.blocks().len(), MOST);
        assert_eq!(
            renewed.blocks()[..3],
            [50_009, 50_003, 0].map(BlockIndex::new)
        );
    }
}
