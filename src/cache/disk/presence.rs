//! The log `presence`: which blocks the snapshot has, as far as it was listed.
//!
//! After the header, records without gaps, one for each listing:
//!
//! ```text
//! start      u32: the first index about which it speaks
//! end        u32: the index after the last
//! runs       u32: how many runs of blocks are present; none in an empty range
//! body sum   8 bytes: the beginning of the SHA-256 of the key, `start`, `end` and the runs
//! head sum   8 bytes: that of the key and all of the record above
//! runs       of 8 bytes each, ascending, neither empty nor adjacent:
//!   start    u32, the first block
//!   end      u32, the block after its last
//! ```
//! When the log is opened only the heads of records are read, and a record when it is asked for. What does not match its sums
//! is not known; where a head does not, the log ends, and who is alone with it cuts it there. So a block is never taken for
//! absent by mistake. Processes append at the same time.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Seek as _, Write as _};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use super::header::{self, bound};
use super::private::Mode;
use crate::block::{BlockIndex, BlockSet, Digest};
use crate::error::{Error, ErrorKind, Result};
use crate::snapshot::VolumeSize;
use crate::store::Listing;

pub(super) const NAME: &str = "presence";
const MAGIC: &[u8; 8] = b"ebsfscpr";
const SUM: usize = 8;
const HEAD: usize = 12 + 2 * SUM;
const RUN: usize = 8;

/// A record in the log.
#[derive(Clone, Debug)]
struct Place {
    covered: Range<u32>,
    runs: usize,
    sum: [u8; SUM],
    /// Where the runs lie.
    at: u64,
}

impl Place {
    fn body(&self) -> usize {
        self.runs * RUN
    }

    fn end(&self) -> u64 {
        self.at.saturating_add(length(self.body()))
    }
}

pub(super) struct Presence {
    file: File,
    path: PathBuf,
    key: Digest,
    size: VolumeSize,
    /// By the first index covered; the latest of those that begin alike.
    places: BTreeMap<u32, Place>,
    /// Where the log ends, if it does not end as it should. Nobody would find what is appended behind that.
    torn: Option<u64>,
    /// Whether an append failed, of which a part may be there.
    failed: bool,
}

