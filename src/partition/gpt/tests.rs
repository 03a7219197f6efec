//! Tables that tools write, damaged in all ways.

use proptest::prelude::*;

use super::super::testing::{Disk, MIB, assert_warned, places};
use super::super::{Scheme, Table};
use super::*;

const GAPS: &str =
    "label: gpt\n1: start=2048, size=2048, name=boot, type=uefi\n3: start=6144, size=4096\n";
const LINUX: &str = "0fc63daf-8483-4772-8e79-3d69d8477de4";
const SIZE: u64 = 8 * MIB;

fn gaps() -> Disk {
    Disk::sfdisk(SIZE, GAPS)
}

fn assert_is_gaps(table: &Table) {
    assert_eq!(table.scheme, Some(Scheme::Gpt));
    assert_eq!(places(table), [(1, MIB, MIB), (3, 3 * MIB, 2 * MIB)]);
}

/// A header for sector `lba`, with the sums over it and `entries` right whatever `change` did.
fn header(lba: u64, entries: &[GPTPartitionEntry], change: impl FnOnce(&mut GPTHeader)) -> Vec<u8> {
    let mut cursor = Cursor::new(vec![0; 1 << 20]);
    let mut header = GPTHeader::new_from(&mut cursor, 512, [7; 16]).unwrap();
    header.number_of_partition_entries = entries.len() as u32;
    header.update_partition_entry_array_crc32(entries);
    header.primary_lba = lba;
    change(&mut header);
    header.update_crc32_checksum();
    let mut bytes = Vec::new();
    for part in [&header.signature[..], &header.revision] {
        bytes.extend_from_slice(part);
    }
    bytes.extend(header.header_size.to_le_bytes());
    bytes.extend(header.crc32_checksum.to_le_bytes());
    bytes.extend(header.reserved);
    for lba in [
        header.primary_lba,
        header.backup_lba,
        header.first_usable_lba,
        header.last_usable_lba,
    ] {
        bytes.extend(lba.to_le_bytes());
    }
    bytes.extend(header.disk_guid);
    bytes.extend(header.partition_entry_lba.to_le_bytes());
    bytes.extend(header.number_of_partition_entries.to_le_bytes());
    bytes.extend(header.size_of_partition_entry.to_le_bytes());
    bytes.extend(header.partition_entry_array_crc32.to_le_bytes());
    bytes
}

fn entry(starting_lba: u64, ending_lba: u64) -> GPTPartitionEntry {
    GPTPartitionEntry {
        partition_type_guid: [1; 16],
        starting_lba,
        ending_lba,
        partition_name: "a\u{1b}[2J".into(),
        ..GPTPartitionEntry::empty()
    }
}

/// A small disk whose only copy of a GPT, at the start, has these entries.
fn written(size: usize, entries: &[GPTPartitionEntry]) -> Disk {
    let array: Vec<u8> = entries
        .iter()
        .flat_map(|entry| {
            let mut bytes = [0; 128];
            bytes[..16].copy_from_slice(&entry.partition_type_guid);
            bytes[32..40].copy_from_slice(&entry.starting_lba.to_le_bytes());
            bytes[40..48].copy_from_slice(&entry.ending_lba.to_le_bytes());
            for (i, unit) in entry.partition_name.as_str().encode_utf16().enumerate() {
                bytes[56 + 2 * i..][..2].copy_from_slice(&unit.to_le_bytes());
            }
            bytes
        })
        .collect();
    Disk::new(vec![0; size])
        .put(512, &header(1, entries, |_| ()))
        .put(1024, &array)
}

#[test]
fn numbers_keep_their_gaps_and_partitions_their_names() {
    let table = gaps().table();
    assert_is_gaps(&table);
    assert_warned(&table, &[]);
    assert_eq!(table.partitions[0].name, "boot");
    assert_eq!(
        table.partitions[0].kind,
        "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
    );
    assert_eq!(table.partitions[1].name, "");
    assert_eq!(table.partitions[1].kind, LINUX);
}

#[test]
fn sectors_of_4096_bytes_are_found_from_either_copy() {
    let disk = Disk::fdisk_4096(SIZE, "g\nn\n1\n512\n767\nw\n");
    assert_eq!(places(&disk.table()), [(1, 2 * MIB, MIB)]);
    let disk = disk.put(4096 + 40, &[9]);
    let table = disk.table();
    assert_eq!(places(&table), [(1, 2 * MIB, MIB)]);
    assert_warned(&table, &["at byte 4096 is damaged", "byte 8384512 is used"]);
}

#[test]
fn a_damaged_first_copy_gives_way_to_the_backup_with_a_warning() {
    for (offset, what) in [(512 + 40, "header: "), (1024, "entries: ")] {
        let table = gaps().put(offset, &[0x99]).table();
        assert_is_gaps(&table);
        assert_warned(&table, &[what, "the backup GPT at byte 8388096 is used"]);
    }
    let table = gaps().zeroed(512..1024).table();
    assert_is_gaps(&table);
    assert_warned(&table, &["no GPT at sector 1", "is used"]);
}

