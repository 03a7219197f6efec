//! `ebsfs export` into files and streams.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, symlink};
use std::process::Stdio;

use ebsfs::block::Block;

use crate::images::{BLOCK, Disk, GIB, MIB, allocated, assert_same, assert_volume, random_block};
use crate::program::{Running, Sandbox, tool};

/// A store with one snapshot of `disk.img`, whose blocks 0, 3 and 1300 hold data.
fn with_snapshot() -> (Sandbox, String) {
    let sandbox = Sandbox::new();
    let disk = Disk::new(sandbox.path("disk.img"), 700 * MIB);
    drop(disk.block(0, 1).block(3, 2).block(1300, 3));
    let id = sandbox.import(&["disk.img"]);
    (sandbox, id)
}

#[test]
fn an_export_is_the_image_and_zeros_sparse_and_private() {
    let (sandbox, id) = with_snapshot();
    let out = sandbox.path("out.img");
    assert_eq!(
        sandbox.run(&["export", &id, "out.img"]).succeeds_silently(),
        ""
    );
    assert_volume(&out, &sandbox.path("disk.img"));
    let taken = allocated(&out);
    assert!(
        (3 * BLOCK..4 * BLOCK).contains(&taken),
        "it takes {taken} bytes"
    );
    assert_eq!(out.metadata().unwrap().mode() & 0o7777, 0o600);
    assert!(!sandbox.path("out.img.partial").exists());
    assert!(sandbox.checkpoints().is_empty());
}

#[test]
fn an_export_to_stdout_is_the_same_bytes() {
    let (sandbox, id) = with_snapshot();
    // Through a pipe: what is read from it must not be a seek.
    let mut command = sandbox.command(&["export", &id, "-"]);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut pipe = child.stdout.take().unwrap();
    let image = File::open(sandbox.path("disk.img")).unwrap();
    let mut out = File::create(sandbox.path("out.img")).unwrap();
    assert_eq!(std::io::copy(&mut pipe, &mut out).unwrap(), GIB);
    assert!(child.wait().unwrap().success());
    assert_same(
        &File::open(sandbox.path("out.img")).unwrap(),
        &image,
        GIB,
        "stdout",
    );
}

#[test]
fn an_export_to_stdout_that_is_a_file_is_the_same_bytes() {
    let (sandbox, id) = with_snapshot();
    let mut command = sandbox.command(&["export", &id, "-"]);
    command.stdout(File::create(sandbox.path("out.img")).unwrap());
    assert_eq!(
        Running::start_with_stdout(command)
            .finish()
            .succeeds_silently(),
        ""
    );
    assert_volume(&sandbox.path("out.img"), &sandbox.path("disk.img"));
}

#[test]
fn an_export_ends_quietly_when_its_reader_goes_away() {
    let (sandbox, id) = with_snapshot();
    let mut command = sandbox.command(&["export", &id, "-"]);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut head = [0; 10];
    std::io::Read::read_exact(&mut child.stdout.take().unwrap(), &mut head).unwrap();
    assert_eq!(head, random_block(1)[..10]);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(141));
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}

#[test]
fn a_stream_without_room_is_named() {
    let (sandbox, id) = with_snapshot();
    sandbox
        .run(&["export", &id, "/dev/full"])
        .fails(1, &["/dev/full", "No space left"]);
    let mut command = sandbox.command(&["export", &id, "-"]);
    command.stdout(File::options().write(true).open("/dev/full").unwrap());
    let ran = Running::start_with_stdout(command).finish();
    ran.fails(1, &["stdout", "No space left"]);
}

