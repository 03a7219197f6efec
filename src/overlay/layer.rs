//! One layer: its pages' states in memory and in its journal, its bytes in data files.
//!
//! | Step | What it does, in this order |
//! | --- | --- |
//! | write | takes room in the journal and in the data file, writes the bytes, marks the pages written |
//! | discard | takes room in the journal, marks the pages zero, gives the room of their bytes back |
//! | sync | takes what is pending, syncs the data files and their names, appends a record, syncs the journal |
//!
//! So a page is noted as written only when its bytes are durable, a discarded one is zero from the moment on at which
//! that is noted, whatever became of its bytes, and a sync never asks for room. Steps that write are made one at a time,
//! and so are syncs: that is the overlay's to see to. What fails in a sync fails the whole overlay.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use log::debug;

use super::directory::{Directory, File};
use super::health::Health;
use super::journal::{self, Binding, End, record_len};
use super::pages::{Mark, PageMap};
use super::span::{PAGE_BYTES, bytes, file_of, first_page_of, length, pages, parts, within};
use super::{Amount, Change, Config, State, names};
use crate::block::{BLOCK_SIZE, BlockIndex};
use crate::error::{Error, ErrorKind, Result};

/// Pages that were written or discarded.
pub struct Layer {
    home: Home,
    /// Data files that were used so far. Guards map operations and opening.
    files: Mutex<BTreeMap<u64, Arc<dyn File>>>,
    /// Held while the journal is synced, too: so of two who sync it the one that is told of a failure makes that known
    /// before the other can believe in its success.
    journal: Mutex<Arc<dyn File>>,
    /// Guards memory only, and is the last lock to be taken.
    states: Mutex<States>,
}

/// Where a layer is, and what it shares with the overlay's others.
pub(super) struct Home {
    pub(super) directory: Arc<dyn Directory>,
    pub(super) health: Arc<Health>,
    pub(super) binding: Binding,
    pub(super) number: u32,
    pub(super) config: Config,
}

/// What is in memory of a layer.
struct States {
    /// Of all pages, as they are read.
    map: PageMap,
    /// What has changed since the last sync began.
    pending: PageMap,
    /// Data files that were written since then.
    dirty: BTreeSet<u64>,
    /// Whether data files may have names that are not durable.
    new_names: bool,
    /// Where the journal ends.
    end: End,
    /// Bytes of the record that a sync is about to append.
    in_flight: u64,
    /// Up to where the journal has durable room.
    reserved: u64,
    /// A journal that could not be rewritten for want of room is left alone until it is as long as this.
    retry_at: u64,
}

impl Layer {
    /// A new layer, durable but for being named by the header.
    pub(super) fn create(home: Home) -> Result<Arc<Self>> {
        let name = names::journal(home.number);
        home.directory.publish(&name, home.binding.header())?;
        let journal = home.open_journal()?;
        let end = home.binding.begin();
        Ok(Self::new(home, journal, PageMap::default(), end))
    }

    /// A layer as it was sealed.
    pub(super) fn open_sealed(home: Home) -> Result<Arc<Self>> {
        let journal = home.open_journal()?;
        let (map, end) = home.read_journal(&*journal)?;
        let layer = Self::new(home, journal, map, end);
        layer.check_files()?;
        Ok(layer)
    }

    /// A layer that takes writes, as a process or a machine left it that may have ended at any moment.
    pub(super) fn open_top(home: Home) -> Result<Arc<Self>> {
        let journal = home.open_journal()?;
        let (map, end) = home.read_journal(&*journal)?;
        // What a crash left after the last record goes. The record itself is written once more: where its sync failed it
        // may be no more than the kernel's memory of what is not on the disk.
        journal.truncate(end.offset)?;
        let mut last = vec![0; usize::try_from(end.last.end - end.last.start).unwrap_or(0)];
        journal.read_at(end.last.start, &mut last)?;
        journal.write_at(end.last.start, &last)?;
        journal.sync()?;
        let layer = Self::new(home, journal, map, end);
        // What an earlier process wrote is read now, and it may have synced neither those bytes nor the files' names.
        let files = layer.check_files()?;
        let mut states = layer.states();
        states.new_names = !files.is_empty();
        states.dirty = files.into_iter().collect();
        drop(states);
        Ok(layer)
    }

