//! Master boot records: four entries in sector 0, and a chain of boot records (EBR) for logical partitions.
//!
//! The crate `mbrman` decodes one sector; the chain is followed here, with a budget. Numbers and the choice of
//! entries are those of Linux (`block/partitions/msdos.c`): an entry without sectors is unused and takes no
//! number, whatever its type; a partition that is left out keeps its number. Sectors have 512 bytes.

use std::collections::BTreeSet;
use std::io::Cursor;

use mbrman::{BOOT_ACTIVE, BOOT_INACTIVE, MBRHeader, MBRPartitionEntry};

use super::{Partition, bytes_at, within_disk};
use crate::error::Result;
use crate::read_at::ReadAt;

const SECTOR: u64 = 512;
const SECTOR_LEN: usize = 512;
/// Where the four entries of 16 bytes begin.
const ENTRIES: usize = 446;
const ENTRY_LEN: usize = 16;
/// The type of the entry that keeps old tools from a GPT.
const PROTECTIVE: u8 = 0xee;
const FIRST_LOGICAL: u32 = 5;
/// The last number that Linux gives.
const LAST_NUMBER: u32 = 255;
/// Enough for every number that there is. Each record may cost a fetched block, so a chain must not be endless.
const MAX_EBRS: usize = 256;

type Entries = [MBRPartitionEntry; 4];

/// What sector 0 is.
pub(super) enum BootSector {
    /// It announces a GPT, and says which sector is the disk's last.
    Protective { last_lba: u64 },
    /// A table with at least one entry in use.
    Partitions(Entries),
    /// A table without.
    NoPartitions,
    /// The first sector of a file system that has the disk to itself: FAT, exFAT, NTFS.
    FileSystem,
    /// Signed, but none of these.
    Nonsense,
    /// Not a boot sector.
    Unsigned,
}

/// What `head` begins with.
pub(super) fn recognise(head: &[u8], disk_size: u64) -> BootSector {
    let Some(entries) = entries(head) else {
        return BootSector::Unsigned;
    };
    let sane = boot_flags_are_flags(head);
    // The type alone may be a byte of code.
    let protective =
        |entry: &&MBRPartitionEntry| entry.sys == PROTECTIVE && (entry.starting_lba == 1 || sane);
    if let Some(entry) = entries.iter().find(protective) {
        let (first, after) = span(entry);
        return BootSector::Protective {
            last_lba: after.saturating_sub(1).max(first),
        };
    }
    // A file system's boot sector has code or text where a table has entries. A boot loader may keep the parameters
    // of a file system that was there before, so a table whose every entry makes sense is still one.
    let mut used = entries.iter().filter(|entry| entry.sectors > 0).peekable();
    let any = used.peek().is_some();
    if is_file_system(head) {
        let inside = |entry: &MBRPartitionEntry| {
            let (first, after) = span(entry);
            first > 0 && after.saturating_mul(SECTOR) <= disk_size
        };
        return if sane && any && used.all(inside) {
            BootSector::Partitions(entries)
        } else {
            BootSector::FileSystem
        };
    }
    match (sane, any) {
        (false, _) => BootSector::Nonsense,
        (true, true) => BootSector::Partitions(entries),
        (true, false) => BootSector::NoPartitions,
    }
}

/// The partitions of a table, primary and logical. An extended one only holds others and is not shown.
pub(super) fn read(
    disk: &dyn ReadAt,
    entries: &Entries,
    warnings: &mut Vec<String>,
) -> Result<Vec<Partition>> {
    let mut chain = Chain {
        disk,
        next: FIRST_LOGICAL,
        seen: BTreeSet::new(),
        partitions: Vec::new(),
        warnings,
    };
    for (number, entry) in (1..).zip(entries).filter(|(_, entry)| entry.sectors > 0) {
        if !is_extended(entry) {
            chain.show(number, 0, entry);
        }
    }
    // Linux allows for several extended partitions; the count goes on from one to the next.
    for entry in entries {
        if entry.sectors > 0 && is_extended(entry) {
            chain.follow(entry)?;
        }
    }
    Ok(chain.partitions)
}

struct Chain<'a> {
    disk: &'a dyn ReadAt,
    next: u32,
    /// Sectors of the boot records that were read, over all extended partitions.
    seen: BTreeSet<u64>,
    partitions: Vec<Partition>,
    warnings: &'a mut Vec<String>,
}

