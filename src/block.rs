//! The unit of everything below the byte level: a block of 512 KiB, its place, its digest.
//!
//! This module owns [`BLOCK_SIZE`] and is the only one that computes with it. It promises that a [`Block`] is
//! whole and that its digest is the SHA-256 of its bytes: there is no way to make one otherwise. It does no I/O.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use self::together::Arriving;
use crate::error::{Error, ErrorKind, Result};

mod buffer;
mod builder;
mod digest;
mod recent;
mod set;
mod together;

pub use buffer::Buffer;
pub use builder::BlockBuilder;
pub use digest::{Digest, Hasher};
pub use recent::Recent;
pub use set::BlockSet;

/// Bytes in a block. The service knows no other size.
pub const BLOCK_SIZE: usize = 512 * 1024;
/// The same for offsets in a volume.
const BLOCK_BYTES: u64 = 512 * 1024;
/// Bytes in a page, the unit of what is written over a snapshot: what file systems and loop devices write at least.
pub const PAGE_SIZE: usize = 4096;
/// Pages in a block: as many as a `u128` has bits.
pub const BLOCK_PAGES: u32 = 128;
const _: () = assert!(128 * PAGE_SIZE == BLOCK_SIZE);
/// Blocks in a GiB.
pub const BLOCKS_PER_GIB: u32 = 1 << 11;
/// Blocks in the largest volume, 64 TiB.
pub const MAX_BLOCKS: u32 = 1 << 27;

/// The place of a block in a volume, counted in blocks from 0.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct BlockIndex(u32);

impl BlockIndex {
    /// The first block.
    pub const ZERO: Self = Self(0);

    /// Index `index`. Whether a volume reaches so far is the volume's to say.
    pub const fn new(index: u32) -> Self {
        Self(index)
    }

    /// The block that holds byte `offset`; offsets past 64 TiB give [`MAX_BLOCKS`], which no volume has.
    pub fn containing(offset: u64) -> Self {
        Self(u32::try_from(offset / BLOCK_BYTES).map_or(MAX_BLOCKS, |index| index.min(MAX_BLOCKS)))
    }

    /// As a number.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// Offset of its first byte.
    pub fn start(self) -> u64 {
        u64::from(self.0) * BLOCK_BYTES
    }

    /// Offset of the byte after its last.
    pub fn end(self) -> u64 {
        self.start() + BLOCK_BYTES
    }
}

impl fmt::Display for BlockIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Bytes in `count` blocks.
pub fn bytes_of(count: u64) -> u64 {
    count * BLOCK_BYTES
}

/// Blocks needed for `bytes` bytes.
pub fn blocks_for(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK_BYTES)
}

/// One block's part of a byte range, as [`pieces`] cuts it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Piece {
    /// The block.
    pub index: BlockIndex,
    /// Which of its bytes.
    pub within: Range<usize>,
    /// Where they stand in the caller's buffer.
    pub at: Range<usize>,
}

/// Cuts `len` bytes from `offset` into the parts that each block holds, in order.
///
/// The range has been checked against the volume before: this cannot fail.
pub fn pieces(offset: u64, len: usize) -> impl Iterator<Item = Piece> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let left = len.checked_sub(done).filter(|left| *left > 0)?;
        let position = offset + u64::try_from(done).ok()?;
        let from = usize::try_from(position % BLOCK_BYTES).ok()?;
        let take = left.min(BLOCK_SIZE - from);
        let piece = Piece {
            index: BlockIndex::containing(position),
            within: from..from + take,
            at: done..done + take,
        };
        done += take;
        Some(piece)
    })
}

/// A block's contents: 512 KiB whose digest is known to be true. Cloning shares the bytes.
#[derive(Clone)]
pub enum Block {
    /// All zeros. Takes no memory.
    Zero,
    /// Anything else.
    Data(Verified),
}

/// Bytes that were hashed. Only [`Block`]'s constructors make one.
#[derive(Clone)]
pub struct Verified(Arc<Hashed>);

/// One pointer away, so that a block is handed on in a register.
struct Hashed {
    digest: Digest,
    bytes: Buffer,
}

static ZEROS: [u8; BLOCK_SIZE] = [0; BLOCK_SIZE];

/// The bytes of a block, unless they are zeros; `Invalid` if they are not 512 KiB.
fn data(bytes: Buffer) -> Result<Option<Buffer>> {
    if bytes.len() != BLOCK_SIZE {
        let what = format!("{} bytes where a block has {BLOCK_SIZE}", bytes.len());
        return Err(Error::new(ErrorKind::Invalid, what));
    }
    // The comparison ends at the first byte that is not zero, so data pays nothing, and zeros are not hashed.
    Ok((*bytes != ZEROS).then_some(bytes))
}

/// What is invalid here is corrupt where it comes from outside.
fn corrupt(error: Error) -> Error {
    match error.kind() {
        ErrorKind::Invalid => Error::new(ErrorKind::Corrupt, error.to_string()),
        _ => error,
    }
}

impl Block {
    /// Bytes from outside with the digest they were promised to have.
    ///
    /// `Corrupt` if they are not 512 KiB or hash to something else.
    pub fn verify(bytes: impl Into<Buffer>, expected: &Digest) -> Result<Self> {
        Self::seal(bytes).map_err(corrupt)?.promised(expected)
    }

    /// The same, hashed together with others that are under way: where there are many, for half the price.
    pub async fn verify_together(bytes: impl Into<Buffer>, expected: &Digest) -> Result<Self> {
        let sealed = Self::seal_with_others(bytes.into()).await;
        sealed.map_err(corrupt)?.promised(expected)
    }

