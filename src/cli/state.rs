//! The user's directories: for state, as how far interrupted work had come and the logs of mounts, and for caches.

use std::path::{Path, PathBuf};

use log::warn;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::block::Digest;
use crate::durable;
use crate::error::{Error, ErrorKind, Result};

/// `$XDG_STATE_HOME/ebsfs`, or `~/.local/state/ebsfs`.
pub(super) fn dir() -> Result<PathBuf> {
    of_user("XDG_STATE_HOME", ".local/state")
}

/// `$XDG_CACHE_HOME/ebsfs`, or `~/.cache/ebsfs`.
pub(super) fn cache_dir() -> Result<PathBuf> {
    of_user("XDG_CACHE_HOME", ".cache")
}

/// Our part of the directory that `variable` names; by default it is `below` in the user's home.
fn of_user(variable: &str, below: &str) -> Result<PathBuf> {
    let absolute = |path: &PathBuf| path.is_absolute();
    let named = std::env::var_os(variable)
        .map(PathBuf::from)
        .filter(absolute);
    let dir = named.or_else(|| {
        std::env::home_dir()
            .filter(absolute)
            .map(|home| home.join(below))
    });
    dir.map(|dir| dir.join("ebsfs")).ok_or_else(|| {
        Error::new(
            ErrorKind::NotFound,
            format!("no such directory of yours: set HOME or {variable}"),
        )
    })
}

/// How far one piece of work has come, kept until it is done.
pub(super) struct Checkpoint {
    path: Option<PathBuf>,
}

impl Checkpoint {
    /// The checkpoint of the work that `verb` does on `parts`: always the same one for the same work.
    ///
    /// Where no state can be kept the work is done all the same, and cannot be continued.
    pub(super) fn of(verb: &str, parts: &[&str]) -> Self {
        let name = Digest::of(parts.join("\n").as_bytes()).to_string();
        let path = dir().and_then(|dir| {
            durable::create_private_dir(&dir)?;
            Ok(dir.join(format!("{verb}-{}.json", name.get(..16).unwrap_or(&name))))
        });
        if let Err(e) = &path {
            warn!("if it is interrupted, this {verb} cannot be continued: {e:#}");
        }
        Self { path: path.ok() }
    }

    /// What was saved last, if it can be read.
    pub(super) fn load<T: DeserializeOwned>(&self) -> Option<T> {
        let bytes = durable::read(self.path.as_deref()?).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// Saves, in place of what was saved before.
    pub(super) fn save(&self, state: &impl Serialize) -> Result<()> {
        let Some(path) = &self.path else {
            return Ok(());
        };
        let bytes =
            serde_json::to_vec(state).map_err(|e| Error::new(ErrorKind::Io, e.to_string()))?;
        durable::publish(path, &bytes)
    }

    /// A file for the details of the same work; it goes with the checkpoint.
    pub(super) fn journal(&self) -> Option<PathBuf> {
        self.path
            .as_ref()
            .map(|path| path.with_extension("journal"))
    }

    /// Forgets: the work is done.
    pub(super) fn clear(&self) {
        for path in self.path.iter().chain(&self.journal()) {
            if let Err(e) = durable::remove(path) {
                warn!("a finished piece of work stays noted as unfinished: {e:#}");
            }
        }
    }
}

/// The log of the mount on `mountpoint`, by default.
pub(super) fn log_file(mountpoint: &Path) -> Result<PathBuf> {
    let name = mountpoint
        .to_string_lossy()
        .trim_matches('/')
        .replace('/', "-");
    // A file's name ends at 255 bytes.
    let tail = name
        .char_indices()
        .rev()
        .map(|(at, _)| at)
        .take_while(|at| name.len() - at <= 200)
        .last();
    let name = tail.and_then(|at| name.get(at..)).unwrap_or_default();
    Ok(dir()?.join(format!("mount-{name}.log")))
}
