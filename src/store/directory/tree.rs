//! The two levels between a snapshot and its blocks, as immutable objects named by their SHA-256.
//!
//! A segment speaks of 4096 blocks (2 GiB), a root of a volume's segments. All integers are little-endian.
//!
//! ```text
//! segment   0  8  magic "EBSFSSEG"        root   0  8  magic "EBSFSROT"
//!           8  4  version, 1                     8  4  version, 1
//!          12  4  number of blocks n            12  4  number of segments n
//!          16 512 bitmap of blocks present      16 40n entries, ascending:
//!         528 32n their digests, ascending             0  4  segment number
//!                                                      4  4  blocks present in it, not 0
//!                                                      8 32  digest of the segment object
//! ```
//! Equal contents give equal bytes, so a child shares every segment in which it changed nothing.

use std::collections::BTreeMap;

use crate::block::{BlockIndex, Digest, MAX_BLOCKS};
use crate::error::{Error, ErrorKind, Result};

/// Blocks of which a segment speaks.
pub(super) const SEGMENT_BLOCKS: u32 = 4096;

const VERSION: u32 = 1;
const SEGMENT_MAGIC: &[u8; 8] = b"EBSFSSEG";
const ROOT_MAGIC: &[u8; 8] = b"EBSFSROT";

/// Number of the segment that speaks of `index`.
pub(super) fn segment_of(index: BlockIndex) -> u32 {
    index.get() / SEGMENT_BLOCKS
}

/// First index of which segment `number` speaks.
pub(super) fn first_of(number: u32) -> u32 {
    number * SEGMENT_BLOCKS
}

/// The digests of the blocks present in one segment.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Segment {
    number: u32,
    present: [u64; WORDS],
    digests: Vec<Digest>,
}

/// A volume's segments, ascending by number; those without any block are left out.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Root {
    pub(super) segments: Vec<SegmentRef>,
}

/// How a root refers to a segment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct SegmentRef {
    pub(super) number: u32,
    pub(super) blocks: u32,
    pub(super) digest: Digest,
}

const WORDS: usize = 64;
const BITS: u32 = u64::BITS;

impl Segment {
    /// Segment `number` of a volume that has these blocks, all of them in it.
    pub(super) fn new(number: u32, blocks: &BTreeMap<BlockIndex, Digest>) -> Self {
        let mut present = [0; WORDS];
        for index in blocks.keys() {
            let (word, bit) = position(*index);
            if let Some(word) = present.get_mut(word) {
                *word |= 1 << bit;
            }
        }
        Self {
            number,
            present,
            digests: blocks.values().copied().collect(),
        }
    }

    /// How many blocks are present.
    pub(super) fn len(&self) -> u32 {
        self.present.iter().map(|word| word.count_ones()).sum()
    }

    /// The digest of block `index`, which is in this segment, if it is present.
    pub(super) fn get(&self, index: BlockIndex) -> Option<Digest> {
        let (word, bit) = position(index);
        let below = self
            .present
            .get(..word)?
            .iter()
            .map(|word| word.count_ones())
            .sum::<u32>();
        let word = self.present.get(word)?;
        let rank = below + (word & ((1 << bit) - 1)).count_ones();
        if word & (1 << bit) == 0 {
            return None;
        }
        self.digests.get(usize::try_from(rank).ok()?).copied()
    }

    /// The blocks present, ascending.
    pub(super) fn indexes(&self) -> impl Iterator<Item = BlockIndex> + '_ {
        let first = first_of(self.number);
        (0..SEGMENT_BLOCKS)
            .map(move |place| BlockIndex::new(first + place))
            .filter(|index| {
                let (word, bit) = position(*index);
                self.present
                    .get(word)
                    .is_some_and(|word| word & (1 << bit) != 0)
            })
    }

    /// The blocks present with their digests, ascending.
    pub(super) fn iter(&self) -> impl Iterator<Item = (BlockIndex, Digest)> + '_ {
        self.indexes().zip(self.digests.iter().copied())
    }

    /// Bytes of the segment object, which do not tell its number.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = header(SEGMENT_MAGIC, self.digests.len());
        self.present
            .iter()
            .for_each(|word| bytes.extend_from_slice(&word.to_le_bytes()));
        self.digests
            .iter()
            .for_each(|digest| bytes.extend_from_slice(digest.as_bytes()));
        bytes
    }

    /// Reads the object of segment `number`.
    pub(super) fn decode(bytes: &[u8], number: u32) -> Result<Self> {
        let mut reader = Reader(bytes);
        let count = reader.header(SEGMENT_MAGIC)?;
        let mut present = [0; WORDS];
        for word in &mut present {
            *word = u64::from_le_bytes(reader.take()?);
        }
        let mut digests = Vec::new();
        while !reader.0.is_empty() {
            digests.push(Digest::from_bytes(reader.take()?));
        }
        reader.end(digests.len(), count)?;
        let segment = Self {
            number,
            present,
            digests,
        };
        reader.end(segment.digests.len(), segment.len())?;
        Ok(segment)
    }
}

impl Root {
    /// The segment of that number, if it has any block.
    pub(super) fn segment(&self, number: u32) -> Option<&SegmentRef> {
        let at = self
            .segments
            .binary_search_by_key(&number, |segment| segment.number)
            .ok()?;
        self.segments.get(at)
    }

