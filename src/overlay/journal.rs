//! What a layer's pages are, on disk: changes of their states, one record for each sync, appended.
//!
//! The file begins with a header. All numbers are little-endian.
//!
//! ```text
//! magic      8 bytes: ebsfsovj
//! version    u32: 1
//! layer      u32, its number
//! overlay    32 bytes: the overlay's id
//! checksum   the first 8 bytes of the SHA-256 of the 48 bytes above
//! ```
//! Records follow without gaps.
//!
//! ```text
//! count      u32, of entries; 0: the journal ends here
//! sequence   u64: 1 for the first record, and one more for each
//! entries    of 40 bytes each:
//!   start    u32, the first block of a run
//!   end      u32, the block after its last
//!   written  u128, a bit for each page of a block, the first page's the lowest
//!   zero     u128, likewise
//! checksum   the first 8 bytes of the SHA-256 of the header, the record's offset in the file as a u64, and all of
//!            the record above
//! ```
//! An entry says that in every block of the run these pages became written, and those zero; the others stay. A run of
//! more than one block says so of all of its pages, and of one of the two.
//!
//! What follows the last record is zeros, taken ahead of time so that a sync needs no room, or the torn record of a
//! sync that a crash cut off: a record that is not whole, and that none follows, ends the journal. One that another
//! record follows is damage, as a record is written after the one before it was durable.

use std::ops::Range;

use super::directory::File;
use super::pages::{PageMap, Pages};
use super::span::length;
use crate::block::{Hasher, MAX_BLOCKS};
use crate::error::{Error, ErrorKind, Result};

const MAGIC: &[u8; 8] = b"ebsfsovj";
const VERSION: u32 = 1;
const ID_LEN: usize = 32;
const HEADER_LEN: usize = 8 + 4 + 4 + ID_LEN + SUM_LEN;
const SUM_LEN: usize = 8;
const START_LEN: usize = 4 + 8;
const ENTRY_LEN: usize = 4 + 4 + 16 + 16;

/// Bytes of a record with `entries` entries.
pub(super) fn record_len(entries: usize) -> u64 {
    let len = START_LEN + entries * ENTRY_LEN + SUM_LEN;
    u64::try_from(len).unwrap_or(u64::MAX)
}

/// Whose a journal is. All its checksums are bound to this.
#[derive(Clone, Debug)]
pub(super) struct Binding {
    header: Vec<u8>,
}

/// Where a journal ends.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct End {
    /// Offset of the next record.
    pub(super) offset: u64,
    /// Its sequence number.
    pub(super) sequence: u64,
    /// Where the last record lies; empty if there is none.
    pub(super) last: Range<u64>,
}

impl Binding {
    /// To layer `layer` of overlay `id`; `Corrupt` unless that is an id of an overlay.
    pub(super) fn new(id: &str, layer: u32) -> Result<Self> {
        let id: &[u8; ID_LEN] = id.as_bytes().try_into().map_err(|_| {
            Error::new(
                ErrorKind::Corrupt,
                format!("{id:?} is not the id of an overlay"),
            )
        })?;
        let mut header = MAGIC.to_vec();
        header.extend(VERSION.to_le_bytes());
        header.extend(layer.to_le_bytes());
        header.extend(id);
        header.extend(sum(&[&header]));
        Ok(Self { header })
    }

    /// Where the first record of a journal that begins with [`header`](Self::header) lies.
    pub(super) fn begin(&self) -> End {
        let offset = length(&self.header);
        End {
            offset,
            sequence: 1,
            last: offset..offset,
        }
    }

    /// The bytes of a journal without records.
    pub(super) fn header(&self) -> &[u8] {
        &self.header
    }

    /// A record to be appended at `end`, which says what `changes` says, and where the journal then ends.
    pub(super) fn record(&self, end: &End, changes: &PageMap) -> (Vec<u8>, End) {
        let mut bytes = Vec::new();
        bytes.extend(
            u32::try_from(changes.len())
                .unwrap_or(u32::MAX)
                .to_le_bytes(),
        );
        bytes.extend(end.sequence.to_le_bytes());
        for (blocks, pages) in changes.entries() {
            bytes.extend(blocks.start.to_le_bytes());
            bytes.extend(blocks.end.to_le_bytes());
            bytes.extend(pages.written.to_le_bytes());
            bytes.extend(pages.zero.to_le_bytes());
        }
        bytes.extend(self.sum(end.offset, &bytes));
        let next = end.after(length(&bytes));
        (bytes, next)
    }

    fn sum(&self, offset: u64, record: &[u8]) -> [u8; SUM_LEN] {
        sum(&[&self.header, &offset.to_le_bytes(), record])
    }
}

