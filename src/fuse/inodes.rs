//! Inode numbers of the directory's files: given out once, never reused while mounted.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use fuser::INodeNo;

use super::Export;
use super::notes::Notes;

/// The control directory.
pub(super) const CONTROL_DIR: INodeNo = INodeNo(2);
/// Its first file.
pub(super) const FIRST_CONTROL: u64 = 3;
/// The first exported file. What lies between is more control files than there will ever be.
const FIRST_EXPORT: u64 = 64;

#[derive(Default)]
pub(super) struct Inodes {
    /// Guards map operations only.
    table: RwLock<Table>,
}

#[derive(Default)]
struct Table {
    files: Vec<Arc<File>>,
    by_name: HashMap<String, INodeNo>,
}

/// An exported file that was met.
pub(super) struct File {
    pub(super) ino: INodeNo,
    pub(super) export: Arc<Export>,
    pub(super) notes: Notes,
}

impl File {
    /// Where on the disk that is written to its first byte lies; none if it is read-only.
    pub(super) fn start(&self) -> Option<u64> {
        self.export.writable.as_ref().map(|writable| writable.start)
    }
}

impl Inodes {
    /// The number of the file of that name, if it was met before.
    pub(super) fn named(&self, name: &str) -> Option<INodeNo> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        table.by_name.get(name).copied()
    }

    pub(super) fn file(&self, ino: INodeNo) -> Option<Arc<File>> {
        let position = usize::try_from(ino.0.checked_sub(FIRST_EXPORT)?).ok()?;
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        table.files.get(position).cloned()
    }

    /// The number of `export`. A name keeps the file that it had first: what is mounted does not change.
    pub(super) fn number(&self, export: &Arc<Export>) -> INodeNo {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(ino) = table.by_name.get(&export.name) {
            return *ino;
        }
        let position = u64::try_from(table.files.len()).unwrap_or(u64::MAX - FIRST_EXPORT);
        let ino = INodeNo(FIRST_EXPORT + position);
        table.files.push(Arc::new(File {
            ino,
            export: Arc::clone(export),
            notes: Notes::default(),
        }));
        table.by_name.insert(export.name.clone(), ino);
        ino
    }

    /// All files met so far.
    pub(super) fn all(&self) -> Vec<Arc<File>> {
        self.table
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .files
            .clone()
    }
}
