//! A disk below an overlay that records what is done to it, and can lose power at any moment.
//!
//! After a loss of power these states are legal, in any combination: of every 4 KiB of a file (512 bytes of a journal)
//! what they were when the file was last synced, or after any later write, punch or cut; likewise a file's length, and
//! which file has a name. A file that is published has all of its bytes, and its name from the end of the call on.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use ebsfs::error::{Error, ErrorKind, Result};
use ebsfs::overlay::{Directory, File};

use crate::images::Random;

const SECTOR: u64 = 512;

/// The content of a file. What is not there is zeros.
#[derive(Clone, Hash)]
struct Content {
    /// Bytes that are written together or not at all.
    grain: u64,
    len: u64,
    sectors: BTreeMap<u64, Vec<u8>>,
}

impl Content {
    fn write(&mut self, offset: u64, data: &[u8]) {
        let (mut at, mut rest) = (offset, data);
        while !rest.is_empty() {
            let within = (at % SECTOR) as usize;
            let (piece, more) = rest.split_at(rest.len().min(SECTOR as usize - within));
            let zeros = || vec![0; SECTOR as usize];
            let sector = self.sectors.entry(at / SECTOR).or_insert_with(zeros);
            sector[within..within + piece.len()].copy_from_slice(piece);
            at += piece.len() as u64;
            rest = more;
        }
    }

    fn zero(&mut self, range: Range<u64>) {
        let touched: Vec<u64> = self
            .sectors
            .range(range.start / SECTOR..range.end.div_ceil(SECTOR))
            .map(|(number, _)| *number)
            .collect();
        for number in touched {
            let start = number * SECTOR;
            let from = range.start.max(start) - start;
            let to = range.end.min(start + SECTOR) - start;
            if (from, to) == (0, SECTOR) {
                self.sectors.remove(&number);
            } else if let Some(sector) = self.sectors.get_mut(&number) {
                sector[from as usize..to as usize].fill(0);
            }
        }
    }

    fn read(&self, offset: u64, buf: &mut [u8]) {
        buf.fill(0);
        let end = (offset + buf.len() as u64).min(self.len);
        if end <= offset {
            return;
        }
        for (number, sector) in self.sectors.range(offset / SECTOR..end.div_ceil(SECTOR)) {
            let start = number * SECTOR;
            let (from, to) = (offset.max(start), end.min(start + SECTOR));
            let bytes = &sector[(from - start) as usize..(to - start) as usize];
            buf[(from - offset) as usize..(to - offset) as usize].copy_from_slice(bytes);
        }
    }

    /// Does `change`, as far as it is within `clip`; not to the length.
    fn apply(&mut self, change: &Change, clip: &Range<u64>) {
        let touched = change.range();
        let range = touched.start.max(clip.start)..touched.end.min(clip.end);
        if range.start >= range.end {
            return;
        }
        match change {
            Change::Write(offset, data) => {
                let at = (range.start - offset) as usize..(range.end - offset) as usize;
                self.write(range.start, &data[at]);
            }
            Change::Punch(_) | Change::Cut(_) => self.zero(range),
        }
    }
}

/// What is done to a file.
#[derive(Clone)]
enum Change {
    Write(u64, Vec<u8>),
    Punch(Range<u64>),
    Cut(u64),
}

impl Change {
    fn range(&self) -> Range<u64> {
        match self {
            Self::Write(offset, data) => *offset..offset + data.len() as u64,
            Self::Punch(range) => range.clone(),
            Self::Cut(len) => *len..u64::MAX / 2,
        }
    }

    fn len_after(&self, len: u64) -> u64 {
        match self {
            Self::Write(..) => len.max(self.range().end),
            Self::Punch(_) => len,
            Self::Cut(len) => *len,
        }
    }
}

/// What is done to the disk.
#[derive(Clone)]
enum Event {
    Make { file: u64, grain: u64 },
    Change { file: u64, change: Change },
    Sync { file: u64 },
    Name { name: String, file: Option<u64> },
    SyncName { name: String },
    SyncNames,
}

/// What is on a disk.
#[derive(Clone, Default)]
pub(crate) struct State {
    names: BTreeMap<String, u64>,
    files: BTreeMap<u64, Content>,
}

