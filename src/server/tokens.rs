//! The opaque tokens of blocks and pages: sealed by a key that lives as long as the process.
//!
//! A token holds when it expires and, under an HMAC, what it is good for; nothing is remembered for it. A
//! restart voids all of them, which clients take as they take an expired one: they list again.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hmac::{Hmac, KeyInit as _, Mac as _};
use jiff::Timestamp;
use sha2::Sha256;

use super::wire::MAX_TOKEN;
use crate::block::BlockIndex;
use crate::error::{Error, ErrorKind, Result};
use crate::snapshot::SnapshotId;
use crate::store::Clock;

/// How long a block token is good unless told otherwise: seven days.
pub(super) const BLOCK_LIFE: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// How long a page token is good.
const PAGE_LIFE: Duration = Duration::from_secs(60 * 60);

/// Bytes of an HMAC that a token carries.
const MAC: usize = 16;

/// Makes tokens and knows its own again.
pub(super) struct Tokens {
    key: Hmac<Sha256>,
    life: Duration,
    clock: Clock,
    /// How often each snapshot was listed, where a listing voids the tokens of all before it.
    listings: Option<Mutex<HashMap<SnapshotId, u32>>>,
}

/// What the block tokens of one page have in common.
pub(super) struct Listing<'a> {
    id: &'a SnapshotId,
    /// Milliseconds since 1970.
    expiry: i64,
    number: u32,
}

impl Listing<'_> {
    /// When its tokens expire, in seconds since 1970.
    pub(super) fn expiry_time(&self) -> f64 {
        jiff::SignedDuration::from_millis(self.expiry).as_secs_f64()
    }
}

impl Tokens {
    /// Tokens under a new random key. Block tokens are good for `life`; with `rotate` only those of the latest
    /// listing of a snapshot are.
    pub(super) fn new(life: Duration, rotate: bool, clock: Clock) -> Result<Self> {
        let mut key = [0; 32];
        rustix::rand::getrandom(&mut key[..], rustix::rand::GetRandomFlags::empty())?;
        let key = Hmac::new_from_slice(&key)
            .map_err(|e| Error::new(ErrorKind::Io, format!("cannot make a key: {e}")))?;
        Ok(Self {
            key,
            life,
            clock,
            listings: rotate.then(Mutex::default),
        })
    }

    /// Begins a listing of `id`.
    pub(super) fn list<'a>(&self, id: &'a SnapshotId) -> Listing<'a> {
        let number = self.listings.as_ref().map_or(0, |listings| {
            let mut listings = listings.lock().unwrap_or_else(PoisonError::into_inner);
            let number = listings.entry(id.clone()).or_default();
            *number = number.wrapping_add(1);
            *number
        });
        Listing {
            id,
            expiry: self.after(self.life),
            number,
        }
    }

    /// The token of a block.
    pub(super) fn block(&self, listing: &Listing<'_>, index: BlockIndex) -> String {
        let mut token = listing.expiry.to_be_bytes().to_vec();
        token.extend(listing.number.to_be_bytes());
        token.extend(self.block_mac(listing, index));
        hex::encode(&token)
    }

    /// Whether `token` opens block `index` of `id` now.
    pub(super) fn opens_block(&self, id: &SnapshotId, index: BlockIndex, token: &str) -> bool {
        let Some((expiry, rest)) = unhex(token).and_then(split_expiry) else {
            return false;
        };
        let Some((number, mac)) = rest.split_first_chunk() else {
            return false;
        };
        let listing = Listing {
            id,
            expiry,
            number: u32::from_be_bytes(*number),
        };
        same(mac, &self.block_mac(&listing, index))
            && self.is_latest(&listing)
            && !self.is_over(expiry)
    }

    fn is_latest(&self, listing: &Listing<'_>) -> bool {
        self.listings.as_ref().is_none_or(|listings| {
            let listings = listings.lock().unwrap_or_else(PoisonError::into_inner);
            listings.get(listing.id) == Some(&listing.number)
        })
    }

    /// A token to go on at `cursor` with the request that `bound` describes.
    pub(super) fn page(&self, bound: &[&str], cursor: &[u8]) -> String {
        let expiry = self.after(PAGE_LIFE);
        let mut token = expiry.to_be_bytes().to_vec();
        token.extend(self.page_mac(expiry, bound, cursor));
        token.extend(cursor);
        hex::encode(&token)
    }

    /// Where `token` goes on with that request; none if it belongs to another one or is no longer good.
    pub(super) fn cursor(&self, bound: &[&str], token: &str) -> Option<Vec<u8>> {
        let (expiry, rest) = unhex(token).and_then(split_expiry)?;
        let (mac, cursor) = rest.split_at_checked(MAC)?;
        let good = same(mac, &self.page_mac(expiry, bound, cursor)) && !self.is_over(expiry);
        good.then(|| cursor.to_vec())
    }

    fn block_mac(&self, listing: &Listing<'_>, index: BlockIndex) -> [u8; MAC] {
        self.mac(&[
            b"block",
            listing.id.as_str().as_bytes(),
            &index.get().to_be_bytes(),
            &listing.expiry.to_be_bytes(),
            &listing.number.to_be_bytes(),
        ])
    }

    fn page_mac(&self, expiry: i64, bound: &[&str], cursor: &[u8]) -> [u8; MAC] {
        let expiry = expiry.to_be_bytes();
        let mut parts = vec![&b"page"[..], &expiry, cursor];
        parts.extend(bound.iter().map(|part| part.as_bytes()));
        self.mac(&parts)
    }

    fn mac(&self, parts: &[&[u8]]) -> [u8; MAC] {
        let mut mac = self.key.clone();
        for part in parts {
            // With its length, so that no two lists of parts are the same bytes.
            mac.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            mac.update(part);
        }
        let full = mac.finalize().into_bytes();
        full.first_chunk().copied().unwrap_or_default()
    }

    /// In milliseconds since 1970.
    fn after(&self, life: Duration) -> i64 {
        let now: Timestamp = (self.clock)();
        now.as_millisecond()
            .saturating_add(i64::try_from(life.as_millis()).unwrap_or(i64::MAX))
    }

    fn is_over(&self, expiry: i64) -> bool {
        (self.clock)().as_millisecond() > expiry
    }
}

