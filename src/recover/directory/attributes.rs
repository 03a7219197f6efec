//! What a file has beside its contents, given to one on this machine: by the file itself, never by a name that somebody could
//! exchange.
//!
//! The order matters. A change of the owner takes setuid and capabilities away, and the mode may forbid its owner to set
//! attributes; times come last, as each of the others changes one.

use std::collections::HashSet;
use std::ffi::CString;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use rustix::fd::BorrowedFd;
use rustix::fs::{
    AtFlags, CWD, Gid, Mode, Stat, Timespec, Timestamps, Uid, XattrFlags, chmodat, chownat, fchmod,
    fchown, fremovexattr, fsetxattr, futimens, setxattr, utimensat,
};
use rustix::io::Errno;

use super::super::Options;
use super::super::kept::{CAPABILITY, is_kept, mode, seconds};
use crate::error::{Error, ErrorKind, Result};
use crate::filesystem::Metadata;

/// Of one file.
pub(super) struct Attributes {
    mode: Mode,
    owner: Option<(Uid, Gid)>,
    times: Timestamps,
    xattrs: Vec<(CString, Vec<u8>)>,
}

/// What the destination does not take, whatever the file.
#[derive(Default)]
pub(super) struct Refusals(Mutex<HashSet<&'static str>>);

impl Refusals {
    /// Whether that is the first one.
    fn note(&self, what: &'static str) -> bool {
        let mut refused = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        refused.insert(what)
    }
}

impl Attributes {
    /// As far as they are wished for.
    pub(super) fn of(
        metadata: &Metadata,
        xattrs: &[(Vec<u8>, Vec<u8>)],
        options: Options,
    ) -> Result<Self> {
        let privileged = options.setuid && options.owners;
        let mode = mode(metadata.mode, privileged);
        let mut kept = vec![];
        for (name, value) in xattrs {
            if !is_kept(name, privileged, options.owners) {
                continue;
            }
            let name = CString::new(&**name).map_err(|_| {
                let what = "the name of an extended attribute has a NUL in it";
                Error::new(ErrorKind::Corrupt, what)
            })?;
            kept.push((name, value.clone()));
        }
        let owner = (Uid::from_raw(metadata.uid), Gid::from_raw(metadata.gid));
        Ok(Self {
            mode: Mode::from_raw_mode(mode),
            owner: options.owners.then_some(owner),
            times: Timestamps {
                last_access: timespec(metadata.accessed),
                last_modification: timespec(metadata.modified),
            },
            xattrs: kept,
        })
    }

    /// Gives them to a file or a directory, or by a handle to a device, which may have `inherited` access control lists. What the destination refuses for all files is told
    /// once by `refused`, anything else by `failed`.
    pub(super) fn give(
        &self,
        file: BorrowedFd<'_>,
        inherited: bool,
        refusals: &Refusals,
        failed: &dyn Fn(&Error),
        refused: &dyn Fn(&str),
    ) {
        if inherited {
            // What is not there or not known there needs no removal.
            for list in ["system.posix_acl_access", "system.posix_acl_default"] {
                let _ = fremovexattr(file, list);
            }
        }
        let told = Told {
            refusals,
            failed,
            refused,
        };
        let is_capability = |(name, _): &&(CString, Vec<u8>)| name.as_bytes() == CAPABILITY;
        for (name, value) in self.xattrs.iter().filter(|xattr| !is_capability(xattr)) {
            told.xattr(name, set_xattr(file, name, value));
        }
        if let Some((uid, gid)) = self.owner {
            let given = match fchown(file, Some(uid), Some(gid)) {
                Err(Errno::BADF) => by_empty_path(file, uid, gid),
                given => given,
            };
            told.of(given, "owners", "set the owner");
        }
        // A change of the owner would take them away.
        for (name, value) in self.xattrs.iter().filter(is_capability) {
            told.xattr(name, set_xattr(file, name, value));
        }
        let given = match fchmod(file, self.mode) {
            // A handle, which only its path says it to.
            Err(Errno::BADF) => chmodat(CWD, by_handle(file), self.mode, AtFlags::empty()),
            given => given,
        };
        told.of(given, "modes", "set the mode");
        let given = match futimens(file, &self.times) {
            Err(Errno::BADF) => utimensat(CWD, by_handle(file), &self.times, AtFlags::empty()),
            given => given,
        };
        told.of(given, "times", "set the times");
    }

    /// Gives them to a symbolic link, which has an owner and times alone.
    pub(super) fn give_link(
        &self,
        dir: &OwnedFd,
        name: &str,
        refusals: &Refusals,
        failed: &dyn Fn(&Error),
        refused: &dyn Fn(&str),
    ) {
        let told = Told {
            refusals,
            failed,
            refused,
        };
        let nofollow = AtFlags::SYMLINK_NOFOLLOW;
        if let Some((uid, gid)) = self.owner {
            let given = chownat(dir, name, Some(uid), Some(gid), nofollow);
            told.of(given, "owners", "set the owner");
        }
        let given = utimensat(dir, name, &self.times, nofollow);
        told.of(given, "times", "set the times");
    }
}

/// Whoever hears of what could not be given.
struct Told<'a> {
    refusals: &'a Refusals,
    failed: &'a dyn Fn(&Error),
    refused: &'a dyn Fn(&str),
}

impl Told<'_> {
    fn of(&self, given: Result<(), Errno>, what: &'static str, deed: &str) {
        match given {
            Ok(()) => {}
            Err(Errno::PERM | Errno::NOTSUP | Errno::NOSYS) => {
                if self.refusals.note(what) {
                    (self.refused)(what);
                }
            }
            Err(errno) => (self.failed)(&Error::from(errno).context(format!("cannot {deed}"))),
        }
    }

    fn xattr(&self, name: &CString, given: Result<(), Errno>) {
        let deed = format!("set the extended attribute {}", name.to_string_lossy());
        let what = match name.as_bytes() {
            name if name.starts_with(b"system.") => "access control lists",
            name if name.starts_with(b"trusted.") => "trusted extended attributes",
            name if name.starts_with(b"security.") => "capabilities",
            _ => "extended attributes",
        };
        self.of(given, what, &deed);
    }
}

fn set_xattr(file: BorrowedFd<'_>, name: &CString, value: &[u8]) -> Result<(), Errno> {
    let flags = XattrFlags::empty();
    match fsetxattr(file, &**name, value, flags) {
        Err(Errno::BADF) => setxattr(by_handle(file), &**name, value, flags),
        given => given,
    }
}

fn by_empty_path(handle: BorrowedFd<'_>, uid: Uid, gid: Gid) -> Result<(), Errno> {
    chownat(handle, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH)
}

/// A path to what a handle is of, which calls that take no handle understand.
pub(super) fn by_handle(handle: impl rustix::fd::AsFd) -> String {
    format!("/proc/self/fd/{}", handle.as_fd().as_raw_fd())
}

/// Whether that is when a file was changed.
pub(super) fn is_of(stat: &Stat, modified: SystemTime) -> bool {
    let time = timespec(modified);
    let nanoseconds = i64::try_from(stat.st_mtime_nsec).ok();
    stat.st_mtime == time.tv_sec && nanoseconds == Some(time.tv_nsec)
}

fn timespec(time: SystemTime) -> Timespec {
    let (tv_sec, nanoseconds) = seconds(time);
    Timespec {
        tv_sec,
        tv_nsec: nanoseconds.into(),
    }
}