impl State {
    /// What it looks like, in a number.
    pub(crate) fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for (name, file) in &self.names {
            name.hash(&mut hasher);
            self.files[file].hash(&mut hasher);
        }
        hasher.finish()
    }

    /// Lets `edit` change the bytes of every file whose name ends in `suffix`.
    pub(crate) fn edit(&mut self, suffix: &str, edit: impl Fn(&mut [u8])) {
        for (name, file) in &self.names {
            if name.ends_with(suffix) {
                let content = self.files.get_mut(file).unwrap();
                let mut bytes = vec![0; content.len as usize];
                content.read(0, &mut bytes);
                edit(&mut bytes);
                content.write(0, &bytes);
            }
        }
    }

    fn change(&mut self, event: &Event) {
        match event {
            Event::Make { file, grain } => {
                let content = Content {
                    grain: *grain,
                    len: 0,
                    sectors: BTreeMap::new(),
                };
                self.files.insert(*file, content);
            }
            Event::Change { file, change } => {
                let content = self.files.get_mut(file).unwrap();
                content.apply(change, &(0..u64::MAX));
                content.len = change.len_after(content.len);
            }
            Event::Name { name, file } => match file {
                Some(file) => drop(self.names.insert(name.clone(), *file)),
                None => drop(self.names.remove(name)),
            },
            Event::Sync { .. } | Event::SyncName { .. } | Event::SyncNames => {}
        }
    }
}

/// What is surely on the disk at some point of a recording, and what may be.
pub(crate) struct Moment {
    durable: State,
    changes: BTreeMap<u64, Vec<Change>>,
    names: Vec<(String, Option<u64>)>,
}

/// How much of what may have got lost did.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Loss {
    Nothing,
    All,
    /// This part of 256, of every piece by itself.
    Some(u64),
}

impl Moment {
    fn advance(&mut self, event: &Event) {
        match event {
            Event::Make { .. } => self.durable.change(event),
            Event::Change { file, change } => {
                self.changes.entry(*file).or_default().push(change.clone());
            }
            Event::Sync { file } => {
                for change in self.changes.remove(file).unwrap_or_default() {
                    self.durable.change(&Event::Change {
                        file: *file,
                        change,
                    });
                }
            }
            Event::Name { name, file } => self.names.push((name.clone(), *file)),
            Event::SyncName { name } => self.settle_names(|other| other == name),
            Event::SyncNames => self.settle_names(|_| true),
        }
    }

    fn settle_names(&mut self, is_synced: impl Fn(&str) -> bool) {
        for (name, file) in std::mem::take(&mut self.names) {
            if is_synced(&name) {
                self.durable.change(&Event::Name { name, file });
            } else {
                self.names.push((name, file));
            }
        }
    }

    /// A legal state after a loss of power at this moment.
    pub(crate) fn lose_power(&self, loss: Loss, random: &mut Random) -> State {
        // How many of `count` changes in a row are on the disk.
        let mut kept = |count: usize| match loss {
            Loss::Nothing => count,
            Loss::All => 0,
            Loss::Some(part) if count > 0 && random.below(256) < part => {
                random.below(count as u64) as usize
            }
            Loss::Some(_) => count,
        };
        let mut state = self.durable.clone();
        for (file, changes) in &self.changes {
            let before = &self.durable.files[file];
            let content = state.files.get_mut(file).unwrap();
            for grain in grains(before, changes) {
                let clip = grain * before.grain..(grain + 1) * before.grain;
                let touching: Vec<_> = changes
                    .iter()
                    .filter(|change| {
                        let range = change.range();
                        range.start < clip.end && clip.start < range.end
                    })
                    .collect();
                for change in &touching[..kept(touching.len())] {
                    content.apply(change, &clip);
                }
            }
            let shown = &changes[..kept(changes.len())];
            content.len = shown
                .iter()
                .fold(before.len, |len, change| change.len_after(len));
            content.zero(content.len..u64::MAX / 2);
        }
        let touched: BTreeSet<_> = self.names.iter().map(|(name, _)| name).collect();
        for name in touched {
            let bindings: Vec<_> = self
                .names
                .iter()
                .filter(|(other, _)| other == name)
                .collect();
            if let Some((name, file)) = bindings[..kept(bindings.len())].last() {
                state.change(&Event::Name {
                    name: name.clone(),
                    file: *file,
                });
            }
        }
        state
    }
}

/// The grains of a file that any of `changes` changes.
fn grains(content: &Content, changes: &[Change]) -> BTreeSet<u64> {
    let mut ends = BTreeSet::new();
    let mut touched = |range: Range<u64>| {
        ends.extend(range.start / content.grain..range.end.div_ceil(content.grain));
    };
    for change in changes {
        if let Change::Write(..) = change {
            touched(change.range());
        }
    }
    for sector in content.sectors.keys() {
        touched(sector * SECTOR..(sector + 1) * SECTOR);
    }
    ends
}

struct Recording {
    start: State,
    now: State,
    events: Vec<Event>,
    next_file: u64,
    fails_sync: bool,
}

impl Recording {
    fn record(&mut self, event: Event) {
        self.now.change(&event);
        self.events.push(event);
    }