/// Whether two codes are the same, in a time that does not tell where they differ.
fn same(a: &[u8], b: &[u8]) -> bool {
    subtle::ConstantTimeEq::ct_eq(a, b).into()
}

fn split_expiry(token: Vec<u8>) -> Option<(i64, Vec<u8>)> {
    let (expiry, rest) = token.split_first_chunk()?;
    Some((i64::from_be_bytes(*expiry), rest.to_vec()))
}

/// Hexadecimal, because base64's `+` becomes a blank in a query that is not encoded with care.
fn unhex(text: &str) -> Option<Vec<u8>> {
    hex::decode(text).ok().filter(|_| text.len() <= MAX_TOKEN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicI64, Ordering};

    fn tokens(rotate: bool) -> (Tokens, Arc<AtomicI64>) {
        let now = Arc::new(AtomicI64::new(1_800_000_000));
        let shown = Arc::clone(&now);
        let clock: Clock =
            Arc::new(move || Timestamp::from_second(shown.load(Ordering::Relaxed)).unwrap());
        (Tokens::new(BLOCK_LIFE, rotate, clock).unwrap(), now)
    }

    fn id(text: &str) -> SnapshotId {
        text.parse().unwrap()
    }

    #[test]
    fn a_block_token_opens_its_block_and_no_other() {
        let (tokens, now) = tokens(false);
        let (one, two) = (id("snap-1"), id("snap-2"));
        let listing = tokens.list(&one);
        let token = tokens.block(&listing, BlockIndex::new(7));
        assert!(token.len() <= MAX_TOKEN);
        assert!(tokens.opens_block(&one, BlockIndex::new(7), &token));
        assert!(!tokens.opens_block(&one, BlockIndex::new(8), &token));
        assert!(!tokens.opens_block(&two, BlockIndex::new(7), &token));
        for at in 0..token.len() {
            let mut forged = token.clone().into_bytes();
            forged[at] = if forged[at] == b'0' { b'1' } else { b'0' };
            let forged = String::from_utf8(forged).unwrap();
            assert!(!tokens.opens_block(&one, BlockIndex::new(7), &forged));
        }
        for bad in ["", "0", "zz", "é0", &token[2..], &format!("{token}00")] {
            assert!(!tokens.opens_block(&one, BlockIndex::new(7), bad), "{bad}");
        }
        now.fetch_add(7 * 86400, Ordering::Relaxed);
        assert!(tokens.opens_block(&one, BlockIndex::new(7), &token));
        now.fetch_add(1, Ordering::Relaxed);
        assert!(!tokens.opens_block(&one, BlockIndex::new(7), &token));
    }

    #[test]
    fn a_listing_voids_older_tokens_only_where_they_rotate() {
        for rotate in [false, true] {
            let (tokens, _) = tokens(rotate);
            let (one, two) = (id("snap-1"), id("snap-2"));
            let old = tokens.block(&tokens.list(&one), BlockIndex::ZERO);
            let other = tokens.block(&tokens.list(&two), BlockIndex::ZERO);
            let new = tokens.block(&tokens.list(&one), BlockIndex::ZERO);
            assert_eq!(tokens.opens_block(&one, BlockIndex::ZERO, &old), !rotate);
            assert!(tokens.opens_block(&one, BlockIndex::ZERO, &new));
            assert!(tokens.opens_block(&two, BlockIndex::ZERO, &other));
        }
    }

    #[test]
    fn a_page_token_goes_on_with_its_request_for_an_hour() {
        let (tokens, now) = tokens(false);
        let token = tokens.page(&["list", "snap-1"], b"cursor");
        assert_eq!(
            tokens.cursor(&["list", "snap-1"], &token).unwrap(),
            b"cursor"
        );
        assert_eq!(tokens.cursor(&["list", "snap-2"], &token), None);
        assert_eq!(tokens.cursor(&["lists", "nap-1"], &token), None);
        now.fetch_add(3600, Ordering::Relaxed);
        assert!(tokens.cursor(&["list", "snap-1"], &token).is_some());
        now.fetch_add(1, Ordering::Relaxed);
        assert_eq!(tokens.cursor(&["list", "snap-1"], &token), None);
    }
}
