//! What a mount tells of itself: the files in `.ebsfs`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};

use super::super::stack::Opened;
use crate::cache::BlockCache;
use crate::cache::disk::DiskCache;
use crate::catalog::Catalog;
use crate::fuse::{Content, Control};
use crate::snapshot::SnapshotId;

/// What a mount tells of itself.
pub(super) struct About<'a> {
    /// None: all of the store.
    pub(super) snapshots: Option<Vec<SnapshotId>>,
    /// Its identity.
    pub(super) store: String,
    pub(super) mountpoint: &'a Path,
    pub(super) log_file: Option<PathBuf>,
    pub(super) socket: Option<&'a Path>,
    pub(super) overlay: Option<&'a Path>,
}

impl About<'_> {
    pub(super) fn as_json(&self) -> Value {
        json!({
            "pid": std::process::id(),
            "version": env!("CARGO_PKG_VERSION"),
            "store": self.store,
            "snapshots": self.snapshots,
            "mountpoint": self.mountpoint,
            "log_file": self.log_file,
            "socket": self.socket,
            "overlay": self.overlay.and_then(|path| std::path::absolute(path).ok()),
        })
    }
}

/// The files in `.ebsfs`.
pub(super) fn control(
    catalog: &Arc<Catalog>,
    cache: &Arc<BlockCache>,
    disk: Option<Arc<DiskCache>>,
    opened: &Opened,
    about: About<'_>,
) -> Vec<Control> {
    let (catalog, cache) = (Arc::clone(catalog), Arc::clone(cache));
    let remote = opened.remote.clone();
    let stats = move || {
        let cache = json!({ "bytes": cache.bytes(), "capacity": cache.capacity() });
        let mut stats = json!({ "snapshots": catalog.stats(), "cache": cache });
        if let Some(disk) = &disk {
            stats["disk_cache"] = json!({ "bytes": disk.bytes(), "capacity": disk.capacity() });
        }
        if let Some(remote) = &remote {
            stats["remote"] = json!(**remote);
        }
        format!("{stats:#}\n")
    };
    let mount = about.as_json();
    let text = |name, text: Box<dyn Fn() -> String + Send + Sync>| Control {
        name,
        content: Content::Text(text),
    };
    let mut control = vec![
        text("stats.json", Box::new(stats)),
        text("mount.json", Box::new(move || format!("{mount:#}\n"))),
    ];
    let links = [
        ("log", about.log_file),
        ("socket", about.socket.map(Path::to_owned)),
    ];
    control.extend(links.into_iter().filter_map(|(name, path)| {
        let content = Content::Link(path?);
        Some(Control { name, content })
    }));
    control
}
