//! A daemon that shows snapshots in a directory until its mount ends: how it works, and its work.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;

use clap::Args;
use log::{info, warn};
use tokio::runtime::Runtime;

use super::super::notice::Notice;
use super::super::reading::Reading;
use super::super::stack::{self, Snapshots};
use super::super::{Common, Outcome, daemon, disk_cache, sockets, state};
use super::about::{About, control};
use super::edits::{Edits, Wanted};
use super::ending::{Event, until_ended, watch_signals};
use crate::cache::BlockCache;
use crate::catalog::Catalog;
use crate::commit::{self, Commits};
use crate::control::{Commands, Socket};
use crate::error::{Error, Result};
use crate::fuse::mountpoint::detach_own;
use crate::fuse::{self, Exports};
use crate::session::Session;
use crate::snapshot::{SnapshotId, VolumeSize};
use crate::store::Store;

/// How a daemon reads and keeps blocks, and where it logs.
#[derive(Args)]
pub(in crate::cli) struct Serving {
    #[command(flatten)]
    reading: Reading,

    /// Neither note which blocks are read, nor fetch ahead what the last mount of the snapshot read
    #[arg(long)]
    no_profile: bool,

    /// Where to log [default when detached: a file for each mount point in the user's state directory]
    #[arg(long, value_name = "FILE")]
    log_file: Option<PathBuf>,
}

/// What a daemon shows, and where.
pub(in crate::cli) struct Shown {
    /// None: all of the store.
    pub(in crate::cli) snapshots: Vec<SnapshotId>,
    /// An empty directory, as a canonical path.
    pub(in crate::cli) mountpoint: PathBuf,
    /// What the user knows of it, by which its log is called.
    pub(in crate::cli) named: PathBuf,
    pub(in crate::cli) overlay: Option<PathBuf>,
    pub(in crate::cli) size: Option<VolumeSize>,
    pub(in crate::cli) allow_other: bool,
}

impl Shown {
    /// The overlay, if one was asked for.
    fn edits(
        &self,
        common: &Common,
        store: &Arc<dyn Store>,
        runtime: &Runtime,
    ) -> Result<Option<Edits>> {
        let Some(directory) = &self.overlay else {
            return Ok(None);
        };
        let wanted = Wanted {
            directory,
            snapshots: &self.snapshots,
            size: self.size,
            mountpoint: &self.named,
        };
        wanted.settle(common, runtime)?;
        wanted.open(store, runtime).map(Some)
    }
}

impl Serving {
    /// The log of the detached daemon of what the user knows as `named`. One that was not asked for is not worth
    /// failing for: this may be a rescue system that can write nowhere.
    pub(in crate::cli) fn open_log(&self, named: &Path) -> Result<Option<File>> {
        let path = self.log_file(named);
        let opened = path.and_then(|path| {
            let log = daemon::open_log(&path)?;
            info!("the log of {} is {}", named.display(), path.display());
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

    fn log_file(&self, named: &Path) -> Result<PathBuf> {
        match &self.log_file {
            Some(path) => std::path::absolute(path).map_err(|e| Error::io(e, "find", path)),
            None => state::log_file(named),
        }
    }

    /// Shows it until the mount ends. A detached daemon tells who started it when the mount answers.
    pub(in crate::cli) fn serve(&self, common: &Common, shown: &Shown, detached: bool) -> Outcome {
        let mountpoint = &shown.mountpoint;
        if shown.overlay.is_some() {
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
        let (opener, named, commits) = match shown.edits(common, &described, &runtime)? {
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
                let ids = &shown.snapshots;
                let named = (!ids.is_empty()).then(|| ids.clone());
                (snapshots.opener(&runtime), named, None)
            }
        };
        let catalog = Arc::new(Catalog::open(
            described,
            runtime.handle().clone(),
            opener,
            named.clone(),
        )?);
        let log_file = if detached || self.log_file.is_some() {
            self.log_file(&shown.named).ok()
        } else {
            None
        };
        // The log of a detached daemon was opened by who started it, if it could be.
        let log_file = log_file.filter(|path| !detached || path.exists());
        if let (false, Some(path)) = (detached, &log_file) {
            daemon::log_to(path)?;
        }
        let session = match commits {
            Some(commits) => Session::new(warm, commits, runtime.handle()),
            None => Session::read_only(warm),
        };
        let socket = listen(&session, &runtime);
        let about = About {
            snapshots: named,
            store: store.identity(),
            mountpoint,
            log_file,
            socket: socket.as_ref().map(Socket::path),
            overlay: shown.overlay.as_deref(),
        };
        let told = about.as_json();
        let control = control(&catalog, &cache, disk.clone(), &opened, about);

        if let Some(profiles) = &profiles {
            profiles.keep_saving();
        }
        let (tell, events) = mpsc::channel();
        watch_signals(&runtime, &tell)?;
        let ended = Box::new(move || drop(tell.send(Event::Ended)));
        let config = fuse::Config {
            mountpoint: mountpoint.clone(),
            allow_other: shown.allow_other,
            writable: catalog.is_writable(),
        };
        let exports: Arc<dyn Exports> = Arc::<Catalog>::clone(&catalog);
        let mount = fuse::mount(exports, control, &config, ended)?;
        info!("mounted on {}", mountpoint.display());
        let notice = Notice::put(told, &mount);
        let ready = if detached { daemon::ready() } else { Ok(()) };
        if let Err(e) = ready.and_then(|()| until_ended(&events, &mount, &catalog)) {
            // Without this process the mount would be a dead one.
            drop(detach_own(&mount, true));
            return Err(e.into());
        }
        drop(notice);
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

/// The daemon's socket. Without one the mount shows its files all the same.
fn listen(session: &Arc<Session>, runtime: &Runtime) -> Option<Socket> {
    let commands: Arc<dyn Commands> = Arc::<Session>::clone(session);
    Socket::open(&sockets::dir(), runtime.handle(), commands)
        .inspect_err(|e| warn!("nothing can be asked of this mount: {e:#}"))
        .ok()
}
