//! What an overlay is and holds, read without taking it: also while another process writes to it.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use super::directory::{Directory, ReadOnlyDirectory, open_read_only};
use super::header::Named;
use super::journal::{self, Binding};
use super::layer::Home;
use super::{Amount, Config, Header, Layer, View, names};
use crate::error::{Error, ErrorKind, Result};

/// What is known of an overlay from outside: as of its last sync, or little later.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Summary {
    /// What it is of.
    pub header: Header,
    /// What its top layer holds.
    pub top: Amount,
    /// What its sealed layer holds.
    pub sealed: Option<Amount>,
    /// Bytes that its files take on their disk.
    pub allocated: u64,
}

/// How often to begin anew when layers come and go meanwhile.
const TRIES: u32 = 5;

/// The header of the overlay at `path`; none if there is none.
pub fn read_header(path: &Path) -> Result<Option<Header>> {
    Ok(read_named(path)?.map(|named| named.header))
}

/// The overlay at `path`; none if there is none.
pub fn inspect(path: &Path) -> Result<Option<Summary>> {
    let mut tries = 0;
    loop {
        let Some(named) = read_named(path)? else {
            return Ok(None);
        };
        tries += 1;
        match summary(path, &named) {
            Err(e) if e.kind() == ErrorKind::NotFound && tries < TRIES => {}
            read => return read.map(Some),
        }
    }
}

/// The overlay at `path` and its layers, to be read only; none if there is none. Without a process that has it, and
/// as long as none takes it, they are what whoever takes it will find.
pub fn look(path: &Path) -> Result<Option<(Header, View)>> {
    let Some(named) = read_named(path)? else {
        return Ok(None);
    };
    let directory: Arc<dyn Directory> = Arc::new(ReadOnlyDirectory::new(path));
    let layer = |number| {
        Layer::open_sealed(Home {
            directory: Arc::clone(&directory),
            health: Arc::default(),
            binding: Binding::new(&named.header.id, number)?,
            number,
            config: Config::default(),
        })
    };
    let view = View {
        top: layer(named.top)?,
        sealed: named.sealed.map(layer).transpose()?,
    };
    Ok(Some((named.header, view)))
}

fn read_named(path: &Path) -> Result<Option<Named>> {
    let path = path.join(names::HEADER);
    match open_read_only(&path)? {
        Some(file) => Named::read(&*file, &path.display().to_string()).map(Some),
        None => Ok(None),
    }
}

fn summary(path: &Path, named: &Named) -> Result<Summary> {
    let amount = |layer| amount(path, named, layer);
    Ok(Summary {
        header: named.header.clone(),
        top: amount(named.top)?,
        sealed: named.sealed.map(amount).transpose()?,
        allocated: allocated(path)?,
    })
}

fn amount(path: &Path, named: &Named, layer: u32) -> Result<Amount> {
    let path = path.join(names::journal(layer));
    let place = path.display().to_string();
    let missing = || Error::new(ErrorKind::NotFound, format!("{place} does not exist"));
    let file = open_read_only(&path)?.ok_or_else(missing)?;
    let binding = Binding::new(&named.header.id, layer)?;
    let (map, _) = journal::read(&*file, &place, &binding)?;
    Ok(map.amount())
}

fn allocated(path: &Path) -> Result<u64> {
    const SECTOR: u64 = 512;
    let cannot = |e| Error::io(e, "read", path);
    let mut sectors = 0;
    for entry in fs::read_dir(path).map_err(cannot)? {
        // What is gone by now takes no room.
        if let Ok(metadata) = entry.map_err(cannot)?.metadata() {
            sectors += metadata.blocks();
        }
    }
    Ok(sectors * SECTOR)
}
