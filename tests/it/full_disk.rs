//! A full disk, under the store of an import and under the target of an export: told, and gone on with.

use std::fs;

use crate::devices::Mounted;
use crate::images::{Disk, GIB, MIB, assert_volume};
use crate::program::{Sandbox, id_of, is_root};

/// A sandbox with a file system of 128 MiB on `small`, most of it taken by `small/ballast`.
fn with_small_disk() -> (Sandbox, Mounted) {
    let sandbox = Sandbox::new();
    let small = Mounted::ext4(&sandbox.path("small.fs"), 128 * MIB, &sandbox.path("small"));
    fs::write(sandbox.path("small/ballast"), vec![1; 70 << 20]).unwrap();
    (sandbox, small)
}

#[test]
fn an_import_into_a_full_store_is_told_and_goes_on_when_there_is_room() {
    if !is_root("an_import_into_a_full_store_is_told_and_goes_on_when_there_is_room") {
        return;
    }
    let (sandbox, _small) = with_small_disk();
    Disk::new(sandbox.path("first.img"), GIB).blocks(0, 10, 1);
    Disk::new(sandbox.path("disk.img"), GIB).blocks(0, 160, 2);
    let import =
        |options: &[&str]| sandbox.run(&[&["import", "--store", "small/store"], options].concat());
    let first = id_of(&import(&["first.img"]).succeeds_silently());
    let place = sandbox.path("small/store/blocks");
    import(&["disk.img"]).fails(
        1,
        &["No space left", place.to_str().unwrap(), "cannot put block"],
    );

    // What was there is whole, and can be read while the disk is full.
    let export = |id: &str, image: &str| {
        let ran = sandbox.run(&["--store", "small/store", "export", id, "out.img"]);
        ran.succeeds_silently();
        assert_volume(&sandbox.path("out.img"), &sandbox.path(image));
        fs::remove_file(sandbox.path("out.img")).unwrap();
    };
    export(&first, "first.img");
    sandbox
        .run(&["--store", "small/store", "list"])
        .succeeds_silently();
    import(&["--continue", "disk.img"]).fails(1, &["No space left"]);

    fs::remove_file(sandbox.path("small/ballast")).unwrap();
    let second = id_of(&import(&["--continue", "disk.img"]).succeeds_silently());
    export(&first, "first.img");
    export(&second, "disk.img");
    let gc = sandbox.run(&["--store", "small/store", "gc"]).succeeds();
    assert!(
        gc.starts_with("removed 0 blocks, 0 tree objects and 0 temporary files"),
        "{gc}"
    );
}

#[test]
fn an_export_to_a_full_disk_is_told_and_goes_on_when_there_is_room() {
    if !is_root("an_export_to_a_full_disk_is_told_and_goes_on_when_there_is_room") {
        return;
    }
    let (sandbox, _small) = with_small_disk();
    Disk::new(sandbox.path("disk.img"), GIB).blocks(0, 160, 2);
    let id = sandbox.import(&["disk.img"]);
    let words = [
        "small/out.img.partial is not complete",
        "No space left",
        "--continue",
    ];
    sandbox
        .run(&["export", &id, "small/out.img"])
        .fails(1, &words);
    assert!(!sandbox.path("small/out.img").exists());

    fs::remove_file(sandbox.path("small/ballast")).unwrap();
    let ran = sandbox.run(&["export", "--continue", &id, "small/out.img"]);
    ran.succeeds_silently();
    assert_volume(&sandbox.path("small/out.img"), &sandbox.path("disk.img"));
    assert!(!sandbox.path("small/out.img.partial").exists());
}

#[test]
fn a_full_state_directory_does_not_spoil_an_import() {
    if !is_root("a_full_state_directory_does_not_spoil_an_import") {
        return;
    }
    let (sandbox, _small) = with_small_disk();
    Disk::new(sandbox.path("disk.img"), GIB).block(0, 1);
    fs::create_dir(sandbox.path("small/state")).unwrap();
    // Until not even an inode's worth is left.
    let filler = fs::File::create(sandbox.path("small/filler")).unwrap();
    let mut filler = std::io::BufWriter::with_capacity(4096, filler);
    while std::io::Write::write_all(&mut filler, &[1; 4096]).is_ok() {}
    let mut command = sandbox.command(&["import", "disk.img"]);
    command.env("XDG_STATE_HOME", sandbox.path("small/state"));
    let ran = crate::program::Running::start(command).finish();
    // Either it works or it says what is full; it never pretends to be resumable.
    if ran.code != 0 {
        ran.fails(1, &["small/state", "No space left"]);
    }
}