#[test]
fn a_file_in_the_way_stays_unless_force_replaces_it() {
    let (sandbox, id) = with_snapshot();
    let out = sandbox.path("out.img");
    fs::write(&out, "mine").unwrap();
    sandbox
        .run(&["export", &id, "out.img"])
        .fails(2, &["out.img exists", "--force"]);
    sandbox
        .run(&["export", "--continue", &id, "out.img"])
        .fails(2, &["out.img exists"]);
    assert_eq!(fs::read(&out).unwrap(), b"mine");
    assert!(!sandbox.path("out.img.partial").exists());

    // Longer than the volume: nothing of it may be left.
    Disk::new(&out, 2 * GIB).block(5, 9).block(4000, 9);
    sandbox
        .run(&["export", "--force", &id, "out.img"])
        .succeeds_silently();
    assert_volume(&out, &sandbox.path("disk.img"));
}

#[test]
fn force_through_a_link_replaces_what_it_points_to() {
    let (sandbox, id) = with_snapshot();
    fs::create_dir(sandbox.path("dir")).unwrap();
    fs::write(sandbox.path("dir/real.img"), "old").unwrap();
    symlink("dir/real.img", sandbox.path("link.img")).unwrap();
    sandbox
        .run(&["export", &id, "link.img"])
        .fails(2, &["link.img exists"]);
    sandbox
        .run(&["export", "-f", &id, "link.img"])
        .succeeds_silently();
    assert!(sandbox.path("link.img").is_symlink());
    assert!(!sandbox.path("dir/real.img").is_symlink());
    assert_volume(&sandbox.path("dir/real.img"), &sandbox.path("disk.img"));
}

#[test]
fn places_where_no_file_can_be_are_refused() {
    let (sandbox, id) = with_snapshot();
    fs::create_dir(sandbox.path("dir")).unwrap();
    for force in ["--continue", "--force"] {
        sandbox
            .run(&["export", force, &id, "dir"])
            .fails(2, &["dir is a directory"]);
    }
    sandbox
        .run(&["export", &id, "missing/out.img"])
        .fails(3, &["missing/out.img"]);
    sandbox
        .run(&["export", &id, "disk.img/x"])
        .fails(2, &["disk.img/x"]);
    assert!(!sandbox.path("missing").exists());
}

#[test]
fn a_left_partial_file_is_replaced_only_when_asked() {
    let (sandbox, id) = with_snapshot();
    let partial = sandbox.path("out.img.partial");
    fs::write(&partial, "left").unwrap();
    let words = ["out.img.partial", "--continue", "--force"];
    sandbox.run(&["export", &id, "out.img"]).fails(2, &words);
    assert_eq!(fs::read(&partial).unwrap(), b"left");
    assert!(!sandbox.path("out.img").exists());

    sandbox
        .run(&["export", "--force", &id, "out.img"])
        .succeeds_silently();
    assert_volume(&sandbox.path("out.img"), &sandbox.path("disk.img"));
    fs::remove_file(sandbox.path("out.img")).unwrap();

    // There is no note of it: it may be what another export has come to.
    fs::write(&partial, "left").unwrap();
    sandbox
        .run(&["export", "--continue", &id, "out.img"])
        .fails(2, &words);
    assert_eq!(fs::read(&partial).unwrap(), b"left");
    fs::remove_file(&partial).unwrap();
    let ran = sandbox.run(&["export", "--continue", &id, "out.img"]);
    ran.succeeds_and_tells(&["no interrupted export"]);
    assert_volume(&sandbox.path("out.img"), &sandbox.path("disk.img"));
}

#[test]
fn an_export_into_a_fifo_is_a_stream() {
    let (sandbox, id) = with_snapshot();
    let fifo = sandbox.path("fifo");
    tool("mkfifo", &[fifo.to_str().unwrap()]);
    let export = sandbox.start(&["export", &id, "fifo"]);
    let mut out = File::create(sandbox.path("out.img")).unwrap();
    std::io::copy(&mut File::open(&fifo).unwrap(), &mut out).unwrap();
    export.finish().succeeds_silently();
    assert_volume(&sandbox.path("out.img"), &sandbox.path("disk.img"));
}