impl Presence {
    /// The log of a snapshot of that size.
    pub(super) fn open(dir: &Path, key: &Digest, size: VolumeSize) -> Result<Self> {
        let path = dir.join(NAME);
        let file = header::open(&path, MAGIC, key, Mode::Append)?;
        let file = file.ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("{} is gone", path.display()))
        })?;
        let mut presence = Self {
            file,
            path,
            key: *key,
            size,
            places: BTreeMap::new(),
            torn: None,
            failed: false,
        };
        presence.scan()?;
        Ok(presence)
    }

    /// Finds the records.
    fn scan(&mut self) -> Result<()> {
        let len = self.file.metadata().map(|found| found.len());
        let len = len.map_err(|e| Error::io(e, "look at", &self.path))?;
        let mut at = header::END;
        while at < len {
            let mut head = [0; HEAD];
            let read = self.file.read_exact_at(&mut head, at);
            let place = read.ok().and_then(|()| self.decode_head(&head, at));
            let Some(place) = place.filter(|place| place.end() <= len) else {
                self.torn = Some(at);
                return Ok(());
            };
            at = place.end();
            self.places.insert(place.covered.start, place);
        }
        Ok(())
    }

    /// Cuts the log where it is torn; only for who is alone with it.
    pub(super) fn mend(&mut self) -> Result<()> {
        if let Some(end) = self.torn {
            let cut = self.file.set_len(end);
            cut.map_err(|e| Error::io(e, "cut", &self.path))?;
            self.torn = None;
        }
        Ok(())
    }

    /// Whether all that was ever written is there.
    pub(super) fn is_whole(&self) -> bool {
        self.torn.is_none()
    }

    /// The listing that tells of block `from`, if it is known. One that is damaged is told once, as `Corrupt`.
    pub(super) fn get(&mut self, from: BlockIndex) -> Result<Option<Listing>> {
        let found = self.places.range(..=from.get()).next_back();
        let found = found.map(|(_, place)| place.clone());
        let Some(place) = found.filter(|place| place.covered.contains(&from.get())) else {
            return Ok(None);
        };
        let mut body = vec![0; place.body()];
        let read = self.file.read_exact_at(&mut body, place.at);
        let listing = read.ok().and_then(|()| self.decode_body(&place, &body));
        if listing.is_some() {
            return Ok(listing);
        }
        self.places.remove(&place.covered.start);
        let what = format!(
            "{}: the listing of {:?}",
            self.path.display(),
            place.covered
        );
        Err(Error::new(ErrorKind::Corrupt, what))
    }

    /// Keeps a listing, unless it says nothing new.
    pub(super) fn put(&mut self, listing: &Listing) -> Result<()> {
        let covered = listing.covered.clone();
        let known = self.places.get(&covered.start);
        let known = known.is_some_and(|place| place.covered.end >= covered.end);
        if known || self.torn.is_some() || self.failed {
            return Ok(());
        }
        let mut body = Vec::new();
        for run in listing.set.runs() {
            body.extend(run.start.to_le_bytes());
            body.extend(run.end.to_le_bytes());
        }
        let runs = u32::try_from(body.len() / RUN).unwrap_or(u32::MAX);
        let sum = self.body_sum(&covered, &body);
        let mut record = Vec::with_capacity(HEAD + body.len());
        record.extend(covered.start.to_le_bytes());
        record.extend(covered.end.to_le_bytes());
        record.extend(runs.to_le_bytes());
        record.extend(sum);
        record.extend(bound::<SUM>(&self.key, &[&record]));
        record.extend(&body);
        // One write, so that others append before or after it.
        let written = self.file.write_all(&record);
        let end = written.and_then(|()| self.file.stream_position());
        let end = end.map_err(|e| {
            self.failed = true;
            Error::io(e, "write", &self.path)
        })?;
        let place = Place {
            covered,
            runs: body.len() / RUN,
            sum,
            at: end.saturating_sub(length(body.len())),
        };
        self.places.insert(place.covered.start, place);
        Ok(())
    }

    fn body_sum(&self, covered: &Range<u32>, body: &[u8]) -> [u8; SUM] {
        let (start, end) = (covered.start.to_le_bytes(), covered.end.to_le_bytes());
        bound(&self.key, &[&start, &end, body])
    }

    fn decode_head(&self, head: &[u8; HEAD], at: u64) -> Option<Place> {
        let (said, sum) = head.split_last_chunk::<SUM>()?;
        if *sum != bound::<SUM>(&self.key, &[said]) {
            return None;
        }
        let (start, rest) = said.split_first_chunk()?;
        let (end, rest) = rest.split_first_chunk()?;
        let (runs, sum) = rest.split_first_chunk()?;
        let covered = u32::from_le_bytes(*start)..u32::from_le_bytes(*end);
        let runs = u32::from_le_bytes(*runs);
        let sound = !covered.is_empty()
            && covered.end <= self.size.blocks()
            && runs <= covered.end - covered.start;
        sound.then_some(Place {
            covered,
            runs: usize::try_from(runs).ok()?,
            sum: sum.try_into().ok()?,
            at: at + length(HEAD),
        })
    }

    fn decode_body(&self, place: &Place, body: &[u8]) -> Option<Listing> {
        if place.sum != self.body_sum(&place.covered, body) {
            return None;
        }
        let mut set = BlockSet::new();
        let mut last = None;
        for run in body.as_chunks::<RUN>().0 {
            let (start, rest) = run.split_first_chunk()?;
            let (end, _) = rest.split_first_chunk()?;
            let run = u32::from_le_bytes(*start)..u32::from_le_bytes(*end);
            let sound = !run.is_empty()
                && last.is_none_or(|last| last < run.start)
                && place.covered.start <= run.start
                && run.end <= place.covered.end;
            if !sound {
                return None;
            }
            last = Some(run.end);
            set.push_run(run);
        }
        set.shrink();
        Some(Listing {
            set,
            covered: place.covered.clone(),
            volume_size: self.size,
        })
    }
}

