//! Tables that tools write, damaged in all ways.

use super::super::testing::{Disk, MIB, assert_warned, places};
use super::super::{Scheme, Table};
use super::*;

const SIZE: u64 = 8 * MIB;
/// Logical partitions 5, 6, 7; their boot records are at sectors 4096, 6143 and 8191.
const LOGICAL: &str =
    "label: dos\n2048 1024 83\n4096 - E\n4097 1000 83\n6144 1000 82\n8192 2000 8e\n";
const EBRS: [u64; 3] = [4096, 6143, 8191];

fn sector(lba: u64) -> u64 {
    lba * SECTOR
}

/// An entry as it stands on the disk.
fn raw(sys: u8, start: u32, sectors: u32) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[4] = sys;
    bytes[8..12].copy_from_slice(&start.to_le_bytes());
    bytes[12..].copy_from_slice(&sectors.to_le_bytes());
    bytes
}

impl Disk {
    /// Writes entry `slot`, from 0, of the boot record in sector `lba`, and signs that.
    fn entry(self, lba: u64, slot: u64, entry: [u8; 16]) -> Self {
        self.put(sector(lba) + 446 + 16 * slot, &entry)
            .put(sector(lba) + 510, &[0x55, 0xaa])
    }
}

fn logical() -> Disk {
    let disk = Disk::sfdisk(SIZE, LOGICAL);
    for ebr in EBRS {
        let at = sector(ebr) as usize;
        assert_eq!(disk.bytes[at + 510..at + 512], [0x55, 0xaa], "{ebr}");
    }
    disk
}

fn blank() -> Disk {
    Disk::new(vec![0; SIZE as usize])
}

fn numbers(table: &Table) -> Vec<u32> {
    table.partitions.iter().map(|p| p.number).collect()
}

#[test]
fn a_partition_may_start_at_sector_63() {
    let table = Disk::sfdisk(SIZE, "label: dos\n63 2000 83 *\n").table();
    assert_eq!(table.scheme, Some(Scheme::Mbr));
    assert_eq!(places(&table), [(1, sector(63), sector(2000))]);
    assert_eq!(table.partitions[0].kind, "0x83");
    assert_eq!(table.partitions[0].name, "");
    assert_warned(&table, &[]);
}

#[test]
fn logical_partitions_count_from_5_and_the_extended_one_is_not_shown() {
    let table = logical().table();
    assert_eq!(
        places(&table),
        [
            (1, sector(2048), sector(1024)),
            (5, sector(4097), sector(1000)),
            (6, sector(6144), sector(1000)),
            (7, sector(8192), sector(2000)),
        ]
    );
    let kinds: Vec<_> = table.partitions.iter().map(|p| p.kind.as_str()).collect();
    assert_eq!(kinds, ["0x83", "0x83", "0x82", "0x8e"]);
    assert_warned(&table, &[]);
}

#[test]
fn what_mbrman_writes_is_read() {
    let mut disk = blank();
    let mut cursor = Cursor::new(&mut disk.bytes);
    let mut mbr = mbrman::MBR::new_from(&mut cursor, 512, [1; 4]).unwrap();
    mbr.align = 1;
    mbr[2] = MBRPartitionEntry {
        sys: 0x0f,
        starting_lba: 100,
        sectors: 10_000,
        ..MBRPartitionEntry::empty()
    };
    mbr.push(0x83, 101, 50).unwrap();
    mbr.push(0x83, 200, 60).unwrap();
    mbr.write_into(&mut cursor).unwrap();
    assert_eq!(numbers(&disk.table()), [5, 6]);
}

#[test]
fn a_logical_entry_without_sectors_takes_no_number() {
    let table = logical().entry(EBRS[1], 0, raw(0x83, 1, 0)).table();
    assert_eq!(
        places(&table)[1..],
        [
            (5, sector(4097), sector(1000)),
            (6, sector(8192), sector(2000))
        ]
    );
    assert_warned(&table, &[]);
}

#[test]
fn a_damaged_boot_record_keeps_the_partitions_before_it() {
    for (damaged, left) in [(0, &[1][..]), (1, &[1, 5]), (2, &[1, 5, 6])] {
        let at = sector(EBRS[damaged]);
        let table = logical().put(at + 510, &[0]).table();
        assert_eq!(numbers(&table), left);
        assert_warned(&table, &[&format!("byte {at} has no signature")]);
    }
}

#[test]
fn a_chain_that_returns_ends_there() {
    for (from, to) in [(2, 0), (1, 1), (2, 1), (0, 0)] {
        let link = raw(5, (EBRS[to] - EBRS[0]) as u32, 100);
        let table = logical().entry(EBRS[from], 1, link).table();
        assert_eq!(numbers(&table).len(), from + 2);
        assert_warned(&table, &["was followed before"]);
    }
}

#[test]
fn a_chain_may_descend() {
    // 4096 -> 8191 -> 6143
    let table = logical()
        .entry(EBRS[0], 1, raw(5, (EBRS[2] - EBRS[0]) as u32, 2001))
        .entry(EBRS[2], 1, raw(5, (EBRS[1] - EBRS[0]) as u32, 1001))
        .entry(EBRS[1], 1, [0; 16])
        .table();
    let starts: Vec<_> = places(&table).iter().map(|p| p.1).collect();
    assert_eq!(starts, [2048, 4097, 8192, 6144].map(sector));
    assert_warned(&table, &[]);
}