    fn new(home: Home, journal: Arc<dyn File>, map: PageMap, end: End) -> Arc<Self> {
        Arc::new(Self {
            home,
            files: Mutex::default(),
            journal: Mutex::new(journal),
            states: Mutex::new(States {
                map,
                pending: PageMap::default(),
                dirty: BTreeSet::new(),
                new_names: false,
                reserved: end.offset,
                end,
                in_flight: 0,
                retry_at: 0,
            }),
        })
    }

    /// The data files that hold written pages; `Corrupt` if one is missing.
    fn check_files(&self) -> Result<Vec<u64>> {
        let mut files = Vec::new();
        let mut page = 0;
        loop {
            let (state, end) = self.states().map.state(page);
            if state == State::Written {
                let file = file_of(page);
                self.existing(file)?;
                files.push(file);
                page = first_page_of(file + 1);
            } else if end == u64::MAX {
                return Ok(files);
            } else {
                page = end;
            }
        }
    }

    /// The first run of blocks from `from` on that have changed in one way, ascending; O(log n). What follows may have
    /// changed in the same way.
    pub fn changed(&self, from: BlockIndex) -> Option<(Range<u32>, Change)> {
        self.states().map.changed(from.get())
    }

    /// Puts this layer's pages of block `index` over `bytes`, which are the whole block as it is below.
    pub fn apply(&self, index: BlockIndex, bytes: &mut [u8]) -> Result<()> {
        if bytes.len() != BLOCK_SIZE {
            let len = bytes.len();
            let what = format!("{len} bytes for block {index}, which has {BLOCK_SIZE}");
            return Err(Error::new(ErrorKind::Invalid, what));
        }
        self.read(index.start(), bytes, &mut Vec::new())
    }

    /// How much it holds.
    pub fn amount(&self) -> Amount {
        self.states().map.amount()
    }

    /// As [`View::read`](super::View::read), of this layer alone.
    pub(super) fn read(
        &self,
        offset: u64,
        buf: &mut [u8],
        missing: &mut Vec<Range<usize>>,
    ) -> Result<()> {
        let range = offset..offset.saturating_add(length(buf));
        for (state, run) in self.runs(&range) {
            let at = within(offset, &run);
            match (state, buf.get_mut(at.clone())) {
                (State::Base, _) => match missing.last_mut() {
                    Some(last) if last.end == at.start => last.end = at.end,
                    _ => missing.push(at),
                },
                (State::Zero, Some(part)) => part.fill(0),
                (State::Written, Some(part)) => self.read_written(run, part)?,
                (_, None) => {}
            }
        }
        Ok(())
    }

    /// As [`View::extent`](super::View::extent), of this layer alone.
    pub(super) fn extent(&self, offset: u64) -> (State, u64) {
        let (state, end) = self.states().map.state(offset / PAGE_BYTES);
        (state, end.saturating_mul(PAGE_BYTES))
    }

    /// Whether the page at `offset` is written.
    pub(super) fn has_written(&self, offset: u64) -> bool {
        self.extent(offset).0 == State::Written
    }

    /// The runs of bytes of one state that make up `range`, ascending.
    pub(super) fn runs(&self, range: &Range<u64>) -> Vec<(State, Range<u64>)> {
        let states = self.states();
        let clip = |run: Range<u64>| run.start.max(range.start)..run.end.min(range.end);
        states
            .map
            .states(pages(range))
            .map(|(state, run)| (state, clip(bytes(&run))))
            .collect()
    }

    fn read_written(&self, range: Range<u64>, buf: &mut [u8]) -> Result<()> {
        let start = range.start;
        for part in parts(range) {
            let file = self.existing(part.file)?;
            if let Some(buf) = buf.get_mut(within(start, &part.on_disk)) {
                file.read_at(part.within.start, buf)?;
            }
        }
        Ok(())
    }

