//! Partition tables, and a partition as bytes of its own.
//!
//! [`read_table`] tells what a disk's table says, GPT or MBR, in the numbers that Linux gives: a file `p5` holds
//! what `/dev/xvda5` would. Every byte of a table is hostile. Only a failing disk is an error; damage is a
//! warning in the [`Table`], for the caller to log, and what is readable is shown.
//!
//! It promises that every partition lies within the disk and is not empty, that there are at most 1024, and that
//! no length or count on the disk decides how much is allocated or how long it takes. Partitions may overlap:
//! they are only views.
//!
//! It writes no table, does not look into partitions (BSD labels, LVM), does not compare the copies of a GPT while
//! the first is good, and does not search for a table that nothing at the disk's start announces: what is left of
//! an earlier table at its end never wins.

#![warn(clippy::arithmetic_side_effects, clippy::indexing_slicing)]

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::read_at::{Extent, Lent, ReadAt, WriteAt, check_range};

mod gpt;
mod mbr;

/// The kind of a partition table.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Scheme {
    /// GUID partition table.
    Gpt,
    /// Master boot record, with logical partitions.
    Mbr,
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Gpt => "gpt",
            Self::Mbr => "mbr",
        })
    }
}

/// One partition.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Partition {
    /// Its number in the table, from 1; logical ones of an MBR count from 5. Numbers may have gaps.
    pub number: u32,
    /// Its bytes on the disk: never empty, never past the disk's end.
    pub range: Range<u64>,
    /// Its type as the table has it: a GUID in lower case, or a byte such as `0x83`.
    pub kind: String,
    /// Its name in a GPT, without control characters; empty in an MBR.
    pub name: String,
}

/// What a disk's partition table says.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Table {
    /// Which kind it is; `None` if there is no table that can be read.
    pub scheme: Option<Scheme>,
    /// Its partitions, numbers ascending.
    pub partitions: Vec<Partition>,
    /// What is wrong with it, a sentence each.
    pub warnings: Vec<String>,
}

/// Reads the partition table of `disk`.
///
/// A protective entry in the MBR announces a GPT. An MBR with partitions and no such entry is believed, as Linux
/// does, even where sector 1 holds a GPT header. That header alone is believed if sector 0 holds no partitions.
/// Fails only where reading fails, with that error's kind.
pub fn read_table(disk: &dyn ReadAt) -> Result<Table> {
    let mut table = Table::default();
    let length = disk.size().min(gpt::HEAD_BYTES);
    let head = bytes_at(disk, 0, usize::try_from(length).unwrap_or_default())?;
    let at_sector_one = gpt::is_at_sector_one(&head);
    let found = mbr::recognise(&head, disk.size());
    match found {
        mbr::BootSector::Protective { last_lba } => {
            table.read_gpt(disk, Some(last_lba))?;
        }
        mbr::BootSector::Partitions(entries) => {
            if at_sector_one {
                table.warnings.push(
                    "there is a GPT at sector 1, but the MBR has partitions and no protective entry: the MBR is used"
                        .into(),
                );
            }
            table.scheme = Some(Scheme::Mbr);
            table.partitions = mbr::read(disk, &entries, &mut table.warnings)?;
        }
        _ if at_sector_one => {
            table
                .warnings
                .push("there is a GPT at sector 1, but no protective MBR before it".into());
            table.read_gpt(disk, None)?;
        }
        mbr::BootSector::NoPartitions => table.scheme = Some(Scheme::Mbr),
        mbr::BootSector::Nonsense => table.warnings.push(
            "sector 0 has a boot signature, but neither partitions nor a file system that is known: no partitions are shown"
                .into(),
        ),
        mbr::BootSector::FileSystem | mbr::BootSector::Unsigned => {}
    }
    Ok(table)
}

impl Table {
    fn read_gpt(&mut self, disk: &dyn ReadAt, announced_end: Option<u64>) -> Result<()> {
        if let Some(partitions) = gpt::read(disk, announced_end, &mut self.warnings)? {
            self.scheme = Some(Scheme::Gpt);
            self.partitions = partitions;
        }
        Ok(())
    }
}

