//! Where the blocks of a fork are: a list of extents in the inode, or a tree of them.
//!
//! Read whole, and each block of the tree once: what points to one twice is damage.

use std::collections::HashSet;

use super::super::bytes::{be16, be32, be64, corrupt, ensure, has_checksum, part, piece};
use super::super::map::{Map, Run};
use super::inode::{Fork, Inode, Layout};
use super::replayed::Volume;
use crate::error::Result;

const RECORD: usize = 16;
/// Deeper than any tree on a disk of 64 TiB.
const MAX_DEPTH: u16 = 9;
const MAGIC_V5: u32 = 0x424d_4133;
const MAGIC_V4: u32 = 0x424d_4150;
const HEADER_V5: usize = 72;
const HEADER_V4: usize = 24;

/// The map of a fork, of which the first `blocks` blocks count.
pub(super) fn read(volume: &Volume, inode: &Inode, fork: &Fork<'_>, blocks: u64) -> Result<Map> {
    let mut reader = Reader {
        volume,
        inode,
        seen: HashSet::new(),
        blocks,
        map: Map::new(volume.superblock.block_size),
    };
    match fork.layout {
        Layout::Extents => {
            let count = usize::try_from(fork.extents).unwrap_or(usize::MAX);
            reader.records(fork.bytes, count)?;
        }
        Layout::Tree => reader.root(fork.bytes)?,
        Layout::Local | Layout::Device => {
            return Err(corrupt("it has no map, and should have one"));
        }
    }
    Ok(reader.map)
}

struct Reader<'a> {
    volume: &'a Volume,
    inode: &'a Inode,
    /// Blocks of the tree that were read.
    seen: HashSet<u64>,
    blocks: u64,
    map: Map,
}

impl Reader<'_> {
    fn records(&mut self, bytes: &[u8], count: usize) -> Result<()> {
        let records = piece(bytes, 0, count.saturating_mul(RECORD))?;
        for record in records.chunks_exact(RECORD) {
            let (high, low) = (be64(record, 0)?, be64(record, 8)?);
            let unwritten = high >> 63 == 1;
            let first = high >> 9 & ((1 << 54) - 1);
            let block = (high & 0x1ff) << 43 | low >> 21;
            let len = low & ((1 << 21) - 1);
            // Checked also for what is past the end, or not written yet.
            let at = self.volume.superblock.block_at(block, len)?;
            if first < self.blocks {
                let at = (!unwritten).then_some(at);
                self.map.push(Run { first, len, at })?;
            }
        }
        Ok(())
    }

    fn root(&mut self, fork: &[u8]) -> Result<()> {
        let level = be16(fork, 0)?;
        let count = usize::from(be16(fork, 2)?);
        let room = fork.len().saturating_sub(4) / 16;
        ensure(level > 0 && level <= MAX_DEPTH && count <= room, || {
            "the root of its map is damaged".into()
        })?;
        let pointers = 4_usize.saturating_add(room.saturating_mul(8));
        self.children(fork, pointers, count, level)
    }

    fn children(&mut self, node: &[u8], pointers: usize, count: usize, level: u16) -> Result<()> {
        for index in 0..count {
            let child = be64(node, pointers.saturating_add(index.saturating_mul(8)))?;
            self.block(child, level.saturating_sub(1))?;
        }
        Ok(())
    }

    fn block(&mut self, number: u64, level: u16) -> Result<()> {
        ensure(self.seen.insert(number), || {
            format!("its map uses block {number:#x} twice")
        })?;
        let superblock = &self.volume.superblock;
        let mut bytes = vec![0; usize::try_from(superblock.block_size).unwrap_or_default()];
        self.volume
            .read(superblock.block_at(number, 1)?, &mut bytes)?;
        let damaged = || format!("block {number:#x} of its map is damaged");
        let header = match (be32(&bytes, 0)?, superblock.v5) {
            (MAGIC_V5, true) => {
                ensure(
                    has_checksum(&bytes, 64)? && be64(&bytes, 56)? == self.inode.number,
                    damaged,
                )?;
                HEADER_V5
            }
            (MAGIC_V4, false) => HEADER_V4,
            _ => return Err(corrupt(damaged())),
        };
        let count = usize::from(be16(&bytes, 6)?);
        let room = bytes.len().saturating_sub(header) / RECORD;
        ensure(be16(&bytes, 4)? == level && count <= room, damaged)?;
        if level == 0 {
            return self.records(part(&bytes, header..bytes.len())?, count);
        }
        let pointers = header.saturating_add(room.saturating_mul(8));
        self.children(&bytes, pointers, count, level)
    }
}
