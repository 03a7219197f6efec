//! The names in a directory, block by block. An index of hashes needs no reading: to who does not know it, its blocks
//! look as if nothing were in them.

use super::super::bytes::{byte, crc32c_from, ensure, is_name, le16, le32, part, piece};
use super::super::{Entry, Node};
use crate::error::Result;

/// Bytes of an entry before its name.
const HEADER: usize = 8;
/// An entry with no name that holds a block's checksum.
const TAIL: usize = 12;
const TAIL_KIND: u8 = 0xde;

/// Adds the names in `block` to `entries`. With a seed its checksum must hold.
pub(super) fn read_block(block: &[u8], seed: Option<u32>, entries: &mut Vec<Entry>) -> Result<()> {
    if let Some(seed) = seed {
        check(block, seed)?;
    }
    read_entries(block, entries)
}

fn check(block: &[u8], seed: u32) -> Result<()> {
    let tail = block.len().saturating_sub(TAIL);
    // A block of the index looks like one unused entry, and what is behind that may be left from before.
    let is_index = le32(block, 0)? == 0 && usize::from(le16(block, 4)?) == block.len();
    let has_tail = !is_index
        && le32(block, tail)? == 0
        && usize::from(le16(block, tail.saturating_add(4))?) == TAIL
        && le16(block, tail.saturating_add(6))?.to_le_bytes() == [0, TAIL_KIND];
    if !has_tail {
        return Ok(());
    }
    let found = crc32c_from(seed, &[part(block, 0..tail)?]);
    ensure(found == le32(block, tail.saturating_add(8))?, || {
        "its checksum is wrong".into()
    })
}

/// Adds the names in bytes that are entries from start to end.
pub(super) fn read_entries(bytes: &[u8], entries: &mut Vec<Entry>) -> Result<()> {
    let mut at = 0;
    while at < bytes.len() {
        let stored = le16(bytes, at.saturating_add(4))?;
        let len = match (usize::from(stored), bytes.len()) {
            // In blocks of 64 KiB the length of a whole one does not fit.
            (0 | 65535, 65536) => 65536_usize.saturating_sub(at),
            (len, 65536) => len & 65532 | (len & 3) << 16,
            (len, _) => len,
        };
        let name_len = usize::from(byte(bytes, at.saturating_add(6))?);
        ensure(
            len >= HEADER.saturating_add(name_len)
                && len.is_multiple_of(4)
                && at.saturating_add(len) <= bytes.len(),
            || format!("the entry at byte {at} is damaged"),
        )?;
        let inode = le32(bytes, at)?;
        let name = piece(bytes, at.saturating_add(HEADER), name_len)?;
        at = at.saturating_add(len);
        if inode == 0 || name == b"." || name == b".." {
            continue;
        }
        ensure(is_name(name), || {
            format!("{:?} is no name", name.escape_ascii().to_string())
        })?;
        entries.push(Entry {
            name: name.to_vec(),
            node: Node::new(inode.into()),
        });
    }
    Ok(())
}
