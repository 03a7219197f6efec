//! Attaching to a directory and detaching from it, as root by system call, as anyone else by `fusermount3`.
//!
//! Done here and not by the FUSE library, which would unmount by path once more when a session ends, and so
//! could take down whatever is mounted there by then.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind as IoKind, IoSliceMut, Read as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

use super::Config;
use crate::error::{Error, ErrorKind, Result};

/// The file-system type in `/proc/mounts`.
pub const FS_TYPE: &str = "fuse.ebsfs";

const HELPERS: [&str; 2] = ["fusermount3", "fusermount"];

/// A mounted file system.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MountEntry {
    /// Where.
    pub path: PathBuf,
    /// Its type.
    pub fs_type: String,
    /// The number of its device, which no other file system has while it is mounted.
    pub device: String,
    /// What it was mounted from, a device for example.
    pub source: String,
    /// Its options here, and those that it has wherever it is mounted.
    pub options: String,
}

impl MountEntry {
    /// The value of the option `name`, or an empty one if it has none; `None` if it is not set.
    pub fn option(&self, name: &str) -> Option<&str> {
        self.options.split(',').find_map(|option| {
            let (key, value) = option.split_once('=').unwrap_or((option, ""));
            (key == name).then_some(value)
        })
    }
}

/// What is mounted, in the order in which it was.
pub fn mounts() -> Result<Vec<MountEntry>> {
    let path = Path::new("/proc/self/mountinfo");
    let text = fs::read_to_string(path).map_err(|e| Error::io(e, "read", path))?;
    Ok(text.lines().filter_map(parse_mount).collect())
}

fn parse_mount(line: &str) -> Option<MountEntry> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ').skip(2);
    let device = left.next()?.to_owned();
    let path = unescape(left.nth(1)?).into();
    let options = left.next()?;
    let mut right = right.split(' ');
    Some(MountEntry {
        path,
        fs_type: right.next()?.to_owned(),
        device,
        source: unescape(right.next()?),
        options: format!("{options},{}", right.next().unwrap_or_default()),
    })
}

