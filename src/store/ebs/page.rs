//! What the service lists, checked before it is believed: ascending, unique, inside the volume, of one block size.
//!
//! A listing may come in several answers: an empty one with a `NextToken` says that there is more to ask for.

use std::ops::Range;
use std::time::Duration;

use aws_sdk_ebs::primitives::DateTime;
use tokio::time::Instant;

use crate::block::{BLOCK_SIZE, BlockIndex, BlockSet};
use crate::error::{Error, ErrorKind, Result};
use crate::snapshot::VolumeSize;
use crate::store::Listing;
use crate::store::windows::Window;

/// Blocks asked for at one time: the service's most.
pub(super) const PAGE: i32 = 10_000;
/// Empty answers in a row before a listing is taken for one that never ends.
const EMPTY_ANSWERS: u32 = 1000;
/// The service's limit, in characters.
const LONGEST_TOKEN: usize = 256;
/// Tokens are not used up to the last second that they are valid.
const MARGIN: Duration = Duration::from_secs(60);

/// A range of blocks: which are present, and the tokens that read them.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) covered: Range<u32>,
    pub(super) volume_size: VolumeSize,
    /// Ascending.
    indexes: Vec<u32>,
    /// All tokens, one behind the other; `ends` tells where each ends. A page of strings would take half as much again.
    tokens: String,
    ends: Vec<usize>,
    /// When its tokens are to be renewed.
    expires: Option<Instant>,
}

impl Page {
    /// The token of a block; none if the block is absent.
    pub(super) fn token(&self, index: BlockIndex) -> Option<&str> {
        let at = self.indexes.binary_search(&index.get()).ok()?;
        let start = match at.checked_sub(1) {
            Some(before) => *self.ends.get(before)?,
            None => 0,
        };
        self.tokens.get(start..*self.ends.get(at)?)
    }

    /// Whether its tokens are too old to be used.
    pub(super) fn expired(&self) -> bool {
        self.expires
            .is_some_and(|expires| Instant::now() >= expires)
    }

    /// What it tells from `from` on.
    pub(super) fn listing(&self, from: BlockIndex) -> Listing {
        let first = self.indexes.partition_point(|index| *index < from.get());
        let present = self.indexes.iter().skip(first);
        let mut set: BlockSet = present.copied().map(BlockIndex::new).collect();
        set.shrink();
        Listing {
            set,
            covered: from.get()..self.covered.end,
            volume_size: self.volume_size,
        }
    }
}

impl Window for Page {
    fn covered(&self) -> Range<u32> {
        self.covered.clone()
    }

    fn memory(&self) -> usize {
        size_of::<Self>()
            + self.indexes.capacity() * size_of::<u32>()
            + self.ends.capacity() * size_of::<usize>()
            + self.tokens.capacity()
    }
}

/// One answer of the service.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) block_size: Option<i32>,
    pub(super) volume_size: Option<i64>,
    pub(super) expiry_time: Option<DateTime>,
    pub(super) next_token: Option<String>,
    /// Index and token; a listing of changes has none that are used.
    pub(super) blocks: Vec<(Option<i32>, Option<String>)>,
}

/// A listing on its way.
#[derive(Debug)]
pub(super) struct Paging {
    from: u32,
    next: Option<String>,
    answers: u32,
    volume_size: Option<VolumeSize>,
    expires: Option<Instant>,
}

impl Paging {
    /// Of the blocks from `from` on.
    pub(super) fn new(from: BlockIndex) -> Self {
        Self {
            from: from.get(),
            next: None,
            answers: 0,
            volume_size: None,
            expires: None,
        }
    }

    /// What to ask for next.
    pub(super) fn next_token(&self) -> Option<&str> {
        self.next.as_deref()
    }

    /// Checks an answer; none if there is more to ask for before anything is known. `Corrupt` if it cannot be
    /// believed, `Invalid` if the volume ends before `from`.
    pub(super) fn take(&mut self, answer: Answer) -> Result<Option<Page>> {
        let size = volume_size(&answer)?;
        if self.volume_size.is_some_and(|before| before != size) {
            return Err(wrong("changes the size of the volume"));
        }
        self.volume_size = Some(size);
        size.check(BlockIndex::new(self.from))?;
        if let Some(expires) = answer.expiry_time.and_then(expiry) {
            self.expires = Some(self.expires.map_or(expires, |before| before.min(expires)));
        }
        let mut page = Page {
            covered: self.from..size.blocks(),
            volume_size: size,
            indexes: Vec::with_capacity(answer.blocks.len()),
            tokens: String::new(),
            ends: Vec::with_capacity(answer.blocks.len()),
            expires: self.expires,
        };
        for (index, token) in answer.blocks {
            page.push(index, &token.unwrap_or_default())?;
        }
        page.tokens.shrink_to_fit();
        let Some(next) = answer.next_token.filter(|next| !next.is_empty()) else {
            return Ok(Some(page));
        };
        if let Some(last) = page.indexes.last() {
            page.covered.end = last.saturating_add(1);
            return Ok(Some(page));
        }
        self.answers += 1;
        if self.next.as_ref() == Some(&next) || self.answers > EMPTY_ANSWERS {
            return Err(wrong("does not end: empty pages follow each other"));
        }
        self.next = Some(next);
        Ok(None)
    }
}

