//! A directory of this machine as the destination.
//!
//! Every call names one file in a directory that is held open, so no path is looked up twice and none leads out. A file
//! is written by a name that nobody else has, gets its attributes, and then takes its own name, in place of what file or link was
//! there: a link is replaced, never followed. A directory that is there is used, what else is in the way of one is an
//! error. Nothing is synced: what was recovered survives the end of the program at any moment, and of a power failure as much as what
//! `cp` wrote.
//!
//! The tree is read by one thread and small files are written by a [`Crew`]. Attributes of a directory come when all in it is
//! there, as its times would not stay and its mode may forbid to write.

use std::collections::HashSet;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Stat, ftruncate, makedev, mknodat, open, statat,
};
use rustix::io::Errno;

use self::attributes::{Attributes, Refusals};
use self::crew::Crew;
use self::places::{Place, Temporary};
use super::contents::{Contents, pieces};
use super::target::{Item, Target};
use super::{Recovery, Trouble};
use crate::error::{Error, ErrorKind, Result};
use crate::filesystem::Kind;

mod attributes;
mod crew;
mod places;

/// Files with so much data or less are written by the crew; as many may wait as [`Crew`] lets.
const SMALL: u64 = 256 << 10;

/// Bytes of a larger one that are read and written at one time.
const PIECE: usize = 1 << 20;

/// Where files go to.
pub struct Directory {
    shared: Arc<Shared>,
    /// What was named by the user, and the directories that were entered below it.
    open: Vec<Arc<Place>>,
    root: Arc<Place>,
    crew: Crew,
}

/// What all files have in common, whoever writes them.
struct Shared {
    recovery: Arc<Recovery>,
    refusals: Refusals,
    /// Paths of files with several names that could not be written.
    lost: Mutex<HashSet<Vec<u8>>>,
}

impl Directory {
    /// The directory at `path`, which the user named, so that links on the way to it are followed.
    pub fn open(path: &Path, recovery: &Arc<Recovery>) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = open(path, flags, Mode::empty())
            .map_err(|errno| Error::io(errno.into(), "open", path))?;
        let shared = Arc::new(Shared {
            recovery: Arc::clone(recovery),
            refusals: Refusals::default(),
            lost: Mutex::default(),
        });
        let root = Arc::new(Place::root(fd));
        if recovery.options.go_on {
            root.remove_leftovers();
        }
        Ok(Self {
            crew: Crew::start()?,
            open: vec![Arc::clone(&root)],
            root,
            shared,
        })
    }

    fn place(&self) -> &Arc<Place> {
        self.open.last().unwrap_or(&self.root)
    }

    fn attributes(&self, item: &Item<'_>) -> Result<Attributes> {
        Attributes::of(item.metadata, &item.xattrs, self.shared.recovery.options)
    }
}

impl Shared {
    /// What is in `data`, each at its offset, as a file.
    fn write_small(
        &self,
        place: &Place,
        name: &[u8],
        small: &Small,
        attributes: &Attributes,
        shown: &[u8],
    ) -> Result<()> {
        let (temporary, file) = place.create()?;
        let mut rest = &*small.bytes;
        for (offset, len) in &small.pieces {
            let (piece, others) = rest.split_at_checked(*len).unwrap_or((rest, &[]));
            file.write_all_at(piece, *offset)?;
            rest = others;
        }
        self.complete(
            temporary,
            &file,
            small.size,
            small.end(),
            name,
            attributes,
            shown,
        )
    }

    /// Gives a written file its size, its attributes, and its name.
    #[allow(clippy::too_many_arguments)] // One step, from two places.
    fn complete(
        &self,
        temporary: Temporary<'_>,
        file: &File,
        size: u64,
        written: u64,
        name: &[u8],
        attributes: &Attributes,
        shown: &[u8],
    ) -> Result<()> {
        if written < size {
            ftruncate(file, size)?;
        }
        let inherited = temporary.inherits();
        self.dress(attributes, file, inherited, shown);
        temporary.place(name)
    }

    /// Attributes that cannot be given are told; the file is worth having without.
    fn dress(
        &self,
        attributes: &Attributes,
        file: impl rustix::fd::AsFd,
        inherited: bool,
        shown: &[u8],
    ) {
        let failed = |error: &Error| self.recovery.failed(shown, error);
        let refused = |what: &str| self.recovery.watch.refused(what);
        attributes.give(file.as_fd(), inherited, &self.refusals, &failed, &refused);
    }

    fn wrote(&self, bytes: u64) {
        self.recovery.add(|tally| &tally.bytes, bytes);
        self.recovery.add(|tally| &tally.files, 1);
    }

    fn lose(&self, path: Vec<u8>) {
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        lost.insert(path);
    }

    /// Gives a directory its attributes if nobody writes into it any more.
    fn leave(&self, place: Arc<Place>) {
        if let Some(place) = Arc::into_inner(place)
            && let Some(attributes) = &place.attributes
        {
            self.dress(attributes, &place.fd, place.bequeaths, &place.shown);
        }
    }
}

/// The data of a file that is read as a whole.
struct Small {
    size: u64,
    bytes: Vec<u8>,
    /// Where the bytes belong, one after the other.
    pieces: Vec<(u64, usize)>,
}

impl Small {
    fn read(contents: &Contents<'_>) -> Result<Self> {
        let len = usize::try_from(contents.bytes()).unwrap_or_default();
        let mut bytes = vec![0; len];
        let all = contents.data.iter().cloned();
        let pieces: Vec<_> = all.flat_map(|range| pieces(range, len)).collect();
        let mut rest = &mut *bytes;
        for (offset, len) in &pieces {
            let (piece, others) = rest.split_at_mut_checked(*len).unwrap_or_default();
            contents.read(*offset, piece)?;
            rest = others;
        }
        let size = contents.size;
        Ok(Self {
            size,
            bytes,
            pieces,
        })
    }

