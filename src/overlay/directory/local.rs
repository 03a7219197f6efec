//! The real directory of an overlay, and who has it.
//!
//! It is made with mode 0700, its files with 0600. The file `lock` is locked as long as the value lives, and holds
//! the number of the process that did and what that said it is doing: `4711 mounted on /mnt/x`.

use std::fs::{self, OpenOptions};
use std::io::ErrorKind as IoKind;
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use super::super::names::HEADER;
use super::{Directory, File};
use crate::durable;
use crate::error::{Error, ErrorKind, Result};
use crate::lock;
use crate::read_at::read_padded;

/// How long to wait for who has the overlay: a daemon that was unmounted may still be making things durable.
const PATIENCE: Duration = Duration::from_secs(10);

const LOCK: &str = "lock";

/// Which process has an overlay, and what it said it is doing, as far as known.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Holder {
    /// Its number.
    pub pid: Option<u32>,
    /// Its own words, empty if it said nothing.
    pub doing: String,
}

impl Holder {
    fn parse(text: &str) -> Self {
        let (pid, doing) = text.trim_end().split_once(' ').unwrap_or((text.trim(), ""));
        Self {
            pid: pid.parse().ok(),
            doing: doing.to_owned(),
        }
    }

    fn in_use(&self, path: &Path) -> Error {
        let who = match self.pid {
            Some(pid) => format!("process {pid}"),
            None => "another process".to_owned(),
        };
        let doing = match self.doing.as_str() {
            "" => String::new(),
            doing => format!(" ({doing})"),
        };
        Error::new(
            ErrorKind::Conflict,
            format!("overlay {} is in use by {who}{doing}", path.display()),
        )
    }
}

/// A directory on this machine, locked.
pub struct LocalDirectory {
    path: PathBuf,
    lock: fs::File,
}

impl LocalDirectory {
    /// Takes the directory at `path`, and makes it if it is missing. Waits for a while if another process has it,
    /// then tells who: `Conflict`. One that holds something else than an overlay is `Invalid`, and not touched.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_within(path, PATIENCE)
    }

    /// The same, with another patience.
    pub fn open_within(path: &Path, patience: Duration) -> Result<Self> {
        let missing: Vec<_> = path
            .ancestors()
            .take_while(|ancestor| !ancestor.as_os_str().is_empty() && !ancestor.exists())
            .collect();
        durable::create_private_dir(path)?;
        for made in missing {
            durable::sync_dir(durable::parent(made))?;
        }
        check_content(path)?;
        let lock = lock::take(&path.join(LOCK), patience)?;
        let lock = lock.ok_or_else(|| told(path).in_use(path))?;
        let directory = Self {
            path: path.to_owned(),
            lock,
        };
        directory.say("")?;
        for name in directory.names()? {
            if is_temporary(&name) {
                directory.remove(&name)?;
            }
        }
        Ok(directory)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Tells whoever finds the directory locked what it is used for.
    pub fn describe(&self, doing: &str) -> Result<()> {
        self.say(&format!(" {doing}"))
    }

    /// Who has the directory at `path` at the moment; none also if there is no such directory.
    pub fn holder(path: &Path) -> Result<Option<Holder>> {
        let taken = lock::is_taken(&path.join(LOCK))?;
        Ok(taken.then(|| told(path)))
    }

    /// Removes the files of the overlay, and no others: there are none. After the first it is no overlay any more.
    pub fn erase(&self) -> Result<()> {
        self.remove(HEADER)?;
        self.sync()?;
        for name in self.names()? {
            if name != LOCK {
                self.remove(&name)?;
            }
        }
        self.remove(LOCK)?;
        self.sync()?;
        match fs::remove_dir(&self.path) {
            // It may be a mount point, or hold something by now.
            Err(e) if e.kind() != IoKind::NotFound => log::debug!("the directory stays: {e}"),
            _ => {}
        }
        Ok(())
    }

    fn say(&self, doing: &str) -> Result<()> {
        let text = format!("{}{doing}\n", std::process::id());
        self.lock
            .set_len(0)
            .and_then(|()| self.lock.write_all_at(text.as_bytes(), 0))
            .or_else(|e| match e.kind() {
                // What it says is a help to people: no reason to refuse what a full disk permits, such as reading.
                IoKind::StorageFull | IoKind::QuotaExceeded => Ok(()),
                _ => Err(e),
            })
            .map_err(|e| Error::io(e, "write", &self.path.join(LOCK)))
    }
}

