//! The superblock: geometry, and which features decide how the rest is read.

use super::super::bytes::{crc32c_from, ensure, label, le16, le32, uuid};
use crate::error::{Error, ErrorKind, Result};

/// Where it begins, whatever the block size.
pub(super) const OFFSET: u64 = 1024;
pub(super) const LEN: usize = 1024;
const MAGIC_AT: usize = 0x38;
pub(super) const MAGIC: u16 = 0xef53;

/// Bits of the incompatible features that decide how something is read.
pub(super) mod incompat {
    pub(in super::super) const RECOVER: u32 = 0x4;
    pub(in super::super) const META_BG: u32 = 0x10;
    pub(in super::super) const BITS_64: u32 = 0x80;
    pub(in super::super) const LARGE_DIR: u32 = 0x4000;
    /// What this reader knows: filetype, recover, meta_bg, extents, 64bit, mmp, flex_bg, ea_inode, csum_seed,
    /// largedir, inline_data, encrypt, casefold.
    pub(super) const KNOWN: u32 = 0x2
        | 0x4
        | 0x10
        | 0x40
        | 0x80
        | 0x100
        | 0x200
        | 0x400
        | 0x2000
        | 0x4000
        | 0x8000
        | 0x1_0000
        | 0x2_0000;
    /// What ext2 had: a kind in each name.
    pub(super) const OLD: u32 = 0x2;
    pub(super) const CSUM_SEED: u32 = 0x2000;
    /// A device that holds nothing but the journal of another.
    pub(super) const JOURNAL_DEVICE: u32 = 0x8;
}

const COMPAT_JOURNAL: u32 = 0x4;
const COMPAT_SPARSE_SUPER2: u32 = 0x200;
const RO_SPARSE_SUPER: u32 = 0x1;
/// What ext3 had: sparse superblocks, large files, indexed directories.
const RO_OLD: u32 = 0x7;
const RO_METADATA_CSUM: u32 = 0x400;

/// What of it is needed later.
#[derive(Clone, Debug)]
pub(super) struct Superblock {
    pub(super) block_size: u64,
    pub(super) blocks: u64,
    pub(super) inodes: u32,
    pub(super) blocks_per_group: u64,
    pub(super) inodes_per_group: u32,
    pub(super) first_data_block: u64,
    pub(super) inode_size: u64,
    pub(super) descriptor_size: u64,
    pub(super) first_meta_bg: u64,
    pub(super) reserved_descriptor_blocks: u64,
    pub(super) first_inode: u32,
    pub(super) incompat: u32,
    /// The journal's inode, if there is one in here.
    pub(super) journal: Option<u32>,
    /// Whether it has a journal on another device.
    pub(super) journal_elsewhere: bool,
    /// What checksums of metadata begin with, if there are any.
    pub(super) seed: Option<u32>,
    /// What the hashes of values in inodes of their own begin with, with or without checksums.
    pub(super) hash_seed: u32,
    pub(super) label: Option<String>,
    pub(super) uuid: Option<String>,
    /// Blocks per cluster, of which free ones are counted.
    pub(super) cluster: u64,
    /// Clusters of metadata, if that is noted.
    pub(super) overhead: u64,
    ro_compat: u32,
    /// The only groups with a copy of the superblock, with `sparse_super2`.
    backups: Option<[u64; 2]>,
}

