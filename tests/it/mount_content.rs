//! What a mounted file holds: the image byte for byte, then zeros up to the next GiB; and its partitions.

use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use serde_json::Value;

use crate::oracle::{BLOCK, GIB, KIB, MIB, Random, assert_disk, assert_holds, fixture, sparse};
use crate::world::{Mount, World, run};

#[test]
fn images_of_odd_sizes_are_padded_with_zeros_to_whole_gib() {
    let Some(world) = World::new() else { return };
    let (byte, short, long) = (world.path("byte"), world.path("short"), world.path("long"));
    fs::write(&byte, "x").unwrap();
    sparse(&short, BLOCK - 1, Some(0..BLOCK - 1), 1);
    sparse(&long, GIB + 1, [5 * MIB - 7..5 * MIB + 9, GIB..GIB + 1], 2);
    let images = [byte, short, long];
    let ids: Vec<_> = images.iter().map(|image| world.import(image)).collect();
    let mount = world.mount(&ids.iter().map(String::as_str).collect::<Vec<_>>());
    for (id, image) in ids.iter().zip(&images) {
        assert_disk(&mount.disk(id), image);
    }
    assert_eq!(fs::metadata(mount.disk(&ids[2])).unwrap().len(), 2 * GIB);
}

#[test]
fn a_file_system_without_partitions_is_shown_byte_for_byte() {
    let Some(world) = World::new() else { return };
    for kind in ["ext4", "xfs", "btrfs"] {
        let image = &fixture(kind).image;
        let id = world.import(image);
        let mount = world.mount(&[&id]);
        assert_disk(&mount.disk(&id), image);
        assert_eq!(mount.names(), [format!("{id}.img")], "{kind}");
        world.unmount(&mount);
    }
}

#[test]
fn a_dense_image_is_shown_like_its_sparse_twin_and_stores_no_zeros() {
    let Some(world) = World::new() else { return };
    let image = &fixture("ext4").image;
    let dense = world.path("dense");
    run(
        "cp",
        [
            OsStr::new("--sparse=never"),
            image.as_os_str(),
            dense.as_os_str(),
        ],
    )
    .ok();
    let (of_sparse, of_dense) = (world.import(image), world.import(&dense));
    let mount = world.mount(&[&of_dense]);
    assert_disk(&mount.disk(&of_dense), image);
    let present = |id: &str| {
        let said = world.ebsfs(["info", id, "--json"]).ok();
        let info: Value = serde_json::from_str(&said).unwrap();
        let count = info["blocks"].as_u64();
        count.unwrap_or_else(|| panic!("{said}"))
    };
    assert_eq!(present(&of_dense), present(&of_sparse));
}

#[test]
fn an_image_full_of_data_is_shown_byte_for_byte() {
    let Some(world) = World::new() else { return };
    let image = world.path("image");
    let len = 40 * MIB + 12345;
    sparse(&image, len, Some(0..len), 3);
    let id = world.import(&image);
    assert_disk(&world.mount(&[&id]).disk(&id), &image);
}

/// Compares all partitions with what `sfdisk` says of the image.
fn partitions_are_those_of_sfdisk(kind: &str, numbers: &[u32]) {
    let Some(world) = World::new() else { return };
    let image = &fixture(kind).image;
    let id = world.import(image);
    let mount = world.mount(&[&id]);
    let mut names = vec![format!("{id}.img")];
    names.extend(numbers.iter().map(|n| format!("{id}.p{n}.img")));
    assert_eq!(mount.names(), names);
    assert_disk(&mount.disk(&id), image);

    let said = run("sfdisk", [OsStr::new("--json"), image.as_os_str()]).ok();
    let table: Value = serde_json::from_str(&said).unwrap();
    let entries = table["partitiontable"]["partitions"].as_array().unwrap();
    for number in numbers {
        let node = format!("{}{number}", image.display());
        let entry = entries.iter().find(|entry| entry["node"] == *node).unwrap();
        let bytes = |name: &str| entry[name].as_u64().unwrap() * 512;
        let start = bytes("start");
        assert_holds(
            &mount.part(&id, *number),
            image,
            start..start + bytes("size"),
        );
    }
}

#[test]
fn partitions_of_a_gpt_are_files() {
    partitions_are_those_of_sfdisk("gpt", &[1, 2]);
}

#[test]
fn a_partition_may_start_at_sector_63() {
    partitions_are_those_of_sfdisk("mbr63", &[1]);
}

#[test]
fn logical_partitions_are_files_and_the_extended_one_is_not() {
    partitions_are_those_of_sfdisk("logical", &[1, 5]);
}

#[test]
fn a_disk_without_a_table_shows_only_itself() {
    let Some(world) = World::new() else { return };
    let image = world.path("image");
    sparse(&image, 3 * MIB, Some(MIB..2 * MIB), 4);
    let id = world.import(&image);
    let mount = world.mount(&[&id]);
    assert_eq!(mount.names(), [format!("{id}.img")]);
    assert_eq!(mount.log(), "");
}

#[test]
fn a_damaged_table_is_a_warning_in_the_log_and_never_a_failed_mount() {
    let Some(world) = World::new() else { return };
    let image = world.path("image");
    run(
        "cp",
        [
            OsStr::new("--sparse=always"),
            fixture("gpt").image.as_os_str(),
            image.as_os_str(),
        ],
    )
    .ok();
    // The first header's checksum fails, and the second table is not where a disk of whole GiB has it.
    let file = OpenOptions::new().write(true).open(&image).unwrap();
    file.write_all_at(&Random(5).bytes(16 * KIB), 512).unwrap();
    let id = world.import(&image);
    let mount = world.mount(&[&id]);
    assert_disk(&mount.disk(&id), &image);
    let log = mount.log();
    assert!(log.contains("WARN") && log.contains(&id), "{log}");
}

#[test]
fn a_table_of_noise_is_no_failed_mount() {
    let Some(world) = World::new() else { return };
    let mut random = Random(6);
    let mut ids = Vec::new();
    for number in 0..8 {
        let image = world.path(&format!("image{number}"));
        let mut bytes = random.bytes(64 * KIB);
        bytes[510..512].copy_from_slice(&[0x55, 0xAA]);
        if number % 2 == 0 {
            bytes[512..520].copy_from_slice(b"EFI PART");
        }
        fs::write(&image, bytes).unwrap();
        ids.push((world.import(&image), image));
    }
    let mount = world.mount(&[]);
    for (id, image) in &ids {
        assert_holds_start(&mount, id, image);
    }
}

fn assert_holds_start(mount: &Mount, id: &str, image: &Path) {
    let expected = fs::read(image).unwrap();
    let mut found = vec![0; expected.len()];
    let file = fs::File::open(mount.disk(id)).unwrap();
    file.read_exact_at(&mut found, 0).unwrap();
    assert!(found == expected, "{id}");
}
