//! What was written over a snapshot, in local files. It knows no source: whatever lies below a page that was not
//! written is its caller's to find.
//!
//! An overlay has a top [`Layer`], which takes writes, and at most one sealed layer below it, which a commit
//! uploads. A page (4 KiB) of a layer is in one of three states:
//!
//! | State | Reads as | Becomes so by |
//! | --- | --- | --- |
//! | base | whatever lies below the layer | nothing was written there |
//! | written | the layer's own bytes | a write |
//! | zero | zeros | a discard |
//!
//! The states are in memory (`pages`) and in the layer's journal (`journal`), the bytes in its data files. A sync makes
//! the data durable, then the journal's record of what changed, then answers. After a crash every page is as it was at
//! the last sync, or as any later write or discard left it. A layer that the header (`header`) does not name is a crash's
//! left-over. A [`Directory`] is where it all lies.
//!
//! # Locks
//! In this order, each held while the next is taken:
//! 1. `structure`: one of seal, note, finish, grow and fold back at a time.
//! 2. `writing`: one write or discard at a time, so that data and states change in one order.
//! 3. `turns`: one sync at a time. Writers do not wait for it, but for a seal and for a journal that is rewritten.
//! 4. The locks of a layer, each for moments only, but for its journal's. Readers take no other.

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use jiff::Timestamp;
use log::debug;
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::snapshot::{NewSnapshot, SnapshotId, VolumeSize, random_hex};

mod directory;
mod header;
mod health;
mod inspect;
mod journal;
mod layer;
mod names;
mod pages;
mod span;
mod structure;
mod turns;
mod view;

pub use crate::block::PAGE_SIZE;
pub use directory::{Directory, File, Holder, LocalDirectory};
pub use inspect::{Summary, inspect, look, read_header};
pub use layer::Layer;
pub use view::View;

use header::Named;
use health::Health;
use journal::Binding;
use layer::Home;
use span::{PAGE_BYTES, check_pages, length};
use turns::Turns;

/// What an overlay is of, and how far a commit of it has come.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Header {
    /// Its own id, random.
    pub id: String,
    /// The store of its base, by identity.
    pub store: String,
    /// The snapshot below all layers.
    pub base: SnapshotId,
    /// The base's size.
    pub base_size: VolumeSize,
    /// The disk's size: the base's, or larger.
    pub size: VolumeSize,
    /// The commit of the sealed layer. There is one exactly as long as there is a sealed layer.
    pub commit: Option<Commit>,
}

/// How far the commit of a sealed layer has come.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Commit {
    /// The snapshot to start. Its client token makes repeated starts one.
    pub new: NewSnapshot,
    /// The snapshot, once it is started.
    pub snapshot: Option<SnapshotId>,
    /// Whether the store has accepted it as complete.
    pub accepted: bool,
    /// When the layer was sealed: the moment whose disk the snapshot holds.
    pub sealed: Timestamp,
}

/// The state of a run of pages, all layers taken together.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum State {
    /// What lies below the overlay.
    Base,
    /// Bytes of a layer.
    Written,
    /// Zeros.
    Zero,
}

/// What a layer has of a block.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Change {
    /// All of its pages, and at least one written.
    Whole,
    /// All of its pages are zero.
    Zero,
    /// Some of its pages; the others are what lies below.
    Part,
}

/// How much a layer holds.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Amount {
    /// Pages written.
    pub written: u64,
    /// Pages zero.
    pub zero: u64,
    /// Blocks of which at least one page is one or the other.
    pub blocks: u64,
}

/// Sizes that decide when the journal is rewritten and how much of it is taken ahead.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Bytes by which the journal's room is enlarged when it is used up: some 17,000 small syncs' worth.
    pub journal_room: u64,
    /// A journal is not rewritten before it is longer than this: reading as much takes a moment.
    pub journal_len: u64,
    /// Nor before it is so many times as long as it has to be, so that rewriting it does not cost more than it saves.
    pub journal_ratio: u64,
    /// Bytes that are copied while writers wait, when a commit is given up.
    pub slice: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            journal_room: 1 << 20,
            journal_len: 8 << 20,
            journal_ratio: 4,
            slice: 4 << 20,
        }
    }
}