    /// Writes bytes: whole pages, or parts of pages that are written.
    pub(super) fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        let range = offset..offset.saturating_add(length(data));
        let touched = pages(&range);
        let is_new = !self.states().map.all(touched.clone(), State::Written);
        if is_new {
            self.make_room()?;
        }
        for part in parts(range) {
            let file = self.file(part.file)?;
            if is_new {
                file.reserve(part.within.clone())?;
            }
            let bytes = data.get(within(offset, &part.on_disk)).unwrap_or_default();
            let written = file.write_at(part.within.start, bytes);
            // Also what was written of a failed write is read from now on, where the pages were written before.
            self.states().dirty.insert(part.file);
            written?;
        }
        if is_new {
            self.states().mark(touched, Mark::Written);
        }
        Ok(())
    }

    /// Makes whole pages zero.
    pub(super) fn zero(&self, range: Range<u64>) -> Result<()> {
        let touched = pages(&range);
        if self.states().map.all(touched.clone(), State::Zero) {
            return Ok(());
        }
        self.make_room()?;
        let mut states = self.states();
        let held: Vec<_> = parts(range)
            .filter(|part| {
                let mut runs = states.map.states(pages(&part.on_disk));
                runs.any(|(state, _)| state == State::Written)
            })
            .collect();
        states.mark(touched, Mark::Zero);
        drop(states);
        for part in held {
            // The pages are zero whether this succeeds or not.
            let punched = self
                .existing(part.file)
                .and_then(|file| file.punch(part.within));
            if let Err(e) = punched {
                debug!("the room of discarded pages is not given back: {e:#}");
            }
        }
        Ok(())
    }

    /// Makes durable what was written before.
    pub(super) fn sync(&self) -> Result<()> {
        let health = &self.home.health;
        health.check()?;
        self.try_sync().map_err(|e| health.fail(e))
    }

    fn try_sync(&self) -> Result<()> {
        let mut states = self.states();
        // The changes first: whatever is noted was then written before the data is synced.
        let pending = std::mem::take(&mut states.pending);
        let dirty = std::mem::take(&mut states.dirty);
        let new_names = std::mem::take(&mut states.new_names);
        let end = states.end.clone();
        if !pending.is_empty() {
            states.in_flight = record_len(pending.len());
        }
        drop(states);
        for file in dirty {
            self.existing(file)?.sync()?;
        }
        if new_names {
            self.home.directory.sync()?;
        }
        if pending.is_empty() {
            return Ok(());
        }
        let (record, end) = self.home.binding.record(&end, &pending);
        let journal = self.journal();
        journal.write_at(end.last.start, &record)?;
        journal.sync().map_err(|e| self.home.health.fail(e))?;
        drop(journal);
        // Whoever else synced the journal may have been told in our place.
        self.home.health.check()?;
        let mut states = self.states();
        states.end = end;
        states.in_flight = 0;
        Ok(())
    }

    /// Sees to it that what one more write or discard makes pending fits into the journal; `NoSpace` if it does not.
    fn make_room(&self) -> Result<()> {
        let states = self.states();
        let pending = record_len(states.pending.len() + PageMap::GROWTH);
        let needed = states.end.offset + states.in_flight + pending;
        let reserved = states.reserved;
        drop(states);
        if needed <= reserved {
            return Ok(());
        }
        let ample = needed.max(reserved + self.home.config.journal_room);
        let taken = match self.extend_journal(reserved..ample) {
            // The last bytes of a full disk still serve some writes.
            Err(e) if e.kind() == ErrorKind::NoSpace && needed < ample => {
                self.extend_journal(reserved..needed)?;
                needed
            }
            extended => extended.map(|()| ample)?,
        };
        self.states().reserved = taken;
        Ok(())
    }

    /// Writes zeros durably, so that what is written over them needs no room and no metadata.
    fn extend_journal(&self, range: Range<u64>) -> Result<()> {
        const PIECE: usize = 64 << 10;
        let journal = self.journal();
        let zeros = vec![0; PIECE];
        let written = journal.reserve(range.clone()).and_then(|()| {
            let mut at = range.start;
            while at < range.end {
                let piece = zeros.get(within(at, &(at..range.end))).unwrap_or(&zeros);
                journal.write_at(at, piece)?;
                at += length(piece);
            }
            Ok(())
        });
        if let Err(e) = written {
            // So that it takes no room from others. What stays is zeros, and does no harm.
            drop(journal.truncate(range.start));
            return Err(e);
        }
        journal.sync().map_err(|e| self.home.health.fail(e))
    }

    /// Whether the journal is so long that it pays to rewrite it.
    pub(super) fn is_journal_long(&self) -> bool {
        let (config, states) = (&self.home.config, self.states());
        let len = states.end.offset;
        let compact = length(self.home.binding.header()) + record_len(states.map.len());
        len > config.journal_len
            && len > config.journal_ratio.saturating_mul(compact)
            && len >= states.retry_at
    }

    /// Replaces the journal by a short one that says the same. Nothing may be pending or about to be written.
    pub(super) fn shorten_journal(&self) -> Result<()> {
        // As a write may have come since the last sync.
        self.sync()?;
        let home = &self.home;
        let states = self.states();
        let mut bytes = home.binding.header().to_vec();
        let mut end = home.binding.begin();
        if !states.map.is_empty() {
            let (record, next) = home.binding.record(&end, &states.map);
            bytes.extend(record);
            end = next;
        }
        drop(states);
        let room = usize::try_from(home.config.journal_room).unwrap_or(0);
        bytes.resize(bytes.len() + room, 0);
        match home.directory.publish(&names::journal(home.number), &bytes) {
            Ok(()) => {}
            Err(e) if e.kind() == ErrorKind::NoSpace => {
                debug!("the journal of the overlay stays long: {e:#}");
                let mut states = self.states();
                states.retry_at = states.end.offset.saturating_mul(2);
                return Ok(());
            }
            // Nobody knows which of the two a crash would leave.
            Err(e) => return Err(home.health.fail(e)),
        }
        let file = home.open_journal().map_err(|e| home.health.fail(e))?;
        *self.journal() = file;
        let mut states = self.states();
        states.end = end;
        states.reserved = length(&bytes);
        states.retry_at = 0;
        Ok(())
    }

    /// Data file `file`, which must exist.
    fn existing(&self, file: u64) -> Result<Arc<dyn File>> {
        let mut files = self.files();
        if let Some(open) = files.get(&file) {
            return Ok(Arc::clone(open));
        }
        let name = names::data(self.home.number, file);
        let directory = &self.home.directory;
        let open = directory.open(&name, false)?.ok_or_else(|| {
            let place = directory.display(&name);
            Error::new(
                ErrorKind::Corrupt,
                format!("{place} is missing: it holds what was written to the overlay"),
            )
        })?;
        files.insert(file, Arc::clone(&open));
        Ok(open)
    }

    /// Data file `file`, made if it is missing.
    fn file(&self, file: u64) -> Result<Arc<dyn File>> {
        let mut files = self.files();
        if let Some(open) = files.get(&file) {
            return Ok(Arc::clone(open));
        }
        let name = names::data(self.home.number, file);
        let open = self.home.directory.open(&name, true)?.ok_or_else(|| {
            let place = self.home.directory.display(&name);
            Error::new(ErrorKind::Io, format!("{place} was not made"))
        })?;
        files.insert(file, Arc::clone(&open));
        self.states().new_names = true;
        Ok(open)
    }

    fn files(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<dyn File>>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn journal(&self) -> MutexGuard<'_, Arc<dyn File>> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn states(&self) -> MutexGuard<'_, States> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl States {
    fn mark(&mut self, pages: Range<u64>, mark: Mark) {
        if pages.is_empty() {
            return;
        }
        self.map.mark(pages.clone(), mark);
        self.pending.mark(pages, mark);
    }
}

impl Home {
    fn open_journal(&self) -> Result<Arc<dyn File>> {
        let name = names::journal(self.number);
        self.directory.open(&name, false)?.ok_or_else(|| {
            let place = self.directory.display(&name);
            let what = format!("{place} is missing: it says what was written to the overlay");
            Error::new(ErrorKind::Corrupt, what)
        })
    }

    fn read_journal(&self, file: &dyn File) -> Result<(PageMap, End)> {
        let place = self.directory.display(&names::journal(self.number));
        journal::read(file, &place, &self.binding)
    }
}
