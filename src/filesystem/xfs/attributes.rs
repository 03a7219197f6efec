//! Extended attributes: in the inode, or in a tree of blocks of which the leaves are read one after the other.

use std::collections::HashSet;

use super::super::bytes::{
    be16, be32, be64, byte, corrupt, ensure, has_checksum, part, piece, posix_acl,
};
use super::super::map::Map;
use super::inode::{Fork, Inode, Layout};
use super::map;
use super::replayed::Volume;
use crate::error::Result;

const NODE_V5: u16 = 0x3ebe;
const NODE_V4: u16 = 0xfebe;
const LEAF_V5: u16 = 0x3bee;
const LEAF_V4: u16 = 0xfbee;
/// A block of a value that lies outside the leaves.
const REMOTE: u32 = 0x5841_524d;
const REMOTE_HEADER: usize = 56;
const FLAG_LOCAL: u8 = 0x1;
const FLAG_ROOT: u8 = 0x2;
const FLAG_SECURE: u8 = 0x4;
/// Where a file's parents are noted, and what a crash left half written: nobody's attributes.
const FLAG_HIDDEN: u8 = 0x8 | 0x80;
/// As long as the kernel lets a value be.
const MAX_VALUE: usize = 64 << 10;

type Attributes = Vec<(Vec<u8>, Vec<u8>)>;

/// All of an inode's.
pub(super) fn read(volume: &Volume, inode: &Inode, fork: &Fork<'_>) -> Result<Attributes> {
    let mut found = Vec::new();
    match fork.layout {
        Layout::Local => short(fork.bytes, &mut found)?,
        // A fork without an extent is one that was emptied.
        Layout::Extents if fork.extents == 0 => {}
        Layout::Extents | Layout::Tree => {
            let map = map::read(volume, inode, fork, u64::MAX)?;
            Tree { volume, inode, map }.read(&mut found)?;
        }
        Layout::Device => {}
    }
    Ok(found)
}

fn short(fork: &[u8], found: &mut Attributes) -> Result<()> {
    let count = byte(fork, 2)?;
    let mut at = 4_usize;
    for _ in 0..count {
        let name_len = usize::from(byte(fork, at)?);
        let value_len = usize::from(byte(fork, at.saturating_add(1))?);
        let flags = byte(fork, at.saturating_add(2))?;
        let name_at = at.saturating_add(3);
        let value_at = name_at.saturating_add(name_len);
        let (name, value) = (
            piece(fork, name_at, name_len)?,
            piece(fork, value_at, value_len)?,
        );
        if let Some(name) = full_name(flags, name) {
            add(found, name, value.to_vec())?;
        }
        at = value_at.saturating_add(value_len);
    }
    Ok(())
}

/// As listxattr(2) calls it; none for what it does not list.
fn full_name(flags: u8, name: &[u8]) -> Option<Vec<u8>> {
    if flags & FLAG_HIDDEN != 0 {
        return None;
    }
    let prefix: &[u8] = match (flags & FLAG_ROOT != 0, flags & FLAG_SECURE != 0, name) {
        (true, _, b"SGI_ACL_FILE") => return Some(b"system.posix_acl_access".to_vec()),
        (true, _, b"SGI_ACL_DEFAULT") => return Some(b"system.posix_acl_default".to_vec()),
        (true, ..) => b"trusted.",
        (_, true, _) => b"security.",
        _ => b"user.",
    };
    Some([prefix, name].concat())
}

fn add(found: &mut Attributes, name: Vec<u8>, value: Vec<u8>) -> Result<()> {
    let value = match name.starts_with(b"system.posix_acl_") {
        true => acl(&value)?,
        false => value,
    };
    found.push((name, value));
    Ok(())
}

/// A stored ACL as programs see it.
fn acl(stored: &[u8]) -> Result<Vec<u8>> {
    let count = usize::try_from(be32(stored, 0)?).unwrap_or(usize::MAX);
    let entries = piece(stored, 4, count.saturating_mul(12))?;
    let entries: Result<Vec<_>> = entries
        .chunks_exact(12)
        .map(|entry| {
            let tag = u16::try_from(be32(entry, 0)?).unwrap_or_default();
            // Only entries of one user or group say whose they are.
            let id = match tag {
                0x02 | 0x08 => be32(entry, 4)?,
                _ => u32::MAX,
            };
            Ok((tag, be16(entry, 8)?, id))
        })
        .collect();
    Ok(posix_acl(&entries?))
}

struct Tree<'a> {
    volume: &'a Volume,
    inode: &'a Inode,
    map: Map,
}

