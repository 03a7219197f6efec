//! One inode: its fields, checked against its checksum, and its two forks, of contents and of attributes.

use super::super::bytes::{
    be16, be32, be64, byte, corrupt, ensure, has_checksum, kind, part, piece, time,
};
use super::super::{Kind, Metadata};
use super::superblock::Superblock;
use crate::error::{Error, Result};

const CORE_V2: usize = 100;
const CORE_V3: usize = 176;
const CHECKSUM_AT: usize = 100;
const FLAG_REALTIME: u16 = 0x1;
const FLAG2_BIGTIME: u64 = 1 << 3;
const FLAG2_LARGE_COUNTS: u64 = 1 << 4;
/// Where the nanoseconds of a large time begin to count: 2^31 seconds before 1970.
const BIGTIME_EPOCH: i64 = 1 << 31;

/// How a fork is kept.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Layout {
    /// The numbers of a device.
    Device,
    /// In the inode.
    Local,
    /// A list of extents in the inode.
    Extents,
    /// The root of a tree of extents.
    Tree,
}

/// The contents or the attributes.
#[derive(Clone, Copy)]
pub(super) struct Fork<'a> {
    pub(super) layout: Layout,
    pub(super) bytes: &'a [u8],
    pub(super) extents: u64,
}

/// One that was read.
pub(super) struct Inode {
    pub(super) number: u64,
    raw: Vec<u8>,
    mode: u16,
    pub(super) size: u64,
    core: usize,
    flags2: u64,
}

impl Inode {
    /// Inode `number`, of which `raw` is all.
    pub(super) fn parse(superblock: &Superblock, number: u64, raw: Vec<u8>) -> Result<Self> {
        ensure(piece(&raw, 0, 2)? == b"IN", || "there is none".into())?;
        let version = byte(&raw, 4)?;
        let v3 = version == 3;
        ensure(v3 == superblock.v5 && matches!(version, 1..=3), || {
            "its version is wrong".into()
        })?;
        let mut flags2 = 0;
        if v3 {
            ensure(has_checksum(&raw, CHECKSUM_AT)?, || {
                "its checksum is wrong".into()
            })?;
            ensure(be64(&raw, 152)? == number, || {
                "it says that it is another".into()
            })?;
            flags2 = be64(&raw, 120)?;
        }
        let inode = Self {
            number,
            mode: be16(&raw, 2)?,
            size: be64(&raw, 56)?,
            core: if v3 { CORE_V3 } else { CORE_V2 },
            flags2,
            raw,
        };
        ensure(inode.size <= i64::MAX.unsigned_abs(), || {
            "its size makes no sense".into()
        })?;
        Ok(inode)
    }

    /// Whether nothing says that it is in use.
    pub(super) fn is_free(&self) -> bool {
        self.mode == 0
    }

    /// Whether its contents are in the realtime section.
    pub(super) fn is_realtime(&self) -> Result<bool> {
        Ok(be16(&self.raw, 90)? & FLAG_REALTIME != 0)
    }

    pub(super) fn kind(&self) -> Result<Kind> {
        kind(self.mode, || {
            let device = be32(&self.raw, self.core)?;
            Ok((device >> 18, device & 0x3_ffff))
        })
    }

    pub(super) fn metadata(&self) -> Result<Metadata> {
        let raw = &self.raw;
        let stamp = |at| {
            if self.flags2 & FLAG2_BIGTIME != 0 {
                let all = be64(raw, at)?;
                let seconds = i64::try_from(all / 1_000_000_000).unwrap_or(i64::MAX);
                let rest = u32::try_from(all % 1_000_000_000).unwrap_or_default();
                return Ok(time(seconds.saturating_sub(BIGTIME_EPOCH), rest));
            }
            let seconds = i64::from(be32(raw, at)?.cast_signed());
            Ok::<_, Error>(time(seconds, be32(raw, at.saturating_add(4))?))
        };
        let links = match byte(raw, 4)? {
            1 => be16(raw, 6)?.into(),
            _ => be32(raw, 16)?,
        };
        Ok(Metadata {
            kind: self.kind()?,
            mode: u32::from(self.mode & 0o7777),
            uid: be32(raw, 8)?,
            gid: be32(raw, 12)?,
            size: self.size,
            links,
            accessed: stamp(32)?,
            modified: stamp(40)?,
            changed: stamp(48)?,
        })
    }

    /// Where the fork of attributes begins; none if there is none.
    fn split(&self) -> Result<Option<usize>> {
        let offset = usize::from(byte(&self.raw, 82)?).saturating_mul(8);
        let at = self.core.saturating_add(offset);
        ensure(at < self.raw.len(), || {
            "its attributes are said to lie past its end".into()
        })?;
        Ok((offset > 0).then_some(at))
    }

    fn has_large_counts(&self) -> bool {
        self.flags2 & FLAG2_LARGE_COUNTS != 0
    }

    /// The contents.
    pub(super) fn data(&self) -> Result<Fork<'_>> {
        let end = self.split()?.unwrap_or(self.raw.len());
        Ok(Fork {
            layout: layout(byte(&self.raw, 5)?)?,
            bytes: part(&self.raw, self.core..end)?,
            extents: match self.has_large_counts() {
                true => be64(&self.raw, 24)?,
                false => be32(&self.raw, 76)?.into(),
            },
        })
    }

    /// The attributes, if there are any.
    pub(super) fn attributes(&self) -> Result<Option<Fork<'_>>> {
        let Some(start) = self.split()? else {
            return Ok(None);
        };
        Ok(Some(Fork {
            layout: layout(byte(&self.raw, 83)?)?,
            bytes: part(&self.raw, start..self.raw.len())?,
            extents: match self.has_large_counts() {
                true => be32(&self.raw, 76)?.into(),
                false => be16(&self.raw, 80)?.into(),
            },
        }))
    }
}

fn layout(format: u8) -> Result<Layout> {
    Ok(match format {
        0 => Layout::Device,
        1 => Layout::Local,
        2 => Layout::Extents,
        3 => Layout::Tree,
        other => return Err(corrupt(format!("it is kept in no known way, {other}"))),
    })
}
