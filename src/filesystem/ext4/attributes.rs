//! Extended attributes, in the inode and in a block of their own.

use super::super::bytes::{byte, crc32c_from, ensure, le16, le32, part, piece, posix_acl};
use crate::error::Result;

const MAGIC: u32 = 0xea02_0000;
/// Bytes of an entry before its name.
const HEADER: usize = 16;
/// Bytes before the first entry in a block.
const BLOCK_HEADER: usize = 32;
const CHECKSUM_AT: usize = 16;
/// The namespace and the name of what a small file keeps past the first 60 bytes.
const INLINE: (u8, &[u8]) = (7, b"data");

/// Where a value is.
pub(super) enum Value<'a> {
    Here(&'a [u8]),
    /// The contents of this inode, so long.
    Inode(u32, u32),
}

/// One attribute as it is stored.
pub(super) struct Attribute<'a> {
    namespace: u8,
    name: &'a [u8],
    pub(super) value: Value<'a>,
}

impl Attribute<'_> {
    /// Whether it is part of a small file's contents.
    pub(super) fn is_inline_data(&self) -> bool {
        (self.namespace, self.name) == INLINE
    }

    /// Whether it is a POSIX ACL, which is stored in another form.
    pub(super) fn is_acl(&self) -> bool {
        matches!(self.namespace, 2 | 3)
    }

    /// As listxattr(2) calls it; none for what it does not list.
    pub(super) fn full_name(&self) -> Option<Vec<u8>> {
        let prefix: &[u8] = match self.namespace {
            1 => b"user.",
            2 => b"system.posix_acl_access",
            3 => b"system.posix_acl_default",
            4 => b"trusted.",
            6 => b"security.",
            7 if !self.is_inline_data() => b"system.",
            8 => b"system.richacl",
            _ => return None,
        };
        Some([prefix, self.name].concat())
    }
}

/// Those in an inode, past its fields.
pub(super) fn in_inode(rest: &[u8]) -> Result<Vec<Attribute<'_>>> {
    match rest.len() >= 8 && le32(rest, 0)? == MAGIC {
        true => read(rest.get(4..).unwrap_or_default(), 0),
        false => Ok(Vec::new()),
    }
}

/// Those in block `number`, which begins with a checksum from `seed`.
pub(super) fn in_block(block: &[u8], number: u64, seed: Option<u32>) -> Result<Vec<Attribute<'_>>> {
    ensure(le32(block, 0)? == MAGIC && le32(block, 8)? == 1, || {
        format!("block {number} holds no attributes")
    })?;
    if let Some(seed) = seed {
        let after = CHECKSUM_AT.saturating_add(4);
        let pieces: [&[u8]; 4] = [
            &number.to_le_bytes(),
            part(block, 0..CHECKSUM_AT)?,
            &[0; 4],
            part(block, after..block.len())?,
        ];
        ensure(
            crc32c_from(seed, &pieces) == le32(block, CHECKSUM_AT)?,
            || format!("the attributes in block {number} have a wrong checksum"),
        )?;
    }
    read(block, BLOCK_HEADER)
}

/// The entries from `at` on, whose values lie within `bytes`.
fn read(bytes: &[u8], mut at: usize) -> Result<Vec<Attribute<'_>>> {
    let mut attributes = Vec::new();
    while at.saturating_add(4) <= bytes.len() && le32(bytes, at)? != 0 {
        let name_len = usize::from(byte(bytes, at)?);
        let name = piece(bytes, at.saturating_add(HEADER), name_len)?;
        let value_at = usize::from(le16(bytes, at.saturating_add(2))?);
        let inode = le32(bytes, at.saturating_add(4))?;
        let len = le32(bytes, at.saturating_add(8))?;
        let value = match inode {
            0 => {
                let len = usize::try_from(len).unwrap_or(usize::MAX);
                // One of no bytes may be said to lie anywhere.
                Value::Here(match len {
                    0 => &[],
                    _ => piece(bytes, value_at, len)?,
                })
            }
            inode => Value::Inode(inode, len),
        };
        attributes.push(Attribute {
            namespace: byte(bytes, at.saturating_add(1))?,
            name,
            value,
        });
        let len = HEADER.saturating_add(name_len).next_multiple_of(4);
        at = at.saturating_add(len);
    }
    Ok(attributes)
}

/// A stored ACL as programs see it.
pub(super) fn acl(stored: &[u8]) -> Result<Vec<u8>> {
    ensure(le32(stored, 0)? == 1, || {
        "an ACL is of an unknown version".into()
    })?;
    let mut entries = Vec::new();
    let mut at = 4_usize;
    while at < stored.len() {
        let (tag, permissions) = (le16(stored, at)?, le16(stored, at.saturating_add(2))?);
        at = at.saturating_add(4);
        // Only entries of one user or group say whose they are.
        let id = match tag {
            0x02 | 0x08 => {
                at = at.saturating_add(4);
                le32(stored, at.saturating_sub(4))?
            }
            _ => u32::MAX,
        };
        entries.push((tag, permissions, id));
    }
    Ok(posix_acl(&entries))
}