/// `len` bytes from `offset`; constants of this module bound `len`, whatever the disk says.
fn bytes_at(disk: &dyn ReadAt, offset: u64, len: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    disk.read_at(offset, &mut bytes)
        .map_err(|e| e.context(format!("cannot read the partition table at byte {offset}")))?;
    Ok(bytes)
}

/// The part of `range` that is on the disk, with a warning where that is not all of it.
///
/// Callers may saturate: an end of `u64::MAX` is past every disk's end.
fn within_disk(
    number: u32,
    range: Range<u64>,
    size: u64,
    warnings: &mut Vec<String>,
) -> Option<Range<u64>> {
    let Range { start, end } = range;
    if start >= size {
        warnings.push(format!(
            "partition {number} starts at byte {start}, past the disk's end at {size}: left out"
        ));
        return None;
    }
    if start >= end {
        warnings.push(format!(
            "partition {number} ends before it starts, at byte {start}: left out"
        ));
        return None;
    }
    if end > size {
        warnings.push(format!(
            "partition {number} ends at byte {end}, past the disk's end at {size}: cut there"
        ));
    }
    Some(start..end.min(size))
}

/// A range of a disk as bytes of its own: a partition. It can be written to if the disk can.
pub struct Slice<D: ?Sized = dyn ReadAt> {
    range: Range<u64>,
    disk: Arc<D>,
}

impl<D: ReadAt + ?Sized> Slice<D> {
    /// The bytes `range` of `disk`; `Invalid` unless all of them are there.
    pub fn new(disk: Arc<D>, range: Range<u64>) -> Result<Self> {
        if range.start > range.end || range.end > disk.size() {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "bytes {} to {} are not all within a disk of {}",
                    range.start,
                    range.end,
                    disk.size()
                ),
            ));
        }
        Ok(Self { range, disk })
    }

    /// Where `len` bytes from `offset` begin on the disk, once they are known to be inside.
    fn on_disk(&self, offset: u64, len: usize) -> Result<u64> {
        check_range(self.size(), offset, len)?;
        // Cannot saturate: what is inside the slice is inside the disk.
        Ok(self.range.start.saturating_add(offset))
    }

    /// An offset on the disk as one in here: past the end is the end.
    fn in_here(&self, offset: u64) -> u64 {
        offset.min(self.range.end).saturating_sub(self.range.start)
    }
}

impl<D: ReadAt + ?Sized> ReadAt for Slice<D> {
    fn size(&self) -> u64 {
        self.range.end.saturating_sub(self.range.start)
    }

    fn try_read_at(&self, offset: u64, buf: &mut [u8]) -> Result<bool> {
        self.disk.try_read_at(self.on_disk(offset, buf.len())?, buf)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.disk.read_at(self.on_disk(offset, buf.len())?, buf)
    }

    fn lend(&self, offset: u64, len: usize, wait: bool) -> Result<Lent> {
        self.disk.lend(self.on_disk(offset, len)?, len, wait)
    }

    fn extent(&self, offset: u64) -> Result<Extent> {
        Ok(match self.disk.extent(self.on_disk(offset, 1)?)? {
            Extent::Data { end } => Extent::Data {
                end: self.in_here(end),
            },
            Extent::Hole { end } => Extent::Hole {
                end: self.in_here(end),
            },
        })
    }

    fn ahead(&self, range: Range<u64>) {
        let on_disk = |offset: u64| self.range.start.saturating_add(offset.min(self.size()));
        self.disk.ahead(on_disk(range.start)..on_disk(range.end));
    }

    fn allocated(&self, range: Range<u64>) -> Option<u64> {
        let on_disk = |offset: u64| self.range.start.saturating_add(offset.min(self.size()));
        let range = on_disk(range.start)..on_disk(range.end);
        if range.is_empty() {
            return Some(0);
        }
        self.disk.allocated(range)
    }
}

impl<D: WriteAt + ?Sized> WriteAt for Slice<D> {
    fn try_write_at(&self, offset: u64, data: &[u8]) -> Result<bool> {
        self.disk
            .try_write_at(self.on_disk(offset, data.len())?, data)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.disk.write_at(self.on_disk(offset, data.len())?, data)
    }

