//! Where a file's blocks are: a tree of extents (ext4), or blocks that hold numbers of blocks (ext2, ext3).
//!
//! Both are read whole. Each block of the tree is read once: what points to one twice is damage, so that neither time
//! nor memory is more than the tree really takes on the disk.

use std::collections::HashSet;
use std::ops::Range;

use super::super::bytes::{crc32c_from, ensure, le16, le32};
use super::super::map::{Map, Run};
use super::inode::Inode;
use super::volume::Volume;
use crate::error::Result;

const EXTENT_MAGIC: u16 = 0xf30a;
/// As deep as the kernel makes them.
const MAX_DEPTH: u16 = 5;
const HEADER: usize = 12;
const ENTRY: usize = 12;
/// A longer extent is one that nothing is written to yet.
const MAX_WRITTEN: u16 = 32768;
/// Blocks named in the inode itself.
const DIRECT: usize = 12;

/// The map of an inode whose contents do not lie in it, up to its size.
pub(super) fn read(volume: &Volume, inode: &Inode) -> Result<Map> {
    let block_size = volume.block_size();
    let mut reader = Reader {
        volume,
        inode,
        seen: HashSet::new(),
        blocks: inode.size.div_ceil(block_size.max(1)),
        map: Map::new(block_size),
    };
    let root = inode.map_root()?;
    match inode.has_extents() {
        true => {
            let depth = le16(root, 6)?;
            ensure(depth <= MAX_DEPTH, || {
                format!("its extents are {depth} levels deep")
            })?;
            reader.extents(root, depth, 0..u64::from(u32::MAX).saturating_add(1))?;
        }
        false => reader.indirect(root)?,
    }
    Ok(reader.map)
}

struct Reader<'a> {
    volume: &'a Volume,
    inode: &'a Inode,
    /// Blocks of the tree that were read.
    seen: HashSet<u64>,
    /// Blocks that the size speaks of.
    blocks: u64,
    map: Map,
}

impl Reader<'_> {
    fn tree_block(&mut self, number: u64) -> Result<Vec<u8>> {
        ensure(self.seen.insert(number), || {
            format!("its map uses block {number} twice")
        })?;
        self.volume.block(number)
    }

    fn push(&mut self, first: u64, len: u64, block: Option<u64>) -> Result<()> {
        if let Some(block) = block {
            let blocks = self.volume.blocks();
            ensure(block > 0 && block.saturating_add(len) <= blocks, || {
                format!("its map speaks of block {block} of {blocks}")
            })?;
        }
        // What is kept ready past the end of a file is none of its contents.
        if first >= self.blocks {
            return Ok(());
        }
        let at = block.map(|block| block.saturating_mul(self.volume.block_size()));
        self.map.push(Run { first, len, at })
    }

    /// What a node says, whose blocks must all lie within `bounds`.
    fn extents(&mut self, node: &[u8], depth: u16, bounds: Range<u64>) -> Result<()> {
        let entries = usize::from(le16(node, 2)?);
        ensure(
            le16(node, 0)? == EXTENT_MAGIC
                && le16(node, 6)? == depth
                && HEADER.saturating_add(entries.saturating_mul(ENTRY)) <= node.len(),
            || "its extents are damaged".into(),
        )?;
        let at = |index: usize| HEADER.saturating_add(index.saturating_mul(ENTRY));
        let first = |index| le32(node, at(index)).map(u64::from);
        for index in 0..entries {
            let entry = at(index);
            let low = first(index)?;
            let next = match index.saturating_add(1) < entries {
                true => first(index.saturating_add(1))?,
                false => bounds.end,
            };
            ensure(
                bounds.contains(&low) && low < next && next <= bounds.end,
                || format!("its extents are out of order at block {low} of it"),
            )?;
            if depth > 0 {
                let child = u64::from(le32(node, entry.saturating_add(4))?)
                    | u64::from(le16(node, entry.saturating_add(8))?) << 32;
                let bytes = self.tree_block(child)?;
                self.check(&bytes, child)?;
                ensure(le16(&bytes, 2)? > 0, || {
                    format!("block {child} of its extents is empty")
                })?;
                self.extents(&bytes, depth.saturating_sub(1), low..next)?;
                continue;
            }
            let len = le16(node, entry.saturating_add(4))?;
            let block = u64::from(le32(node, entry.saturating_add(8))?)
                | u64::from(le16(node, entry.saturating_add(6))?) << 32;
            match len.checked_sub(MAX_WRITTEN) {
                Some(unwritten @ 1..) => self.push(low, unwritten.into(), None)?,
                _ => self.push(low, len.into(), Some(block))?,
            }
        }
        Ok(())
    }

    fn check(&self, bytes: &[u8], number: u64) -> Result<()> {
        let Some(seed) = self.inode.seed else {
            return Ok(());
        };
        let room = usize::from(le16(bytes, 4)?);
        let tail = HEADER.saturating_add(room.saturating_mul(ENTRY));
        let covered = bytes.get(..tail).unwrap_or_default();
        ensure(crc32c_from(seed, &[covered]) == le32(bytes, tail)?, || {
            format!("block {number} of its extents has a wrong checksum")
        })
    }

    fn indirect(&mut self, root: &[u8]) -> Result<()> {
        let mut first = 0;
        for index in 0..DIRECT {
            self.leaf(root, index, &mut first)?;
        }
        for (index, depth) in (DIRECT..).zip(1..=3) {
            let number = le32(root, index.saturating_mul(4))?;
            self.below(number, depth, &mut first)?;
        }
        Ok(())
    }

    /// Blocks that a block of numbers reaches.
    fn reach(&self, depth: u32) -> u64 {
        let numbers = self.volume.block_size() / 4;
        numbers.saturating_pow(depth)
    }

    fn below(&mut self, number: u32, depth: u32, first: &mut u64) -> Result<()> {
        if number == 0 || *first >= self.blocks {
            *first = first.saturating_add(self.reach(depth));
            return Ok(());
        }
        let bytes = self.tree_block(number.into())?;
        for index in 0..bytes.len() / 4 {
            match depth {
                0 | 1 => self.leaf(&bytes, index, first)?,
                _ => {
                    let number = le32(&bytes, index.saturating_mul(4))?;
                    self.below(number, depth.saturating_sub(1), first)?;
                }
            }
        }
        Ok(())
    }

    fn leaf(&mut self, numbers: &[u8], index: usize, first: &mut u64) -> Result<()> {
        let number = le32(numbers, index.saturating_mul(4))?;
        if number != 0 {
            self.push(*first, 1, Some(number.into()))?;
        }
        *first = first.saturating_add(1);
        Ok(())
    }
}
