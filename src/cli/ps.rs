//! `ebsfs ps`: what is mounted and browsed, by which daemons, over which loop devices and overlays, and what dead ones left.
//!
//! Told from the kernel's tables and what daemons and `browse` noted. No mount is touched: one that hangs is listed as well
//! as any. Root is shown everybody's, others their own.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::browse::{Record, Site, Step};
use super::loops::{self, Loop};
use super::notice::{self, Told};
use super::{Outcome, print, print_json};
use crate::error::Result;
use crate::fuse::mountpoint::{FS_TYPE, MountEntry, mounts};

mod text;

#[derive(Args)]
pub(super) struct Ps {
    /// For programs
    #[arg(long)]
    json: bool,
}

/// All there is.
#[derive(Serialize)]
struct Found {
    mounts: Vec<Mount>,
    browsed: Vec<Browsed>,
    loops: Vec<Attached>,
    overlays: Vec<Overlay>,
    leftovers: Vec<Leftover>,
}

/// A mounted directory of images.
#[derive(Serialize)]
struct Mount {
    mountpoint: PathBuf,
    read_only: bool,
    user: Option<u32>,
    daemon: Daemon,
    /// Null if the daemon has not said it.
    store: Option<String>,
    /// Null: all of the store, or the daemon has not said it.
    snapshots: Option<Vec<String>>,
    overlay: Option<PathBuf>,
    log_file: Option<PathBuf>,
    /// The directory for which `browse` mounted it.
    browsed: Option<PathBuf>,
}

#[derive(Serialize)]
struct Daemon {
    pid: Option<u32>,
    state: State,
}

#[derive(Clone, Copy, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// Somebody listens at its socket.
    Alive,
    /// Nobody does.
    Dead,
    /// It has none, or said nothing.
    Unknown,
}

/// What `browse` set up.
#[derive(Serialize)]
struct Browsed {
    directory: PathBuf,
    snapshot: String,
    step: Step,
    /// Whether somebody sets it up or takes it down.
    under_way: bool,
    file: Option<PathBuf>,
    fs_type: Option<String>,
    device: Option<PathBuf>,
    /// How the file system is mounted; null if it is not.
    options: Option<String>,
    overlay: Option<PathBuf>,
    /// Whether the overlay stays when it is taken down.
    kept: bool,
}

/// A loop device over a file of a mount.
#[derive(Serialize)]
struct Attached {
    device: PathBuf,
    file: PathBuf,
    mounted: Vec<PathBuf>,
}

/// An overlay that a daemon has.
#[derive(Serialize)]
struct Overlay {
    overlay: PathBuf,
    mountpoint: PathBuf,
    pid: Option<u32>,
}

/// What nobody serves any more.
#[derive(Serialize)]
struct Leftover {
    path: PathBuf,
    what: String,
    /// What clears it.
    command: String,
}

impl Ps {
    pub(super) fn run(self) -> Outcome {
        let found = Found::look()?;
        match self.json {
            true => print_json(&found),
            false => print(&text::of(&found)),
        }
    }
}

impl Found {
    fn look() -> Result<Self> {
        let table = mounts()?;
        let told = notice::all();
        let sites = sites();
        let own = rustix::process::geteuid();
        let shown: Vec<_> = table
            .iter()
            .filter(|mount| mount.fs_type == FS_TYPE)
            .map(|mount| Mount::new(mount, &told, &sites))
            .filter(|mount| own.is_root() || mount.user == Some(own.as_raw()))
            .collect();
        let loops = attached(&shown, &table);
        let browsed: Vec<_> = sites
            .iter()
            .map(|(site, record)| Browsed::new(site, record, &table))
            .collect();
        let overlays = shown.iter().filter_map(|mount| {
            let overlay = mount.overlay.clone()?;
            (mount.daemon.state != State::Dead).then(|| Overlay {
                overlay,
                mountpoint: mount
                    .browsed
                    .clone()
                    .unwrap_or_else(|| mount.mountpoint.clone()),
                pid: mount.daemon.pid,
            })
        });
        Ok(Self {
            overlays: overlays.collect(),
            leftovers: leftovers(&shown, &browsed),
            mounts: shown,
            browsed,
            loops,
        })
    }
}

