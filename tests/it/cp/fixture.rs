//! File systems on which the kernel wrote one of everything.

use std::fs::{self, File, FileTimes};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use rustix::fs::{CWD, FileType, Mode, XattrFlags, fallocate, makedev, mknodat, setxattr};

use crate::images::random_block;
use crate::world::{World, run, umount};

/// A file system and how it is made.
#[derive(Clone, Copy)]
pub(crate) struct Format {
    pub(crate) name: &'static str,
    mkfs: &'static [&'static str],
    size: u64,
}

pub(crate) const EXT4: Format = Format {
    name: "ext4",
    // With blocks as large as those of the disk that it is copied to, so that holes are the same.
    mkfs: &["mkfs.ext4", "-q", "-b", "4096", "-O", "inline_data"],
    size: 64 << 20,
};

pub(crate) const XFS: Format = Format {
    name: "xfs",
    mkfs: &["mkfs.xfs", "-q"],
    size: 320 << 20,
};

/// An image on which `fill` was let loose.
pub(crate) fn image(world: &World, format: Format, fill: &dyn Fn(&Path)) -> PathBuf {
    let image = world.path(&format!("{}.img", format.name));
    File::create_new(&image)
        .unwrap()
        .set_len(format.size)
        .unwrap();
    let path = image.to_str().unwrap();
    run(format.mkfs[0], [&format.mkfs[1..], &[path]].concat()).ok();
    let at = world.empty(&format!("{}.filled", format.name));
    run("mount", ["-o", "loop", path, at.to_str().unwrap()]).ok();
    fill(&at);
    umount(&at);
    image
}

/// The kernel's view of it.
pub(crate) fn mounted(world: &World, image: &Path, format: Format) -> PathBuf {
    let at = world.empty(&format!("{}.kernel", format.name));
    let (image, at_text) = (image.to_str().unwrap(), at.to_str().unwrap());
    run("mount", ["-o", "loop,ro", image, at_text]).ok();
    at
}

/// One of everything.
pub(crate) fn one_of_everything(dir: &Path) {
    let at = |name: &str| dir.join(name);
    fs::create_dir_all(at("dir/sub/deep")).unwrap();
    fs::create_dir(at("empty dir")).unwrap();
    fs::create_dir(at("many")).unwrap();
    for number in 0..500_usize {
        let name = format!("many/file with a rather long name {number}");
        fs::write(at(&name), vec![number as u8; number * 37]).unwrap();
    }
    fs::write(at("empty"), "").unwrap();
    fs::write(at("tiny"), "in the inode").unwrap();
    fs::write(
        at("dir/large"),
        [random_block(1), random_block(2), random_block(3)].concat(),
    )
    .unwrap();
    fs::write(at("dir/gr\u{fc}\u{df}e"), "umlauts").unwrap();
    let sparse = File::create(at("dir/sparse")).unwrap();
    sparse.set_len(20 << 20).unwrap();
    for at in [0, 1 << 20, (5 << 20) + 4096, 19 << 20] {
        sparse.write_all_at(&[7; 10_000], at).unwrap();
    }
    File::create(at("only a hole"))
        .unwrap()
        .set_len(3 << 20)
        .unwrap();
    let reserved = File::create(at("reserved")).unwrap();
    fallocate(&reserved, rustix::fs::FallocateFlags::empty(), 0, 2 << 20).unwrap();
    reserved.write_all_at(&[9; 8192], 1 << 20).unwrap();
    fs::hard_link(at("dir/large"), at("dir/sub/second name")).unwrap();
    fs::hard_link(at("dir/large"), at("third name")).unwrap();
    for (name, target) in [
        ("link", "tiny"),
        ("dir/absolute", "/etc/passwd"),
        ("dir/up", "../../../.."),
        ("long link", &*"x/".repeat(500)),
    ] {
        symlink(target, at(name)).unwrap();
    }
    let node = |name: &str, kind, device| {
        mknodat(CWD, at(name), kind, Mode::from_raw_mode(0o620), device).unwrap();
    };
    node("null", FileType::CharacterDevice, makedev(1, 3));
    node("disk", FileType::BlockDevice, makedev(259, 70_000));
    node("pipe", FileType::Fifo, 0);
    drop(UnixListener::bind(at("socket")).unwrap());
    let mode = |name: &str, mode| {
        fs::set_permissions(at(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    chown(at("dir/large"), Some(1000), Some(1001)).unwrap();
    chown(at("tiny"), Some(4_000_000_000), Some(70_000)).unwrap();
    std::os::unix::fs::lchown(at("link"), Some(1000), Some(1000)).unwrap();
    mode("dir/large", 0o6755);
    mode("dir/sub", 0o3750);
    mode("empty", 0o000);
    mode("empty dir", 0o1777);
    let set = |name: &str, xattr: &str, value: &[u8]| {
        setxattr(at(name), xattr, value, XattrFlags::empty()).unwrap();
    };
    set("tiny", "user.note", b"\0\xff");
    set("dir", "user.of.a.directory", &[b'v'; 500]);
    set(
        "dir/large",
        "security.capability",
        b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
    );
    set(
        "many/file with a rather long name 7",
        "trusted.note",
        b"for root",
    );
    // Owner rwx, user 1000 r, group r, mask rwx, others none.
    let acl = b"\x02\0\0\0\x01\0\x07\0\xff\xff\xff\xff\x02\0\x04\0\xe8\x03\0\0\x04\0\x04\0\xff\xff\xff\xff\x10\0\x07\0\xff\xff\xff\xff\x20\0\0\0\xff\xff\xff\xff";
    set(
        "many/file with a rather long name 8",
        "system.posix_acl_access",
        acl,
    );
    set("empty dir", "system.posix_acl_default", acl);
    let times = |name: &str, seconds: i64| {
        let at = match u64::try_from(seconds) {
            Ok(seconds) => UNIX_EPOCH + Duration::new(seconds, 987_654_321),
            Err(_) => UNIX_EPOCH - Duration::new(seconds.unsigned_abs(), 0),
        };
        let times = FileTimes::new().set_modified(at).set_accessed(at);
        File::open(dir.join(name))
            .unwrap()
            .set_times(times)
            .unwrap();
    };
    times("dir/large", 1_234_567_890);
    times("tiny", -1_000_000);
    times("only a hole", 3_000_000_000);
    times("dir/sub", 1_000_000_000);
    times("dir", 1_100_000_000);
}