impl Superblock {
    /// What `bytes`, all of it, says; `Corrupt` where it cannot be, `Unsupported` where it is beyond this reader.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self> {
        ensure(le16(bytes, MAGIC_AT)? == MAGIC, || {
            "there is no superblock".into()
        })?;
        let compat = le32(bytes, 0x5c)?;
        let incompat = le32(bytes, 0x60)?;
        let ro_compat = le32(bytes, 0x64)?;
        let has_checksums = ro_compat & RO_METADATA_CSUM != 0;
        if has_checksums {
            let (covered, stored) = bytes.split_at(LEN.saturating_sub(4).min(bytes.len()));
            ensure(
                crc32c_from(u32::MAX, &[covered]) == le32(stored, 0)?,
                || "the superblock's checksum is wrong".into(),
            )?;
        }
        if incompat & incompat::JOURNAL_DEVICE != 0 {
            return Err(unsupported(
                "this is the journal of a file system elsewhere",
            ));
        }
        let unknown = incompat & !incompat::KNOWN;
        if unknown != 0 {
            let what = format!("it has features that are not known here, {unknown:#x}");
            return Err(unsupported(&what));
        }
        let log_block_size = le32(bytes, 0x18)?;
        ensure(log_block_size <= 6, || {
            "the block size makes no sense".into()
        })?;
        let block_size = 1024_u64 << log_block_size;
        let high = |at| {
            Ok::<_, Error>(match incompat & incompat::BITS_64 {
                0 => 0,
                _ => u64::from(le32(bytes, at)?) << 32,
            })
        };
        let blocks = u64::from(le32(bytes, 0x4)?) | high(0x150)?;
        let first_data_block = u64::from(le32(bytes, 0x14)?);
        let blocks_per_group = u64::from(le32(bytes, 0x20)?);
        let inodes_per_group = le32(bytes, 0x28)?;
        let dynamic = le32(bytes, 0x4c)? > 0;
        let (inode_size, first_inode) = match dynamic {
            true => (u64::from(le16(bytes, 0x58)?), le32(bytes, 0x54)?),
            false => (128, 11),
        };
        let descriptor_size = match incompat & incompat::BITS_64 {
            0 => 32,
            _ => u64::from(le16(bytes, 0xfe)?),
        };
        let log_cluster_size = le32(bytes, 0x1c)?;
        let fits =
            |size: u64, least: u64| size.is_power_of_two() && size >= least && size <= block_size;
        ensure(
            fits(inode_size, 128)
                && fits(descriptor_size, 32)
                && (first_data_block == block_of_superblock(block_size)
                    || first_data_block == 0 && log_cluster_size > log_block_size)
                && blocks > first_data_block
                && blocks <= u64::MAX >> 17
                && blocks_per_group > 0
                && blocks_per_group
                    <= block_size
                        .saturating_mul(8)
                        .max(blocks_per_group & 0xfff_ffff)
                && inodes_per_group > 0
                && (log_block_size..=log_block_size.saturating_add(16))
                    .contains(&log_cluster_size.max(log_block_size)),
            || "the superblock's geometry makes no sense".into(),
        )?;
        let cluster = 1_u64 << log_cluster_size.saturating_sub(log_block_size).min(16);
        let hash_seed = match incompat & incompat::CSUM_SEED {
            0 => crc32c_from(u32::MAX, &[bytes.get(0x68..0x78).unwrap_or_default()]),
            _ => le32(bytes, 0x270)?,
        };
        let backups = match compat & COMPAT_SPARSE_SUPER2 {
            0 => None,
            _ => Some([le32(bytes, 0x24c)?.into(), le32(bytes, 0x250)?.into()]),
        };
        let journal = le32(bytes, 0xe0)?;
        let has_journal = compat & COMPAT_JOURNAL != 0;
        Ok(Self {
            block_size,
            blocks,
            inodes: le32(bytes, 0x0)?,
            blocks_per_group,
            inodes_per_group,
            first_data_block,
            inode_size,
            descriptor_size,
            first_meta_bg: le32(bytes, 0x104)?.into(),
            reserved_descriptor_blocks: le16(bytes, 0xce)?.into(),
            first_inode,
            incompat,
            journal: (has_journal && journal != 0).then_some(journal),
            journal_elsewhere: has_journal && journal == 0,
            seed: has_checksums.then_some(hash_seed),
            hash_seed,
            label: label(bytes.get(0x78..0x88).unwrap_or_default()),
            uuid: uuid(bytes, 0x68)?,
            cluster,
            overhead: le32(bytes, 0x248)?.into(),
            ro_compat,
            backups,
        })
    }

    /// Which of the three it is, by the rules of blkid(8).
    pub(super) fn name(&self) -> &'static str {
        let old = incompat::OLD | incompat::RECOVER | incompat::META_BG;
        if self.incompat & !old != 0 || self.ro_compat & !RO_OLD != 0 {
            "ext4"
        } else if self.journal.is_some() || self.journal_elsewhere {
            "ext3"
        } else {
            "ext2"
        }
    }

    pub(super) fn has(&self, incompat: u32) -> bool {
        self.incompat & incompat != 0
    }

    /// Groups of blocks.
    pub(super) fn groups(&self) -> u64 {
        let blocks = self.blocks.saturating_sub(self.first_data_block);
        // Never zero: that was checked.
        blocks.div_ceil(self.blocks_per_group.max(1))
    }

    fn descriptors_per_block(&self) -> u64 {
        self.block_size
            .checked_div(self.descriptor_size)
            .unwrap_or(1)
            .max(1)
    }

    /// The byte at which a group's descriptor begins.
    pub(super) fn descriptor_at(&self, group: u64) -> u64 {
        let per_block = self.descriptors_per_block();
        let (table_block, within) = (
            group.checked_div(per_block).unwrap_or_default(),
            group.checked_rem(per_block).unwrap_or_default(),
        );
        let block = if self.has(incompat::META_BG) && table_block >= self.first_meta_bg {
            let first = table_block.saturating_mul(per_block);
            // Where clusters begin at block 0 that is not the superblock's, if blocks are small.
            let gap = match table_block {
                0 => block_of_superblock(self.block_size).saturating_sub(self.first_data_block),
                _ => 0,
            };
            first
                .saturating_mul(self.blocks_per_group)
                .saturating_add(self.first_data_block)
                .saturating_add(gap)
                .saturating_add(u64::from(self.has_superblock(first)))
        } else {
            block_of_superblock(self.block_size)
                .saturating_add(1)
                .saturating_add(table_block)
        };
        block
            .saturating_mul(self.block_size)
            .saturating_add(within.saturating_mul(self.descriptor_size))
    }

    /// The byte at which the descriptor of the group of an inode begins.
    pub(super) fn descriptor_of(&self, inode: u32) -> u64 {
        let index = inode.saturating_sub(1);
        let group = index.checked_div(self.inodes_per_group).unwrap_or_default();
        self.descriptor_at(group.into())
    }

    /// Whether a group begins with a copy of the superblock.
    fn has_superblock(&self, group: u64) -> bool {
        if group == 0 {
            return true;
        }
        if let Some(backups) = self.backups {
            return backups.contains(&group);
        }
        if self.ro_compat & RO_SPARSE_SUPER == 0 || group == 1 {
            return true;
        }
        let power_of = |base: u64| {
            let mut power = base;
            while power < group {
                power = power.saturating_mul(base);
            }
            power == group
        };
        [3, 5, 7].into_iter().any(power_of)
    }

    /// Blocks that hold no files, if that is noted.
    pub(super) fn overhead_blocks(&self) -> Option<u64> {
        (self.overhead > 0).then(|| self.overhead.saturating_mul(self.cluster))
    }

    /// Blocks that superblocks, descriptors, bitmaps and tables of inodes take.
    pub(super) fn counted_overhead(&self) -> u64 {
        let per_block = self.descriptors_per_block();
        let tables = u64::from(self.inodes_per_group)
            .saturating_mul(self.inode_size)
            .div_ceil(self.block_size.max(1));
        let descriptors = self
            .groups()
            .div_ceil(per_block)
            .saturating_add(self.reserved_descriptor_blocks);
        let copies = |group| match self.has_superblock(group) {
            true => descriptors.saturating_add(1),
            false => 0,
        };
        (0..self.groups())
            .map(|group| copies(group).saturating_add(tables).saturating_add(2))
            .fold(self.first_data_block, u64::saturating_add)
    }
}

/// The block that the superblock lies in.
fn block_of_superblock(block_size: u64) -> u64 {
    u64::from(block_size == OFFSET)
}

fn unsupported(what: &str) -> Error {
    Error::new(ErrorKind::Unsupported, what)
}