#[test]
fn the_backup_of_a_disk_that_has_grown_is_found() {
    for damage in [512 + 40, 1024] {
        let mut disk = gaps().put(damage, &[0x99]);
        disk.bytes.resize(2 * SIZE as usize, 0);
        let table = disk.table();
        assert_is_gaps(&table);
        assert_warned(
            &table,
            &["damaged", "the backup GPT at byte 8388096 is used"],
        );
    }
    // Without the MBR's word, the header's will do.
    let mut disk = gaps().put(1024, &[0x99]).zeroed(0..512);
    disk.bytes.resize(2 * SIZE as usize, 0);
    assert_is_gaps(&disk.table());
}

#[test]
fn a_gpt_with_both_copies_damaged_is_a_warning() {
    let table = gaps()
        .put(512 + 40, &[9])
        .put(SIZE - 512 + 40, &[9])
        .table();
    assert_eq!((table.scheme, table.partitions.len()), (None, 0));
    assert_warned(
        &table,
        &[
            "the GPT at byte 512 is damaged",
            "the backup GPT at byte 8388096 is damaged",
            "the MBR is protective, but no copy",
        ],
    );
}

#[test]
fn a_protective_mbr_alone_is_a_warning() {
    let table = gaps().zeroed(512..SIZE).table();
    assert_eq!((table.scheme, table.partitions.len()), (None, 0));
    assert_warned(&table, &["no GPT at sector 1", "the MBR is protective"]);
}

#[test]
fn a_header_is_not_taken_at_its_word() {
    type Change = fn(&mut GPTHeader);
    let cases: [(Change, &str); 8] = [
        (
            |h| h.number_of_partition_entries = u32::MAX,
            "4294967295 entries",
        ),
        (|h| h.number_of_partition_entries = 1025, "1025 entries"),
        (|h| h.number_of_partition_entries = 0, "0 entries"),
        (|h| h.size_of_partition_entry = 256, "entries of 256 bytes"),
        (|h| h.size_of_partition_entry = 0, "entries of 0 bytes"),
        (|h| h.partition_entry_lba = u64::MAX, "past the disk's end"),
        (
            |h| h.partition_entry_lba = SIZE / 512,
            "past the disk's end",
        ),
        (|h| h.primary_lba = 2, "it says to be at sector 2"),
    ];
    let entries = vec![GPTPartitionEntry::empty(); 4];
    for (change, what) in cases {
        let disk = gaps().put(512, &header(1, &entries, change));
        let table = disk.table();
        assert_is_gaps(&table);
        assert_warned(&table, &[what, "is used"]);
        let table = disk.zeroed(MIB..SIZE).table();
        assert_eq!(table.partitions, []);
    }
}

#[test]
fn entries_are_left_out_or_cut_where_the_disk_ends() {
    let entries = [
        entry(100, 127),
        entry(120, 128),
        entry(128, 200),
        entry(50, 40),
        GPTPartitionEntry::empty(),
        entry(50, 50),
        entry(0, u64::MAX),
        entry(u64::MAX, u64::MAX),
        entry(u64::MAX / 512 + 2, u64::MAX),
    ];
    let table = written(65536, &entries).table();
    let sectors = |n: u64| n * 512;
    assert_eq!(
        places(&table),
        [
            (1, sectors(100), sectors(28)),
            (2, sectors(120), sectors(8)),
            (6, sectors(50), sectors(1)),
            (7, 0, 65536),
        ]
    );
    assert_warned(
        &table,
        &[
            "no protective MBR",
            "partition 2 ends at byte 66048, past the disk's end at 65536: cut there",
            "partition 3 starts at byte 65536, past the disk's end",
            "partition 4 ends before it starts",
            "partition 7 ends at",
            "partition 8 starts at",
            "partition 9 starts at",
        ],
    );
}

#[test]
fn a_name_cannot_command_a_terminal() {
    let table = written(65536, &[entry(100, 101)]).table();
    assert_eq!(table.partitions[0].name, "a\u{fffd}[2J");
}

#[test]
fn entries_may_end_where_the_disk_ends() {
    let table = written(1024 + 128, &[entry(0, 1)]).table();
    assert_eq!(places(&table), [(1, 0, 1024)]);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_entries_with_true_sums_stay_within_the_disk(
        entries in prop::collection::vec((lba(), lba()), 1..20),
        size in 4096..100_000_usize,
    ) {
        let entries: Vec<_> = entries.into_iter().map(|(a, b)| entry(a, b)).collect();
        let table = written(size, &entries).table();
        prop_assert_eq!(table.scheme, Some(Scheme::Gpt));
    }

    #[test]
    fn any_header_with_a_true_sum_is_survived(
        lbas in prop::array::uniform5(lba()),
        count in prop_oneof![0..2000_u32, any::<u32>()],
        size in prop_oneof![Just(128), any::<u32>()],
    ) {
        let entries = [GPTPartitionEntry::empty()];
        let header = header(1, &entries, |header| {
            header.backup_lba = lbas[0];
            header.first_usable_lba = lbas[1];
            header.last_usable_lba = lbas[2];
            header.partition_entry_lba = lbas[3];
            header.primary_lba = if lbas[4] % 2 == 0 { 1 } else { lbas[4] };
            header.number_of_partition_entries = count;
            header.size_of_partition_entry = size;
        });
        Disk::new(vec![0; 65536]).put(512, &header).table();
    }
}

fn lba() -> impl Strategy<Value = u64> {
    prop_oneof![
        0..300_u64,
        (0..300_u64).prop_map(|n| u64::MAX - n),
        any::<u64>()
    ]
}
