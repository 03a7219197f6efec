//! The directory of an overlay that is only looked at: not locked, and nothing in it can be changed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::local::list;
use super::{Directory, File, open_read_only};
use crate::error::{Error, ErrorKind, Result};

/// A directory on this machine, to be read only.
pub(in crate::overlay) struct ReadOnlyDirectory {
    path: PathBuf,
}

impl ReadOnlyDirectory {
    pub(in crate::overlay) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
        }
    }

    fn refuse<T>(&self) -> Result<T> {
        let what = format!("{} is only looked at", self.path.display());
        Err(Error::new(ErrorKind::ReadOnly, what))
    }
}

impl Directory for ReadOnlyDirectory {
    fn open(&self, name: &str, create: bool) -> Result<Option<Arc<dyn File>>> {
        match open_read_only(&self.path.join(name))? {
            None if create => self.refuse(),
            opened => Ok(opened),
        }
    }

    fn names(&self) -> Result<Vec<String>> {
        list(&self.path)
    }

    fn publish(&self, _name: &str, _bytes: &[u8]) -> Result<()> {
        self.refuse()
    }

    fn remove(&self, _name: &str) -> Result<()> {
        self.refuse()
    }

    fn sync(&self) -> Result<()> {
        self.refuse()
    }

    fn display(&self, name: &str) -> String {
        self.path.join(name).display().to_string()
    }
}
