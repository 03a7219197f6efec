//! What lies in a disk or in one of its partitions: a file system, or something that is none.
//!
//! Asked of blkid(8), and not of the probe of [`crate::filesystem`], which knows what is read here by name: what is mounted
//! here is all that the kernel can mount, by the label and UUID that its tools show.

use std::fs::File;
use std::path::Path;

use super::super::loops::{start, tool};
use crate::error::{Error, ErrorKind, Result};

/// What was found.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Content {
    /// As mount(8) and blkid(8) call it.
    pub(super) kind: String,
    pub(super) label: Option<String>,
    pub(super) uuid: Option<String>,
}

/// What is in `file`, if that is known.
pub(super) fn content(file: &Path, stdin: File) -> Result<Option<Content>> {
    let mut blkid = tool("blkid", stdin);
    blkid.args(["-p", "-o", "export", "--"]).arg(file);
    let output = start(&mut blkid)?
        .wait_with_output()
        .map_err(|e| Error::io(e, "look into", file))?;
    // Nothing was found, or more than one thing, which is as good.
    if matches!(output.status.code(), Some(2 | 8)) {
        return Ok(None);
    }
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        let what = format!("cannot look into {}: {said}", file.display());
        return Err(Error::new(ErrorKind::Io, what));
    }
    let mut found = Content::default();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let Some((key, value)) = line.split_once('=') else {
            continue;
        };
        let value = value.replace('\\', "");
        match key {
            "TYPE" => found.kind = value,
            "LABEL" => found.label = Some(value),
            "UUID" => found.uuid = Some(value),
            _ => {}
        }
    }
    Ok(Some(found).filter(|found| !found.kind.is_empty()))
}

impl Content {
    /// What it is, and what is done with it by hand, if it is no file system.
    pub(super) fn container(&self) -> Option<(&'static str, &'static str)> {
        Some(match &*self.kind {
            "swap" => ("swap space", "there are no files in it"),
            "LVM2_member" => (
                "a physical volume of LVM2",
                "attach it by `losetup -f --show -r FILE`, then `vgchange -ay VG`, and mount its volumes",
            ),
            "crypto_LUKS" => (
                "encrypted by LUKS",
                "`cryptsetup open --readonly FILE NAME` asks for the key and makes /dev/mapper/NAME, which can be mounted",
            ),
            "linux_raid_member" => (
                "a part of a RAID",
                "attach it by `losetup -f --show -r FILE`, then `mdadm --assemble --readonly`",
            ),
            "zfs_member" => (
                "a part of a ZFS pool",
                "attach it by `losetup -f --show -r FILE`, then `zpool import -o readonly=on`",
            ),
            "bcache" | "BitLocker" | "DM_snapshot_cow" | "VMFS_volume_member"
            | "ceph_bluestore" | "drbd" | "jbd" | "ddf_raid_member" | "isw_raid_member" => {
                ("no file system", "the kernel cannot mount it by itself")
            }
            _ => return None,
        })
    }
}