/// `\040` and the like, as the kernel writes blanks in paths.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let octal = tail
            .get(..3)
            .and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if *first == b'\\' => {
                bytes.push(byte);
                rest = tail.get(3..).unwrap_or_default();
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The file system on top at exactly `path`, which must be canonical.
pub fn mounted_at(path: &Path) -> Result<Option<MountEntry>> {
    Ok(mounts()?.into_iter().rev().find(|entry| entry.path == path))
}

/// `path` without symbolic links, also if a dead file system is mounted there.
pub fn canonical(path: &Path) -> Result<PathBuf> {
    let absolute = std::path::absolute(path).map_err(|e| Error::io(e, "find", path))?;
    match fs::canonicalize(&absolute) {
        Ok(canonical) => Ok(canonical),
        Err(e) => match (
            absolute.parent().map(fs::canonicalize),
            absolute.file_name(),
        ) {
            (Some(Ok(parent)), Some(name)) if e.kind() != IoKind::NotFound => Ok(parent.join(name)),
            _ => Err(Error::io(e, "find", path)),
        },
    }
}

/// Checks that `path`, which is canonical, is a directory that can be mounted on.
pub fn check(path: &Path) -> Result<()> {
    let shown = path.display();
    if mounted_at(path)?.is_some_and(|entry| entry.fs_type == FS_TYPE) {
        return Err(Error::new(
            ErrorKind::Conflict,
            format!(
                "{shown} is already mounted: `ebsfs umount {shown}` first, or use another directory"
            ),
        ));
    }
    let meta = fs::metadata(path).map_err(|e| match e.raw_os_error() {
        Some(code) if code == Errno::NOTCONN.raw_os_error() => Error::new(
            ErrorKind::Conflict,
            format!("{shown} holds a dead mount: `ebsfs umount {shown}` removes it"),
        ),
        _ => Error::io(e, "use", path),
    })?;
    if !meta.is_dir() {
        return Err(Error::new(
            ErrorKind::Invalid,
            format!("{shown} is not a directory: mount on an empty one"),
        ));
    }
    let mut entries = fs::read_dir(path).map_err(|e| Error::io(e, "read", path))?;
    if entries.next().is_some() {
        return Err(Error::new(
            ErrorKind::Invalid,
            format!(
                "{shown} is not empty, and mounting would hide what is in it: use an empty directory"
            ),
        ));
    }
    Ok(())
}

/// Attaches a new FUSE connection to the directory `path`.
pub(super) fn attach(config: &Config) -> Result<OwnedFd> {
    let path = &config.mountpoint;
    let device = Path::new("/dev/fuse");
    match OpenOptions::new().read(true).write(true).open(device) {
        Ok(fuse) => match attach_directly(&fuse, config) {
            Ok(()) => Ok(fuse.into()),
            Err(Errno::PERM) => attach_by_helper(config),
            Err(e) => Err(Error::io(e.into(), "mount on", path)),
        },
        // The helper has the right to open it.
        Err(e) if e.kind() == IoKind::PermissionDenied => attach_by_helper(config),
        Err(e) => {
            Err(Error::io(e, "open", device)
                .context("this machine has no FUSE: try `modprobe fuse`"))
        }
    }
}

fn attach_directly(fuse: &File, config: &Config) -> Result<(), Errno> {
    let path = &config.mountpoint;
    let mode = fs::metadata(path).map_or(0o40000, |meta| meta.permissions().mode());
    let options = format!(
        "fd={},rootmode={mode:o},user_id={},group_id={},default_permissions{}",
        fuse.as_raw_fd(),
        rustix::process::getuid().as_raw(),
        rustix::process::getgid().as_raw(),
        if config.allow_other {
            ",allow_other"
        } else {
            ""
        },
    );
    let options = CString::new(options).map_err(|_| Errno::INVAL)?;
    let access = if config.writable {
        MountFlags::empty()
    } else {
        MountFlags::RDONLY
    };
    let flags =
        access | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::NOATIME;
    rustix::mount::mount("ebsfs", path, FS_TYPE, flags, Some(options.as_c_str()))
}

/// The helper mounts and sends the connection through a socket whose number the environment tells it.
fn attach_by_helper(config: &Config) -> Result<OwnedFd> {
    let path = &config.mountpoint;
    let (ours, theirs) = UnixStream::pair()?;
    rustix::io::fcntl_setfd(&theirs, rustix::io::FdFlags::empty())?;
    let mut options = String::from(if config.writable { "rw" } else { "ro" });
    options.push_str(",nosuid,nodev,noexec,noatime,default_permissions,fsname=ebsfs,subtype=ebsfs");
    if config.allow_other {
        options.push_str(",allow_other");
    }
    let mut helper = spawn_helper(|command| {
        command
            .args(["-o", &options, "--"])
            .arg(path)
            .env("_FUSE_COMMFD", theirs.as_raw_fd().to_string());
    })?;
    drop(theirs);
    let fuse = receive(&ours);
    let mut said = String::new();
    if let Some(mut stderr) = helper.stderr.take() {
        stderr.read_to_string(&mut said)?;
    }
    let status = helper.wait()?;
    match fuse? {
        Some(fuse) if status.success() => Ok(fuse),
        _ => Err(helper_failed("mount on", path, &said)),
    }
}

fn spawn_helper(arguments: impl Fn(&mut Command)) -> Result<std::process::Child> {
    for name in HELPERS {
        let mut command = Command::new(name);
        arguments(&mut command);
        match command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
        {
            Err(e) if e.kind() == IoKind::NotFound => {}
            spawned => {
                return spawned.map_err(|e| Error::from(e).context(format!("cannot run {name}")));
            }
        }
    }
    Err(Error::new(
        ErrorKind::NotFound,
        "only root mounts without fusermount3: install the package fuse3",
    ))
}

fn helper_failed(deed: &str, path: &Path, said: &str) -> Error {
    let said = said.trim();
    let kind = if said.contains("not permitted")
        || said.contains("ermission")
        || said.contains("no write access")
        || said.contains("user_allow_other")
    {
        ErrorKind::Denied
    } else if said.contains("busy") {
        ErrorKind::Conflict
    } else {
        ErrorKind::Io
    };
    let what = if said.is_empty() {
        "fusermount3 failed"
    } else {
        said
    };
    Error::new(kind, what).context(format!("cannot {deed} {}", path.display()))
}

fn receive(socket: &UnixStream) -> Result<Option<OwnedFd>> {
    let mut byte = [0; 1];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(
            socket,
            &mut [IoSliceMut::new(&mut byte)],
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
        )
    })?;
    let mut fds = ancillary.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => fds.collect(),
        _ => Vec::new(),
    });
    Ok(fds.next())
}

