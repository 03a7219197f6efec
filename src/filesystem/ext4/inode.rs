//! One inode: its fields, checked against its checksum.

use super::super::bytes::{corrupt, crc32c_from, ensure, kind, le16, le32, part, time};
use super::super::{Kind, Metadata};
use super::superblock::{Superblock, incompat};
use crate::error::{Error, Result};

/// Where `i_block` is: the root of the map, a short target, or the contents of a small file.
const BLOCK_AT: usize = 0x28;
const BLOCK_LEN: usize = 60;
/// Bytes of the fields that every inode has.
const CORE: usize = 128;
const CHECKSUM_LOW: usize = 0x7c;
const CHECKSUM_HIGH: usize = 0x82;

const FLAG_ENCRYPTED: u32 = 0x800;
const FLAG_INDEX: u32 = 0x1000;
const FLAG_EXTENTS: u32 = 0x8_0000;
const FLAG_EA_INODE: u32 = 0x20_0000;
const FLAG_INLINE: u32 = 0x1000_0000;

/// One that was read.
pub(super) struct Inode {
    pub(super) number: u32,
    raw: Vec<u8>,
    mode: u16,
    flags: u32,
    /// Bytes of the contents.
    pub(super) size: u64,
    /// What checksums of what belongs to it begin with, if there are any.
    pub(super) seed: Option<u32>,
}

impl Inode {
    /// Inode `number`, of which `raw` is all.
    pub(super) fn parse(superblock: &Superblock, number: u32, raw: Vec<u8>) -> Result<Self> {
        let seed = superblock.seed.map(|seed| {
            let generation = raw.get(0x64..0x68).unwrap_or_default();
            crc32c_from(seed, &[&number.to_le_bytes(), generation])
        });
        let mode = le16(&raw, 0)?;
        let large = superblock.has(incompat::LARGE_DIR) && mode >> 12 == 0o04;
        let high = match mode >> 12 == 0o10 || large {
            true => u64::from(le32(&raw, 0x6c)?),
            false => 0,
        };
        let inode = Self {
            number,
            mode,
            flags: le32(&raw, 0x20)?,
            size: high << 32 | u64::from(le32(&raw, 0x4)?),
            seed,
            raw,
        };
        inode.check()?;
        ensure(inode.size <= i64::MAX.unsigned_abs(), || {
            "its size makes no sense".into()
        })?;
        Ok(inode)
    }

    fn check(&self) -> Result<()> {
        let Some(seed) = self.seed else {
            return Ok(());
        };
        let raw = &self.raw;
        let covers_high = self.has_field(CHECKSUM_HIGH.saturating_add(2))?;
        let mut zeroed = raw.clone();
        let mut stored = u32::from(le16(raw, CHECKSUM_LOW)?);
        if let Some(low) = zeroed.get_mut(CHECKSUM_LOW..CHECKSUM_LOW.saturating_add(2)) {
            low.fill(0);
        }
        if covers_high {
            stored |= u32::from(le16(raw, CHECKSUM_HIGH)?) << 16;
            if let Some(high) = zeroed.get_mut(CHECKSUM_HIGH..CHECKSUM_HIGH.saturating_add(2)) {
                high.fill(0);
            }
        }
        let mut found = crc32c_from(seed, &[&zeroed]);
        if !covers_high {
            found &= 0xffff;
        }
        ensure(found == stored, || "its checksum is wrong".into())
    }

    /// Whether the fields past the first 128 bytes go up to `end`.
    fn has_field(&self, end: usize) -> Result<bool> {
        if self.raw.len() <= CORE {
            return Ok(false);
        }
        let extra = usize::from(le16(&self.raw, CORE)?);
        Ok(CORE.saturating_add(extra) >= end && end <= self.raw.len())
    }

    /// Whether nothing says that it is in use.
    pub(super) fn is_free(&self) -> bool {
        self.mode == 0 && matches!(le16(&self.raw, 0x1a), Ok(0))
    }

    pub(super) fn kind(&self) -> Result<Kind> {
        kind(self.mode, || {
            let old = le32(&self.raw, BLOCK_AT)?;
            if old != 0 {
                return Ok((old >> 8 & 0xff, old & 0xff));
            }
            let new = le32(&self.raw, BLOCK_AT.saturating_add(4))?;
            Ok((new >> 8 & 0xfff, new & 0xff | new >> 12 & 0xf_ff00))
        })
    }

