//! Mounts that can be written to, as users have them: loop devices, file systems, kills, full disks, commits.
#![allow(clippy::disallowed_methods)] // As users sync.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::fsync;

use crate::images::{Disk, GIB, assert_same};
use crate::program::id_of;
use crate::world::{Mount, World, eventually, run};

mod commits;
mod filesystems;
mod full_disk;
mod kills;
mod memory;
mod remote;
mod signals;

pub(crate) use self::remote::client;

/// A snapshot mounted with the overlay `overlay` of its world.
pub(crate) struct Overlaid<'a> {
    world: &'a World,
    pub(crate) id: String,
    pub(crate) mount: Mount,
    /// The whole disk's file, which keeps its name whatever is committed.
    pub(crate) disk: PathBuf,
}

impl<'a> Overlaid<'a> {
    /// Over a snapshot of `image`.
    #[track_caller]
    pub(crate) fn of(world: &'a World, image: &Path) -> Self {
        let id = world.import(image);
        Self::over(world, &id)
    }

    /// Over a volume of `gib` GiB without data.
    #[track_caller]
    pub(crate) fn empty(world: &'a World, gib: u64) -> Self {
        let image = Disk::new(world.path("empty.img"), gib * GIB);
        Self::of(world, image.path())
    }

    /// Over `id`, with the overlay as it is.
    #[track_caller]
    pub(crate) fn over(world: &'a World, id: &str) -> Self {
        Self::with(world, id, &[])
    }

    /// The same with more options of `mount`.
    #[track_caller]
    pub(crate) fn with(world: &'a World, id: &str, options: &[&str]) -> Self {
        let options = [&["--overlay", "overlay"], options].concat();
        let mount = world.mount_with(&[id], &options);
        Self {
            world,
            id: id.to_owned(),
            disk: mount.disk(id),
            mount,
        }
    }

    /// A writable loop device over the disk, past the page cache.
    #[track_caller]
    pub(crate) fn attach(&self) -> String {
        self.world.attach_writable(&self.disk, &["--direct-io=on"])
    }

    /// Commits, waits until the child can be read, and gives its id.
    #[track_caller]
    pub(crate) fn commit(&self, options: &[&str]) -> String {
        let at = self.mount.dir.to_str().unwrap();
        let said = self
            .world
            .ebsfs([&["commit", "--wait", at], options].concat());
        id_of(&said.ok())
    }

    /// Ends the mount in order.
    #[track_caller]
    pub(crate) fn unmount(self) {
        self.world.unmount(&self.mount);
    }

    /// Has the daemon killed, and takes away what that leaves.
    #[track_caller]
    pub(crate) fn kill(self) {
        crate::kernel::kill(self.mount.pid);
        eventually("the daemon ends", || {
            crate::kernel::gone(self.mount.pid).then_some(())
        });
        run("umount", ["-l", self.mount.dir.to_str().unwrap()]).ok();
    }

    pub(crate) fn open(&self) -> File {
        File::options()
            .read(true)
            .write(true)
            .open(&self.disk)
            .unwrap()
    }

    /// Writes and makes it durable.
    #[track_caller]
    pub(crate) fn write(&self, offset: u64, bytes: &[u8]) {
        let file = self.open();
        file.write_all_at(bytes, offset).unwrap();
        fsync(&file).unwrap();
    }
}

/// Exports `id` and panics unless it is `expected`, byte for byte.
#[track_caller]
pub(crate) fn assert_exports(world: &World, id: &str, expected: &Path) {
    let out = world.path(&format!("{id}.out"));
    world.ebsfs(["export", id, out.to_str().unwrap()]).ok();
    assert_equal(&out, expected);
    std::fs::remove_file(out).unwrap();
}

#[track_caller]
pub(crate) fn assert_equal(a: &Path, b: &Path) {
    let (left, right) = (File::open(a).unwrap(), File::open(b).unwrap());
    let (len, other) = (
        left.metadata().unwrap().len(),
        right.metadata().unwrap().len(),
    );
    assert_eq!(len, other, "lengths of {a:?} and {b:?}");
    assert_same(&left, &right, len, &format!("{a:?} and {b:?}"));
}
