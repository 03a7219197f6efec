//! `ebsfs import`: what can be an image, and what is told.

use std::fs;

use rustix::process::Signal;

use crate::devices::Loop;
use crate::images::{Disk, GIB, MIB, allocated, assert_volume};
use crate::program::{Sandbox, is_root, tool};

fn assert_exports(sandbox: &Sandbox, id: &str, image: &str) {
    let out = sandbox.path(&format!("{id}.out"));
    sandbox
        .run(&["export", id, out.to_str().unwrap()])
        .succeeds_silently();
    assert_volume(&out, &sandbox.path(image));
    fs::remove_file(out).unwrap();
}

#[test]
fn an_import_prints_the_id_alone_and_tells_of_the_padding() {
    let sandbox = Sandbox::new();
    Disk::new(sandbox.path("disk.img"), 3 * MIB + 7).block(1, 1);
    let ran = sandbox.run(&["import", "disk.img"]);
    let words = ["disk.img", "3145735 bytes", "padded with zeros to 1 GiB"];
    let id = crate::program::id_of(&ran.succeeds_and_tells(&words));
    assert_exports(&sandbox, &id, "disk.img");
    assert!(sandbox.checkpoints().is_empty());
}

#[test]
fn a_whole_number_of_gib_is_imported_without_a_word() {
    let sandbox = Sandbox::new();
    Disk::new(sandbox.path("disk.img"), 2 * GIB)
        .block(0, 1)
        .block(4095, 2);
    let id = sandbox.run(&["import", "disk.img"]).succeeds_silently();
    assert_exports(&sandbox, id.trim(), "disk.img");
}

#[test]
fn images_of_all_lengths_and_densities_come_back() {
    let sandbox = Sandbox::new();
    Disk::new(sandbox.path("one-byte"), 1).bytes(0, b"x");
    Disk::new(sandbox.path("zeros"), 5 * MIB).bytes(0, &[0; 1 << 20]);
    Disk::new(sandbox.path("hole"), 5 * MIB);
    Disk::new(sandbox.path("dense"), 20 * MIB).blocks(0, 40, 1);
    Disk::new(sandbox.path("sparse"), 700 * MIB)
        .block(0, 1)
        .block(9, 2)
        .block(1399, 3);
    Disk::new(sandbox.path("gib-and-one"), GIB + 1).bytes(GIB - 1, b"ab");
    Disk::new(sandbox.path("odd"), 512 * 12345).bytes(512 * 12344 + 100, b"odd");
    let blocks = [
        ("one-byte", 1, 1),
        ("zeros", 0, 1),
        ("hole", 0, 1),
        ("dense", 40, 1),
        ("sparse", 3, 1),
        ("gib-and-one", 2, 2),
        ("odd", 1, 1),
    ];
    for (image, blocks, gib) in blocks {
        let id = sandbox.import(&[image]);
        let info = sandbox.info(&id);
        assert_eq!(info["blocks"], blocks, "{image}");
        assert_eq!(info["volume_size"], gib, "{image}");
        assert_exports(&sandbox, &id, image);
    }
}

#[test]
fn what_is_no_image_is_refused_and_leaves_no_store_behind() {
    let sandbox = Sandbox::new();
    Disk::new(sandbox.path("empty"), 0);
    fs::create_dir(sandbox.path("dir")).unwrap();
    tool("mkfifo", &[sandbox.path("fifo").to_str().unwrap()]);
    for (image, code, words) in [
        ("empty", 2, "empty"),
        ("dir", 2, "is a directory"),
        ("fifo", 2, "it must be a file or a block device"),
        ("/dev/zero", 2, "it must be a file or a block device"),
        ("missing", 3, "missing"),
        ("empty/x", 2, "empty/x"),
    ] {
        sandbox.run(&["import", image]).fails(code, &[words, image]);
    }
    assert!(!sandbox.store().exists());
    assert!(sandbox.checkpoints().is_empty());
}

#[test]
fn options_that_make_no_sense_are_refused_and_leave_no_store_behind() {
    let sandbox = Sandbox::new();
    Disk::new(sandbox.path("disk.img"), GIB);
    let long = "x".repeat(256);
    for (options, words) in [
        (["--timeout", "9"], "10 to 60 minutes"),
        (["--timeout", "61"], "10 to 60 minutes"),
        (["--timeout", "18446744073709551615"], "10 to 60 minutes"),
        (["--description", &long], "255"),
        (["--tags", "Key=,Value=v"], "1 to 127"),
        (["--tags", "a=b"], "Key=K,Value=V"),
    ] {
        let ran = sandbox.run(&["import", "disk.img", options[0], options[1]]);
        ran.fails(2, &[words]);
    }
    assert!(!sandbox.store().exists());
}