/// What the holder of the lock wrote.
fn told(path: &Path) -> Holder {
    Holder::parse(&fs::read_to_string(path.join(LOCK)).unwrap_or_default())
}

/// `Invalid` if there is anything at `path` that no overlay puts there.
fn check_content(path: &Path) -> Result<()> {
    for name in list(path)? {
        let known = [HEADER, LOCK, "puts"].contains(&name.as_str())
            || name.starts_with("layer-")
            || is_temporary(&name);
        if !known {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "{} is not an overlay: it holds {name:?}; name an empty or a new directory",
                    path.display()
                ),
            ));
        }
    }
    Ok(())
}

/// Whether it is a file that was to be published when its writer ended.
fn is_temporary(name: &str) -> bool {
    name.starts_with('.') && name.ends_with(".tmp")
}

pub(super) fn list(path: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let entries = entries.map_err(|e| Error::io(e, "read", path))?;
    let name = |entry: fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
    Ok(entries.into_iter().map(name).collect())
}

impl Directory for LocalDirectory {
    fn open(&self, name: &str, create: bool) -> Result<Option<Arc<dyn File>>> {
        let path = self.path.join(name);
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .create(create)
            .truncate(false)
            .mode(0o600)
            .open(&path);
        match opened {
            Ok(file) => Ok(Some(Arc::new(LocalFile { path, file }))),
            Err(e) if e.kind() == IoKind::NotFound && !create => Ok(None),
            Err(e) => Err(Error::io(e, "open", &path)),
        }
    }

    fn names(&self) -> Result<Vec<String>> {
        list(&self.path)
    }

    fn publish(&self, name: &str, bytes: &[u8]) -> Result<()> {
        durable::publish(&self.path.join(name), bytes)
    }

    fn remove(&self, name: &str) -> Result<()> {
        let path = self.path.join(name);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != IoKind::NotFound => Err(Error::io(e, "remove", &path)),
            _ => Ok(()),
        }
    }

    fn sync(&self) -> Result<()> {
        durable::sync_dir(&self.path)
    }

    fn display(&self, name: &str) -> String {
        self.path.join(name).display().to_string()
    }
}

/// A file of a [`LocalDirectory`].
struct LocalFile {
    path: PathBuf,
    file: fs::File,
}

/// The file at `path`, to be read only; none if there is none.
pub(in crate::overlay) fn open_read_only(path: &Path) -> Result<Option<Arc<dyn File>>> {
    match fs::File::open(path) {
        Ok(file) => Ok(Some(Arc::new(LocalFile {
            path: path.to_owned(),
            file,
        }))),
        Err(e) if matches!(e.kind(), IoKind::NotFound | IoKind::NotADirectory) => Ok(None),
        Err(e) => Err(Error::io(e, "open", path)),
    }
}

impl LocalFile {
    fn allocate(&self, flags: FallocateFlags, range: Range<u64>, deed: &str) -> Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        loop {
            match fallocate(&self.file, flags, range.start, range.end - range.start) {
                Err(Errno::INTR) => {}
                Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(()),
                Err(e) => return Err(Error::io(e.into(), deed, &self.path)),
            }
        }
    }
}

impl File for LocalFile {
    fn length(&self) -> Result<u64> {
        let metadata = self.file.metadata();
        let metadata = metadata.map_err(|e| Error::io(e, "look at", &self.path))?;
        Ok(metadata.len())
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        read_padded(&self.file, offset, buf).map_err(|e| Error::io(e, "read", &self.path))
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.file
            .write_all_at(data, offset)
            .map_err(|e| Error::io(e, "write", &self.path))
    }

    fn reserve(&self, range: Range<u64>) -> Result<()> {
        self.allocate(FallocateFlags::KEEP_SIZE, range, "take room in")
    }

    fn punch(&self, range: Range<u64>) -> Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        self.allocate(flags, range, "give room back in")
    }

    fn truncate(&self, length: u64) -> Result<()> {
        self.file
            .set_len(length)
            .map_err(|e| Error::io(e, "cut", &self.path))
    }

    fn sync(&self) -> Result<()> {
        durable::sync_data(&self.file, &self.path)
    }
}
