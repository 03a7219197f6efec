//! How large a volume is.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::block::{BLOCKS_PER_GIB, BlockIndex, bytes_of};
use crate::error::{Error, ErrorKind, Result};

/// A volume's size: 1 to 65536 whole GiB.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct VolumeSize(u32);

impl VolumeSize {
    const MAX_GIB: u32 = 65536;

    /// `gib` GiB; `Invalid` unless the service has volumes of that size.
    pub fn from_gib(gib: u32) -> Result<Self> {
        match gib {
            1..=Self::MAX_GIB => Ok(Self(gib)),
            _ => Err(Error::new(
                ErrorKind::Invalid,
                format!("a volume has 1 to {} GiB, not {gib}", Self::MAX_GIB),
            )),
        }
    }

    /// The smallest volume that holds `bytes` bytes; `Invalid` for none at all and for more than 64 TiB.
    pub fn holding(bytes: u64) -> Result<Self> {
        let gib = bytes.div_ceil(Self(1).bytes());
        if gib == 0 {
            return Err(Error::new(
                ErrorKind::Invalid,
                "it is empty: there is no disk in it",
            ));
        }
        u32::try_from(gib)
            .ok()
            .and_then(|gib| Self::from_gib(gib).ok())
            .ok_or_else(|| {
                Error::new(
                    ErrorKind::Invalid,
                    format!("{bytes} bytes are more than the largest volume, 64 TiB"),
                )
            })
    }

    /// In GiB.
    pub const fn gib(self) -> u32 {
        self.0
    }

    /// In blocks.
    pub const fn blocks(self) -> u32 {
        self.0 * BLOCKS_PER_GIB
    }

    /// In bytes.
    pub fn bytes(self) -> u64 {
        bytes_of(u64::from(self.blocks()))
    }

    /// `Invalid` unless the volume has a block `index`.
    pub fn check(self, index: BlockIndex) -> Result<()> {
        if index.get() < self.blocks() {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Invalid,
            format!(
                "block {index} is outside the volume, which has {} blocks",
                self.blocks()
            ),
        ))
    }
}

impl TryFrom<u32> for VolumeSize {
    type Error = Error;

    fn try_from(gib: u32) -> Result<Self> {
        Self::from_gib(gib)
    }
}

impl From<VolumeSize> for u32 {
    fn from(size: VolumeSize) -> Self {
        size.0
    }
}

impl fmt::Display for VolumeSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} GiB", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_whole_gib() {
        const GIB: u64 = 1 << 30;
        assert_eq!(VolumeSize::holding(1).unwrap().gib(), 1);
        assert_eq!(VolumeSize::holding(GIB).unwrap().gib(), 1);
        assert_eq!(VolumeSize::holding(GIB + 1).unwrap().gib(), 2);
        assert_eq!(VolumeSize::holding(65536 * GIB).unwrap().blocks(), 1 << 27);
        assert!(VolumeSize::holding(65536 * GIB + 1).is_err());
        assert!(VolumeSize::holding(0).is_err());
        assert!(VolumeSize::from_gib(0).is_err());
        let one = VolumeSize::from_gib(1).unwrap();
        assert!(one.check(BlockIndex::new(2047)).is_ok());
        assert!(one.check(BlockIndex::new(2048)).is_err());
    }
}
