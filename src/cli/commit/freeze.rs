//! A file system that stands still for the moment at which its disk is sealed.

use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use log::warn;

use crate::error::{Error, ErrorKind, Result};

/// A child freezes, says so, and thaws when the pipe to it closes: when this program says so, and also when it is
/// killed, even before it has heard. No signal of the terminal ends it, and none that a user would send.
const GUARD: &str = r#"
trap '' HUP INT PIPE TERM
PATH="$PATH:/usr/sbin:/sbin"
fsfreeze --freeze "$1" || exit 1
echo frozen 2>/dev/null
cat >/dev/null
exec fsfreeze --unfreeze "$1"
"#;

/// A frozen file system; dropping this thaws it.
pub(super) struct Frozen {
    guard: Child,
}

impl Frozen {
    /// Freezes the file system at `dir`; what it was about to write is on its disk then.
    pub(super) fn new(dir: &Path) -> Result<Self> {
        let guard = Command::new("sh")
            .args(["-c", GUARD, "sh"])
            .arg(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(|e| Error::from(e).context("cannot start a shell to freeze with"))?;
        let mut frozen = Self { guard };
        let mut said = [0; b"frozen\n".len()];
        let heard = frozen
            .guard
            .stdout
            .as_mut()
            .map(|out| out.read_exact(&mut said));
        match heard {
            Some(Ok(())) => Ok(frozen),
            // `fsfreeze` has said why on stderr.
            _ => Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "cannot freeze {}: it must be the mount point of a writable file system, and this takes root",
                    dir.display()
                ),
            )),
        }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        if let Err(e) = self.guard.wait() {
            warn!("cannot tell whether the file system was thawed: {e}");
        }
    }
}
