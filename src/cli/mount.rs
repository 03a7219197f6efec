//! `ebsfs mount`: checks, mounts, serves until the mount ends.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;

use clap::Args;
use log::{info, warn};
use tokio::runtime::Runtime;

use super::reading::Reading;
use super::stack::Snapshots;
use super::{Common, Outcome, daemon, disk_cache, sockets, stack, state};
use crate::cache::BlockCache;
use crate::catalog::Catalog;
use crate::commit::{self, Commits};
use crate::control::{Commands, Socket};
use crate::error::{Error, ErrorKind, Result};
use crate::fuse::mountpoint::{self, canonical, detach_own};
use crate::fuse::{self, Exports};
use crate::session::Session;
use crate::snapshot::{SnapshotId, VolumeSize};
use crate::store::Store;

mod about;
mod edits;
mod ending;

use self::about::{About, control};
use self::edits::{Edits, Wanted};
pub(super) use self::ending::busy;
use self::ending::{Event, until_ended, watch_signals};

#[derive(Args)]
#[command(override_usage = "ebsfs mount [OPTIONS] [SNAPSHOT]... MOUNTPOINT")]
pub(super) struct Mount {
    /// Snapshots to show, and the empty directory to show them in. Without a snapshot: all of the store
    #[arg(required = true, value_name = "SNAPSHOT... MOUNTPOINT")]
    arguments: Vec<String>,

    /// Stay in the foreground; log to stderr unless --log-file is given
    #[arg(short, long)]
    foreground: bool,

    #[command(flatten)]
    reading: Reading,

    /// Let the snapshot be written to: what is written goes to this directory, made if missing
    #[arg(long, value_name = "DIR")]
    overlay: Option<PathBuf>,

    /// Grow the disk to so many GiB; what is beyond the snapshot's is zeros
    #[arg(long, value_name = "GIB", requires = "overlay", value_parser = parse_size)]
    size: Option<VolumeSize>,

    /// Neither note which blocks are read, nor fetch ahead what the last mount of the snapshot read
    #[arg(long)]
    no_profile: bool,

    /// Let other users read too, root among them; as an ordinary user this needs user_allow_other in /etc/fuse.conf
    #[arg(long)]
    allow_other: bool,

    /// Where to log [default when detached: a file for each mount point in the user's state directory]
    #[arg(long, value_name = "FILE")]
    log_file: Option<PathBuf>,

    /// Set by the program for its detached self
    #[arg(long, hide = true, env = daemon::DETACHED)]
    detached: bool,
}

impl Mount {
    pub(super) fn run(self, common: &Common) -> Outcome {
        if self.foreground || self.detached {
            daemon::with_little_memory();
            let served = self.serve(common);
            // Whoever started the daemon waits for what became of it.
            return if self.detached {
                daemon::failed(served)
            } else {
                served
            };
        }
        let (_, mountpoint) = self.what_and_where()?;
        daemon::start(self.open_log(&mountpoint)?)
    }

    /// The log of the detached daemon. One that was not asked for is not worth failing for: this may be a rescue
    /// system that can write nowhere.
    fn open_log(&self, mountpoint: &Path) -> Result<Option<File>> {
        let path = self.log_file(mountpoint);
        let opened = path.and_then(|path| {
            let log = daemon::open_log(&path)?;
            info!("the log of {} is {}", mountpoint.display(), path.display());
            Ok(log)
        });
        match opened {
            Err(e) if self.log_file.is_none() => {
                warn!("no log is kept: {e:#}");
                Ok(None)
            }
            opened => opened.map(Some),
        }
    }

    /// The snapshots and the mount point, as typed.
    fn what_and_where(&self) -> Result<(Vec<SnapshotId>, PathBuf)> {
        let Some((mountpoint, ids)) = self.arguments.split_last() else {
            return Err(Error::new(ErrorKind::Invalid, "name a mount point"));
        };
        if mountpoint.parse::<SnapshotId>().is_ok() && !Path::new(mountpoint).exists() {
            let what = format!("name a mount point after {mountpoint}: an empty directory");
            return Err(Error::new(ErrorKind::Invalid, what));
        }
        let mut snapshots = Vec::new();
        for id in ids {
            let id: SnapshotId = id.parse()?;
            if !snapshots.contains(&id) {
                snapshots.push(id);
            }
        }
        let mountpoint = canonical(Path::new(mountpoint)).map_err(|e| match e.kind() {
            ErrorKind::NotFound => e.context(format!(
                "no mount point {mountpoint}: `mkdir {mountpoint}` makes it"
            )),
            _ => e,
        })?;
        mountpoint::check(&mountpoint)?;
        Ok((snapshots, mountpoint))
    }

    fn log_file(&self, mountpoint: &Path) -> Result<PathBuf> {
        match &self.log_file {
            Some(path) => std::path::absolute(path).map_err(|e| Error::io(e, "find", path)),
            None => state::log_file(mountpoint),
        }
    }