impl Chain<'_> {
    fn show(&mut self, number: u32, base: u64, entry: &MBRPartitionEntry) {
        let (first, after) = span(entry);
        let byte = |lba: u64| base.saturating_add(lba).saturating_mul(SECTOR);
        let range = byte(first)..byte(after);
        if let Some(range) = within_disk(number, range, self.disk.size(), self.warnings) {
            self.partitions.push(Partition {
                number,
                range,
                kind: format!("{:#04x}", entry.sys),
                name: String::new(),
            });
        }
    }

    /// Shows the logical partitions of one extended partition, up to where its chain ends or breaks.
    fn follow(&mut self, extended: &MBRPartitionEntry) -> Result<()> {
        let (first, after) = span(extended);
        let mut here = first;
        let mut sectors = u64::from(extended.sectors);
        loop {
            let offset = here.saturating_mul(SECTOR);
            if self.seen.len() >= MAX_EBRS {
                return self.stop(offset, &format!("is one more than {MAX_EBRS}"));
            }
            if !self.seen.insert(here) {
                return self.stop(offset, "was followed before");
            }
            if offset.saturating_add(SECTOR) > self.disk.size() {
                return self.stop(offset, "is past the disk's end");
            }
            let bytes = bytes_at(self.disk, offset, SECTOR_LEN)?;
            let Some(entries) = entries(&bytes) else {
                // Some tools leave an extended partition that holds nothing as it was.
                if here == first && bytes.iter().all(|byte| *byte == 0) {
                    return Ok(());
                }
                return self.stop(offset, "has no signature");
            };
            for (slot, entry) in entries.iter().enumerate() {
                if entry.sectors == 0 || is_extended(entry) {
                    continue;
                }
                // Entries 3 and 4 are used by OS/2 and may be garbage elsewhere: they count where they fit.
                let (_, end) = span(entry);
                if slot >= 2 && (end > sectors || here.saturating_add(end) > after) {
                    continue;
                }
                if self.next > LAST_NUMBER {
                    return self.stop(offset, &format!("goes on past number {LAST_NUMBER}"));
                }
                self.show(self.next, here, entry);
                self.next = self.next.saturating_add(1);
            }
            let Some(link) = entries
                .iter()
                .find(|entry| entry.sectors > 0 && is_extended(entry))
            else {
                return Ok(());
            };
            here = first.saturating_add(u64::from(link.starting_lba));
            sectors = u64::from(link.sectors);
        }
    }

    fn stop(&mut self, offset: u64, why: &str) -> Result<()> {
        self.warnings.push(format!(
            "the extended boot record at byte {offset} {why}: logical partitions from number {} on are left out",
            self.next
        ));
        Ok(())
    }
}

/// First sector, and the sector after the last.
fn span(entry: &MBRPartitionEntry) -> (u64, u64) {
    let first = u64::from(entry.starting_lba);
    (first, first.saturating_add(u64::from(entry.sectors)))
}

/// The types that Linux takes for extended. `mbrman` has two more, of hidden partitions.
fn is_extended(entry: &MBRPartitionEntry) -> bool {
    matches!(entry.sys, 0x05 | 0x0f | 0x85)
}

/// The four entries of a sector that is signed.
fn entries(sector: &[u8]) -> Option<Entries> {
    let mut sector: [u8; SECTOR_LEN] = sector.get(..SECTOR_LEN)?.try_into().ok()?;
    // In a protective or extended record they may be anything, and `mbrman` would refuse it.
    for flag in boot_flags_mut(&mut sector) {
        *flag = BOOT_INACTIVE;
    }
    let header = MBRHeader::read_from(&mut Cursor::new(sector)).ok()?;
    Some([
        header.partition_1,
        header.partition_2,
        header.partition_3,
        header.partition_4,
    ])
}

fn boot_flags_mut(sector: &mut [u8; SECTOR_LEN]) -> impl Iterator<Item = &mut u8> {
    sector.iter_mut().skip(ENTRIES).step_by(ENTRY_LEN).take(4)
}

fn boot_flags_are_flags(sector: &[u8]) -> bool {
    sector
        .iter()
        .skip(ENTRIES)
        .step_by(ENTRY_LEN)
        .take(4)
        .all(|flag| matches!(*flag, BOOT_ACTIVE | BOOT_INACTIVE))
}

/// Whether the sector has the parameters of FAT, exFAT or NTFS at its head.
fn is_file_system(sector: &[u8]) -> bool {
    let [jump, _, nop, oem @ ..] = sector else {
        return false;
    };
    if oem.starts_with(b"NTFS    ") || oem.starts_with(b"EXFAT   ") {
        return true;
    }
    let [
        sector_low,
        sector_high,
        cluster,
        reserved_low,
        reserved_high,
        fats,
        _,
        _,
        _,
        _,
        media,
        ..,
    ] = oem.get(8..).unwrap_or_default()
    else {
        return false;
    };
    let jumps = matches!((jump, nop), (0xeb, 0x90) | (0xe9, _));
    let sector_size = u16::from_le_bytes([*sector_low, *sector_high]);
    let reserved = u16::from_le_bytes([*reserved_low, *reserved_high]);
    jumps
        && matches!(sector_size, 512 | 1024 | 2048 | 4096)
        && cluster.is_power_of_two()
        && reserved > 0
        && matches!(fats, 1 | 2)
        && matches!(media, 0xf0 | 0xf8..=0xff)
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, clippy::as_conversions)]
mod tests;
