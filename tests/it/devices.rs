//! Loop devices and mounts that go away with the test, also when it panics.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::images::Disk;
use crate::program::tool;

/// A loop device over a file.
pub(crate) struct Loop {
    device: PathBuf,
}

impl Loop {
    pub(crate) fn over(file: &Path) -> Self {
        // Two tests that look for a free one at the same time may find the same.
        for _ in 0..20 {
            let mut losetup = Command::new("/usr/sbin/losetup");
            let output = losetup.args(["--show", "-f"]).arg(file).output().unwrap();
            if output.status.success() {
                let device = String::from_utf8(output.stdout).unwrap().trim().into();
                return Self { device };
            }
        }
        panic!("no loop device over {file:?}");
    }

    pub(crate) fn path(&self) -> &str {
        self.device.to_str().unwrap()
    }

    /// Another name of the device.
    pub(crate) fn link(&self, at: &Path) {
        symlink(&self.device, at).unwrap();
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        drop(
            Command::new("/usr/sbin/losetup")
                .arg("-d")
                .arg(&self.device)
                .status(),
        );
    }
}

/// Something mounted on a directory.
pub(crate) struct Mounted {
    at: PathBuf,
    _device: Option<Loop>,
}

impl Mounted {
    /// A new ext4 of `len` bytes, made in `file`, on the new directory `at`.
    pub(crate) fn ext4(file: &Path, len: u64, at: &Path) -> Self {
        let disk = Disk::new(file, len);
        tool(
            "mkfs.ext4",
            &["-q", "-m", "0", disk.path().to_str().unwrap()],
        );
        Self::device(Loop::over(file), at)
    }

    /// The file system in `device` on the new directory `at`.
    pub(crate) fn device(device: Loop, at: &Path) -> Self {
        std::fs::create_dir(at).unwrap();
        tool("mount", &[device.path(), at.to_str().unwrap()]);
        Self {
            at: at.to_owned(),
            _device: Some(device),
        }
    }

    /// `dir` once more on the new directory `at`, and there read-only.
    pub(crate) fn read_only_view(dir: &Path, at: &Path) -> Self {
        std::fs::create_dir(at).unwrap();
        tool(
            "mount",
            &["--bind", dir.to_str().unwrap(), at.to_str().unwrap()],
        );
        let mounted = Self {
            at: at.to_owned(),
            _device: None,
        };
        tool("mount", &["-o", "remount,bind,ro", at.to_str().unwrap()]);
        mounted
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let umount = |options: &[&str]| {
            let status = Command::new("umount").args(options).arg(&self.at).status();
            status.is_ok_and(|status| status.success())
        };
        if !umount(&[]) {
            umount(&["-l"]);
        }
    }
}