impl End {
    fn after(&self, len: u64) -> Self {
        Self {
            offset: self.offset + len,
            sequence: self.sequence + 1,
            last: self.offset..self.offset + len,
        }
    }
}

fn sum(parts: &[&[u8]]) -> [u8; SUM_LEN] {
    let mut hasher = Hasher::default();
    for part in parts {
        hasher.update(part);
    }
    let [a, b, c, d, e, f, g, h, ..] = *hasher.finish().as_bytes();
    [a, b, c, d, e, f, g, h]
}

/// Reads the journal `file`, which messages call `place`: what it says, and where it ends. Changes nothing.
pub(super) fn read(file: &dyn File, place: &str, binding: &Binding) -> Result<(PageMap, End)> {
    let reader = Reader {
        file,
        binding,
        len: file.length()?,
    };
    let corrupt = |what: String| Error::new(ErrorKind::Corrupt, format!("{place}: {what}"));
    reader.check_header()?.map_err(&corrupt)?;
    let mut map = PageMap::default();
    let mut end = binding.begin();
    while let Some(record) = reader.record(&end)? {
        let next = end.after(record.len);
        if !record.is_whole {
            if reader.record(&next)?.is_some_and(|record| record.is_whole) {
                let at = end.offset;
                return Err(corrupt(format!("the record at byte {at} is damaged")));
            }
            break;
        }
        for entry in record.entries() {
            let (blocks, pages) = entry.ok_or_else(|| {
                corrupt(format!("the record at byte {} makes no sense", end.offset))
            })?;
            map.put(blocks, pages);
        }
        end = next;
    }
    Ok((map, end))
}

/// A record as found.
struct Record {
    /// Its entries.
    body: Vec<u8>,
    len: u64,
    is_whole: bool,
}

impl Record {
    /// Its entries; none for one that says nothing that could be.
    fn entries(&self) -> impl Iterator<Item = Option<(Range<u32>, Pages)>> {
        self.body.chunks_exact(ENTRY_LEN).map(|entry| {
            let (start, rest) = entry.split_first_chunk()?;
            let (end, rest) = rest.split_first_chunk()?;
            let (written, rest) = rest.split_first_chunk()?;
            let (zero, _) = rest.split_first_chunk()?;
            let blocks = u32::from_le_bytes(*start)..u32::from_le_bytes(*end);
            let pages = Pages {
                written: u128::from_le_bytes(*written),
                zero: u128::from_le_bytes(*zero),
            };
            let possible = !blocks.is_empty()
                && blocks.end <= MAX_BLOCKS
                && pages.is_sound()
                && (pages.is_uniform() || blocks.len() == 1);
            possible.then_some((blocks, pages))
        })
    }
}

struct Reader<'a> {
    file: &'a dyn File,
    binding: &'a Binding,
    len: u64,
}