#[test]
fn a_damaged_block_ends_an_export_and_is_named() {
    let (sandbox, id) = with_snapshot();
    let digest = Block::seal(random_block(3)).unwrap().digest().to_string();
    let file = sandbox
        .store()
        .join("blocks")
        .join(&digest[..2])
        .join(&digest);
    let whole = fs::read(&file).unwrap();
    let flip = |at| {
        let block = File::options().write(true).open(&file).unwrap();
        block.write_all_at(&[whole[at] ^ 1], at as u64).unwrap();
    };
    flip(300_000);
    let words = [&id, "block 1300", file.to_str().unwrap(), "checksum is"];
    sandbox.run(&["export", &id, "out.img"]).fails(5, &words);
    assert!(!sandbox.path("out.img").exists());

    fs::write(&file, &whole[..100]).unwrap();
    let words = [&id, "block 1300", file.to_str().unwrap(), "100 bytes"];
    sandbox
        .run(&["export", "--force", &id, "out.img"])
        .fails(5, &words);
    fs::remove_file(&file).unwrap();
    let words = [&id, "block 1300", file.to_str().unwrap(), "missing"];
    sandbox
        .run(&["export", "--force", &id, "out.img"])
        .fails(5, &words);
    assert!(!sandbox.path("out.img").exists());

    // The same image again mends it.
    sandbox.import(&["disk.img"]);
    sandbox
        .run(&["export", "--continue", &id, "out.img"])
        .succeeds_silently();
    assert_volume(&sandbox.path("out.img"), &sandbox.path("disk.img"));
}

#[test]
fn a_snapshot_whose_index_is_damaged_is_not_read() {
    let (sandbox, id) = with_snapshot();
    for tree in crate::program::files_below(&sandbox.store().join("trees")) {
        let whole = fs::read(&tree).unwrap();
        let mut flipped = whole.clone();
        *flipped.last_mut().unwrap() ^= 1;
        fs::write(&tree, flipped).unwrap();
        let words = [&id, tree.to_str().unwrap()];
        sandbox
            .run(&["export", "--force", &id, "out.img"])
            .fails(5, &words);
        fs::write(&tree, whole).unwrap();
    }
    assert!(!sandbox.path("out.img").exists());
}

#[test]
fn several_exports_of_one_snapshot_do_not_meet() {
    let (sandbox, id) = with_snapshot();
    let names = ["a.img", "b.img", "c.img"];
    let running: Vec<_> = names
        .map(|name| sandbox.start(&["export", &id, name]))
        .into();
    running
        .into_iter()
        .for_each(|export| drop(export.finish().succeeds_silently()));
    for name in names {
        assert_volume(&sandbox.path(name), &sandbox.path("disk.img"));
    }
}

#[test]
fn a_partial_file_that_is_being_written_is_never_taken() {
    let (sandbox, id) = with_snapshot();
    let partial = sandbox.path("out.img.partial");
    let held = File::create(&partial).unwrap();
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).unwrap();
    for options in [&[][..], &["--force"], &["--continue"]] {
        let arguments = [&["export", &id, "out.img"], options].concat();
        let words = ["out.img.partial", "another export"];
        sandbox.run(&arguments).fails(2, &words);
        assert!(!sandbox.path("out.img").exists());
    }
    // Not by closing it: a program that another test is about to begin may have it for a moment longer.
    rustix::fs::flock(&held, rustix::fs::FlockOperation::Unlock).unwrap();
    sandbox
        .run(&["export", &id, "out.img", "--force"])
        .succeeds_silently();
    assert_volume(&sandbox.path("out.img"), &sandbox.path("disk.img"));
}

#[test]
fn a_link_to_nothing_is_refused_before_anything_is_written() {
    let (sandbox, id) = with_snapshot();
    symlink("nowhere", sandbox.path("out.img")).unwrap();
    sandbox
        .run(&["export", &id, "out.img"])
        .fails(2, &["out.img", "link to nothing"]);
    assert!(!sandbox.path("out.img.partial").exists());
}