#[test]
fn a_device_is_imported_like_a_file() {
    if !is_root("a_device_is_imported_like_a_file") {
        return;
    }
    let sandbox = Sandbox::new();
    Disk::new(sandbox.path("disk.img"), 40 * MIB)
        .block(2, 1)
        .block(79, 2);
    let device = Loop::over(&sandbox.path("disk.img"));
    let id = sandbox.import(&[device.path()]);
    assert_eq!(sandbox.info(&id)["blocks"], 2);
    assert_exports(&sandbox, &id, "disk.img");
}

#[test]
fn an_image_that_may_not_be_read_is_denied() {
    if !is_root("an_image_that_may_not_be_read_is_denied") {
        return;
    }
    let sandbox = Sandbox::new();
    Disk::new(sandbox.path("disk.img"), MIB);
    tool(
        "chmod",
        &["600", sandbox.path("disk.img").to_str().unwrap()],
    );
    let ran = sandbox.run_as_nobody(&["import", "disk.img", "--store", "nobody/store"]);
    ran.fails(4, &["disk.img", "denied"]);
    assert!(!sandbox.path("nobody/store").exists());
}

#[test]
fn an_image_that_changes_while_it_is_read_is_told() {
    let sandbox = Sandbox::new();
    let disk = Disk::new(sandbox.path("disk.img"), GIB).blocks(0, 200, 1);
    let mut import = sandbox.start(&["import", "disk.img"]);
    let runs = import.until(|| sandbox.block_files() > 0);
    assert!(runs, "it ended before it could be stopped");
    import.signal(Signal::STOP);
    drop(disk.bytes(0, b"changed"));
    import.signal(Signal::CONT);
    let ran = import.finish();
    ran.succeeds_and_tells(&["disk.img changed while it was read", "may mix old and new"]);
}

#[test]
fn the_same_image_again_adds_next_to_nothing() {
    let sandbox = Sandbox::new();
    Disk::new(sandbox.path("disk.img"), 30 * MIB).blocks(0, 60, 1);
    let first = sandbox.import(&["disk.img"]);
    let space = || -> u64 {
        let files = crate::program::files_below(&sandbox.store());
        files.iter().map(|file| allocated(file)).sum()
    };
    let before = space();
    let second = sandbox.import(&["disk.img"]);
    assert_ne!(first, second);
    assert_eq!(sandbox.block_files(), 60);
    assert!(
        space() - before < 64 << 10,
        "{} bytes more",
        space() - before
    );
    assert_exports(&sandbox, &second, "disk.img");
}

#[test]
fn nothing_of_an_import_is_open_to_others() {
    use std::os::unix::fs::MetadataExt as _;
    let sandbox = Sandbox::new();
    Disk::new(sandbox.path("disk.img"), MIB).block(0, 1);
    sandbox.import(&["disk.img"]);
    let mut files = crate::program::files_below(&sandbox.store());
    assert!(files.len() > 4);
    files.extend([
        sandbox.store(),
        sandbox.store().join("blocks"),
        sandbox.path("state/ebsfs"),
    ]);
    for file in files {
        let mode = file.metadata().unwrap().mode();
        assert_eq!(mode & 0o077, 0, "{file:?} has mode {mode:o}");
    }
}

#[test]
fn an_import_goes_on_when_nobody_reads_its_messages() {
    let sandbox = Sandbox::new();
    Disk::new(sandbox.path("disk.img"), MIB).block(0, 1);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = sandbox.command(&["import", "disk.img"]);
    let output = command
        .stdin(std::process::Stdio::null())
        .stderr(writer)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0));
    let id = crate::program::id_of(&String::from_utf8(output.stdout).unwrap());
    assert_exports(&sandbox, &id, "disk.img");
}

#[test]
fn a_block_that_finds_no_place_leaves_no_file_behind() {
    let sandbox = Sandbox::new();
    Disk::new(sandbox.path("empty.img"), GIB);
    Disk::new(sandbox.path("disk.img"), GIB).block(0, 1);
    sandbox.import(&["empty.img"]);
    let digest = ebsfs::block::Digest::of(&crate::images::random_block(1)).to_string();
    let blocks = sandbox.store().join("blocks");
    fs::create_dir_all(&blocks).unwrap();
    // Neither there nor to be made, as on a disk without room for one more directory.
    std::os::unix::fs::symlink("nowhere", blocks.join(&digest[..2])).unwrap();
    sandbox
        .run(&["import", "disk.img"])
        .fails(2, &["cannot put block 0", "blocks"]);
    let left = crate::program::files_below(&sandbox.store().join("tmp"));
    assert!(left.is_empty(), "{left:?}");
}