    /// Bytes that originate here: the digest is whatever they hash to. `Invalid` if they are not 512 KiB.
    pub fn seal(bytes: impl Into<Buffer>) -> Result<Self> {
        let Some(bytes) = data(bytes.into())? else {
            return Ok(Self::Zero);
        };
        let digest = Digest::of(&bytes);
        Ok(Self::hashed(bytes, digest))
    }

    /// The same of bytes that are still being read, hashed together with others that are: where there are many, for half the
    /// price.
    pub async fn seal_together(bytes: impl Future<Output = Result<Buffer>>) -> Result<Self> {
        let arriving = Arriving::default();
        let bytes = bytes.await?;
        drop(arriving);
        Self::seal_with_others(bytes).await
    }

    async fn seal_with_others(bytes: Buffer) -> Result<Self> {
        let Some(bytes) = data(bytes)? else {
            return Ok(Self::Zero);
        };
        let (bytes, digest) = together::digest(bytes).await?;
        Ok(Self::hashed(bytes, digest))
    }

    /// Bytes from outside that were hashed while they came.
    fn verify_hashed(bytes: Buffer, digest: Digest, expected: &Digest) -> Result<Self> {
        let sealed = data(bytes).map_err(corrupt)?;
        sealed
            .map_or(Self::Zero, |bytes| Self::hashed(bytes, digest))
            .promised(expected)
    }

    fn hashed(bytes: Buffer, digest: Digest) -> Self {
        Self::Data(Verified(Arc::new(Hashed { digest, bytes })))
    }

    fn promised(self, expected: &Digest) -> Result<Self> {
        let actual = self.digest();
        if actual != *expected {
            let what = format!("checksum is {actual}, expected {expected}");
            return Err(Error::new(ErrorKind::Corrupt, what));
        }
        Ok(self)
    }

    /// The SHA-256 of its bytes.
    pub fn digest(&self) -> Digest {
        match self {
            Self::Zero => Digest::ZERO_BLOCK,
            Self::Data(data) => data.0.digest,
        }
    }

    /// Memory that a block takes at most.
    pub const MAX_MEMORY: usize = BLOCK_SIZE;

    /// Memory that it takes: none for zeros.
    pub fn memory(&self) -> usize {
        match self {
            Self::Zero => 0,
            Self::Data(data) => data.0.bytes.len(),
        }
    }

    /// All 512 KiB.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Zero => &ZEROS,
            Self::Data(data) => &data.0.bytes,
        }
    }
}

/// So that it can be sent as it is, without copying.
impl AsRef<[u8]> for Block {
    fn as_ref(&self) -> &[u8] {
        self.bytes()
    }
}

impl PartialEq for Block {
    fn eq(&self, other: &Self) -> bool {
        self.digest() == other.digest()
    }
}

impl Eq for Block {}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Block({})", self.digest())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_of_zeros_is_the_one_the_service_names() {
        assert_eq!(Digest::of(&ZEROS), Digest::ZERO_BLOCK);
        assert_eq!(
            Digest::ZERO_BLOCK.to_base64(),
            "B4VNL+8pega6gWheZgwzLeNtXRjVRpJ9MNqtbX/aFUE="
        );
    }

    #[test]
    fn a_flipped_bit_or_a_missing_byte_makes_no_block() {
        let mut bytes = vec![7; BLOCK_SIZE];
        let digest = Digest::of(&bytes);
        assert_eq!(
            Block::verify(bytes.clone(), &digest).unwrap().bytes(),
            bytes
        );
        bytes[4711] ^= 1;
        assert_eq!(
            Block::verify(bytes.clone(), &digest).unwrap_err().kind(),
            ErrorKind::Corrupt
        );
        bytes.pop();
        assert_eq!(
            Block::verify(bytes, &digest).unwrap_err().kind(),
            ErrorKind::Corrupt
        );
        assert!(Block::verify(ZEROS.to_vec(), &digest).is_err());
    }

    #[test]
    fn zeros_become_the_zero_block_without_memory() {
        assert!(matches!(Block::seal(ZEROS.to_vec()).unwrap(), Block::Zero));
        let mut last = ZEROS.to_vec();
        last[BLOCK_SIZE - 1] = 1;
        assert!(matches!(Block::seal(last).unwrap(), Block::Data(_)));
    }

    #[test]
    fn pieces_cover_the_range_once_and_in_order() {
        assert_eq!(pieces(5, 0).count(), 0);
        let cut: Vec<_> = pieces(BLOCK_BYTES - 1, BLOCK_SIZE + 2).collect();
        assert_eq!(cut.len(), 3);
        assert_eq!(
            cut[0],
            Piece {
                index: BlockIndex(0),
                within: BLOCK_SIZE - 1..BLOCK_SIZE,
                at: 0..1
            }
        );
        assert_eq!(
            cut[1],
            Piece {
                index: BlockIndex(1),
                within: 0..BLOCK_SIZE,
                at: 1..BLOCK_SIZE + 1
            }
        );
        assert_eq!(
            cut[2],
            Piece {
                index: BlockIndex(2),
                within: 0..1,
                at: BLOCK_SIZE + 1..BLOCK_SIZE + 2
            }
        );
    }

    #[test]
    fn an_offset_past_every_volume_has_an_index_past_every_volume() {
        assert_eq!(BlockIndex::containing(u64::MAX).get(), MAX_BLOCKS);
        assert_eq!(BlockIndex::containing(BLOCK_BYTES).get(), 1);
    }
}