    /// The byte after the last one.
    fn end(&self) -> u64 {
        let end = |(offset, len): &(u64, usize)| {
            offset.saturating_add(u64::try_from(*len).unwrap_or_default())
        };
        self.pieces.last().map_or(0, end)
    }
}

impl Target for Directory {
    fn room_for(&self, contents: &Contents<'_>) -> u64 {
        contents.bytes()
    }

    fn has(&self, item: &Item<'_>) -> bool {
        if !self.shared.recovery.options.go_on || item.metadata.kind != Kind::File {
            return false;
        }
        let stat = statat(&self.place().fd, item.name, AtFlags::SYMLINK_NOFOLLOW);
        stat.is_ok_and(|stat| {
            let size = u64::try_from(stat.st_size).ok();
            FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
                && size == Some(item.metadata.size)
                && attributes::is_of(&stat, item.metadata.modified)
        })
    }

    fn enter(&mut self, item: &Item<'_>) -> Result<(), Trouble> {
        if item.name.is_empty() {
            self.open.push(Arc::clone(&self.root));
            return Ok(());
        }
        let attributes = self.attributes(item)?;
        let place = self.place().enter(item.name, attributes, item.shown)?;
        if self.shared.recovery.options.go_on {
            place.remove_leftovers();
        }
        self.open.push(Arc::new(place));
        Ok(())
    }

    fn leave(&mut self) {
        if let Some(place) = self.open.pop() {
            self.shared.leave(place);
        }
    }

    fn file(&mut self, item: &Item<'_>, contents: &Contents<'_>) -> Result<(), Trouble> {
        let attributes = self.attributes(item)?;
        let (shared, place) = (Arc::clone(&self.shared), Arc::clone(self.place()));
        if contents.bytes() > SMALL {
            let (temporary, file) = place.create()?;
            let mut buffer = vec![0; PIECE];
            let mut end = 0;
            for range in &contents.data {
                for (offset, len) in pieces(range.clone(), PIECE) {
                    shared.recovery.stop_if_interrupted()?;
                    let piece = buffer.get_mut(..len).unwrap_or_default();
                    contents.read(offset, piece)?;
                    file.write_all_at(piece, offset).map_err(Error::from)?;
                    let len = u64::try_from(len).unwrap_or_default();
                    shared.recovery.add(|tally| &tally.bytes, len);
                }
                end = range.end;
            }
            let (size, shown) = (contents.size, item.shown);
            shared.complete(temporary, &file, size, end, item.name, &attributes, shown)?;
            shared.recovery.add(|tally| &tally.files, 1);
            return Ok(());
        }
        let small = Small::read(contents)?;
        let (name, shown) = (item.name.to_vec(), item.shown.to_vec());
        let linked = (item.metadata.links > 1).then(|| item.path.to_vec());
        self.crew.give(Box::new(move || {
            match shared.write_small(&place, &name, &small, &attributes, &shown) {
                Ok(()) => shared.wrote(u64::try_from(small.bytes.len()).unwrap_or_default()),
                Err(error) => {
                    if let Some(path) = linked {
                        shared.lose(path);
                    }
                    shared.recovery.failed(&shown, &error);
                }
            }
            shared.leave(place);
        }));
        Ok(())
    }

    fn symlink(&mut self, item: &Item<'_>, target: &[u8]) -> Result<(), Trouble> {
        let attributes = self.attributes(item)?;
        let place = self.place();
        let temporary = place.symlink(target)?;
        let failed = |error: &Error| self.shared.recovery.failed(item.shown, error);
        let refused = |what: &str| self.shared.recovery.watch.refused(what);
        let (fd, name) = (&place.fd, temporary.name());
        attributes.give_link(fd, name, &self.shared.refusals, &failed, &refused);
        Ok(temporary.place(item.name)?)
    }

    fn link(&mut self, item: &Item<'_>, first: &[u8]) -> Result<(), Trouble> {
        // What it was written by must have come so far.
        self.crew.wait();
        let lost = &self.shared.lost;
        if lost
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(first)
        {
            return Err(Error::new(ErrorKind::NotFound, "it was not written").into());
        }
        Ok(self.place().link(&self.root, first, item.name)?)
    }

    fn special(&mut self, item: &Item<'_>) -> Result<(), Trouble> {
        let (kind, device) = match item.metadata.kind {
            Kind::CharDevice { major, minor } => (FileType::CharacterDevice, makedev(major, minor)),
            Kind::BlockDevice { major, minor } => (FileType::BlockDevice, makedev(major, minor)),
            Kind::Fifo => (FileType::Fifo, 0),
            Kind::Socket => (FileType::Socket, 0),
            Kind::File | Kind::Directory | Kind::Symlink => return Ok(()),
        };
        let attributes = self.attributes(item)?;
        let make = |fd: &OwnedFd, name: &str| -> Result<(), Errno> {
            mknodat(fd, name, kind, Mode::empty(), device)
        };
        let place = self.place();
        let temporary = place.make(make)?;
        let fd = place.handle(temporary.name(), kind)?;
        self.shared
            .dress(&attributes, &fd, place.bequeaths, item.shown);
        Ok(temporary.place(item.name)?)
    }

    fn finish(&mut self) -> Result<(), Trouble> {
        self.crew.wait();
        Ok(())
    }
}

/// Whether two names are of one file.
fn same(one: &Stat, other: &Stat) -> bool {
    (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
}
