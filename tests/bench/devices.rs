//! Loop devices and the file systems on them, which end with their values. They need root.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::measure::time;

/// A loop device that goes with it.
pub(crate) struct Loop(pub(crate) String);

impl Loop {
    /// Over a file, past the page cache of that file.
    pub(crate) fn over(file: &Path) -> Self {
        Self::set_up(file, &[])
    }

    pub(crate) fn read_only(file: &Path) -> Self {
        Self::set_up(file, &["--read-only"])
    }

    fn set_up(file: &Path, options: &[&str]) -> Self {
        let mut command = Command::new("losetup");
        command.args(["--show", "-f", "--direct-io=on"]);
        command.args(options).arg(file);
        Self(time(&mut command).1.trim().to_owned())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        drop(Command::new("losetup").arg("-d").arg(&self.0).status());
    }
}

/// A file system on a loop device over a disk's file, to be read.
pub(crate) struct Tree {
    pub(crate) path: PathBuf,
    _device: Loop,
}

impl Tree {
    /// Of the ext4 in `file`, shown at `path`, which is made if missing.
    pub(crate) fn of(file: &Path, path: PathBuf) -> Self {
        fs::create_dir_all(&path).unwrap();
        let device = Loop::read_only(file);
        let mut mount = Command::new("mount");
        mount.args(["-t", "ext4", "-o", "ro,noload"]);
        time(mount.arg(&device.0).arg(&path));
        Self {
            path,
            _device: device,
        }
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        drop(Command::new("umount").arg(&self.path).status());
    }
}