impl Page {
    fn push(&mut self, index: Option<i32>, token: &str) -> Result<()> {
        let index = index
            .and_then(|index| u32::try_from(index).ok())
            .filter(|index| self.covered.contains(index))
            .ok_or_else(|| wrong("names a block outside the range asked for"))?;
        if self.indexes.last().is_some_and(|last| *last >= index) {
            return Err(wrong(&format!(
                "names block {index} out of order, or twice"
            )));
        }
        if token.len() > LONGEST_TOKEN {
            return Err(wrong("has a token that is too long"));
        }
        self.indexes.push(index);
        self.tokens.push_str(token);
        self.ends.push(self.tokens.len());
        Ok(())
    }
}

fn volume_size(answer: &Answer) -> Result<VolumeSize> {
    if answer
        .block_size
        .and_then(|size| usize::try_from(size).ok())
        != Some(BLOCK_SIZE)
    {
        let size = answer.block_size.unwrap_or_default();
        return Err(wrong(&format!("says a block has {size} bytes")));
    }
    answer
        .volume_size
        .and_then(|gib| u32::try_from(gib).ok())
        .and_then(|gib| VolumeSize::from_gib(gib).ok())
        .ok_or_else(|| wrong("says no size that a volume can have"))
}

/// When tokens that expire at `time` are to be renewed; none if that is past, by a clock that is wrong here or there.
fn expiry(time: DateTime) -> Option<Instant> {
    let time = std::time::SystemTime::try_from(time).ok()?;
    let left = time.duration_since(std::time::SystemTime::now()).ok()?;
    Instant::now().checked_add(left - MARGIN.min(left / 10))
}

fn wrong(what: &str) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        format!("the server's listing {what}: is this an EBS endpoint?"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(indexes: &[i32], next_token: Option<&str>) -> Answer {
        let block = |index: &i32| (Some(*index), Some(format!("token{index}")));
        Answer {
            block_size: Some(512 << 10),
            volume_size: Some(1),
            expiry_time: None,
            next_token: next_token.map(str::to_owned),
            blocks: indexes.iter().map(block).collect(),
        }
    }

    fn taken(answer: Answer) -> Result<Option<Page>> {
        Paging::new(BlockIndex::new(10)).take(answer)
    }

    #[test]
    fn a_page_tells_tokens_and_absence() {
        let page = taken(answer(&[10, 12, 500], Some("more")))
            .unwrap()
            .unwrap();
        assert_eq!(page.covered, 10..501);
        let token = |index| page.token(BlockIndex::new(index));
        assert_eq!(token(10), Some("token10"));
        assert_eq!(token(500), Some("token500"));
        assert_eq!(token(11), None);
        let listing = page.listing(BlockIndex::new(11));
        assert_eq!(listing.covered, 11..501);
        assert_eq!(listing.set.len(), 2);
        let last = taken(answer(&[], None)).unwrap().unwrap();
        assert_eq!(last.covered, 10..2048);
    }

    #[test]
    fn what_cannot_be_is_not_believed() {
        let corrupt = |answer| taken(answer).unwrap_err().kind() == ErrorKind::Corrupt;
        for indexes in [&[12, 11][..], &[11, 11], &[9], &[2048], &[-1]] {
            assert!(corrupt(answer(indexes, None)), "{indexes:?}");
        }
        let with = |change: fn(&mut Answer)| {
            let mut answer = answer(&[11], None);
            change(&mut answer);
            corrupt(answer)
        };
        assert!(with(|answer| answer.block_size = Some(512)));
        assert!(with(|answer| answer.block_size = None));
        assert!(with(|answer| answer.volume_size = Some(1 << 30)));
        assert!(with(|answer| answer.volume_size = Some(0)));
        assert!(with(|answer| answer.blocks[0].1 = Some("t".repeat(257))));
        assert!(with(|answer| answer.blocks[0].0 = None));
    }

    #[test]
    fn empty_pages_are_followed_but_not_for_ever() {
        let mut paging = Paging::new(BlockIndex::new(10));
        assert!(paging.take(answer(&[], Some("a"))).unwrap().is_none());
        assert_eq!(paging.next_token(), Some("a"));
        assert!(paging.take(answer(&[], Some("b"))).unwrap().is_none());
        let mut other = answer(&[11], None);
        other.volume_size = Some(2);
        assert!(paging.take(other).is_err());
        assert!(paging.take(answer(&[], Some("b"))).is_err());
        let endless = (0..).map(|i| paging.take(answer(&[], Some(&i.to_string()))));
        let ended = endless.take(1100).any(|taken| taken.is_err());
        assert!(ended);
    }

    #[test]
    fn an_expiry_that_is_past_is_none() {
        let at =
            |seconds| DateTime::from(std::time::SystemTime::now() + Duration::from_secs(seconds));
        let left = expiry(at(1000)).unwrap() - Instant::now();
        assert!(left > Duration::from_secs(930) && left < Duration::from_secs(941));
        assert!(expiry(DateTime::from_secs(0)).is_none());
    }
}