/// An overlay that is open. There is one for a directory at a time, in any process. Dropping it syncs nothing.
pub struct Overlay {
    directory: Arc<dyn Directory>,
    config: Config,
    health: Arc<Health>,
    /// What the header on disk says. Held for moments only.
    named: Mutex<Named>,
    /// The disk's size, which `named` has, too.
    size: AtomicU64,
    /// Held for moments only.
    view: RwLock<View>,
    /// See the table of locks above; guards nothing by itself.
    structure: Mutex<()>,
    /// Likewise.
    writing: Mutex<()>,
    turns: Turns,
}

impl fmt::Debug for Overlay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Overlay").field(&*self.named()).finish()
    }
}

impl Overlay {
    /// Makes an overlay over `base` in an empty directory; `Conflict` if it holds one.
    pub fn create(
        directory: Arc<dyn Directory>,
        store: &str,
        base: &SnapshotId,
        base_size: VolumeSize,
    ) -> Result<Self> {
        Self::create_with(directory, store, base, base_size, Config::default())
    }

    /// The same, with other sizes than the usual.
    pub fn create_with(
        directory: Arc<dyn Directory>,
        store: &str,
        base: &SnapshotId,
        base_size: VolumeSize,
        config: Config,
    ) -> Result<Self> {
        if Named::load(&*directory)?.is_some() {
            let place = directory.display(names::HEADER);
            let what = format!("{place} exists: there is an overlay already");
            return Err(Error::new(ErrorKind::Conflict, what));
        }
        let named = Named {
            header: Header {
                id: random_hex::<16>()?,
                store: store.to_owned(),
                base: base.clone(),
                base_size,
                size: base_size,
                commit: None,
            },
            top: 1,
            sealed: None,
        };
        remove_layers(&*directory, |_| true)?;
        let health = Arc::new(Health::default());
        let top = Home {
            directory: Arc::clone(&directory),
            health: Arc::clone(&health),
            binding: Binding::new(&named.header.id, named.top)?,
            number: named.top,
            config,
        };
        let top = Layer::create(top)?;
        named.publish(&*directory)?;
        let view = View { top, sealed: None };
        Ok(Self::new(directory, config, health, named, view))
    }

    /// Opens the overlay in `directory`, as it was when it was last synced or later; none if there is none.
    pub fn open(directory: Arc<dyn Directory>) -> Result<Option<Self>> {
        Self::open_with(directory, Config::default())
    }

    /// The same, with other sizes than the usual.
    pub fn open_with(directory: Arc<dyn Directory>, config: Config) -> Result<Option<Self>> {
        let Some(named) = Named::load(&*directory)? else {
            return Ok(None);
        };
        remove_layers(&*directory, |name| named.is_left_over(name))?;
        let health = Arc::new(Health::default());
        let home = |number| -> Result<Home> {
            Ok(Home {
                directory: Arc::clone(&directory),
                health: Arc::clone(&health),
                binding: Binding::new(&named.header.id, number)?,
                number,
                config,
            })
        };
        let sealed = named.sealed.map(|number| Layer::open_sealed(home(number)?));
        let view = View {
            top: Layer::open_top(home(named.top)?)?,
            sealed: sealed.transpose()?,
        };
        Ok(Some(Self::new(directory, config, health, named, view)))
    }

    fn new(
        directory: Arc<dyn Directory>,
        config: Config,
        health: Arc<Health>,
        named: Named,
        view: View,
    ) -> Self {
        Self {
            directory,
            config,
            health,
            size: AtomicU64::new(named.header.size.bytes()),
            named: Mutex::new(named),
            view: RwLock::new(view),
            structure: Mutex::default(),
            writing: Mutex::default(),
            turns: Turns::default(),
        }
    }