    /// Puts a segment in, in place of the one of its number.
    pub(super) fn set(&mut self, segment: SegmentRef) {
        match self
            .segments
            .binary_search_by_key(&segment.number, |segment| segment.number)
        {
            Ok(at) => self.segments.splice(at..=at, [segment]).for_each(drop),
            Err(at) => self.segments.insert(at, segment),
        }
    }

    /// Bytes of the root object.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = header(ROOT_MAGIC, self.segments.len());
        for segment in &self.segments {
            bytes.extend_from_slice(&segment.number.to_le_bytes());
            bytes.extend_from_slice(&segment.blocks.to_le_bytes());
            bytes.extend_from_slice(segment.digest.as_bytes());
        }
        bytes
    }

    /// Reads a root object.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader(bytes);
        let count = reader.header(ROOT_MAGIC)?;
        let mut segments = Vec::new();
        while !reader.0.is_empty() {
            let number = u32::from_le_bytes(reader.take()?);
            let blocks = u32::from_le_bytes(reader.take()?);
            let digest = Digest::from_bytes(reader.take()?);
            if number >= MAX_BLOCKS / SEGMENT_BLOCKS || !(1..=SEGMENT_BLOCKS).contains(&blocks) {
                return Err(corrupt("it names a segment that no volume has"));
            }
            segments.push(SegmentRef {
                number,
                blocks,
                digest,
            });
        }
        reader.end(segments.len(), count)?;
        if !segments.is_sorted_by(|a, b| a.number < b.number) {
            return Err(corrupt("its segments are out of order"));
        }
        Ok(Self { segments })
    }
}

/// Word and bit of `index` in its segment's bitmap.
fn position(index: BlockIndex) -> (usize, u32) {
    let place = index.get() % SEGMENT_BLOCKS;
    (usize::try_from(place / BITS).unwrap_or(WORDS), place % BITS)
}

fn header(magic: &[u8; 8], count: usize) -> Vec<u8> {
    let mut bytes = magic.to_vec();
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes());
    bytes
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (head, tail) = self
            .0
            .split_first_chunk::<N>()
            .ok_or_else(|| corrupt("it is cut short"))?;
        self.0 = tail;
        Ok(*head)
    }

    /// Checks magic and version, returns the count.
    fn header(&mut self, magic: &[u8; 8]) -> Result<u32> {
        if self.take::<8>()? != *magic {
            return Err(corrupt("it is something else"));
        }
        let version = u32::from_le_bytes(self.take()?);
        if version != VERSION {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "tree object of version {version}, and this program knows {VERSION}: use one that knows it"
                ),
            ));
        }
        Ok(u32::from_le_bytes(self.take()?))
    }

    fn end(&self, found: usize, count: u32) -> Result<()> {
        if !self.0.is_empty() || u32::try_from(found) != Ok(count) {
            return Err(corrupt("its count does not match its contents"));
        }
        Ok(())
    }
}

fn corrupt(what: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("not a tree object: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_survive_encoding_and_every_cut_is_found() {
        let index = |place: u32| BlockIndex::new(first_of(3) + place);
        let blocks =
            [0, 7, 63, 64, 4095].map(|place| (index(place), Digest::of(&place.to_le_bytes())));
        let segment = Segment::new(3, &blocks.into());
        let bytes = segment.encode();
        assert_eq!(bytes.len(), 16 + 512 + 5 * 32);
        assert_eq!(Segment::decode(&bytes, 3).unwrap(), segment);
        assert_eq!(segment.iter().collect::<Vec<_>>(), blocks);
        for place in 0..SEGMENT_BLOCKS {
            let held = blocks
                .iter()
                .find(|(held, _)| *held == index(place))
                .map(|(_, digest)| *digest);
            assert_eq!(segment.get(index(place)), held);
        }

        let reference = |number| SegmentRef {
            number,
            blocks: 5,
            digest: Digest::of(&bytes),
        };
        let mut root = Root::default();
        [32767, 3, 9, 3]
            .map(reference)
            .into_iter()
            .for_each(|segment| root.set(segment));
        assert_eq!(root.segments, [3, 9, 32767].map(reference));
        assert_eq!(root.segment(9), Some(&reference(9)));
        assert_eq!(root.segment(4), None);
        let root_bytes = root.encode();
        assert_eq!(Root::decode(&root_bytes).unwrap(), root);

        for len in 0..bytes.len() {
            assert!(Segment::decode(&bytes[..len], 3).is_err());
        }
        for len in 0..root_bytes.len() {
            assert!(Root::decode(&root_bytes[..len]).is_err());
        }
        assert!(Root::decode(&bytes).is_err());
    }

    #[test]
    fn a_root_names_only_segments_that_a_volume_can_have() {
        let digest = Digest::of(b"");
        for (number, blocks) in [(32768, 1), (u32::MAX, 1), (0, 0), (0, 4097)] {
            let root = Root {
                segments: vec![SegmentRef {
                    number,
                    blocks,
                    digest,
                }],
            };
            assert!(
                Root::decode(&root.encode()).is_err(),
                "segment {number} of {blocks}"
            );
        }
    }
}
