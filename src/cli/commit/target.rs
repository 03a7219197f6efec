//! What is to be committed: a mount, whose daemon is asked, or an overlay that nobody has mounted.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::runtime::Runtime;

use super::super::disk_cache::profiles;
use super::super::mounted::Mounted;
use super::super::stack::{self, Base, Opened, Snapshots};
use super::super::{Common, state};
use super::check_store;
use crate::cache::BlockCache;
use crate::commit::{Below as _, Commits, Config, Plan};
use crate::error::{Error, ErrorKind, Result};
use crate::fuse::mountpoint::{FS_TYPE, canonical, mounted_at};
use crate::overlay::{Header, LocalDirectory, Overlay, look, read_header};

pub(super) enum Target {
    Mounted(Mounted),
    /// The directory of an overlay.
    Unmounted(PathBuf),
}

impl Target {
    pub(super) fn find(path: &Path) -> Result<Self> {
        let path = canonical(path)?;
        match Mounted::at(&path)? {
            Some(mounted) => Ok(Self::Mounted(mounted)),
            None if read_header(&path)?.is_some() => Ok(Self::Unmounted(path)),
            None => Err(Error::new(
                ErrorKind::NotFound,
                format!(
                    "{} is neither a mount of ebsfs nor the directory of an overlay: `findmnt -t {FS_TYPE}` shows mounts",
                    path.display()
                ),
            )),
        }
    }
}

/// Where an overlay is mounted by a daemon that lives, as far as the daemon said so.
pub(in crate::cli) fn held(path: &Path) -> Result<Option<PathBuf>> {
    let holder = LocalDirectory::holder(path)?;
    let at = holder.and_then(|holder| {
        let at = holder.doing.strip_prefix("mounted on ")?;
        Some(PathBuf::from(at))
    });
    // One that is unmounted already lets go of it in a moment.
    Ok(at.filter(|at| mounted_at(at).is_ok_and(|mount| mount.is_some())))
}

/// An overlay that this process has, and what is needed to commit it.
pub(in crate::cli) struct Unmounted {
    pub(in crate::cli) opened: Opened,
    pub(in crate::cli) commits: Commits,
}

/// Memory for blocks that are merged with what was written.
const CACHE: usize = 64 << 20;

/// The store of the overlay at `path`, and its header. Nothing is touched.
fn reach(common: &Common, runtime: &Runtime, path: &Path) -> Result<(Opened, Header)> {
    if let Some(mountpoint) = held(path)? {
        let at = mountpoint.display();
        return Err(Error::new(
            ErrorKind::Conflict,
            format!(
                "the overlay {} is mounted on {at}: `ebsfs commit {at}` commits it",
                path.display()
            ),
        ));
    }
    let opened = stack::open_store(common, runtime)?;
    let header = read_header(path)?.ok_or_else(|| missing(path))?;
    check_store(&opened.store.identity(), &header.store, "is from")?;
    Ok((opened, header))
}

fn missing(path: &Path) -> Error {
    let what = format!("there is no overlay in {}", path.display());
    Error::new(ErrorKind::NotFound, what)
}

/// What lies below an overlay that is not mounted.
fn below(opened: &Opened, header: &Header, runtime: &Runtime) -> Result<Base> {
    let base = runtime.block_on(opened.store.info(&header.base));
    let base = base.map_err(|e| e.context("the overlay's base cannot be found"))?;
    let cache = Arc::new(BlockCache::new(CACHE));
    let profiles = state::cache_dir()
        .ok()
        .and_then(|dir| profiles(&dir, opened, runtime));
    let snapshots = Snapshots::new(&opened.store, &cache).remembering(profiles);
    Ok(snapshots.below(&base))
}

/// What a commit of the overlay at `path` would do, and in which store.
pub(super) fn plan(common: &Common, runtime: &Runtime, path: &Path) -> Result<(Plan, String)> {
    let (opened, _) = reach(common, runtime, path)?;
    let overlay = look(path)?.ok_or_else(|| missing(path))?;
    let base = below(&opened, &overlay.0, runtime)?.source();
    let plan = runtime.block_on(Plan::of(path, overlay, base))?;
    Ok((plan, opened.store.identity()))
}

impl Unmounted {
    pub(in crate::cli) fn open(common: &Common, runtime: &Runtime, path: &Path) -> Result<Self> {
        let (opened, _) = reach(common, runtime, path)?;
        let directory = LocalDirectory::open(path)?;
        directory.describe("committing it")?;
        let overlay = Overlay::open(Arc::new(directory))?.ok_or_else(|| missing(path))?;
        let below = below(&opened, &overlay.header(), runtime)?;
        let commits = Commits::new(
            Arc::clone(&opened.store),
            Arc::new(overlay),
            Arc::new(below),
            path.to_owned(),
            Config::new(opened.concurrency),
        );
        Ok(Self { opened, commits })
    }
}
