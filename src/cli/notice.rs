//! What daemons say of themselves where `ps` finds it: a small file beside the control socket, as long as they live.
//!
//! Nothing is asked of the mount itself, which may hang. Whether the daemon lives, its socket tells: where nobody listens
//! it was killed. Then the file stays until its mount is gone, too.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use log::debug;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use serde::Deserialize;
use serde_json::{Value, json};

use super::sockets;
use crate::durable;
use crate::fuse::mountpoint::{MountEntry, mounts};

/// The file of this process; it goes when this is dropped.
pub(super) struct Notice {
    path: PathBuf,
}

impl Notice {
    /// Says that this daemon serves `mount`, and what it tells of it. Without a socket nobody could see whether it
    /// lives, and nothing is said.
    pub(super) fn put(mut told: Value, mount: &MountEntry) -> Option<Self> {
        sweep();
        let socket = PathBuf::from(told["socket"].as_str()?);
        told["device"] = json!(mount.device);
        let path = socket.with_extension("json");
        durable::replace(&path, format!("{told}\n").as_bytes())
            .inspect_err(|e| debug!("`ebsfs ps` will not know this mount well: {e:#}"))
            .ok()?;
        Some(Self { path })
    }
}

impl Drop for Notice {
    fn drop(&mut self) {
        if let Err(e) = fs::remove_file(&self.path) {
            debug!("{}: left behind: {e}", self.path.display());
        }
    }
}

/// What a daemon said.
#[derive(Debug, Deserialize)]
pub(super) struct Told {
    pub(super) pid: u32,
    pub(super) store: String,
    /// None: all of the store.
    pub(super) snapshots: Option<Vec<String>>,
    mountpoint: PathBuf,
    device: String,
    /// Beside the file; what that says of it is not asked for.
    #[serde(skip)]
    socket: PathBuf,
    pub(super) overlay: Option<PathBuf>,
    pub(super) log_file: Option<PathBuf>,
}

impl Told {
    /// Whether it is of that mount.
    pub(super) fn is_of(&self, mount: &MountEntry) -> bool {
        self.mountpoint == mount.path && self.device == mount.device
    }

    /// Whether the daemon is there, be it stopped.
    pub(super) fn is_alive(&self) -> bool {
        // One that is stopped takes no more connections at some time, and nobody is to wait for that.
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let connected = SocketAddrUnix::new(&self.socket).and_then(|address| {
            let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
            connect(&socket, &address)
        });
        matches!(connected, Ok(()) | Err(Errno::AGAIN))
    }
}

/// What the daemons of this user have said, and for root those of all users.
pub(super) fn all() -> Vec<Told> {
    let files = directories().into_iter().flat_map(|dir| files(&dir));
    files.map(|(_, told)| told).collect()
}

/// Removes what killed daemons of this user said of mounts that are gone.
pub(super) fn sweep() {
    let Ok(mounts) = mounts() else { return };
    for (path, told) in files(&sockets::dir()) {
        if !mounts.iter().any(|mount| told.is_of(mount)) && !told.is_alive() {
            drop(fs::remove_file(path));
        }
    }
}

/// A larger file is none of a daemon's.
const MOST: u64 = 64 << 10;

fn files(dir: &Path) -> Vec<(PathBuf, Told)> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let files = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|end| end == "json"));
    files
        .filter_map(|path| {
            let told = read(&path)?;
            Some((path, told))
        })
        .collect()
}

fn read(path: &Path) -> Option<Told> {
    let meta = fs::symlink_metadata(path).ok()?;
    if !meta.is_file() || meta.len() > MOST {
        return None;
    }
    let told: Told = serde_json::from_slice(&durable::read(path).ok()?).ok()?;
    Some(Told {
        socket: path.with_extension("sock"),
        ..told
    })
}

/// Where there may be some: where this user's daemons have their sockets, and for root where those of others have.
fn directories() -> Vec<PathBuf> {
    let mut found = vec![sockets::dir()];
    if rustix::process::geteuid().is_root() {
        found.push("/run/ebsfs".into());
        let users = fs::read_dir("/run/user").into_iter().flatten().flatten();
        found.extend(users.map(|user| user.path().join("ebsfs")));
        let temporary = fs::read_dir("/tmp").into_iter().flatten().flatten();
        found.extend(temporary.map(|entry| entry.path()).filter(|path| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.is_some_and(|name| name.starts_with("ebsfs-"))
        }));
    }
    // Through no link, which may be anybody's.
    found.retain(|dir| {
        fs::symlink_metadata(dir).is_ok_and(|meta| meta.is_dir() && meta.mode() & 0o077 == 0)
    });
    found.sort();
    found.dedup();
    found
}