impl Reader<'_> {
    /// Whether it begins as it must, and if not, why.
    fn check_header(&self) -> Result<Result<(), String>> {
        let mut header = [0; HEADER_LEN];
        self.file.read_at(0, &mut header)?;
        if header == *self.binding.header {
            return Ok(Ok(()));
        }
        let what = if header.starts_with(MAGIC) && header.get(8..12) != Some(&VERSION.to_le_bytes())
        {
            "it has another version than the overlay"
        } else {
            "it is not the journal of this overlay's layer, or damaged"
        };
        Ok(Err(what.into()))
    }

    /// The record at `end`; none if there cannot be one.
    fn record(&self, end: &End) -> Result<Option<Record>> {
        let room = self.len.saturating_sub(end.offset);
        if room < record_len(1) {
            return Ok(None);
        }
        let mut start = [0; START_LEN];
        self.file.read_at(end.offset, &mut start)?;
        let [a, b, c, d, sequence @ ..] = start;
        let count = usize::try_from(u32::from_le_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        // A damaged count must not ask for more memory than the file is long.
        if count == 0 || count.saturating_mul(ENTRY_LEN) > usize::try_from(room).unwrap_or(0) {
            return Ok(None);
        }
        let len = record_len(count);
        if len > room {
            return Ok(None);
        }
        let mut bytes = vec![0; START_LEN + count * ENTRY_LEN + SUM_LEN];
        self.file.read_at(end.offset, &mut bytes)?;
        let stored = bytes.split_off(START_LEN + count * ENTRY_LEN);
        let is_whole = stored == self.binding.sum(end.offset, &bytes)
            && u64::from_le_bytes(sequence) == end.sequence;
        Ok(Some(Record {
            body: bytes.split_off(START_LEN),
            len,
            is_whole,
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::super::directory::open_read_only;
    use super::super::pages::Mark;
    use super::*;

    fn binding(id: char, layer: u32) -> Binding {
        Binding::new(&id.to_string().repeat(ID_LEN), layer).unwrap()
    }

    /// A journal of three records, and where each begins and the last ends.
    fn journal(binding: &Binding) -> (Vec<u8>, Vec<u64>) {
        let mut bytes = binding.header().to_vec();
        let mut end = binding.begin();
        let mut ends = vec![end.offset];
        for step in 0..3 {
            let mut changes = PageMap::default();
            changes.mark(step * 200..step * 200 + 300, Mark::Written);
            changes.mark(5000..5001 + step, Mark::Zero);
            let (record, next) = binding.record(&end, &changes);
            bytes.extend(record);
            end = next;
            ends.push(end.offset);
        }
        assert_eq!(length(&bytes), end.offset);
        bytes.resize(bytes.len() + 1000, 0);
        (bytes, ends)
    }

    fn read_bytes(path: &Path, bytes: &[u8], binding: &Binding) -> Result<(PageMap, End)> {
        fs::write(path, bytes).unwrap();
        read(&*open_read_only(path).unwrap().unwrap(), "it", binding)
    }

    #[test]
    fn a_journal_says_what_its_records_say() {
        let dir = tempfile::tempdir().unwrap();
        let mine = binding('a', 3);
        let (bytes, ends) = journal(&mine);
        let (map, end) = read_bytes(&dir.path().join("journal"), &bytes, &mine).unwrap();
        map.check();
        assert_eq!((map.amount().written, map.amount().zero), (700, 3));
        assert_eq!((end.offset, end.sequence), (ends[3], 4));
        assert_eq!(end.last, ends[2]..ends[3]);
    }

    #[test]
    fn a_torn_record_ends_a_journal_and_a_damaged_one_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let mine = binding('a', 3);
        let (whole, ends) = journal(&mine);
        for at in usize::try_from(ends[0]).unwrap()..usize::try_from(ends[3]).unwrap() {
            let offset = u64::try_from(at).unwrap();
            let before = ends[1..].iter().filter(|end| **end <= offset).count();
            for torn in [false, true] {
                let mut bytes = whole.clone();
                if torn {
                    bytes.truncate(at);
                } else {
                    bytes[at] ^= 1;
                }
                match read_bytes(&path, &bytes, &mine) {
                    Ok((_, end)) => assert_eq!(end.offset, ends[before], "at {at}"),
                    // The next record shows that this one was whole once.
                    Err(e) => {
                        assert_eq!(e.kind(), ErrorKind::Corrupt);
                        assert!(!torn && before < 2, "at {at}: {e:#}");
                    }
                }
            }
        }
        for at in 0..usize::try_from(ends[0]).unwrap() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            let error = read_bytes(&path, &bytes, &mine).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "at {at}");
        }
    }

    #[test]
    fn a_record_counts_only_where_and_for_whom_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let mine = binding('a', 3);
        let (whole, ends) = journal(&mine);
        for other in [binding('b', 3), binding('a', 4)] {
            assert!(read_bytes(&path, &whole, &other).is_err());
            // Under the header of the other, too.
            let mut bytes = whole.clone();
            bytes[..HEADER_LEN].copy_from_slice(other.header());
            let (map, _) = read_bytes(&path, &bytes, &other).unwrap();
            assert!(map.is_empty());
        }
        // The second record in the place of the first, and the first once more in the place of the second.
        let at = |which: usize| usize::try_from(ends[which]).unwrap();
        let mut bytes = whole.clone();
        bytes.drain(at(0)..at(1));
        assert!(read_bytes(&path, &bytes, &mine).unwrap().0.is_empty());
        let mut bytes = whole.clone();
        bytes.copy_within(at(0)..at(1), at(1));
        bytes.truncate(at(2));
        assert_eq!(read_bytes(&path, &bytes, &mine).unwrap().1.offset, ends[1]);
    }

    #[test]
    fn what_cannot_be_is_refused_in_spite_of_its_checksum() {
        let dir = tempfile::tempdir().unwrap();
        let mine = binding('a', 3);
        let entries = [
            (5, 5, 1, 0),
            (5, 4, 1, 0),
            (0, MAX_BLOCKS + 1, u128::MAX, 0),
            (0, 1, 1, 1),
            (0, 1, 0, 0),
            (0, 2, 1, 0),
        ];
        for (start, end, written, zero) in entries {
            let mut record = 1u32.to_le_bytes().to_vec();
            record.extend(1u64.to_le_bytes());
            record.extend(u32::to_le_bytes(start));
            record.extend(u32::to_le_bytes(end));
            record.extend(u128::to_le_bytes(written));
            record.extend(u128::to_le_bytes(zero));
            record.extend(mine.sum(mine.begin().offset, &record));
            let bytes = [mine.header(), &record].concat();
            let error = read_bytes(&dir.path().join("journal"), &bytes, &mine).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt);
        }
    }
}
