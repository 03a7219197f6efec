//! What is copied equals what the kernel shows, file by file.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use super::fixture::{EXT4, Format, XFS, image, mounted, one_of_everything};
use crate::program::Sandbox;
use crate::recover::portrait::{ALL, Look, assert_same, portrait};
use crate::world::{World, finish, limited};

fn copied_as_root(format: Format) {
    let Some(world) = World::for_root() else {
        return;
    };
    let image = image(&world, format, &one_of_everything);
    let id = world.import(&image);
    let place = format!("{id}:/");
    let out = world.empty("out");
    let all = ["cp", "-r", "--preserve-setuid", "--devices"];
    let said = world.ebsfs([&all[..], &[&place, out.to_str().unwrap()]].concat());
    assert!(said.err.contains("4 special files"), "{said:?}");
    assert!(said.err.contains("2 hard links"), "{said:?}");
    said.ok();
    let kernel = mounted(&world, &image, format);
    let theirs = portrait(&kernel, ALL);
    assert!(theirs.len() > 520);
    let mut ours = portrait(&out, ALL);
    ours.retain(|path, _| !path.starts_with("lost+found"));
    assert_same(&ours, &theirs);

    // The same as an archive.
    let unpacked = world.empty("unpacked");
    let mut cp = world.bare();
    cp.arg("--store").arg(world.store());
    cp.args([&all[..], &[&place, "-"]].concat());
    let mut child = cp.stdout(Stdio::piped()).spawn().unwrap();
    let mut tar = limited("tar");
    tar.args([
        "--numeric-owner",
        "--xattrs",
        "--xattrs-include=*",
        "-xpf",
        "-",
        "-C",
    ])
    .arg(&unpacked)
    .stdin(child.stdout.take().unwrap());
    finish(&mut tar).ok();
    // A socket is no file of an archive, which is told.
    assert_eq!(child.wait().unwrap().code(), Some(1));
    let mut theirs = theirs;
    theirs.remove(Path::new("socket"));
    let mut ours = portrait(&unpacked, ALL);
    ours.retain(|path, _| !path.starts_with("lost+found"));
    assert_same(&ours, &theirs);
}

#[test]
fn a_tree_of_ext4_is_copied_as_the_kernel_shows_it() {
    copied_as_root(EXT4);
}

#[test]
fn a_tree_of_xfs_is_copied_as_the_kernel_shows_it() {
    copied_as_root(XFS);
}

#[test]
fn setuid_and_devices_are_left_out_unless_asked_for() {
    let Some(world) = World::for_root() else {
        return;
    };
    let image = image(&world, EXT4, &one_of_everything);
    let id = world.import(&image);
    let out = world.empty("out");
    let place = format!("{id}:/");
    let said = world.ebsfs(["cp", "-r", &place, out.to_str().unwrap()]);
    assert!(
        said.err
            .contains("without 4 devices, pipes and sockets (--devices)"),
        "{said:?}"
    );
    said.ok();
    let look = Look {
        setuid: false,
        ..ALL
    };
    let mut theirs = portrait(&mounted(&world, &image, EXT4), look);
    let capability = r#""security.capability""#;
    for name in ["null", "disk", "pipe", "socket"] {
        theirs.remove(Path::new(name)).unwrap();
    }
    assert!(theirs[Path::new("dir/large")].contains(capability));
    let mut ours = portrait(&out, look);
    assert!(!ours[Path::new("dir/large")].contains(capability));
    for name in ["dir/large", "dir/sub/second name", "third name"] {
        let (mine, of) = (ours.remove(Path::new(name)), theirs.remove(Path::new(name)));
        assert!(mine.unwrap().starts_with("100755 1000:1001 "), "{of:?}");
    }
    ours.retain(|path, _| !path.starts_with("lost+found"));
    assert_same(&ours, &theirs);
}

#[test]
fn nobody_copies_without_fuse_what_root_would() {
    if !crate::program::is_root("nobody_copies_without_fuse_what_root_would") {
        return;
    }
    let sandbox = Sandbox::new();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/fixtures.sh");
    for kind in ["ext4", "xfs"] {
        let image = sandbox.path(kind);
        let manifest = sandbox.path(&format!("{kind}.sha256"));
        let (image, manifest) = (image.to_str().unwrap(), manifest.to_str().unwrap());
        crate::program::tool("bash", &[script, kind, image, manifest]);
        let id = sandbox.import(&[image]);
        let place = format!("{id}:/");
        crate::program::tool("chmod", &["-R", "a+rX", sandbox.store().to_str().unwrap()]);
        let to = format!("nobody/{kind}");
        let command = sandbox.command_as_nobody(&["cp", "-r", &place, &to]);
        let ran = crate::program::Running::start(hidden_fuse(command)).finish();
        assert!(ran.err.contains("copied 305 files"), "{ran:?}");
        ran.succeeds();
        let out = sandbox.path(&to);
        let check = Command::new("sha256sum")
            .args(["--quiet", "-c", manifest])
            .current_dir(&out)
            .status();
        assert!(check.unwrap().success());
        let meta = fs::metadata(out.join("special/large")).unwrap();
        assert_eq!((meta.uid(), meta.gid()), (65534, 65534));
        if kind == "ext4" {
            // The other one is made without times.
            assert_eq!(meta.mtime(), 1_700_000_000);
            let sparse = out.join("special/sparse");
            assert!(crate::images::allocated(&sparse) < 100_000);
        }
        let target = fs::read_link(out.join("special/dangling")).unwrap();
        assert_eq!(target.as_os_str().as_bytes(), b"/nowhere");
    }
}

/// The same in a mount namespace of its own, with an empty directory over the device's.
fn hidden_fuse(command: Command) -> Command {
    let mut hidden = Command::new("/usr/bin/unshare");
    hidden.args(["-m", "sh", "-c"]);
    hidden.arg(
        "mount -t tmpfs none /mnt && touch /mnt/gone && \
         if [ -e /dev/fuse ]; then mount --bind /mnt/gone /dev/fuse; fi; exec \"$@\"",
    );
    hidden
        .arg("sh")
        .arg(command.get_program())
        .args(command.get_args());
    if let Some(dir) = command.get_current_dir() {
        hidden.current_dir(dir);
    }
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => hidden.env(name, value),
            None => hidden.env_remove(name),
        };
    }
    hidden
}