    pub(super) fn metadata(&self) -> Result<Metadata> {
        let raw = &self.raw;
        let wide = |low, high| {
            Ok::<_, Error>(u32::from(le16(raw, low)?) | u32::from(le16(raw, high)?) << 16)
        };
        // Seconds since 1970, signed; two more bits and nanoseconds if there is room.
        let stamp = |at, extra: usize| {
            let seconds = i64::from(le32(raw, at)?.cast_signed());
            let extra = match self.has_field(extra.saturating_add(4))? {
                true => le32(raw, extra)?,
                false => 0,
            };
            let epoch = i64::from(extra & 3) << 32;
            Ok::<_, Error>(time(seconds.saturating_add(epoch), extra >> 2))
        };
        Ok(Metadata {
            kind: self.kind()?,
            mode: u32::from(self.mode & 0o7777),
            uid: wide(0x2, 0x78)?,
            gid: wide(0x18, 0x7a)?,
            size: self.size,
            links: le16(raw, 0x1a)?.into(),
            accessed: stamp(0x8, 0x8c)?,
            modified: stamp(0x10, 0x88)?,
            changed: stamp(0xc, 0x84)?,
        })
    }

    fn has_flag(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }

    /// Whether contents, names and targets are encrypted.
    pub(super) fn is_encrypted(&self) -> bool {
        self.has_flag(FLAG_ENCRYPTED)
    }

    /// Whether it holds an extended attribute of another.
    pub(super) fn is_value(&self) -> bool {
        self.has_flag(FLAG_EA_INODE)
    }

    /// The hash of that attribute's value, which lies where else the time of access does.
    pub(super) fn value_hash(&self) -> Result<u32> {
        le32(&self.raw, 0x8)
    }

    /// Whether it is a directory with an index.
    pub(super) fn is_indexed(&self) -> bool {
        self.has_flag(FLAG_INDEX)
    }

    /// Whether its contents lie in it.
    pub(super) fn is_inline(&self) -> bool {
        self.has_flag(FLAG_INLINE)
    }

    pub(super) fn has_extents(&self) -> bool {
        self.has_flag(FLAG_EXTENTS)
    }

    /// The target of a link that is short enough to lie where the map would.
    pub(super) fn short_target(&self) -> Result<Option<&[u8]>> {
        let len = usize::try_from(self.size).unwrap_or(usize::MAX);
        match len < BLOCK_LEN && !self.has_extents() && !self.is_inline() {
            true => self
                .map_root()?
                .get(..len)
                .map(Some)
                .ok_or_else(|| corrupt("its target is cut")),
            false => Ok(None),
        }
    }

    /// The 60 bytes where the map begins.
    pub(super) fn map_root(&self) -> Result<&[u8]> {
        part(&self.raw, BLOCK_AT..BLOCK_AT.saturating_add(BLOCK_LEN))
    }

    /// The first block of names, if it is a directory and that is easily told.
    pub(super) fn first_of_directory(&self) -> Option<u64> {
        let root = self.map_root().ok()?;
        if !matches!(self.kind(), Ok(Kind::Directory)) || self.is_inline() {
            return None;
        }
        match self.has_extents() {
            // The first extent, if the root of the tree is a leaf.
            true if matches!(le16(root, 6), Ok(0)) => {
                let high = u64::from(le16(root, 18).ok()?) << 32;
                Some(high | u64::from(le32(root, 20).ok()?))
            }
            true => None,
            false => le32(root, 0).ok().map(u64::from),
        }
    }

    /// What lies past the fields, and may hold extended attributes.
    pub(super) fn rest(&self) -> Result<&[u8]> {
        if self.raw.len() <= CORE {
            return Ok(&[]);
        }
        let extra = usize::from(le16(&self.raw, CORE)?);
        let at = CORE.saturating_add(extra);
        ensure(extra >= 4 && extra % 4 == 0 || extra == 0, || {
            "its extra fields have a wrong length".into()
        })?;
        // An inode from before there were extra fields has none, and no attributes in it.
        match extra {
            0 => Ok(&[]),
            _ => Ok(self.raw.get(at..).unwrap_or_default()),
        }
    }

    /// The block with further attributes.
    pub(super) fn attribute_block(&self) -> Result<Option<u64>> {
        let block = u64::from(le32(&self.raw, 0x68)?) | u64::from(le16(&self.raw, 0x76)?) << 32;
        Ok((block != 0).then_some(block))
    }
}
