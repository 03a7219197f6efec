//! GUID partition tables: two copies, at sectors of 512 or 4096 bytes.
//!
//! The crate `gptman` decodes and checks sums. It takes the counts and places in a header at their word, so here
//! they are checked before it sees them, and it reads from a buffer of ours, never from the disk.

use std::io::Cursor;

use gptman::{GPTHeader, GPTPartitionEntry};

use super::{Partition, bytes_at, within_disk};
use crate::error::Result;
use crate::read_at::ReadAt;

/// Bytes at a disk's start that tell whether there is a GPT: sectors 0 and 1, of the larger size.
pub(super) const HEAD_BYTES: u64 = 8192;

/// EBS has 512. Images that were made on other disks may have 4096.
const SECTOR_SIZES: [u64; 2] = [512, 4096];
const SIGNATURE: &[u8] = b"EFI PART";
/// What is read of a header's sector; the header itself has 92 bytes.
const HEADER_SECTOR: usize = 512;
/// Eight times what every tool makes. The entries then have 128 KiB at most.
const MAX_ENTRIES: u32 = 1024;
/// The specification allows multiples; nothing writes them, and Linux reads no others.
const ENTRY_SIZE: u32 = 128;
/// `gptman` asks for as many bytes as an entry takes in memory, more than on disk: the last entry needs some behind it.
const SLACK: usize = 512;

/// Whether `head` has a GPT's signature where a first copy has it.
pub(super) fn is_at_sector_one(head: &[u8]) -> bool {
    SECTOR_SIZES.iter().any(|sector| {
        usize::try_from(*sector)
            .ok()
            .and_then(|at| head.get(at..))
            .is_some_and(|rest| rest.starts_with(SIGNATURE))
    })
}

/// What is at a place where a copy of the table may be.
enum Copy {
    Good(Vec<GPTPartitionEntry>),
    /// There is a signature, but this is wrong; and the header, if at least that is good.
    Damaged(String, Option<GPTHeader>),
    Absent,
}

/// The partitions of the first copy that is good, or a warning that none is. A good first copy of either sector
/// size goes before any backup: a backup is the copy that an older table leaves behind.
///
/// `announced_end` is the last sector by the protective MBR. It finds the backup on a volume that has grown since.
pub(super) fn read(
    disk: &dyn ReadAt,
    announced_end: Option<u64>,
    warnings: &mut Vec<String>,
) -> Result<Option<Vec<Partition>>> {
    let mut damage = Vec::new();
    let mut backups = Vec::new();
    for sector in SECTOR_SIZES {
        let mut named = None;
        match copy_at(disk, sector, 1)? {
            Copy::Good(entries) => {
                return Ok(Some(partitions(&entries, sector, disk.size(), warnings)));
            }
            Copy::Damaged(what, header) => {
                damage.push(format!("the GPT at byte {sector} is damaged: {what}"));
                named = header.map(|header| header.backup_lba);
            }
            Copy::Absent => {}
        }
        let last = disk
            .size()
            .checked_div(sector)
            .and_then(|n| n.checked_sub(1));
        for lba in [last, named, announced_end].into_iter().flatten() {
            if lba > 1 && !backups.contains(&(sector, lba)) {
                backups.push((sector, lba));
            }
        }
    }
    if damage.is_empty() {
        damage.push("there is no GPT at sector 1".into());
    }
    for (sector, lba) in backups {
        let offset = lba.saturating_mul(sector);
        match copy_at(disk, sector, lba)? {
            Copy::Good(entries) => {
                warnings.append(&mut damage);
                warnings.push(format!("the backup GPT at byte {offset} is used"));
                return Ok(Some(partitions(&entries, sector, disk.size(), warnings)));
            }
            Copy::Damaged(what, _) => damage.push(format!(
                "the backup GPT at byte {offset} is damaged: {what}"
            )),
            Copy::Absent => {}
        }
    }
    warnings.append(&mut damage);
    warnings.push(
        match announced_end {
            Some(_) => {
                "the MBR is protective, but no copy of the GPT can be read: no partitions are shown"
            }
            None => "no copy of the GPT can be read: no partitions are shown",
        }
        .into(),
    );
    Ok(None)
}