impl Tree<'_> {
    fn block(&self, number: u64) -> Result<Vec<u8>> {
        let block_size = self.volume.superblock.block_size;
        let start = number.saturating_mul(block_size);
        let span = self
            .map
            .spans(start, start.saturating_add(block_size))
            .next();
        let at = span
            .filter(|span| span.start == start)
            .and_then(|span| span.at)
            .ok_or_else(|| corrupt(format!("block {number} of its attributes lies nowhere")))?;
        let mut bytes = vec![0; usize::try_from(block_size).unwrap_or_default()];
        self.volume.read(at, &mut bytes)?;
        Ok(bytes)
    }

    /// Checks a block of the tree, and tells whether it is a leaf.
    fn is_leaf(&self, bytes: &[u8], number: u64) -> Result<bool> {
        let v5 = self.volume.superblock.v5;
        let leaf = match (be16(bytes, 8)?, v5) {
            (LEAF_V5, true) | (LEAF_V4, false) => true,
            (NODE_V5, true) | (NODE_V4, false) => false,
            _ => return Err(corrupt(format!("block {number} of its attributes is none"))),
        };
        if v5 {
            ensure(
                has_checksum(bytes, 12)? && be64(bytes, 48)? == self.inode.number,
                || format!("block {number} of its attributes is damaged"),
            )?;
        }
        Ok(leaf)
    }

    /// Goes to the first leaf, and from each to the next.
    fn read(&self, found: &mut Attributes) -> Result<()> {
        let v5 = self.volume.superblock.v5;
        let mut seen = HashSet::new();
        let mut number = 0;
        loop {
            ensure(seen.insert(number), || {
                format!("block {number} of its attributes is used twice")
            })?;
            let bytes = self.block(number)?;
            number = if self.is_leaf(&bytes, number)? {
                self.leaf(&bytes, found)?;
                match be32(&bytes, 0)? {
                    0 => return Ok(()),
                    next => next.into(),
                }
            } else {
                let (count_at, pointer) = if v5 { (56, 68) } else { (12, 20) };
                ensure(be16(&bytes, count_at)? > 0, || {
                    format!("block {number} of its attributes leads nowhere")
                })?;
                be32(&bytes, pointer)?.into()
            };
        }
    }

    fn leaf(&self, bytes: &[u8], found: &mut Attributes) -> Result<()> {
        let v5 = self.volume.superblock.v5;
        let (count_at, first) = if v5 { (56, 80) } else { (12, 32) };
        for index in 0..usize::from(be16(bytes, count_at)?) {
            let entry = piece(bytes, index.saturating_mul(8).saturating_add(first), 8)?;
            let (at, flags) = (usize::from(be16(entry, 4)?), byte(entry, 6)?);
            let (name_len, name_at, value) = match flags & FLAG_LOCAL {
                0 => {
                    let block = be32(bytes, at)?;
                    let len =
                        usize::try_from(be32(bytes, at.saturating_add(4))?).unwrap_or(usize::MAX);
                    (
                        usize::from(byte(bytes, at.saturating_add(8))?),
                        at.saturating_add(9),
                        Err((block, len)),
                    )
                }
                _ => {
                    let len = usize::from(be16(bytes, at)?);
                    let name_len = usize::from(byte(bytes, at.saturating_add(2))?);
                    let name_at = at.saturating_add(3);
                    (
                        name_len,
                        name_at,
                        Ok(piece(bytes, name_at.saturating_add(name_len), len)?),
                    )
                }
            };
            let Some(name) = full_name(flags, piece(bytes, name_at, name_len)?) else {
                continue;
            };
            let value = match value {
                Ok(value) => value.to_vec(),
                Err((block, len)) => self.remote(block.into(), len)?,
            };
            add(found, name, value)?;
        }
        Ok(())
    }

    /// A value in blocks of its own.
    fn remote(&self, first: u64, len: usize) -> Result<Vec<u8>> {
        ensure(len <= MAX_VALUE, || {
            format!("a value of {len} bytes is spoken of")
        })?;
        let mut value = Vec::with_capacity(len);
        let mut number = first;
        while value.len() < len {
            let block = self.block(number)?;
            let bytes = match self.volume.superblock.v5 {
                true => {
                    ensure(
                        be32(&block, 0)? == REMOTE
                            && has_checksum(&block, 12)?
                            && be64(&block, 32)? == self.inode.number,
                        || format!("block {number} of its attributes is damaged"),
                    )?;
                    part(&block, REMOTE_HEADER..block.len())?
                }
                false => &block,
            };
            let rest = len.saturating_sub(value.len()).min(bytes.len());
            value.extend_from_slice(part(bytes, 0..rest)?);
            number = number.saturating_add(1);
        }
        Ok(value)
    }
}