    fn make(&mut self, name: &str) -> u64 {
        let file = self.next_file;
        self.next_file += 1;
        let grain = if name.ends_with(".journal") {
            SECTOR
        } else {
            4096
        };
        self.record(Event::Make { file, grain });
        file
    }
}

/// The disk.
#[derive(Clone)]
pub(crate) struct Simulated {
    /// Guards the recording.
    recording: Arc<Mutex<Recording>>,
}

impl Simulated {
    pub(crate) fn new() -> Self {
        Self::holding(State::default())
    }

    /// A disk that holds `state`, all of it durably.
    pub(crate) fn holding(state: State) -> Self {
        let next_file = state.files.keys().last().map_or(0, |last| last + 1);
        Self {
            recording: Arc::new(Mutex::new(Recording {
                now: state.clone(),
                start: state,
                events: Vec::new(),
                next_file,
                fails_sync: false,
            })),
        }
    }

    /// How much has been done to it.
    pub(crate) fn position(&self) -> usize {
        self.recording().events.len()
    }

    /// From now on no file can be synced.
    pub(crate) fn fail_syncs(&self, fails: bool) {
        self.recording().fails_sync = fails;
    }

    /// Shows `look` every moment from its beginning to now, each after one thing more was done.
    pub(crate) fn moments(&self, mut look: impl FnMut(usize, &Moment)) {
        let (start, events) = {
            let recording = self.recording();
            (recording.start.clone(), recording.events.clone())
        };
        let mut moment = Moment {
            durable: start,
            changes: BTreeMap::new(),
            names: Vec::new(),
        };
        look(0, &moment);
        for (position, event) in (1..).zip(&events) {
            moment.advance(event);
            look(position, &moment);
        }
    }

    /// What is on it if the power fails now.
    pub(crate) fn lose_power(&self, loss: Loss, random: &mut Random) -> State {
        let last = self.position();
        let mut lost = None;
        self.moments(|position, moment| {
            if position == last {
                lost = Some(moment.lose_power(loss, random));
            }
        });
        lost.unwrap()
    }

    fn recording(&self) -> MutexGuard<'_, Recording> {
        self.recording.lock().unwrap()
    }
}

impl Directory for Simulated {
    fn open(&self, name: &str, create: bool) -> Result<Option<Arc<dyn File>>> {
        let mut recording = self.recording();
        let found = recording.now.names.get(name).copied();
        let file = match found {
            Some(file) => file,
            None if create => {
                let file = recording.make(name);
                recording.record(Event::Name {
                    name: name.to_owned(),
                    file: Some(file),
                });
                file
            }
            None => return Ok(None),
        };
        Ok(Some(Arc::new(Opened {
            disk: self.clone(),
            file,
        })))
    }

    fn names(&self) -> Result<Vec<String>> {
        Ok(self.recording().now.names.keys().cloned().collect())
    }

    fn publish(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let mut recording = self.recording();
        let file = recording.make(name);
        let name = name.to_owned();
        let change = Change::Write(0, bytes.to_vec());
        recording.record(Event::Change { file, change });
        recording.record(Event::Sync { file });
        recording.record(Event::Name {
            name: name.clone(),
            file: Some(file),
        });
        recording.record(Event::SyncName { name });
        Ok(())
    }

    fn remove(&self, name: &str) -> Result<()> {
        let mut recording = self.recording();
        if recording.now.names.contains_key(name) {
            recording.record(Event::Name {
                name: name.to_owned(),
                file: None,
            });
        }
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        self.recording().record(Event::SyncNames);
        Ok(())
    }

    fn display(&self, name: &str) -> String {
        format!("simulated {name}")
    }
}

/// A file of the disk.
struct Opened {
    disk: Simulated,
    file: u64,
}

impl Opened {
    fn change(&self, change: Change) {
        let file = self.file;
        self.disk.recording().record(Event::Change { file, change });
    }
}

impl File for Opened {
    fn length(&self) -> Result<u64> {
        Ok(self.disk.recording().now.files[&self.file].len)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.disk.recording().now.files[&self.file].read(offset, buf);
        Ok(())
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.change(Change::Write(offset, data.to_vec()));
        Ok(())
    }

    /// There is always room: what a full disk does is shown on a real one.
    fn reserve(&self, _range: Range<u64>) -> Result<()> {
        Ok(())
    }

    fn punch(&self, range: Range<u64>) -> Result<()> {
        self.change(Change::Punch(range));
        Ok(())
    }

    fn truncate(&self, length: u64) -> Result<()> {
        self.change(Change::Cut(length));
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        let mut recording = self.disk.recording();
        if recording.fails_sync {
            return Err(Error::new(ErrorKind::Io, "simulated failure of a sync"));
        }
        recording.record(Event::Sync { file: self.file });
        Ok(())
    }
}
