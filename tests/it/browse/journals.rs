//! Disks in use have a journal that nobody has replayed: the tree is as the kernel makes it, the snapshot as it was.

use std::fs;
use std::path::Path;

use super::{Browsed, Origin, copy, file_system, tree};
use crate::images::assert_volume;
use crate::oracle::fixture;
use crate::overlaid::assert_exports;
use crate::world::{World, run};

/// A copy of a disk in use with many files, of which the last ones are in its journal only.
fn dirty(world: &World, kind: &str) -> std::path::PathBuf {
    let image = file_system(world, "origin.img", kind);
    let origin = Origin::mount(world, &image);
    for number in 0..50 {
        origin.write(
            &format!("dir{}/file{number}", number % 7),
            &"text\n".repeat(number * 100),
        );
    }
    std::os::unix::fs::symlink("dir0/file0", origin.at.join("link")).unwrap();
    origin.settle();
    origin.write("late", "in the journal only");
    let dirty = world.path("dirty.img");
    origin.copy(&dirty);
    origin.umount();
    dirty
}

/// What the kernel makes of a copy of `image`.
fn as_the_kernel_has_it(world: &World, image: &Path) -> String {
    let reference = world.path("reference.img");
    copy(image, &reference);
    let origin = Origin::mount(world, &reference);
    let tree = tree(&origin.at);
    origin.umount();
    tree
}

fn a_dirty_journal_is_replayed_beside_the_snapshot(kind: &str) {
    let Some(world) = World::for_root() else {
        return;
    };
    let image = dirty(&world, kind);
    let expected = as_the_kernel_has_it(&world, &image);
    assert!(expected.contains("./late f"), "{expected}");
    let id = world.import(&image);
    let browsed = Browsed::new(&world, "files");
    let said = browsed.begin(&id, &[]);
    assert!(said.err.contains("kernel trusts"), "{said:?}");
    assert!(said.err.contains("the whole disk"), "{said:?}");
    assert_eq!(said.ok(), "");
    assert_eq!(tree(&browsed.at), expected);
    let options = browsed.options();
    for option in [kind, "ro", "nosuid", "nodev", "noexec"] {
        assert!(options.contains(option), "{options}");
    }
    assert!(fs::write(browsed.at.join("new"), "").is_err());
    browsed.end();
    assert_exports(&world, &id, &image);

    browsed.begin(&id, &["--no-replay"]).ok();
    let old = tree(&browsed.at);
    assert!(!old.contains("late"), "{old}");
    assert!(old.contains("./dir3/file3 "), "{old}");
    browsed.end();
    assert_exports(&world, &id, &image);
}

#[test]
fn a_dirty_ext4_is_replayed_beside_the_snapshot() {
    a_dirty_journal_is_replayed_beside_the_snapshot("ext4");
}

#[test]
fn a_dirty_xfs_is_replayed_beside_the_snapshot() {
    a_dirty_journal_is_replayed_beside_the_snapshot("xfs");
}

#[test]
fn a_dirty_btrfs_is_replayed_beside_the_snapshot() {
    a_dirty_journal_is_replayed_beside_the_snapshot("btrfs");
}

#[test]
fn a_partition_of_a_disk_is_browsed_and_every_file_is_the_same() {
    let Some(world) = World::for_root() else {
        return;
    };
    let fixture = fixture("gpt");
    let id = world.import(&fixture.image);
    let browsed = Browsed::new(&world, "files");
    for (number, prefix) in [("1", "p1/"), ("2", "p2/")] {
        browsed.begin(&id, &["--partition", number]).ok();
        let all = fs::read_to_string(&fixture.manifest).unwrap();
        let ours: Vec<_> = all
            .lines()
            .filter_map(|line| line.split_once("  "))
            .filter_map(|(sum, path)| Some(format!("{sum}  {}\n", path.strip_prefix(prefix)?)))
            .collect();
        assert!(ours.len() > 300, "{} files", ours.len());
        let list = world.path("list");
        fs::write(&list, ours.concat()).unwrap();
        let mut sums = crate::world::limited("sha256sum");
        sums.args(["--check", "--strict", "--quiet"]).arg(&list);
        crate::world::finish(sums.current_dir(&browsed.at)).ok();
        browsed.end();
    }
    let out = world.path("out");
    world.ebsfs(["export", &id, out.to_str().unwrap()]).ok();
    assert_volume(&out, &fixture.image);
}

#[test]
fn an_ext2_without_a_journal_is_browsed_either_way() {
    let Some(world) = World::for_root() else {
        return;
    };
    let image = file_system(&world, "ext2.img", "ext2");
    let origin = Origin::mount(&world, &image);
    origin.write("here", "text");
    origin.umount();
    let id = world.import(&image);
    let browsed = Browsed::new(&world, "files");
    for options in [&[][..], &["--no-replay"]] {
        browsed.begin(&id, options).ok();
        assert_eq!(fs::read(browsed.at.join("here")).unwrap(), b"text");
        browsed.end();
    }
}

#[test]
fn an_xfs_is_browsed_beside_its_origin() {
    let Some(world) = World::for_root() else {
        return;
    };
    let image = file_system(&world, "origin.img", "xfs");
    let origin = Origin::mount(&world, &image);
    origin.write("here", "text");
    origin.settle();
    let copy = world.path("copy.img");
    origin.copy(&copy);
    let id = world.import(&copy);
    let browsed = Browsed::new(&world, "files");
    for options in [&[][..], &["--no-replay"]] {
        browsed.begin(&id, options).ok();
        assert_eq!(fs::read(browsed.at.join("here")).unwrap(), b"text");
        browsed.umount(&[]).ok();
    }
    origin.umount();
    browsed.assert_gone();
}

#[test]
fn a_btrfs_is_refused_beside_its_origin_and_browsed_without() {
    let Some(world) = World::for_root() else {
        return;
    };
    let image = file_system(&world, "origin.img", "btrfs");
    let origin = Origin::mount(&world, &image);
    origin.write("here", "text");
    origin.settle();
    let copy = world.path("copy.img");
    origin.copy(&copy);
    let id = world.import(&copy);
    let browsed = Browsed::new(&world, "files");
    let said = browsed.begin(&id, &[]);
    said.refused(
        2,
        &["btrfs", "mounted already", origin.at.to_str().unwrap()],
    );
    assert_eq!(super::sites(&world), Vec::<std::path::PathBuf>::new());
    // The origin was not disturbed.
    assert_eq!(fs::read(origin.at.join("here")).unwrap(), b"text");
    run("touch", [origin.at.join("alive")]).ok();
    origin.umount();
    // Twice, as the kernel may remember the device that it was on the last time.
    for _ in 0..2 {
        browsed.begin(&id, &[]).ok();
        assert_eq!(fs::read(browsed.at.join("here")).unwrap(), b"text");
        browsed.end();
    }
}
