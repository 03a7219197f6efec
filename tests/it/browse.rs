//! The files of a snapshot in a directory, by the kernel: the right ones, and nothing left of it in the end.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::images::{Disk, GIB};
use crate::kernel::{loops_below, mounts_below};
use crate::world::{Said, World, eventually, finish, limited, run, umount, unless_busy};

mod busy;
mod choice;
mod edits;
mod journals;
mod kills;
mod listed;
mod refusals;

/// A world with a directory to browse in.
pub(crate) struct Browsed<'a> {
    world: &'a World,
    pub(crate) at: PathBuf,
}

impl<'a> Browsed<'a> {
    /// An empty directory of that name.
    pub(crate) fn new(world: &'a World, name: &str) -> Self {
        Self {
            world,
            at: world.empty(name),
        }
    }

    /// Has the program browse `id` there.
    pub(crate) fn begin(&self, id: &str, options: &[&str]) -> Said {
        finish(&mut self.command(id, options))
    }

    pub(crate) fn command(&self, id: &str, options: &[&str]) -> Command {
        let mut command = self.world.bare();
        command.arg("--store").arg(self.world.store());
        command.args(["browse", id]).arg(&self.at).args(options);
        command
    }

    pub(crate) fn umount(&self, options: &[&str]) -> Said {
        let mut command = self.world.bare();
        finish(command.arg("umount").args(options).arg(&self.at))
    }

    /// Takes all of it down, of which nothing must be left.
    #[track_caller]
    pub(crate) fn end(&self) {
        unless_busy(|| self.umount(&[])).ok();
        self.assert_gone();
    }

    /// Nothing of it is left, the directory aside.
    #[track_caller]
    pub(crate) fn assert_gone(&self) {
        assert_eq!(fs::read_dir(&self.at).unwrap().count(), 0, "{:?}", self.at);
        nothing_is_left(self.world);
    }

    /// What the state directory says of it.
    #[track_caller]
    pub(crate) fn record(&self) -> Value {
        let site = self.site().unwrap();
        serde_json::from_slice(&fs::read(site.join("record.json")).unwrap()).unwrap()
    }

    /// The private directory, if there is one. There is no other in this world.
    pub(crate) fn site(&self) -> Option<PathBuf> {
        sites(self.world).pop()
    }

    /// The loop device.
    #[track_caller]
    pub(crate) fn device(&self) -> String {
        let devices = loops_below(&self.site().unwrap());
        assert_eq!(devices.len(), 1, "{devices:?}");
        devices[0].clone()
    }

    /// The daemon below.
    #[track_caller]
    pub(crate) fn daemon(&self) -> rustix::process::Pid {
        crate::world::Mount::at(self.site().unwrap().join("mnt")).pid
    }

    /// How it is mounted: type and options of the file system on top.
    #[track_caller]
    pub(crate) fn options(&self) -> String {
        let at = self.at.as_os_str();
        let args = [
            OsStr::new("-n"),
            "-o".as_ref(),
            "FSTYPE,OPTIONS".as_ref(),
            at,
        ];
        run("findmnt", args).ok()
    }
}

fn sites(world: &World) -> Vec<PathBuf> {
    let top = fs::read_dir(world.path("state/ebsfs/browse"));
    let mut sites: Vec<_> = top
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    sites.sort();
    sites
}

/// No mount, no loop device, no daemon, no note.
#[track_caller]
pub(crate) fn nothing_is_left(world: &World) {
    assert_eq!(mounts_below(world.dir()), []);
    assert_eq!(loops_below(world.dir()), [""; 0]);
    assert_eq!(sites(world), Vec::<PathBuf>::new());
    eventually("the daemons end", || {
        world.daemons().is_empty().then_some(())
    });
    let sockets = fs::read_dir(world.path("run/ebsfs"))
        .into_iter()
        .flatten()
        .flatten();
    let sockets: Vec<_> = sockets.map(|entry| entry.path()).collect();
    assert!(
        sockets
            .iter()
            .all(|path| path.extension() != Some(OsStr::new("json"))),
        "{sockets:?}"
    );
}

/// A new file system of `kind` in an image of 1 GiB.
pub(crate) fn file_system(world: &World, name: &str, kind: &str) -> PathBuf {
    let disk = Disk::new(world.path(name), GIB);
    let path = disk.path().to_str().unwrap();
    let options: &[&str] = match kind {
        "xfs" | "btrfs" => &["-q", "-f"],
        "ext2" => &["-q", "-t", "ext2"],
        _ => &["-q", "-E", "lazy_itable_init=1"],
    };
    let program = if kind == "ext2" {
        "mke2fs".to_owned()
    } else {
        format!("mkfs.{kind}")
    };
    run(&program, [options, &[path]].concat()).ok();
    disk.path().to_owned()
}

/// The file system in an image, mounted to be written to by the kernel, as the disk's own machine has it.
pub(crate) struct Origin<'a> {
    image: &'a Path,
    pub(crate) at: PathBuf,
}

impl<'a> Origin<'a> {
    pub(crate) fn mount(world: &World, image: &'a Path) -> Self {
        let at = world.path("origin");
        fs::create_dir_all(&at).unwrap();
        run(
            "mount",
            [
                OsStr::new("-o"),
                "loop".as_ref(),
                image.as_os_str(),
                at.as_os_str(),
            ],
        )
        .ok();
        Self { image, at }
    }

    /// Writes a file, and has it on the disk, or at least in its journal.
    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.at.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        run("sync", [&path]).ok();
    }

    /// All of it on the disk, and nothing in the journal.
    pub(crate) fn settle(&self) {
        run("fsfreeze", [OsStr::new("--freeze"), self.at.as_os_str()]).ok();
        run("fsfreeze", [OsStr::new("--unfreeze"), self.at.as_os_str()]).ok();
    }

    /// What a snapshot of the disk in use holds.
    pub(crate) fn copy(&self, to: &Path) {
        copy(self.image, to);
    }

    pub(crate) fn umount(self) {
        umount(&self.at);
    }
}

pub(crate) fn copy(from: &Path, to: &Path) {
    run(
        "cp",
        [
            OsStr::new("--sparse=always"),
            from.as_os_str(),
            to.as_os_str(),
        ],
    )
    .ok();
}

/// Names, kinds, modes, owners, times, targets and contents of all files below `dir`.
#[track_caller]
pub(crate) fn tree(dir: &Path) -> String {
    const TREE: &str = r"find . -printf '%p %y %m %U %G %s %T@ %l\n' | sort &&
        find . -type f -print0 | sort -z | xargs -0 -r sha256sum";
    let mut command = limited("sh");
    finish(command.args(["-ec", TREE]).current_dir(dir)).ok()
}

/// A snapshot of an ext4 with a file `here`.
pub(crate) fn simple(world: &World) -> String {
    let image = file_system(world, "simple.img", "ext4");
    let origin = Origin::mount(world, &image);
    origin.write("here", "text");
    origin.umount();
    world.import(&image)
}
