//! A directory that is held open, and what is done in it: each call with one name, no link ever followed.

use std::ffi::CStr;
use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, FlockOperation, Mode, OFlags, ResolveFlags, chmodat,
    fgetxattr_query, flock, fstat, linkat, mkdirat, openat, openat2, statat, symlinkat, unlinkat,
};
use rustix::io::Errno;

use super::attributes::{Attributes, by_handle};
use super::same;
use crate::durable;
use crate::error::{Error, ErrorKind, Result};

/// A directory below the destination, or that itself.
pub(super) struct Place {
    pub(super) fd: OwnedFd,
    /// Its own, given in the end; none for the destination, which is the user's.
    pub(super) attributes: Option<Attributes>,
    /// In the tree.
    pub(super) shown: Vec<u8>,
    /// Whether what is made in it gets access control lists from it.
    pub(super) bequeaths: bool,
}

/// A file that is not complete. Removed unless it is placed.
pub(super) struct Temporary<'a> {
    place: &'a Place,
    name: String,
}

/// For who owns it alone, as long as it is not complete.
const PRIVATE: Mode = Mode::RWXU;

/// New files that may be taken for leftovers, one after the other, before somebody is thought to do it on purpose.
const CREATE_TRIES: usize = 16;

impl Place {
    pub(super) fn root(fd: OwnedFd) -> Self {
        Self {
            bequeaths: bequeaths(&fd),
            fd,
            attributes: None,
            shown: vec![],
        }
    }

    /// The directory `name`, made if there is none. `Conflict` if that is something else.
    pub(super) fn enter(&self, name: &[u8], attributes: Attributes, shown: &[u8]) -> Result<Self> {
        match mkdirat(&self.fd, name, PRIVATE) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        let fd = match beneath(&self.fd, name, OFlags::RDONLY) {
            Err(Errno::ACCESS) => self.open_forbidden(name)?,
            opened => opened.map_err(|errno| match errno {
                Errno::LOOP | Errno::NOTDIR => Error::new(
                    ErrorKind::Conflict,
                    "at the destination there is something else than a directory by that name",
                ),
                errno => errno.into(),
            })?,
        };
        let stat = fstat(&fd)?;
        if !Mode::from_raw_mode(stat.st_mode).contains(PRIVATE) {
            // One of before, which gets its mode again in the end. What is not ours refuses that, and maybe no file.
            let _ = rustix::fs::fchmod(&fd, Mode::from_raw_mode(stat.st_mode) | PRIVATE);
        }
        Ok(Self {
            bequeaths: bequeaths(&fd),
            fd,
            attributes: Some(attributes),
            shown: shown.to_vec(),
        })
    }

    /// A directory that is ours and that we may not read.
    fn open_forbidden(&self, name: &[u8]) -> Result<OwnedFd> {
        let handle = beneath(&self.fd, name, OFlags::PATH)?;
        chmodat(CWD, by_handle(&handle), PRIVATE, AtFlags::empty())?;
        Ok(beneath(&self.fd, name, OFlags::RDONLY)?)
    }