    /// What it is of.
    pub fn header(&self) -> Header {
        self.named().header.clone()
    }

    /// Its layers as they are now. They go on to change, and serve also when the overlay has given them up.
    pub fn view(&self) -> View {
        let view = self.view.read().unwrap_or_else(PoisonError::into_inner);
        view.clone()
    }

    /// Writes whole pages: `offset` and the length of `data` are multiples of [`PAGE_SIZE`].
    ///
    /// After a failure each page holds what it held before or what was to be written.
    pub fn write_pages(&self, offset: u64, data: &[u8]) -> Result<()> {
        let range = offset..offset.saturating_add(length(data));
        check_pages(&range, self.size())?;
        let _writing = self.writing();
        self.health.check()?;
        self.view().top.write(offset, data)
    }

    /// Writes a part of one page. `below` is the whole page as it lies below the overlay; without it, `false` if
    /// it is needed, and nothing is written.
    pub fn write_part(&self, offset: u64, data: &[u8], below: Option<&[u8]>) -> Result<bool> {
        let from = usize::try_from(offset % PAGE_BYTES).unwrap_or(PAGE_SIZE);
        let start = offset - offset % PAGE_BYTES;
        let part = from..from.saturating_add(data.len());
        let fits = part.end <= PAGE_SIZE && below.is_none_or(|below| below.len() == PAGE_SIZE);
        if !fits || start >= self.size() {
            let len = data.len();
            let what =
                format!("{len} bytes at offset {offset} are not a part of one page of the disk");
            return Err(Error::new(ErrorKind::Invalid, what));
        }
        let _writing = self.writing();
        self.health.check()?;
        let view = self.view();
        if view.top.has_written(start) {
            view.top.write(offset, data)?;
            return Ok(true);
        }
        let mut page = vec![0; PAGE_SIZE];
        let mut missing = Vec::new();
        view.read(start, &mut page, &mut missing)?;
        match below {
            None if !missing.is_empty() => return Ok(false),
            Some(below) if !missing.is_empty() => page.copy_from_slice(below),
            _ => {}
        }
        if let Some(part) = page.get_mut(part) {
            part.copy_from_slice(data);
        }
        view.top.write(start, &page)?;
        Ok(true)
    }

    /// Makes whole pages zero; both ends are multiples of [`PAGE_SIZE`]. O(extents), whatever the length.
    pub fn zero_pages(&self, range: Range<u64>) -> Result<()> {
        check_pages(&range, self.size())?;
        let _writing = self.writing();
        self.health.check()?;
        self.view().top.zero(range)
    }

    /// Makes durable what was written before. Once it has failed every later write and sync fails as `ReadOnly`.
    ///
    /// Calls that come while another runs are served by one sync. Writers do not wait for it.
    pub fn sync(&self) -> Result<()> {
        let mut synced = Ok(());
        // In its turn, as a seal may have given the disk another top meanwhile.
        self.turns.share(|| synced = self.view().top.sync());
        synced?;
        self.health.check()?;
        if self.view().top.is_journal_long() {
            let _writing = self.writing();
            self.turns.alone(|| self.view().top.shorten_journal())?;
        }
        Ok(())
    }

    fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    fn named(&self) -> MutexGuard<'_, Named> {
        self.named.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writing(&self) -> MutexGuard<'_, ()> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes the files of layers whose name `is_extra`, durably.
fn remove_layers(directory: &dyn Directory, is_extra: impl Fn(&str) -> bool) -> Result<()> {
    let mut removed = false;
    for name in directory.names()? {
        if names::layer_of(&name).is_some() && is_extra(&name) {
            debug!("{} is left over and removed", directory.display(&name));
            directory.remove(&name)?;
            removed = true;
        }
    }
    if removed { directory.sync() } else { Ok(()) }
}
