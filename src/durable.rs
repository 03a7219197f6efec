//! What survives a power failure: the only renames and syncs of this crate.
//!
//! A file is published in one order: temporary file beside it, write, sync the file, rename, sync the
//! directory. Readers therefore see all of it or nothing, before and after a crash. Files whose name is their
//! content's digest are [`place`]d without a sync; one [`flush`] makes all of them durable at once, before
//! anything refers to them.
#![allow(clippy::disallowed_methods)] // Here, and nowhere else.

use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher as _, RandomState};
use std::io::{self, ErrorKind as IoKind, Write as _};
use std::num::NonZeroU64;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{RenameFlags, renameat_with};
use rustix::io::Errno;

use crate::error::{Error, ErrorKind, Result};

/// Makes `path` hold exactly `bytes`, durably, replacing what was there.
///
/// After `NoSpace` it holds what it held before; after another failure that is not known.
pub fn publish(path: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = write_beside(path, bytes, File::sync_all)?;
    place_or_remove(&temporary, path)?;
    // The name is given by now: that there was no room must not be told of this step.
    sync_dir(parent(path)).map_err(|e| match e.kind() {
        ErrorKind::NoSpace => Error::new(ErrorKind::Io, format!("{e:#}")),
        _ => e,
    })
}

/// Makes `path` hold `bytes` in place of what was there, for whoever looks, and syncs nothing: after a power failure it
/// may hold anything. For what is checked when it is read, and can be done without.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = write_beside(path, bytes, |_| Ok(()))?;
    place_or_remove(&temporary, path)
}

/// Like [`publish`], but never replaces: `false` if `path` existed, which is then untouched.
pub fn publish_new(path: &Path, bytes: &[u8]) -> Result<bool> {
    let temporary = write_beside(path, bytes, File::sync_all)?;
    let placed = place_new(&temporary, path);
    if placed.is_err() {
        drop(fs::remove_file(&temporary));
    }
    match placed {
        Ok(()) => sync_dir(parent(path)).map(|()| true),
        Err(e) if e.kind() == ErrorKind::Conflict => Ok(false),
        Err(e) => Err(e),
    }
}

/// Renames `temporary` to `path`, replacing what was there, without any sync. If that fails both stay.
pub fn place(temporary: &Path, path: &Path) -> Result<()> {
    fs::rename(temporary, path).map_err(|e| Error::io(e, "create", path))
}

fn place_or_remove(temporary: &Path, path: &Path) -> Result<()> {
    place(temporary, path).inspect_err(|_| drop(fs::remove_file(temporary)))
}

/// Like [`place`], but never replaces: `Conflict` if `path` exists, and both files stay.
pub fn place_new(temporary: &Path, path: &Path) -> Result<()> {
    let cwd = rustix::fs::CWD;
    match renameat_with(cwd, temporary, cwd, path, RenameFlags::NOREPLACE) {
        // Not every file system can. A second name does the same, as it is never given twice.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => fs::hard_link(temporary, path)
            .and_then(|()| fs::remove_file(temporary))
            .map_err(|e| Error::io(e, "create", path)),
        renamed => renamed.map_err(|e| Error::io(e.into(), "create", path)),
    }
}

/// Renames `temporary` to `name`, both in `dir`, in place of what file or link is there, which is not followed, without any sync.
/// If that fails both stay.
pub fn place_at(dir: BorrowedFd<'_>, temporary: &str, name: &[u8]) -> Result<()> {
    Ok(renameat_with(
        dir,
        temporary,
        dir,
        name,
        RenameFlags::empty(),
    )?)
}

/// Makes everything durable that was written to the file system that holds `dir`.
///
/// Reports write errors of any file there since `dir` was opened, so open it before the first write.
pub fn flush(dir: &File) -> Result<()> {
    rustix::fs::syncfs(dir)
        .map_err(|e| Error::from(e).context("cannot make what was written durable"))
}