    /// A new file to write, locked as long as it is open: so it is nobody's leftover.
    pub(super) fn create(&self) -> Result<(Temporary<'_>, File)> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        for _ in 0..CREATE_TRIES {
            let temporary = Temporary::new(self);
            let fd = match openat(&self.fd, temporary.name(), flags, Mode::RUSR | Mode::WUSR) {
                Ok(fd) => fd,
                Err(errno) => return Err(temporary.never_made(errno)),
            };
            // Whoever removes leftovers may have come first: it locks what it removes, and then it is gone.
            let locked = flock(&fd, FlockOperation::NonBlockingLockExclusive);
            if locked != Err(Errno::WOULDBLOCK) && fstat(&fd)?.st_nlink > 0 {
                return Ok((temporary, fd.into()));
            }
        }
        Err(Error::new(
            ErrorKind::Conflict,
            "somebody removes or locks what is being written at the destination",
        ))
    }

    pub(super) fn symlink(&self, target: &[u8]) -> Result<Temporary<'_>> {
        self.make(|fd, name| symlinkat(target, fd, name))
    }

    /// Something else than a file.
    pub(super) fn make(
        &self,
        make: impl FnOnce(&OwnedFd, &str) -> Result<(), Errno>,
    ) -> Result<Temporary<'_>> {
        let temporary = Temporary::new(self);
        match make(&self.fd, temporary.name()) {
            Ok(()) => Ok(temporary),
            Err(errno) => Err(temporary.never_made(errno)),
        }
    }

    /// What `name` is, which must be `kind`, by a path that nobody can exchange.
    pub(super) fn handle(&self, name: &str, kind: FileType) -> Result<Handle> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(&self.fd, name, flags, Mode::empty())?;
        if FileType::from_raw_mode(fstat(&fd)?.st_mode) != kind {
            return Err(Error::new(
                ErrorKind::Conflict,
                "it was exchanged at the destination",
            ));
        }
        Ok(Handle(fd))
    }

    /// Gives the file at the path `first` below `root` the name `name`, too.
    pub(super) fn link(&self, root: &Self, first: &[u8], name: &[u8]) -> Result<()> {
        let mut cut = first.rsplitn(2, |byte| *byte == b'/');
        let (file, parent) = (cut.next().unwrap_or_default(), cut.next());
        let opened;
        let from = match parent {
            None => &root.fd,
            Some(parent) => {
                opened = beneath(&root.fd, parent, OFlags::PATH)?;
                &opened
            }
        };
        // Renaming one name of a file to another does nothing, and leaves both.
        let nofollow = AtFlags::SYMLINK_NOFOLLOW;
        let there = statat(from, file, nofollow)?;
        if statat(&self.fd, name, nofollow).is_ok_and(|stat| same(&stat, &there)) {
            return Ok(());
        }
        let temporary =
            self.make(|fd, temporary| linkat(from, file, fd, temporary, AtFlags::empty()))?;
        temporary.place(name)
    }

    /// Removes what an interrupted recovery left.
    pub(super) fn remove_leftovers(&self) {
        let Ok(entries) = Dir::read_from(&self.fd) else {
            return;
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            if is_temporary(name.to_bytes()) {
                self.remove_leftover(name);
            }
        }
    }

    /// Removes `name` unless another recovery, or another thread of this one, is writing it.
    fn remove_leftover(&self, name: &CStr) {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = openat(&self.fd, name, flags, Mode::empty());
        // The lock is kept until it is gone, so that who has just made it sees one or the other.
        let locked = opened
            .as_ref()
            .map(|fd| flock(fd, FlockOperation::NonBlockingLockExclusive));
        if locked != Ok(Err(Errno::WOULDBLOCK)) {
            let _ = unlinkat(&self.fd, name, AtFlags::empty());
        }
    }
}

/// Whether a directory has a list for what is made in it.
fn bequeaths(dir: &OwnedFd) -> bool {
    fgetxattr_query(dir, "system.posix_acl_default").is_ok()
}

/// As [`Temporary::new`] names it.
fn is_temporary(name: &[u8]) -> bool {
    name.strip_prefix(b".").is_some_and(durable::is_unique_name)
}

impl<'a> Temporary<'a> {
    fn new(place: &'a Place) -> Self {
        Self {
            place,
            name: format!(".{}", durable::unique_name()),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Whether it got access control lists from its directory.
    pub(super) fn inherits(&self) -> bool {
        self.place.bequeaths
    }

    /// There is nothing to remove.
    fn never_made(mut self, errno: Errno) -> Error {
        self.name.clear();
        errno.into()
    }

    /// Gives it its name, in place of what file was there.
    pub(super) fn place(mut self, name: &[u8]) -> Result<()> {
        durable::place_at(self.place.fd.as_fd(), &self.name, name)?;
        self.name.clear();
        Ok(())
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        if !self.name.is_empty() {
            let _ = unlinkat(&self.place.fd, &*self.name, AtFlags::empty());
        }
    }
}

/// A file that is not open to be read, only known.
pub(super) struct Handle(OwnedFd);

impl rustix::fd::AsFd for Handle {
    fn as_fd(&self) -> rustix::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The directory at a path below `dir`, by no link and not out of `dir`, whatever happens to it meanwhile.
fn beneath(dir: &OwnedFd, path: &[u8], how: OFlags) -> Result<OwnedFd, Errno> {
    let flags = how | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match openat2(dir, path, flags, Mode::empty(), resolve) {
        // An old kernel, or a container that hides it. One step after the other is as safe: the path has no "..".
        Err(Errno::NOSYS | Errno::PERM) => step_by_step(dir, path, flags),
        opened => opened,
    }
}

fn step_by_step(dir: &OwnedFd, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let mut names = path.split(|byte| *byte == b'/');
    let first = names.next().unwrap_or_default();
    let mut at = openat(dir, first, flags, Mode::empty())?;
    for name in names {
        at = openat(&at, name, flags, Mode::empty())?;
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_path_is_opened_by_no_link_and_not_out_of_the_directory() {
        let outside = tempfile::tempdir().unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("a/b")).unwrap();
        symlink(outside.path(), dir.path().join("a/out")).unwrap();
        symlink("b", dir.path().join("a/in")).unwrap();
        let root = OwnedFd::from(File::open(dir.path()).unwrap());
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        beneath(&root, b"a/b", OFlags::PATH).unwrap();
        step_by_step(&root, b"a/b", flags).unwrap();
        for led_astray in [&b"a/out"[..], b"a/in", b"a/out/x"] {
            assert!(beneath(&root, led_astray, OFlags::PATH).is_err());
            assert!(step_by_step(&root, led_astray, flags).is_err());
        }
        assert!(beneath(&root, b"..", OFlags::PATH).is_err());
    }
}
