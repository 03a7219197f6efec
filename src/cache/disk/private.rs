//! Files and directories that only their owner may use.
//!
//! What was made with other modes, by another user, or is a link, is refused: somebody else may have put it there.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::ErrorKind as IoKind;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use crate::durable;
use crate::error::{Error, ErrorKind, Result};

/// How a file is opened.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Mode {
    /// If it exists.
    Existing,
    /// Made if it is missing.
    Create,
    /// Made if it is missing, and each write goes to its end.
    Append,
    /// If it exists, and past the page cache.
    Direct,
}

impl Mode {
    fn creates(self) -> bool {
        match self {
            Self::Create | Self::Append => true,
            Self::Existing | Self::Direct => false,
        }
    }

    fn flags(self) -> i32 {
        // Nor does it wait for the other end of a pipe.
        let always = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        match self {
            Self::Direct => always | libc::O_DIRECT,
            Self::Existing | Self::Create | Self::Append => always,
        }
    }
}

/// The directory at `path`, made if it is missing.
pub(super) fn directory(path: &Path) -> Result<()> {
    durable::create_private_dir(path)?;
    let found = fs::symlink_metadata(path).map_err(|e| Error::io(e, "look at", path))?;
    if found.is_dir() && is_private(&found) {
        return Ok(());
    }
    Err(foreign(path, "directory"))
}

/// The file at `path`, to be read and written; none if it is missing and not to be made.
pub(super) fn open(path: &Path, mode: Mode) -> Result<Option<File>> {
    let opened = OpenOptions::new()
        .read(true)
        .write(mode != Mode::Append)
        .append(mode == Mode::Append)
        .create(mode.creates())
        .truncate(false)
        .mode(0o600)
        .custom_flags(mode.flags())
        .open(path);
    let file = match opened {
        Ok(file) => file,
        Err(e) if e.kind() == IoKind::NotFound && !mode.creates() => return Ok(None),
        Err(e) => return Err(Error::io(e, "open", path)),
    };
    let found = file.metadata().map_err(|e| Error::io(e, "look at", path))?;
    if found.is_file() && is_private(&found) && found.nlink() <= 1 {
        return Ok(Some(file));
    }
    Err(foreign(path, "file"))
}

fn is_private(found: &Metadata) -> bool {
    found.uid() == rustix::process::geteuid().as_raw() && found.mode() & 0o077 == 0
}

fn foreign(path: &Path, what: &str) -> Error {
    let what = format!(
        "{} is not a {what} that only you may use: remove it, or name another directory with --cache-dir",
        path.display()
    );
    Error::new(ErrorKind::Denied, what)
}

/// Removes whatever is at `path`.
pub(super) fn remove(path: &Path) -> Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(e) => Err(e),
    };
    match removed {
        Err(e) if e.kind() != IoKind::NotFound => Err(Error::io(e, "remove", path)),
        _ => Ok(()),
    }
}

/// The names in a directory that are text, as all are that this program gives.
pub(super) fn names(dir: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(dir).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let entries = entries.map_err(|e| Error::io(e, "read", dir))?;
    let name = |entry: fs::DirEntry| entry.file_name().into_string().ok();
    Ok(entries.into_iter().filter_map(name).collect())
}
