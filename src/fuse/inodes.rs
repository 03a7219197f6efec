//! Inode numbers of the directory's files: given out once, never reused while mounted.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use fuser::INodeNo;

use super::Export;

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
    exports: Vec<Arc<Export>>,
    by_name: HashMap<String, INodeNo>,
}

impl Inodes {
    /// The file of that name, if it was met before.
    pub(super) fn named(&self, name: &str) -> Option<(INodeNo, Arc<Export>)> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let ino = *table.by_name.get(name)?;
        table.export(ino).map(|export| (ino, export))
    }

    pub(super) fn export(&self, ino: INodeNo) -> Option<Arc<Export>> {
        self.table
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .export(ino)
    }

    /// The number of `export`. A name keeps the file that it had first: what is mounted does not change.
    pub(super) fn number(&self, export: &Arc<Export>) -> INodeNo {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(ino) = table.by_name.get(&export.name) {
            return *ino;
        }
        let position = u64::try_from(table.exports.len()).unwrap_or(u64::MAX - FIRST_EXPORT);
        let ino = INodeNo(FIRST_EXPORT + position);
        table.exports.push(Arc::clone(export));
        table.by_name.insert(export.name.clone(), ino);
        ino
    }

    /// All files met so far.
    pub(super) fn all(&self) -> Vec<Arc<Export>> {
        self.table
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .exports
            .clone()
    }
}

impl Table {
    fn export(&self, ino: INodeNo) -> Option<Arc<Export>> {
        let position = usize::try_from(ino.0.checked_sub(FIRST_EXPORT)?).ok()?;
        self.exports.get(position).cloned()
    }
}