    /// The overlay, if one was asked for.
    fn edits(
        &self,
        common: &Common,
        ids: &[SnapshotId],
        mountpoint: &Path,
        store: &Arc<dyn Store>,
        runtime: &Runtime,
    ) -> Result<Option<Edits>> {
        let Some(directory) = &self.overlay else {
            return Ok(None);
        };
        let wanted = Wanted {
            directory,
            snapshots: ids,
            size: self.size,
            mountpoint,
        };
        wanted.settle(common, runtime)?;
        wanted.open(store, runtime).map(Some)
    }

    fn serve(&self, common: &Common) -> Outcome {
        let (ids, mountpoint) = self.what_and_where()?;
        if self.overlay.is_some() {
            // Before there are threads, which inherit it.
            fuse::become_io_flusher();
        }
        let runtime = stack::runtime()?;
        let opened = stack::open_store(common, &runtime)?;
        let store = &opened.store;
        let cache = Arc::new(BlockCache::new(self.reading.cache_size));
        let disk = self.reading.disk.open(&opened, &runtime)?;
        let profiles = match self.no_profile {
            true => None,
            false => self.reading.disk.profiles(&opened, &runtime),
        };
        let mut snapshots = Snapshots::new(store, &cache)
            .on_disk(disk.clone())
            .remembering(profiles.clone());
        if !self.reading.no_read_ahead {
            snapshots = snapshots.reading_ahead();
        }
        let warm = snapshots.warm();
        let described = snapshots.described();
        let (opener, named, commits) =
            match self.edits(common, &ids, &mountpoint, &described, &runtime)? {
                Some(edits) => {
                    let Edits {
                        overlay,
                        base,
                        directory,
                    } = edits;
                    let (opener, below) = snapshots.opener_over(&overlay, &base, &runtime);
                    let config =
                        commit::Config::new(opened.concurrency).within(self.reading.cache_size);
                    let store = Arc::clone(store);
                    let commits = Commits::new(store, overlay, Arc::new(below), directory, config);
                    (opener, Some(vec![base.id]), Some(commits))
                }
                None => {
                    let named = (!ids.is_empty()).then_some(ids);
                    (snapshots.opener(&runtime), named, None)
                }
            };
        let catalog = Arc::new(Catalog::open(
            described,
            runtime.handle().clone(),
            opener,
            named,
        )?);
        let log_file = if self.detached || self.log_file.is_some() {
            self.log_file(&mountpoint).ok()
        } else {
            None
        };
        // The log of a detached daemon was opened by who started it, if it could be.
        let log_file = log_file.filter(|path| !self.detached || path.exists());
        if let (false, Some(path)) = (self.detached, &log_file) {
            daemon::log_to(path)?;
        }
        let session = match commits {
            Some(commits) => Session::new(warm, commits, runtime.handle()),
            None => Session::read_only(warm),
        };
        let socket = listen(&session, &runtime);
        let about = About {
            mountpoint: &mountpoint,
            log_file,
            socket: socket.as_ref().map(Socket::path),
            overlay: self.overlay.as_deref(),
        };
        let control = control(&catalog, &cache, disk.clone(), &opened, about);

        if let Some(profiles) = &profiles {
            profiles.keep_saving();
        }
        let (tell, events) = mpsc::channel();
        watch_signals(&runtime, &tell)?;
        let ended = Box::new(move || drop(tell.send(Event::Ended)));
        let config = fuse::Config {
            mountpoint: mountpoint.clone(),
            allow_other: self.allow_other,
            writable: catalog.is_writable(),
        };
        let exports: Arc<dyn Exports> = Arc::<Catalog>::clone(&catalog);
        let mount = fuse::mount(exports, control, &config, ended)?;
        info!("mounted on {}", mountpoint.display());
        let ready = if self.detached {
            daemon::ready()
        } else {
            Ok(())
        };
        if let Err(e) = ready.and_then(|()| until_ended(&events, &mount, &catalog)) {
            // Without this process the mount would be a dead one.
            drop(detach_own(&mount, true));
            return Err(e.into());
        }
        if let Some(profiles) = &profiles {
            profiles.save();
        }
        if let Some(disk) = &disk {
            disk_cache::settle(disk, &runtime);
        }
        info!(
            "unmounted from {}: {}",
            mountpoint.display(),
            catalog.stats()
        );
        Ok(())
    }
}

fn parse_size(text: &str) -> Result<VolumeSize, String> {
    let gib = text.parse().map_err(|_| "not a number of GiB".to_owned())?;
    VolumeSize::from_gib(gib).map_err(|e| e.to_string())
}

/// The daemon's socket. Without one the mount shows its files all the same.
fn listen(session: &Arc<Session>, runtime: &Runtime) -> Option<Socket> {
    let commands: Arc<dyn Commands> = Arc::<Session>::clone(session);
    Socket::open(&sockets::dir(), runtime.handle(), commands)
        .inspect_err(|e| warn!("nothing can be asked of this mount: {e:#}"))
        .ok()
}
