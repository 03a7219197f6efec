//! The superblock: geometry, and where numbers of blocks and inodes lead to.

use super::super::bytes::{be16, be32, be64, byte, ensure, label, piece, uuid};
use crate::error::Result;

pub(super) const MAGIC: &[u8] = b"XFSB";
/// Enough of it for all fields; the rest of its sector was checked by the library.
pub(super) const LEN: usize = 512;

const INCOMPAT_FTYPE: u32 = 0x1;
const FEATURES2_FTYPE: u32 = 0x200;

/// What of it is needed later.
#[derive(Clone, Debug)]
pub(super) struct Superblock {
    pub(super) block_size: u64,
    pub(super) blocks: u64,
    pub(super) log_start: u64,
    pub(super) log_blocks: u64,
    pub(super) root: u64,
    pub(super) group_blocks: u64,
    pub(super) groups: u32,
    pub(super) sector_size: u64,
    pub(super) inode_size: u64,
    group_log: u32,
    inodes_log: u32,
    /// Blocks of the file system in one of a directory.
    pub(super) directory_log: u32,
    /// Whether metadata say what they are, and have checksums.
    pub(super) v5: bool,
    /// Whether names say what kind of file they are of.
    pub(super) has_kinds: bool,
    pub(super) label: Option<String>,
    pub(super) uuid: Option<String>,
    /// Free blocks, as far as was counted when it was last written.
    pub(super) free: u64,
}

impl Superblock {
    /// What `bytes` say, which the library has found sound; what is used in here is checked once more.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self> {
        ensure(piece(bytes, 0, 4)? == MAGIC, || {
            "there is no superblock".into()
        })?;
        let v5 = be16(bytes, 100)? & 0xf == 5;
        let block_size = u64::from(be32(bytes, 4)?);
        let superblock = Self {
            block_size,
            blocks: be64(bytes, 8)?,
            log_start: be64(bytes, 48)?,
            log_blocks: be32(bytes, 96)?.into(),
            root: be64(bytes, 56)?,
            group_blocks: be32(bytes, 84)?.into(),
            groups: be32(bytes, 88)?,
            sector_size: be16(bytes, 102)?.into(),
            inode_size: be16(bytes, 104)?.into(),
            group_log: byte(bytes, 124)?.into(),
            inodes_log: byte(bytes, 123)?.into(),
            directory_log: byte(bytes, 192)?.into(),
            v5,
            has_kinds: match v5 {
                true => be32(bytes, 216)? & INCOMPAT_FTYPE != 0,
                false => be32(bytes, 200)? & FEATURES2_FTYPE != 0,
            },
            label: label(piece(bytes, 108, 12)?),
            uuid: uuid(bytes, 32)?,
            free: be64(bytes, 144)?,
        };
        let fits = |size: u64, range: std::ops::RangeInclusive<u64>| {
            size.is_power_of_two() && range.contains(&size)
        };
        ensure(
            fits(block_size, 512..=65536)
                && fits(superblock.inode_size, 256..=2048)
                && fits(superblock.sector_size, 512..=32768)
                && superblock.inode_size <= block_size
                && block_size.checked_div(superblock.inode_size)
                    == 1_u64.checked_shl(superblock.inodes_log)
                && superblock.group_log < 32
                && superblock.directory_log < 8
                && superblock.directory_size() <= 65536
                && superblock.group_blocks > 0
                && superblock.groups > 0
                && superblock.group_blocks <= 1 << superblock.group_log
                && superblock.blocks
                    <= superblock
                        .group_blocks
                        .saturating_mul(superblock.groups.into())
                && superblock.blocks <= u64::MAX >> 17,
            || "the superblock's geometry makes no sense".into(),
        )?;
        Ok(superblock)
    }

    /// Bytes of a directory's block.
    pub(super) fn directory_size(&self) -> u64 {
        self.block_size << self.directory_log
    }

    /// The byte at which a block begins, of which `len` must be there.
    pub(super) fn block_at(&self, number: u64, len: u64) -> Result<u64> {
        let group = number >> self.group_log;
        let within = number & (1_u64 << self.group_log).saturating_sub(1);
        let first = group
            .saturating_mul(self.group_blocks)
            .saturating_add(within);
        ensure(
            group < u64::from(self.groups)
                && within < self.group_blocks
                && within.saturating_add(len) <= self.group_blocks
                && first.saturating_add(len) <= self.blocks,
            || format!("block {number:#x} is spoken of, and lies outside"),
        )?;
        Ok(first.saturating_mul(self.block_size))
    }

    /// The number of the block that holds the byte `offset`, and the byte in it.
    pub(super) fn block_of(&self, offset: u64) -> (u64, u64) {
        let block = offset.checked_div(self.block_size).unwrap_or_default();
        let group = block.checked_div(self.group_blocks).unwrap_or_default();
        let within = block.checked_rem(self.group_blocks).unwrap_or_default();
        (
            group << self.group_log | within,
            offset.checked_rem(self.block_size).unwrap_or_default(),
        )
    }

    /// The byte at which an inode begins.
    pub(super) fn inode_at(&self, number: u64) -> Result<u64> {
        let slot = number & (1_u64 << self.inodes_log).saturating_sub(1);
        let block = self.block_at(number >> self.inodes_log, 1)?;
        Ok(block.saturating_add(slot.saturating_mul(self.inode_size)))
    }

    /// The number of the first inode in a block.
    pub(super) fn first_inode_of(&self, block: u64) -> u64 {
        block << self.inodes_log
    }

    /// The byte at which a group begins.
    pub(super) fn group_at(&self, group: u32) -> u64 {
        u64::from(group)
            .saturating_mul(self.group_blocks)
            .saturating_mul(self.block_size)
    }
}
