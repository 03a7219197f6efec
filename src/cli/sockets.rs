//! Where the sockets of mounted daemons are.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// `$XDG_RUNTIME_DIR/ebsfs` if that is the user's own; else `/run/ebsfs` for root, `/tmp/ebsfs-UID` for others.
pub(super) fn dir() -> PathBuf {
    let uid = rustix::process::geteuid();
    // With `sudo -E` root has another user's.
    let own = |dir: &PathBuf| {
        dir.is_absolute() && std::fs::metadata(dir).is_ok_and(|meta| meta.uid() == uid.as_raw())
    };
    let runtime = std::env::var_os("XDG_RUNTIME_DIR")
        .map(PathBuf::from)
        .filter(own);
    match runtime {
        Some(dir) => dir.join("ebsfs"),
        None if uid.is_root() && Path::new("/run").is_dir() => "/run/ebsfs".into(),
        None => format!("/tmp/ebsfs-{}", uid.as_raw()).into(),
    }
}