/// What `browse` noted, as far as it can be read.
fn sites() -> Vec<(Site, Record)> {
    let read = |site: Site| {
        let record = site
            .read()
            .inspect_err(|e| log::warn!("something was browsed, and cannot be told: {e:#}"));
        Some((site, record.ok()??))
    };
    Site::all().into_iter().filter_map(read).collect()
}

impl Mount {
    fn new(mount: &MountEntry, told: &[Told], sites: &[(Site, Record)]) -> Self {
        let told = told.iter().find(|told| told.is_of(mount));
        let state = match told.map(Told::is_alive) {
            Some(true) => State::Alive,
            Some(false) => State::Dead,
            None => State::Unknown,
        };
        let browsed = sites.iter().find(|(site, _)| site.mount() == mount.path);
        Self {
            mountpoint: mount.path.clone(),
            read_only: mount.option("ro").is_some(),
            user: mount.option("user_id").and_then(|id| id.parse().ok()),
            daemon: Daemon {
                pid: told.map(|told| told.pid),
                state,
            },
            store: told.map(|told| told.store.clone()),
            snapshots: told.and_then(|told| told.snapshots.clone()),
            overlay: told.and_then(|told| told.overlay.clone()),
            log_file: told.and_then(|told| told.log_file.clone()),
            browsed: browsed.map(|(_, record)| record.directory.clone()),
        }
    }
}

impl Browsed {
    fn new(site: &Site, record: &Record, table: &[MountEntry]) -> Self {
        let over = loops::over(&site.mount(), record.device.as_ref());
        let device = over.first().map(|found| found.device.path.clone());
        let mounted = table.iter().rev().find(|mount| {
            mount.path == record.directory && device.as_deref() == Some(Path::new(&mount.source))
        });
        Self {
            directory: record.directory.clone(),
            snapshot: record.snapshot.to_string(),
            step: record.step,
            under_way: site.is_locked(),
            file: record.file.clone(),
            fs_type: record.fs_type.clone(),
            options: mounted.map(|mount| mount.options.clone()),
            device,
            overlay: record.overlay.clone(),
            kept: record.kept,
        }
    }
}

/// Loop devices over the files of those mounts.
fn attached(shown: &[Mount], table: &[MountEntry]) -> Vec<Attached> {
    let ours = |found: &Loop| {
        shown
            .iter()
            .any(|mount| found.file.starts_with(&mount.mountpoint))
    };
    let attached = loops::all().into_iter().filter(ours).map(|found| {
        let mounted = table
            .iter()
            .filter(|mount| Path::new(&mount.source) == found.device.path);
        Attached {
            mounted: mounted.map(|mount| mount.path.clone()).collect(),
            device: found.device.path,
            file: found.file,
        }
    });
    attached.collect()
}

fn leftovers(shown: &[Mount], browsed: &[Browsed]) -> Vec<Leftover> {
    let clear = |path: &Path, what: String| Leftover {
        path: path.to_owned(),
        what,
        command: format!("ebsfs umount {}", path.display()),
    };
    let dead = |mount: &&Mount| mount.daemon.state == State::Dead;
    let mounts = shown
        .iter()
        .filter(|mount| mount.browsed.is_none())
        .filter(dead)
        .map(|mount| clear(&mount.mountpoint, died(mount)));
    let halves = browsed.iter().filter_map(|browsed| {
        let mount = shown
            .iter()
            .find(|mount| mount.browsed.as_ref() == Some(&browsed.directory));
        let what = match mount {
            _ if browsed.under_way => return None,
            Some(mount) if dead(&mount) => died(mount),
            _ if browsed.step == Step::Ending => "it was taken down in part".to_owned(),
            None => "it is not mounted any more".to_owned(),
            _ if browsed.step != Step::Done => "it was set up in part".to_owned(),
            _ if browsed.options.is_none() => "its file system is not mounted any more".to_owned(),
            Some(_) => return None,
        };
        Some(clear(&browsed.directory, what))
    });
    mounts.chain(halves).collect()
}

fn died(mount: &Mount) -> String {
    let pid = mount
        .daemon
        .pid
        .map_or(String::new(), |pid| format!(" {pid}"));
    format!("its daemon{pid} is dead")
}
