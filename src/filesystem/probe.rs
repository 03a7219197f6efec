//! Which file system lies on a disk or a partition, by its magic number, and who reads it.
//!
//! [`FORMATS`] is the whole truth: a file system more is a row more. What cannot be read here is known by name all the
//! same, so that nobody has to guess why.

use std::sync::Arc;

use super::bytes::{le16, le32, piece};
use super::{FileTree, ext4, xfs};
use crate::error::{Error, ErrorKind, Result};
use crate::read_at::ReadAt;

/// What a format is known by lies in the first bytes: within one block of a store.
const HEAD: u64 = 136 << 10;

/// How the files of a format are reached.
type Open = fn(Arc<dyn ReadAt>) -> Result<Box<dyn FileTree>>;

/// Something that lies on disks.
#[derive(Debug)]
pub struct Format {
    /// As mount(8) or blkid(8) calls it.
    pub name: &'static str,
    recognise: fn(&[u8]) -> bool,
    open: Option<Open>,
}

/// What is recognised, the more certain before the less.
const FORMATS: &[Format] = &[
    known("crypto_LUKS", |head| has(head, 0, b"LUKS\xba\xbe")),
    known("LVM2_member", |head| {
        (0..4).any(|sector| {
            has(head, sector * 512, b"LABELONE") && has(head, sector * 512 + 24, b"LVM2 001")
        })
    }),
    known("linux_raid_member", |head| {
        [0, 4096]
            .into_iter()
            .any(|at| le32(head, at).is_ok_and(|magic| magic == 0xa92b_4efc))
    }),
    known("zfs_member", |head| {
        // A ring of uberblocks, in either order of bytes.
        (0..8).any(|block| {
            let at = (128 + block) << 10;
            has(head, at, &[0x0c, 0xb1, 0xba, 0, 0, 0, 0, 0])
                || has(head, at, &[0, 0, 0, 0, 0, 0xba, 0xb1, 0x0c])
        })
    }),
    known("btrfs", |head| has(head, 0x1_0040, b"_BHRfS_M")),
    known("bcachefs", |head| {
        has(
            head,
            4096 + 24,
            &[
                0xc6, 0x85, 0x73, 0xf6, 0x4e, 0x1a, 0x45, 0xca, 0x82, 0x65, 0xf5, 0x7f, 0x48, 0xba,
                0x6d, 0x81,
            ],
        )
    }),
    known("f2fs", |head| {
        le32(head, 1024).is_ok_and(|magic| magic == 0xf2f5_2010)
    }),
    known("squashfs", |head| has(head, 0, b"hsqs")),
    known("erofs", |head| {
        le32(head, 1024).is_ok_and(|magic| magic == 0xe0f5_e1e2)
    }),
    known("swap", |head| {
        [4086, 65526]
            .into_iter()
            .any(|at| has(head, at, b"SWAPSPACE2"))
    }),
    readable("xfs", xfs::recognise, xfs::open),
    readable("ext4", ext4::recognise, ext4::open),
    known("ntfs", |head| has(head, 3, b"NTFS    ")),
    known("exfat", |head| has(head, 3, b"EXFAT   ")),
    known("vfat", |head| {
        le16(head, 510).is_ok_and(|magic| magic == 0xaa55)
            && (has(head, 54, b"FAT") || has(head, 82, b"FAT32"))
    }),
    known("iso9660", |head| has(head, 0x8001, b"CD001")),
];

const fn known(name: &'static str, recognise: fn(&[u8]) -> bool) -> Format {
    Format {
        name,
        recognise,
        open: None,
    }
}

const fn readable(name: &'static str, recognise: fn(&[u8]) -> bool, open: Open) -> Format {
    Format {
        name,
        recognise,
        open: Some(open),
    }
}

fn has(head: &[u8], at: usize, magic: &[u8]) -> bool {
    piece(head, at, magic.len()).is_ok_and(|bytes| bytes == magic)
}

impl Format {
    /// Whether there is an adapter for it.
    pub fn is_readable(&self) -> bool {
        self.open.is_some()
    }

    /// Its files on `disk`; `Unsupported` if there is no adapter.
    pub fn open(&self, disk: Arc<dyn ReadAt>) -> Result<Box<dyn FileTree>> {
        match self.open {
            Some(open) => open(disk),
            None => Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "this is {}, which is not read here: as root, `ebsfs browse` has the kernel read it",
                    self.name
                ),
            )),
        }
    }
}

/// What `disk` holds, if that is known here. Fails only where reading fails.
pub fn probe(disk: &dyn ReadAt) -> Result<Option<&'static Format>> {
    let mut head = vec![0; usize::try_from(HEAD.min(disk.size())).unwrap_or_default()];
    disk.read_at(0, &mut head)?;
    Ok(FORMATS.iter().find(|format| (format.recognise)(&head)))
}

/// The files on `disk`; `Unsupported` if they cannot be read here.
pub fn open(disk: Arc<dyn ReadAt>) -> Result<Box<dyn FileTree>> {
    match probe(&*disk)? {
        Some(format) => format.open(disk),
        None => Err(Error::new(
            ErrorKind::Unsupported,
            "there is no file system that is known here",
        )),
    }
}
