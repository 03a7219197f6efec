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

use crate::error::Result;
use crate::read_at::ReadAt;

mod gpt;
mod mbr;
mod slice;
#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, clippy::as_conversions)]
mod testing;

pub use self::slice::Slice;

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

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, clippy::as_conversions)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::testing::{Disk, MIB, assert_warned};
    use super::*;
    use crate::error::ErrorKind;

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
