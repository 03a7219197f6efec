//! Which of several file systems is browsed.

use std::fs;

use super::Browsed;
use crate::images::{Disk, GIB, MIB};
use crate::oracle::fixture;
use crate::world::{World, finish, limited, run};

#[test]
fn several_file_systems_are_listed_and_chosen_by_number_uuid_or_label() {
    let Some(world) = World::for_root() else {
        return;
    };
    let fixture = fixture("gpt");
    let id = world.import(&fixture.image);
    let browsed = Browsed::new(&world, "files");
    let said = browsed.begin(&id, &[]);
    said.refused(
        2,
        &[
            "--partition",
            "partition 1",
            "ext4",
            "partition 2",
            "xfs",
            "UUID",
        ],
    );
    browsed.assert_gone();
    let line = said
        .err
        .lines()
        .find(|line| line.contains("partition 2"))
        .unwrap();
    let uuid = line.rsplit_once("UUID ").unwrap().1.to_owned();
    browsed.begin(&id, &["--partition", &uuid]).ok();
    assert!(
        browsed.options().starts_with("xfs"),
        "{}",
        browsed.options()
    );
    browsed.end();
    let said = browsed.begin(&id, &["--partition", "7"]);
    said.refused(3, &["no partition", "\"7\"", "partition 1"]);
    browsed.assert_gone();
}

/// A disk with a partition of 64 MiB for each of these commands, which make something in the file that is their last
/// argument.
fn disk(world: &World, makers: &[&[&str]]) -> String {
    let image = Disk::new(world.path("disk.img"), GIB);
    let table: String = (0..makers.len())
        .map(|at| format!("start={}MiB, size=64MiB\n", 1 + 64 * at))
        .collect();
    let list = world.path("table");
    fs::write(&list, table).unwrap();
    let mut sfdisk = limited("sfdisk");
    sfdisk.args(["-q", "--label", "gpt"]).arg(image.path());
    finish(sfdisk.stdin(fs::File::open(list).unwrap())).ok();
    let mut image = image;
    for (at, maker) in (0..).zip(makers) {
        let part = Disk::new(world.path("part.img"), 64 * MIB);
        let path = part.path().to_str().unwrap();
        run(maker[0], [&maker[1..], &[path]].concat()).ok();
        image = image.bytes((1 + 64 * at) * MIB, &fs::read(part.path()).unwrap());
    }
    world.import(image.path())
}

#[test]
fn the_systems_root_is_taken_and_what_is_beside_it_told() {
    let Some(world) = World::for_root() else {
        return;
    };
    let system = world.empty("system");
    fs::create_dir(system.join("etc")).unwrap();
    let system = system.to_str().unwrap();
    let id = disk(
        &world,
        &[
            &["mkfs.ext4", "-q", "-L", "DATA"],
            &["mkfs.ext4", "-q", "-L", "system", "-d", system],
            &["mkswap"],
            &["mkfs.ext4", "-q"],
        ],
    );
    let browsed = Browsed::new(&world, "files");
    let said = browsed.begin(&id, &[]);
    let words = [
        "mounting partition 2",
        "label system",
        "partition 1",
        "DATA",
        "swap",
    ];
    for word in words {
        assert!(said.err.contains(word), "{word}: {said:?}");
    }
    said.ok();
    let record = browsed.record();
    assert!(
        record["file"].as_str().unwrap().ends_with(".p2.img"),
        "{record}"
    );
    browsed.end();
    browsed.begin(&id, &["--partition", "data"]).ok();
    let record = browsed.record();
    assert!(
        record["file"].as_str().unwrap().ends_with(".p1.img"),
        "{record}"
    );
    browsed.end();
    let said = browsed.begin(&id, &["--partition", "3"]);
    said.refused(2, &["partition 3", "swap space"]);
    browsed.assert_gone();
}

#[test]
fn what_is_no_file_system_is_called_by_its_name_with_the_way_by_hand() {
    let Some(world) = World::for_root() else {
        return;
    };
    let browsed = Browsed::new(&world, "files");
    let luks = Disk::new(world.path("luks.img"), GIB).bytes(0, b"LUKS\xba\xbe\0\x01");
    let id = world.import(luks.path());
    browsed
        .begin(&id, &[])
        .refused(2, &["LUKS", "cryptsetup open", &format!("{id}.img")]);
    browsed.assert_gone();
    let noise = Disk::new(world.path("noise.img"), GIB).block(0, 7);
    let id = world.import(noise.path());
    browsed
        .begin(&id, &[])
        .refused(2, &["no file system that is known"]);
    browsed.assert_gone();
}