fn copy_at(disk: &dyn ReadAt, sector: u64, lba: u64) -> Result<Copy> {
    let Some(offset) = room_at(disk, sector, lba, HEADER_SECTOR) else {
        return Ok(Copy::Absent);
    };
    let bytes = bytes_at(disk, offset, HEADER_SECTOR)?;
    if !bytes.starts_with(SIGNATURE) {
        return Ok(Copy::Absent);
    }
    let mut header = match GPTHeader::read_from(&mut Cursor::new(bytes)) {
        Ok(header) => header,
        Err(e) => return Ok(Copy::Damaged(format!("header: {e}"), None)),
    };
    let damaged = |what, header| Ok(Copy::Damaged(what, Some(header)));
    if header.primary_lba != lba {
        // A copy that was moved together with its disk's bytes, or belongs to another table.
        let what = format!("it says to be at sector {}", header.primary_lba);
        return damaged(what, header);
    }
    if header.size_of_partition_entry != ENTRY_SIZE {
        let what = format!(
            "entries of {} bytes, only {ENTRY_SIZE} are supported",
            header.size_of_partition_entry
        );
        return damaged(what, header);
    }
    let count = header.number_of_partition_entries;
    if !(1..=MAX_ENTRIES).contains(&count) {
        return damaged(
            format!("{count} entries, where 1 to {MAX_ENTRIES} are supported"),
            header,
        );
    }
    let length = usize::try_from(count.saturating_mul(ENTRY_SIZE)).unwrap_or(usize::MAX);
    let Some(offset) = room_at(disk, sector, header.partition_entry_lba, length) else {
        let what = format!(
            "its entries at sector {} are past the disk's end",
            header.partition_entry_lba
        );
        return damaged(what, header);
    };
    let mut bytes = bytes_at(disk, offset, length)?;
    bytes.resize(length.saturating_add(SLACK), 0);
    header.partition_entry_lba = 0;
    match header.read_partitions(&mut Cursor::new(bytes), sector) {
        Ok(entries) => Ok(Copy::Good(entries)),
        Err(e) => damaged(format!("entries: {e}"), header),
    }
}

/// Offset of sector `lba`, if `len` bytes from there are on the disk.
fn room_at(disk: &dyn ReadAt, sector: u64, lba: u64, len: usize) -> Option<u64> {
    let offset = lba.checked_mul(sector)?;
    let end = offset.checked_add(u64::try_from(len).ok()?)?;
    (end <= disk.size()).then_some(offset)
}

fn partitions(
    entries: &[GPTPartitionEntry],
    sector: u64,
    size: u64,
    warnings: &mut Vec<String>,
) -> Vec<Partition> {
    (1..)
        .zip(entries)
        .filter(|(_, entry)| entry.is_used())
        .filter_map(|(number, entry)| {
            let start = entry.starting_lba.saturating_mul(sector);
            let end = entry.ending_lba.saturating_add(1).saturating_mul(sector);
            Some(Partition {
                number,
                range: within_disk(number, start..end, size, warnings)?,
                kind: guid(entry.partition_type_guid),
                name: printable(entry.partition_name.as_str()),
            })
        })
        .collect()
}

/// A GUID as text: its first three fields are little-endian.
fn guid(bytes: [u8; 16]) -> String {
    let [a, b, c, d, e, f, g, h, tail @ ..] = bytes;
    let [i, j, node @ ..] = tail;
    let node: String = node.iter().map(|byte| format!("{byte:02x}")).collect();
    format!(
        "{:08x}-{:04x}-{:04x}-{i:02x}{j:02x}-{node}",
        u32::from_le_bytes([a, b, c, d]),
        u16::from_le_bytes([e, f]),
        u16::from_le_bytes([g, h]),
    )
}

/// A name that cannot command a terminal.
fn printable(name: &str) -> String {
    name.replace(char::is_control, "\u{fffd}")
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, clippy::as_conversions)]
mod tests;