/// Detaches the file system at `path`. `Conflict` while something uses it, unless `lazily`: then it
/// disappears from the tree at once, and ends when its last user does.
pub fn detach(path: &Path, lazily: bool) -> Result<()> {
    let flags = if lazily {
        UnmountFlags::DETACH
    } else {
        UnmountFlags::empty()
    };
    match rustix::mount::unmount(path, flags | UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(()),
        Err(Errno::PERM) => detach_by_helper(path, lazily),
        Err(e) => Err(Error::io(e.into(), "unmount", path)),
    }
}

/// Detaches the file system at `path` whoever uses it and whether or not its daemon answers: all who wait for that
/// get an error. Only root may.
pub fn abort(path: &Path) -> Result<()> {
    let flags = UnmountFlags::FORCE | UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
    rustix::mount::unmount(path, flags).map_err(|e| Error::io(e.into(), "unmount", path))
}

fn detach_by_helper(path: &Path, lazily: bool) -> Result<()> {
    let helper = spawn_helper(|command| {
        command
            .arg("-u")
            .args(lazily.then_some("-z"))
            .arg("--")
            .arg(path);
    })?;
    let output = helper.wait_with_output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(helper_failed(
        "unmount",
        path,
        &String::from_utf8_lossy(&output.stderr),
    ))
}

/// Like [`detach`], but only what was mounted as `mount`: something else may stand there by now. `NotFound` if
/// it does not stand on top any more.
pub fn detach_own(mount: &MountEntry, lazily: bool) -> Result<()> {
    match mounted_at(&mount.path)? {
        Some(entry) if entry.device == mount.device => detach(&mount.path, lazily),
        _ => Err(Error::new(
            ErrorKind::NotFound,
            format!(
                "{} is out of the tree and still in use",
                mount.path.display()
            ),
        )),
    }
}

/// What keeps the file system at `path` busy, as far as can be told: loop devices over its files, and mounts
/// below it.
pub fn users(path: &Path) -> Vec<String> {
    let mut users = Vec::new();
    for entry in fs::read_dir("/sys/block").into_iter().flatten().flatten() {
        let backing =
            fs::read_to_string(entry.path().join("loop/backing_file")).unwrap_or_default();
        if Path::new(backing.trim_end()).starts_with(path) {
            users.push(format!("/dev/{}", entry.file_name().to_string_lossy()));
        }
    }
    let below = mounts()
        .unwrap_or_default()
        .into_iter()
        .filter(|entry| entry.path != path && entry.path.starts_with(path));
    users.extend(below.map(|entry| entry.path.display().to_string()));
    users
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_lines_are_read_with_their_escapes() {
        let line =
            r"97 2 0:43 / /mnt/a\040b\134c ro,nosuid shared:7 - fuse.ebsfs ebsfs ro,user_id=0";
        let entry = parse_mount(line).unwrap();
        assert_eq!(
            entry,
            MountEntry {
                path: r"/mnt/a b\c".into(),
                fs_type: FS_TYPE.into(),
                device: "0:43".into(),
                source: "ebsfs".into(),
                options: "ro,nosuid,ro,user_id=0".into(),
            }
        );
        assert_eq!(entry.option("user_id"), Some("0"));
        assert_eq!(entry.option("ro"), Some(""));
        assert_eq!(entry.option("rw"), None);
        assert!(
            mounts()
                .unwrap()
                .iter()
                .any(|entry| entry.path == Path::new("/"))
        );
    }
}