fn length(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;

    const KEY: &[u8] = b"a snapshot";

    fn size() -> VolumeSize {
        VolumeSize::from_gib(65536).unwrap()
    }

    fn listing(covered: Range<u32>, present: &[(u32, u32)]) -> Listing {
        let mut set = BlockSet::new();
        present
            .iter()
            .for_each(|(start, end)| set.push_run(*start..*end));
        Listing {
            set,
            covered,
            volume_size: size(),
        }
    }

    fn open(dir: &Path) -> Presence {
        Presence::open(dir, &Digest::of(KEY), size()).unwrap()
    }

    fn told(presence: &mut Presence, index: u32) -> Option<Listing> {
        presence.get(BlockIndex::new(index)).ok().flatten()
    }

    #[test]
    fn listings_survive_and_what_nobody_listed_is_not_known() {
        let dir = tempfile::tempdir().unwrap();
        let all = listing(
            10..1 << 27,
            &[(10, 11), (70_000, 90_000), ((1 << 27) - 1, 1 << 27)],
        );
        let none = listing(0..10, &[]);
        {
            let mut first = open(dir.path());
            let mut second = open(dir.path());
            first.put(&all).unwrap();
            second.put(&none).unwrap();
            first.put(&all).unwrap();
            assert_eq!(told(&mut first, 80_000), Some(all.clone()));
            assert_eq!(told(&mut second, 80_000), None);
        }
        let len = fs::metadata(dir.path().join(NAME)).unwrap().len();
        assert_eq!(len, header::END + length(2 * HEAD + 3 * RUN), "each once");
        let mut again = open(dir.path());
        assert_eq!(told(&mut again, 5), Some(none));
        assert_eq!(told(&mut again, 99_999), Some(all));
    }

    #[test]
    fn a_torn_end_is_cut_and_what_came_before_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(NAME);
        let (first, second) = (listing(0..10, &[(3, 5)]), listing(10..20, &[(11, 12)]));
        open(dir.path()).put(&first).unwrap();
        let whole = fs::metadata(&path).unwrap().len();
        open(dir.path()).put(&second).unwrap();
        let end = fs::metadata(&path).unwrap().len();
        for cut in whole + 1..end {
            File::options()
                .write(true)
                .open(&path)
                .unwrap()
                .set_len(cut)
                .unwrap();
            let mut presence = open(dir.path());
            assert!(!presence.is_whole());
            assert_eq!(told(&mut presence, 0), Some(first.clone()));
            assert_eq!(told(&mut presence, 10), None);
            // Nobody would find it.
            presence.put(&second).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().len(), cut);
            presence.mend().unwrap();
            presence.put(&second).unwrap();
            assert_eq!(told(&mut open(dir.path()), 10), Some(second.clone()));
        }
    }

    #[test]
    fn the_log_of_another_snapshot_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        open(dir.path()).put(&listing(0..9, &[])).unwrap();
        let other = Presence::open(dir.path(), &Digest::of(b"another"), size());
        assert_eq!(other.map(drop).unwrap_err().kind(), ErrorKind::Corrupt);
    }

    proptest! {
        #[test]
        fn no_flipped_bit_makes_a_present_block_absent(
            cuts in prop::collection::btree_set(0_u32..5000, 2..40),
            at in any::<prop::sample::Index>(),
            bit in 0_u8..8,
        ) {
            let cuts: Vec<_> = cuts.into_iter().collect();
            let runs: Vec<_> = cuts.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
            let whole = listing(0..5000, &runs);
            let dir = tempfile::tempdir().unwrap();
            open(dir.path()).put(&whole).unwrap();
            prop_assert_eq!(told(&mut open(dir.path()), 0), Some(whole.clone()));
            let path = dir.path().join(NAME);
            let mut bytes = fs::read(&path).unwrap();
            let at = at.index(bytes.len());
            bytes[at] ^= 1_u8 << bit;
            fs::write(&path, bytes).unwrap();
            let known = Presence::open(dir.path(), &Digest::of(KEY), size());
            for index in [0, 2500, 4999] {
                let told = known.as_ref().ok().map(|_| told(&mut open(dir.path()), index));
                prop_assert_eq!(told.flatten(), None);
            }
        }
    }
}