    fn zero(&self, range: Range<u64>) -> Result<()> {
        // An end before the start is refused below, as one past the end is.
        let len = range.end.checked_sub(range.start);
        let len = len.and_then(|len| usize::try_from(len).ok());
        let start = self.on_disk(range.start, len.unwrap_or(usize::MAX))?;
        // Cannot saturate either: all of it is inside.
        let end = self.range.start.saturating_add(range.end);
        self.disk.zero(start..end)
    }

    fn sync(&self) -> Result<()> {
        self.disk.sync()
    }
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]
mod testing {
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    use super::*;

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
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::testing::{Disk, MIB, assert_warned};
    use super::*;

    #[test]
    fn a_disk_without_a_table_has_none_and_no_warning() {
        for size in [0, 1, 511, 512, 513, 4096, 8191, 8192, MIB as usize] {
            assert_eq!(Disk::new(vec![0; size]).table(), Table::default(), "{size}");
            assert_eq!(Disk::new(vec![7; size]).table(), Table::default(), "{size}");
        }
    }

    #[test]
    fn a_disk_that_fails_is_an_error_of_its_own_kind() {
        let gpt = "label: gpt\nsize=1M\n";
        let mbr = "label: dos\n2048 2048 83\n4096 - E\n6144 2048 83\n";
        // The first sectors, a GPT's entries, the first boot record of a chain.
        for (script, fails_from) in [(gpt, 0), (gpt, 8192), (mbr, 0), (mbr, 2 * MIB)] {
            let mut disk = Disk::sfdisk(8 * MIB, script);
            disk.table();
            disk.fails_from = fails_from;
            let error = read_table(&disk).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unavailable);
            assert!(format!("{error:#}").ends_with(": no answer"), "{error:#}");
        }
    }

    #[test]
    fn an_mbr_with_partitions_goes_before_a_gpt_that_it_does_not_announce() {
        let gpt = Disk::sfdisk(8 * MIB, "label: gpt\nsize=1M\n");
        let mbr = Disk::sfdisk(8 * MIB, "label: dos\n2048 4096 83\n");
        let both = Disk::new(gpt.bytes.clone()).put(0, &mbr.bytes[..512]);
        let table = both.table();
        assert_eq!(table.scheme, Some(Scheme::Mbr));
        assert_eq!(table.partitions, mbr.table().partitions);
        assert_warned(&table, &["the MBR is used"]);
        // Only the backup is left: not worth a word.
        assert_eq!(both.zeroed(512..MIB).table(), mbr.table());
    }

    #[test]
    fn a_gpt_without_its_protective_mbr_is_read_from_its_start_but_not_from_its_end() {
        let whole = Disk::sfdisk(8 * MIB, "label: gpt\nsize=1M\n");
        let partitions = whole.table().partitions;
        let bare = whole.zeroed(0..512);
        let table = bare.table();
        assert_eq!(table.partitions, partitions);
        assert_warned(&table, &["no protective MBR"]);
        assert_eq!(bare.zeroed(512..1024).table(), Table::default());
    }

    fn slice(bytes: usize, range: Range<u64>) -> Result<Slice> {
        let bytes = (0..bytes)
            .map(|i| if (i / 4096) % 2 == 0 { 0 } else { i as u8 | 1 })
            .collect();
        Slice::new(Arc::new(Disk::new(bytes)), range)
    }

    #[test]
    #[allow(clippy::reversed_empty_ranges)]
    fn a_slice_cannot_reach_outside_its_range() {
        for bad in [0..65537, 65537..65537, 9..8, 0..u64::MAX] {
            let kind = slice(65536, bad).err().map(|e| e.kind());
            assert_eq!(kind, Some(ErrorKind::Invalid));
        }
        let slice = slice(65536, 4000..9000).unwrap();
        assert_eq!(slice.size(), 5000);
        let mut buf = [0; 100];
        slice.read_at(4900, &mut buf).unwrap();
        assert!(slice.try_read_at(0, &mut buf).unwrap());
        assert_eq!(&buf[94..], &[0, 0, 1, 1, 3, 3]);
        for offset in [4901, 5000, 5001, u64::MAX] {
            let kind = |result: Result<()>| result.unwrap_err().kind();
            assert_eq!(kind(slice.read_at(offset, &mut buf)), ErrorKind::Invalid);
            let tried = slice.try_read_at(offset, &mut buf).map(|_| ());
            assert_eq!(kind(tried), ErrorKind::Invalid);
        }
        slice.read_at(5000, &mut []).unwrap();
    }

    #[test]
    fn a_slice_sees_the_disks_extents_cut_to_itself() {
        // Holes and data by turns, 4096 bytes each, from 0.
        let slice = slice(65536, 4000..9000).unwrap();
        assert_eq!(slice.extent(0).unwrap(), Extent::Hole { end: 96 });
        assert_eq!(slice.extent(96).unwrap(), Extent::Data { end: 4192 });
        assert_eq!(slice.extent(4192).unwrap(), Extent::Hole { end: 5000 });
        assert!(slice.extent(5000).is_err());
        assert_eq!(slice.allocated(0..5000), Some(4096));
        assert_eq!(slice.allocated(100..200), Some(100));
        assert_eq!(slice.allocated(4000..u64::MAX), Some(192));
        assert_eq!(slice.allocated(5000..6000), Some(0));
    }

    const SECTORS: usize = 64 * 512;

    static WHOLE: LazyLock<[Vec<u8>; 3]> = LazyLock::new(|| {
        let gpt = "label: gpt\nfirst-lba: 34\n34 30\n70 200\n300 300\n";
        let mbr = "label: dos\n50 9 83\n1 19 E\n2 2 83\n5 2 82\n9 9 83\n20 9 83\n";
        [
            Disk::sfdisk(2 * MIB, gpt).bytes,
            Disk::fdisk_4096(2 * MIB, "g\nn\n1\n300\n400\nw\n").bytes,
            Disk::sfdisk(2 * MIB, mbr).bytes,
        ]
    });

    #[test]
    fn the_tables_to_be_damaged_are_whole() {
        let counts = WHOLE.each_ref().map(|bytes| {
            let table = Disk::new(bytes.clone()).table();
            assert_warned(&table, &[]);
            table.partitions.len()
        });
        assert_eq!(counts, [3, 1, 5]);
    }

    proptest! {
        // What was found is kept as a named test, not in a file beside the sources.
        #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_damaged_table_shows_nothing_outside_the_disk(
            which in 0..3_usize,
            // Mostly where something stands: in the entries of a boot record, or at a copy of a GPT's head.
            damage in prop::collection::vec(
                (
                    prop_oneof![
                        (0..24_usize, 446..512_usize).prop_map(|(sector, byte)| sector * 512 + byte),
                        512..512 + 96_usize,
                        1024..1024 + 512_usize,
                        4096..4096 + 96_usize,
                        0..SECTORS,
                    ],
                    prop_oneof![Just(0), Just(5), Just(0xff), any::<u8>()],
                ),
                0..12,
            ),
            cut in prop_oneof![3 => Just(2 * MIB as usize), 1 => 0..2 * MIB as usize],
        ) {
            let mut bytes = WHOLE[which].clone();
            for (at, byte) in damage {
                bytes[at] = byte;
            }
            bytes.truncate(cut);
            Disk::new(bytes).table();
        }
    }

    proptest! {
        // Made of many values each: more of them would take seconds.
        #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn random_sectors_show_nothing_outside_the_disk(
            mut bytes in prop::collection::vec(any::<u8>(), SECTORS),
            signed in any::<bool>(),
            protective in any::<bool>(),
        ) {
            if signed {
                for sector in bytes.chunks_exact_mut(512) {
                    sector[510..].copy_from_slice(&[0x55, 0xaa]);
                    sector[446..510].chunks_exact_mut(16).for_each(|entry| entry[0] &= 0x80);
                }
            }
            if protective {
                bytes[450] = 0xee;
                bytes[512..520].copy_from_slice(b"EFI PART");
            }
            Disk::new(bytes).table();
        }
    }
}
