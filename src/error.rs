//! The one error of this crate: a kind for programs, a sentence for people, and what caused it.
//!
//! Kinds are closed. Each edge (errno, exit code) maps them by a `match` without `_`, so that a new kind
//! cannot be forgotten there. The text is lower case, names its coordinates, and ends with the remedy where
//! one is known. A layer that knows more adds it with [`Error::context`]; nothing is logged on the way.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// What went wrong, as a program must know it.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ErrorKind {
    /// It does not exist: a snapshot, a store, a file.
    NotFound,
    /// Bytes are not what their checksum or format says.
    Corrupt,
    /// Not now; the same call may succeed later. The only kind that is retried.
    Unavailable,
    /// The caller lacks a permission.
    Denied,
    /// The target cannot be written.
    ReadOnly,
    /// No room is left.
    NoSpace,
    /// The request makes no sense: a malformed id, an index past the end, a pending snapshot read.
    Invalid,
    /// It contradicts what exists: other parameters for one client token, a file in the way, a busy mount.
    Conflict,
    /// Well-formed, but not something that this program can do.
    Unsupported,
    /// The machine failed: a disk, a descriptor, a thread.
    Io,
}

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error: [`ErrorKind`], text, cause. Cheap to clone, as several readers may wait for one failed fetch.
///
/// `{}` prints the outermost sentence; `{:#}` the whole chain, joined by colons.
#[derive(Clone)]
pub struct Error {
    kind: ErrorKind,
    what: String,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error that starts here.
    pub fn new(kind: ErrorKind, what: impl Into<String>) -> Self {
        Self {
            kind,
            what: what.into(),
            source: None,
        }
    }

    /// Its kind, which [`context`](Self::context) never changes.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The same error, told by a layer that knows more: `block 7 of snap-0a`.
    #[must_use]
    pub fn context(self, what: impl Into<String>) -> Self {
        Self {
            kind: self.kind,
            what: what.into(),
            source: Some(Arc::new(self)),
        }
    }

    /// An I/O error with the path and the deed: `io(e, "read", path)` reads "cannot read /x: ...".
    pub fn io(error: io::Error, deed: &str, path: &Path) -> Self {
        Self::from(error).context(format!("cannot {deed} {}", path.display()))
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        use io::ErrorKind as K;
        let kind = match error.kind() {
            K::NotFound => ErrorKind::NotFound,
            K::PermissionDenied => ErrorKind::Denied,
            K::ReadOnlyFilesystem => ErrorKind::ReadOnly,
            K::StorageFull | K::QuotaExceeded | K::FileTooLarge => ErrorKind::NoSpace,
            K::AlreadyExists | K::ResourceBusy => ErrorKind::Conflict,
            K::InvalidInput | K::NotADirectory | K::IsADirectory => ErrorKind::Invalid,
            K::Unsupported => ErrorKind::Unsupported,
            _ => ErrorKind::Io,
        };
        Self {
            kind,
            what: error.to_string(),
            source: None,
        }
    }
}

impl From<rustix::io::Errno> for Error {
    fn from(errno: rustix::io::Errno) -> Self {
        io::Error::from(errno).into()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        if f.alternate() {
            let mut next = std::error::Error::source(self);
            while let Some(cause) = next {
                write!(f, ": {cause}")?;
                next = cause.source();
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}({self:#})", self.kind)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.source {
            Some(cause) => Some(&**cause),
            None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn context_keeps_the_kind_and_the_chain() {
        let error = Error::new(ErrorKind::Corrupt, "checksum is 9f, expected 3c")
            .context("block 7 of snap-0a");
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert_eq!(
            format!("{error:#}"),
            "block 7 of snap-0a: checksum is 9f, expected 3c"
        );
    }
}
