//! File systems made, filled, trimmed and checked on a writable disk; their child has every file, the parent no change.

use std::fs;
use std::path::Path;

use super::{Overlaid, assert_equal, assert_exports};
use crate::images::{Disk, GIB, Random};
use crate::world::{World, finish, limited, run, umount};

/// What differs between the kinds.
struct Kind {
    mkfs: &'static [&'static str],
    mount: &'static str,
    fsck: &'static [&'static str],
}

const EXT4: Kind = Kind {
    mkfs: &["mkfs.ext4", "-q", "-F"],
    mount: "noatime",
    fsck: &["e2fsck", "-fn"],
};
const XFS: Kind = Kind {
    mkfs: &["mkfs.xfs", "-q", "-f"],
    // Its child has the same UUID.
    mount: "noatime,nouuid",
    fsck: &["xfs_repair", "-n"],
};
const BTRFS: Kind = Kind {
    mkfs: &["mkfs.btrfs", "-q", "-f"],
    mount: "noatime",
    fsck: &["btrfs", "check", "--readonly"],
};

fn on_device(command: &[&str], device: &str) {
    let (program, arguments) = command.split_first().unwrap();
    run(program, [arguments, &[device]].concat()).ok();
}

/// Makes `files` files below `dir`, of up to 40 KiB, a hundred in a directory.
fn fill(dir: &Path, files: u64, seed: u64) {
    let mut random = Random(seed);
    for number in 0..files {
        let below = dir.join(format!("{seed}-{}", number / 100));
        fs::create_dir_all(&below).unwrap();
        let len = random.below(40 << 10) as usize;
        let bytes: Vec<u8> = std::iter::repeat_with(|| random.number().to_le_bytes())
            .flatten()
            .take(len)
            .collect();
        fs::write(below.join(number.to_string()), bytes).unwrap();
    }
}

/// The checksums of all files below `dir`, sorted by path.
fn sums(dir: &Path) -> String {
    let script = "find . -type f -print0 | sort -z | xargs -0 sha256sum";
    finish(limited("sh").args(["-c", script]).current_dir(dir)).ok()
}

/// Random writes and trims that check themselves.
fn verified_writes(dir: &Path) {
    let file = dir.join("fio");
    let script = format!(
        "fio --name=v --filename={0} --size=48m --rw=randwrite --bs=4k-64k --direct=1 \
         --verify=crc32c --verify_fatal=1 --do_verify=1 --verify_state_save=0 --ioengine=psync --output-format=terse >/dev/null && rm {0}",
        file.display()
    );
    finish(limited("sh").args(["-c", &script]).current_dir(dir)).ok();
}

fn every_file_is_in_the_child(kind: &Kind) {
    let Some(world) = World::for_root() else {
        return;
    };
    let image = Disk::new(world.path("disk.img"), 2 * GIB);
    let disk = Overlaid::of(&world, image.path());
    let tree = world.empty("tree");
    let mounted = |device: &str, options: &str| {
        run("mount", ["-o", options, device, tree.to_str().unwrap()]).ok();
    };
    let unmounted = || umount(&tree);

    let device = disk.attach();
    on_device(kind.mkfs, &device);
    mounted(&device, kind.mount);
    fill(&tree, 1500, 1);
    verified_writes(&tree);
    run("fstrim", [&tree]).ok();
    unmounted();
    on_device(kind.fsck, &device);

    // Again, with what went to the disk and not with what is remembered of it.
    run("blockdev", ["--flushbufs", &device]).ok();
    mounted(&device, kind.mount);
    fs::remove_dir_all(tree.join("1-3")).unwrap();
    fill(&tree, 500, 2);
    run("fstrim", [&tree]).ok();
    let expected = sums(&tree);
    unmounted();
    on_device(kind.fsck, &device);
    run("losetup", ["-d", &device]).ok();

    let child = disk.commit(&[]);
    let now = world.path("now.img");
    let sparse = ["--sparse=always", disk.disk.to_str().unwrap()];
    run("cp", [sparse[0], sparse[1], now.to_str().unwrap()]).ok();
    disk.unmount();
    assert_exports(&world, &child, &now);

    let mount = world.mount(&[&child]);
    let device = world.attach(&mount.disk(&child), &[]);
    mounted(&device, &format!("ro,{}", kind.mount));
    assert_eq!(sums(&tree), expected);
    unmounted();
    on_device(kind.fsck, &device);
    world.unmount_all();

    // The overlay, opened again, is over the child and changes nothing of it.
    let disk = Overlaid::over(&world, &child);
    assert_equal(&disk.disk, &now);
}

#[test]
fn an_ext4_made_on_a_writable_disk_is_whole_in_the_child() {
    every_file_is_in_the_child(&EXT4);
}

#[test]
fn an_xfs_made_on_a_writable_disk_is_whole_in_the_child() {
    every_file_is_in_the_child(&XFS);
}

#[test]
fn a_btrfs_made_on_a_writable_disk_is_whole_in_the_child() {
    every_file_is_in_the_child(&BTRFS);
}
