//! The names in a directory: in the inode, or in blocks. What is past those, from 32 GiB on, is an index of hashes.

use super::super::bytes::{be16, be32, be64, byte, corrupt, ensure, has_checksum, is_name, piece};
use super::super::{Entry, Node};
use super::superblock::Superblock;
use crate::error::Result;

/// From here on there are no names.
pub(super) const INDEX_AT: u64 = 32 << 30;
const FREE: u16 = 0xffff;

/// Names in an inode.
pub(super) fn short(fork: &[u8], superblock: &Superblock) -> Result<Vec<Entry>> {
    let count = byte(fork, 0)?;
    let wide = byte(fork, 1)? > 0;
    let number_len = if wide { 8 } else { 4 };
    let mut at = 2_usize.saturating_add(number_len);
    let mut entries = Vec::new();
    for _ in 0..count {
        let name_len = usize::from(byte(fork, at)?);
        let name = piece(fork, at.saturating_add(3), name_len)?;
        let number_at = at
            .saturating_add(3)
            .saturating_add(name_len)
            .saturating_add(usize::from(superblock.has_kinds));
        let number = match wide {
            true => be64(fork, number_at)?,
            false => be32(fork, number_at)?.into(),
        };
        add(&mut entries, name, number)?;
        at = number_at.saturating_add(number_len);
    }
    Ok(entries)
}

/// Adds the names in a block of a directory.
pub(super) fn block(
    bytes: &[u8],
    superblock: &Superblock,
    inode: u64,
    entries: &mut Vec<Entry>,
) -> Result<()> {
    let (header, alone) = match (piece(bytes, 0, 4)?, superblock.v5) {
        (b"XDD3", true) => (64, false),
        (b"XDB3", true) => (64, true),
        (b"XD2D", false) => (16, false),
        (b"XD2B", false) => (16, true),
        _ => return Err(corrupt("it holds no names")),
    };
    if superblock.v5 {
        ensure(has_checksum(bytes, 4)?, || "its checksum is wrong".into())?;
        ensure(be64(bytes, 40)? == inode, || {
            "it is of another directory".into()
        })?;
    }
    // The only block of a directory ends with its index.
    let end = match alone {
        true => {
            let tail = bytes.len().saturating_sub(8);
            let count = usize::try_from(be32(bytes, tail)?).unwrap_or(usize::MAX);
            let index = count.saturating_mul(8);
            tail.checked_sub(index)
                .ok_or_else(|| corrupt("its index does not fit into it"))?
        }
        false => bytes.len(),
    };
    let mut at: usize = header;
    while at < end {
        if be16(bytes, at)? == FREE {
            let len = usize::from(be16(bytes, at.saturating_add(2))?);
            ensure(
                len >= 8 && len.is_multiple_of(8) && at.saturating_add(len) <= end,
                || format!("the gap at byte {at} is damaged"),
            )?;
            at = at.saturating_add(len);
            continue;
        }
        let name_len = usize::from(byte(bytes, at.saturating_add(8))?);
        let len = 11_usize
            .saturating_add(name_len)
            .saturating_add(usize::from(superblock.has_kinds))
            .next_multiple_of(8);
        ensure(at.saturating_add(len) <= end, || {
            format!("the entry at byte {at} is damaged")
        })?;
        add(
            entries,
            piece(bytes, at.saturating_add(9), name_len)?,
            be64(bytes, at)?,
        )?;
        at = at.saturating_add(len);
    }
    Ok(())
}

fn add(entries: &mut Vec<Entry>, name: &[u8], number: u64) -> Result<()> {
    if name == b"." || name == b".." {
        return Ok(());
    }
    ensure(is_name(name), || {
        format!("{:?} is no name", name.escape_ascii().to_string())
    })?;
    entries.push(Entry {
        name: name.to_vec(),
        node: Node::new(number),
    });
    Ok(())
}