#[test]
fn a_chain_that_leaves_the_disk_ends_there() {
    for start in [(SIZE / SECTOR) as u32 - 4096, u32::MAX] {
        let table = logical().entry(EBRS[1], 1, raw(5, start, 100)).table();
        assert_eq!(numbers(&table), [1, 5, 6]);
        assert_warned(&table, &["is past the disk's end"]);
    }
}

#[test]
fn a_long_chain_ends_with_the_last_number_that_linux_gives() {
    let chain = |data: u32| {
        let mut disk = blank().entry(0, 0, raw(5, 1, 16_000));
        for n in 0..400 {
            disk = disk
                .entry(1 + 2 * u64::from(n), 0, raw(0x83, 1, data))
                .entry(1 + 2 * u64::from(n), 1, raw(5, 2 * (n + 1), 2));
        }
        disk.table()
    };
    let table = chain(1);
    assert_eq!(numbers(&table), (5..=255).collect::<Vec<_>>());
    assert_warned(&table, &["goes on past number 255"]);
    // Records that hold nothing take no numbers, but are not read without end either.
    let table = chain(0);
    assert!(numbers(&table).is_empty());
    assert_warned(&table, &["is one more than 256"]);
}

#[test]
fn entries_3_and_4_of_a_boot_record_count_only_where_they_fit() {
    let table = logical()
        .entry(EBRS[1], 2, raw(0x83, 500, 10))
        .entry(EBRS[1], 3, [0xe5; 16])
        .table();
    assert_eq!(numbers(&table), [1, 5, 6, 7, 8]);
    assert_eq!(places(&table)[3], (7, sector(6143 + 500), sector(10)));
    assert_warned(&table, &[]);
}

#[test]
fn an_extended_partition_that_holds_nothing_is_no_damage() {
    let disk = blank()
        .entry(0, 0, raw(0x83, 2048, 100))
        .entry(0, 3, raw(0x0f, 4096, 1000));
    assert_eq!(numbers(&disk.table()), [1]);
    assert_warned(&disk.table(), &[]);
    assert_warned(&disk.put(sector(4096), &[1]).table(), &["no signature"]);
}

#[test]
fn entries_are_left_out_or_cut_where_the_disk_ends() {
    let end = (SIZE / SECTOR) as u32;
    let table = blank()
        .entry(0, 0, raw(0x83, 2048, u32::MAX))
        .entry(0, 1, raw(0x83, end, 1))
        .entry(0, 2, raw(0x83, u32::MAX, u32::MAX))
        .entry(0, 3, raw(0x83, end - 1, 1))
        .table();
    assert_eq!(
        places(&table),
        [(1, MIB, SIZE - MIB), (4, SIZE - SECTOR, SECTOR),]
    );
    assert_warned(
        &table,
        &[
            "partition 1 ends at byte 2199024303616, past the disk's end at 8388608: cut there",
            "partition 2 starts at byte 8388608, past",
            "partition 3 starts at byte 2199023255040, past",
        ],
    );
}

#[test]
fn a_table_without_partitions_is_a_table() {
    let table = blank().put(510, &[0x55, 0xaa]).table();
    assert_eq!(table.scheme, Some(Scheme::Mbr));
    assert!(numbers(&table).is_empty());
    assert_warned(&table, &[]);
}

/// The first sector of a file system, with code where a table would be.
fn file_system(head: &[u8]) -> Disk {
    blank()
        .put(446, &[0xb4; 64])
        .put(510, &[0x55, 0xaa])
        .put(0, head)
}

const FAT: &[u8] = b"\xeb\x3c\x90mkfs.fat\x00\x02\x04\x04\x00\x02\x00\x02\x00\x40\xf8";

#[test]
fn a_file_system_on_the_whole_disk_is_no_table_and_no_damage() {
    for head in [FAT, b"\xeb\x52\x90NTFS    ", b"\xeb\x76\x90EXFAT   "] {
        let disk = file_system(head);
        assert_eq!(disk.table(), Table::default());
        // Code may contain the byte that makes an entry protective.
        let disk = disk.put(446 + 4, &[PROTECTIVE]);
        assert_eq!(disk.table(), Table::default());
        // Nor is it one with nothing there, or with the entry for all of the disk that some tools make.
        let disk = disk.zeroed(446..510);
        assert_eq!(disk.table(), Table::default());
        let all = raw(0x0c, 0, (SIZE / SECTOR) as u32);
        assert_eq!(disk.entry(0, 0, all).table(), Table::default());
    }
}

#[test]
fn a_table_behind_the_parameters_of_an_old_file_system_is_one() {
    let disk = Disk::sfdisk(SIZE, LOGICAL).put(0, FAT);
    assert_eq!(numbers(&disk.table()), [1, 5, 6, 7]);
}

#[test]
fn a_signed_sector_of_nonsense_is_a_warning() {
    let table = file_system(b"\xeb\x3c\x90").table();
    assert_eq!((table.scheme, table.partitions.len()), (None, 0));
    assert_warned(&table, &["sector 0 has a boot signature"]);
}
