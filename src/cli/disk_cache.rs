//! The disk cache as an option: where it is, and how large.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use log::warn;
use tokio::runtime::Runtime;
use tokio::time::timeout;

use super::stack::Opened;
use super::{parse_bytes, state};
use crate::blocking::blocking;
use crate::cache::disk::{Config, DiskCache};
use crate::error::{Error, ErrorKind, Result};
use crate::profile::Profiles;

#[derive(Args)]
pub(super) struct DiskOptions {
    /// Where blocks of remote snapshots and access profiles are kept between mounts [default: ebsfs in the user's cache directory]
    #[arg(long, value_name = "DIR")]
    cache_dir: Option<PathBuf>,

    /// Disk space for them; 0 or none: nothing is kept
    #[arg(long, value_name = "BYTES", default_value = "10GiB", value_parser = parse_disk_size)]
    cache_disk_size: u64,
}

fn parse_disk_size(text: &str) -> Result<u64, String> {
    let bytes = match text {
        "none" => 0,
        _ => parse_bytes(text)?.try_into().unwrap_or(u64::MAX),
    };
    match bytes {
        0 => Ok(0),
        Config::LEAST_LIMIT.. => Ok(bytes),
        _ => Err("at least 64MiB, or none; a number without unit is in bytes".into()),
    }
}

/// Beside what else is kept in the cache directory; another layout would have another name.
const BLOCKS: &str = "blocks/v1";
const PROFILES: &str = "profiles";

/// How long a mount waits for the disk before it goes on without.
const PATIENCE: Duration = Duration::from_secs(5);

impl DiskOptions {
    /// The disk cache for that store. A local one needs none. Where the default directory cannot be used there is none,
    /// and the log says so; one that was asked for must be usable.
    pub(super) fn open(
        &self,
        opened: &Opened,
        runtime: &Runtime,
    ) -> Result<Option<Arc<DiskCache>>> {
        self.check(opened)?;
        if opened.remote.is_none() || self.cache_disk_size == 0 {
            return Ok(None);
        }
        match self.try_open(runtime) {
            Err(e) if self.cache_dir.is_none() => {
                warn!("no blocks are kept on disk: {e:#}");
                Ok(None)
            }
            opened => opened.map(Some),
        }
    }

    /// The access profiles of the store's snapshots, if there is a place for them.
    pub(super) fn profiles(&self, opened: &Opened, runtime: &Runtime) -> Option<Arc<Profiles>> {
        self.dir()
            .ok()
            .and_then(|dir| profiles(&dir, opened, runtime))
    }

    /// The directory that [`open`](Self::open) opens, which need not exist; none if nothing is kept there.
    pub(super) fn blocks(&self, opened: &Opened) -> Result<Option<PathBuf>> {
        self.check(opened)?;
        if opened.remote.is_none() || self.cache_disk_size == 0 {
            return Ok(None);
        }
        match self.dir() {
            Err(_) if self.cache_dir.is_none() => Ok(None),
            dir => dir.map(|dir| Some(dir.join(BLOCKS))),
        }
    }

    fn check(&self, opened: &Opened) -> Result<()> {
        if opened.remote.is_none() && self.cache_dir.is_some() {
            return Err(Error::new(
                ErrorKind::Invalid,
                "--cache-dir is for stores that are far away, and this one is a local directory: leave it out",
            ));
        }
        Ok(())
    }

    fn dir(&self) -> Result<PathBuf> {
        match &self.cache_dir {
            Some(dir) => std::path::absolute(dir).map_err(|e| Error::io(e, "find", dir)),
            None => state::cache_dir(),
        }
    }

    fn try_open(&self, runtime: &Runtime) -> Result<Arc<DiskCache>> {
        let dir = self.dir()?;
        let top = dir.join(BLOCKS);
        let config = Config {
            limit: self.cache_disk_size,
            ..Config::default()
        };
        let what = format!("the disk cache {} cannot be used", dir.display());
        let open = blocking("opening the disk cache", move || {
            DiskCache::open(&top, config)
        });
        let opened = runtime.block_on(async { timeout(PATIENCE, open).await });
        let opened = opened.unwrap_or_else(|_| {
            let what = format!("the disk did not answer for {} s", PATIENCE.as_secs());
            Err(Error::new(ErrorKind::Unavailable, what))
        });
        opened.map(Arc::new).map_err(|e| e.context(what))
    }
}

/// The access profiles in the cache directory `dir`, unless the store is as near as they are.
pub(super) fn profiles(dir: &Path, opened: &Opened, runtime: &Runtime) -> Option<Arc<Profiles>> {
    opened.remote.as_ref()?;
    let (store, runtime) = (opened.store.identity(), runtime.handle().clone());
    let profiles = Profiles::new(dir.join(PROFILES), store, runtime);
    Some(Arc::new(profiles))
}

/// How long the program waits in the end for what is being written.
const LAST_WAIT: Duration = Duration::from_secs(2);

/// Lets what was read last be kept, too.
pub(super) fn settle(disk: &DiskCache, runtime: &Runtime) {
    let settled = runtime.block_on(async { timeout(LAST_WAIT, disk.settle()).await });
    if settled.is_err() {
        warn!("what was read last is not kept: the disk is too slow");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_a_size_and_next_to_nothing_is_not() {
        assert_eq!(parse_disk_size("none"), Ok(0));
        assert_eq!(parse_disk_size("0"), Ok(0));
        assert_eq!(parse_disk_size("64MiB"), Ok(64 << 20));
        assert_eq!(parse_disk_size("2T"), Ok(2 << 40));
        assert!(parse_disk_size("10").is_err());
        assert!(parse_disk_size("some").is_err());
    }
}
