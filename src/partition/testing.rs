//! A disk in memory, for the tests of the tables.

use std::io::Write as _;
use std::process::{Command, Stdio};

use super::{Range, Table, read_table};
use crate::error::{Error, ErrorKind, Result};
use crate::read_at::{Extent, ReadAt, check_range};

pub(super) const MIB: u64 = 1 << 20;

/// A disk in memory. Pages of zeros are holes, and from `fails_from` on it cannot be read.
pub(super) struct Disk {
    pub(super) bytes: Vec<u8>,
    pub(super) fails_from: u64,
}

impl Disk {
    const PAGE: u64 = 4096;

    pub(super) fn new(bytes: Vec<u8>) -> Self {
        Self {
            bytes,
            fails_from: u64::MAX,
        }
    }

    /// A disk that `sfdisk` made by `script`.
    pub(super) fn sfdisk(size: u64, script: &str) -> Self {
        Self::made_by(
            "sfdisk",
            &["--quiet", "--no-reread", "--no-tell-kernel"],
            size,
            script,
        )
    }

    /// A disk with sectors of 4096 bytes that `fdisk` made, which reads keystrokes.
    pub(super) fn fdisk_4096(size: u64, keys: &str) -> Self {
        Self::made_by("fdisk", &["--sector-size", "4096"], size, keys)
    }

    fn made_by(tool: &str, arguments: &[&str], size: u64, input: &str) -> Self {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(size).unwrap();
        let mut child = Command::new(tool)
            .args(arguments)
            .arg(file.path())
            .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("these tests need sfdisk and fdisk, of util-linux");
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(input.as_bytes()).unwrap();
        drop(stdin);
        assert!(child.wait().unwrap().success(), "{tool} refused: {input}");
        Self::new(std::fs::read(file.path()).unwrap())
    }

    pub(super) fn put(mut self, offset: u64, bytes: &[u8]) -> Self {
        let at = usize::try_from(offset).unwrap();
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    pub(super) fn zeroed(self, range: Range<u64>) -> Self {
        let zeros = vec![0; usize::try_from(range.end - range.start).unwrap()];
        self.put(range.start, &zeros)
    }

    pub(super) fn table(&self) -> Table {
        let table = read_table(self).unwrap();
        for partition in &table.partitions {
            let Range { start, end } = partition.range;
            assert!(start < end && end <= self.size(), "{partition:?}");
        }
        assert!(table.partitions.len() <= 1024);
        assert!(table.partitions.is_sorted_by_key(|p| p.number));
        table
    }

    fn range(&self, offset: u64, len: usize) -> Range<usize> {
        let start = usize::try_from(offset).unwrap();
        start..start + len
    }
}

impl ReadAt for Disk {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn try_read_at(&self, offset: u64, buf: &mut [u8]) -> Result<bool> {
        self.read_at(offset, buf).map(|()| true)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        check_range(self.size(), offset, buf.len())?;
        if offset + buf.len() as u64 > self.fails_from {
            return Err(Error::new(ErrorKind::Unavailable, "no answer"));
        }
        buf.copy_from_slice(&self.bytes[self.range(offset, buf.len())]);
        Ok(())
    }

    fn extent(&self, offset: u64) -> Result<Extent> {
        check_range(self.size(), offset, 1)?;
        let start = offset / Self::PAGE * Self::PAGE;
        let end = (start + Self::PAGE).min(self.size());
        let page = &self.bytes[start as usize..end as usize];
        Ok(if page.iter().all(|byte| *byte == 0) {
            Extent::Hole { end }
        } else {
            Extent::Data { end }
        })
    }

    fn allocated(&self, range: Range<u64>) -> Option<u64> {
        assert!(range.start < range.end && range.end <= self.size());
        let mut data = 0;
        let mut at = range.start;
        while at < range.end {
            let extent = self.extent(at).unwrap();
            let end = extent.end().min(range.end);
            if let Extent::Data { .. } = extent {
                data += end - at;
            }
            at = end;
        }
        Some(data)
    }
}

/// Number, first byte and length of each partition.
pub(super) fn places(table: &Table) -> Vec<(u32, u64, u64)> {
    table
        .partitions
        .iter()
        .map(|p| (p.number, p.range.start, p.range.end - p.range.start))
        .collect()
}

/// Holds that there is one warning for each of `parts`, in order, that contains it.
pub(super) fn assert_warned(table: &Table, parts: &[&str]) {
    assert_eq!(table.warnings.len(), parts.len(), "{:#?}", table.warnings);
    for (warning, part) in table.warnings.iter().zip(parts) {
        assert!(warning.contains(part), "{warning:?} has no {part:?}");
    }
}