/// Lets the kernel begin to write a range of `file`, so that a later sync has less to wait for. Promises nothing.
pub fn begin(file: &File, offset: u64, len: usize) {
    // Advice that the range is not needed starts its writeback; what is being written stays cached.
    let len = u64::try_from(len).ok().and_then(NonZeroU64::new);
    let _ = rustix::fs::fadvise(file, offset, len, rustix::fs::Advice::DontNeed);
}

/// Makes a file's data and size durable.
pub fn sync_file(file: &File, path: &Path) -> Result<()> {
    file.sync_all()
        .map_err(|e| Error::io(e, "make durable", path))
}

/// Makes a file's data durable, and of the rest what it takes to find them: its size.
pub fn sync_data(file: &File, path: &Path) -> Result<()> {
    file.sync_data()
        .map_err(|e| Error::io(e, "make durable", path))
}

/// Makes the entries of a directory durable.
pub fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(|e| Error::io(e, "make durable", dir))
}

/// Removes a file durably; `false` if there was none.
pub fn remove(path: &Path) -> Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => sync_dir(parent(path)).map(|()| true),
        Err(e) if e.kind() == IoKind::NotFound => Ok(false),
        Err(e) => Err(Error::io(e, "remove", path)),
    }
}

/// A new file that only its owner may read, in place of nothing.
pub fn create_private(path: &Path) -> Result<File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(|e| Error::io(e, "create", path))
}

/// A directory that only its owner may enter, and its parents; what exists keeps its mode.
pub fn create_private_dir(path: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|e| Error::io(e, "create", path))
}

/// A file name that no other thread or process uses or used.
///
/// A process's number would not do: containers that share a directory count theirs alike, and each start anew.
pub fn unique_name() -> String {
    static PROCESS: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(()));
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!(
        "{:016x}-{}.tmp",
        *PROCESS,
        NEXT.fetch_add(1, Ordering::Relaxed)
    )
}

/// Whether that is one of them.
pub fn is_unique_name(name: &[u8]) -> bool {
    let Some((process, rest)) = name.split_at_checked(16) else {
        return false;
    };
    let number = rest
        .strip_prefix(b"-")
        .and_then(|rest| rest.strip_suffix(b".tmp"));
    process.iter().all(u8::is_ascii_hexdigit)
        && number.is_some_and(|number| !number.is_empty() && number.iter().all(u8::is_ascii_digit))
}

fn write_beside(
    path: &Path,
    bytes: &[u8],
    sync: impl FnOnce(&File) -> io::Result<()>,
) -> Result<PathBuf> {
    let temporary = parent(path).join(format!(".{}", unique_name()));
    let written = create_private(&temporary).and_then(|mut file| {
        file.write_all(bytes)
            .and_then(|()| sync(&file))
            .map_err(|e| Error::io(e, "write", path))
    });
    match written {
        Ok(()) => Ok(temporary),
        Err(e) => {
            drop(fs::remove_file(&temporary));
            Err(e)
        }
    }
}

/// The directory in which `path` has its name.
pub fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// What the file at `path` holds; `NotFound` with its name if it is missing.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|e| match e.kind() {
        IoKind::NotFound => Error::new(
            ErrorKind::NotFound,
            format!("{} does not exist", path.display()),
        ),
        _ => Error::io(e, "read", path),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unique_names_are_known_again() {
        assert!(is_unique_name(unique_name().as_bytes()));
        for other in [
            "",
            "-.tmp",
            "0123456789abcdef-.tmp",
            "0123456789abcdef-1",
            "0123456789abcdeg-1.tmp",
        ] {
            assert!(!is_unique_name(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn publishing_replaces_or_refuses_and_leaves_no_temporary_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record");
        publish(&path, b"one").unwrap();
        publish(&path, b"two").unwrap();
        assert!(!publish_new(&path, b"three").unwrap());
        assert_eq!(read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(remove(&path).unwrap());
        assert!(!remove(&path).unwrap());
        assert!(publish_new(&path, b"three").unwrap());
        replace(&path, b"four").unwrap();
        assert_eq!(read(&path).unwrap(), b"four");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
