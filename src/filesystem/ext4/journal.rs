//! What a journal (JBD2) holds that is not in its place yet: the last version of each block, found by the rules by which the kernel
//! replays it.
//!
//! Transactions count from the first that is not in place up to the last that was committed: the sequence breaks off
//! there, or a checksum is wrong. A block that a transaction revoked is not replayed from it or an earlier one. Checksums of blocks
//! are kept, and hold when the block is read.
//!
//! Fast commits, which note changes of files and not blocks, are not replayed: a journal with any is `Unsupported`.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::bytes::{be16, be32, be64, le32};
use super::super::bytes::{byte, corrupt, crc32c_from, ensure, le16, part, piece, read_disk};
use super::super::map::Map;
use super::volume::{Checksum, Logged};
use crate::error::{Error, ErrorKind, Result};
use crate::read_at::ReadAt;

const MAGIC: u32 = 0xc03b_3998;
const DESCRIPTOR: u32 = 1;
const COMMIT: u32 = 2;
const REVOKE: u32 = 5;
/// Bytes that each block of the journal's own begins with: magic, what it is, sequence.
const HEADER: usize = 12;
const SUPERBLOCK: usize = 1024;

mod incompat {
    pub(super) const REVOKE: u32 = 0x1;
    pub(super) const BITS_64: u32 = 0x2;
    pub(super) const ASYNC_COMMIT: u32 = 0x4;
    pub(super) const CSUM_V2: u32 = 0x8;
    pub(super) const CSUM_V3: u32 = 0x10;
    pub(super) const FAST_COMMIT: u32 = 0x20;
    pub(super) const KNOWN: u32 = REVOKE | BITS_64 | ASYNC_COMMIT | CSUM_V2 | CSUM_V3 | FAST_COMMIT;
}

const ESCAPED: u32 = 1;
const SAME_UUID: u32 = 2;
const LAST: u32 = 8;

/// Blocks for fast commits where the journal does not say how many.
const FAST_COMMIT_BLOCKS: u32 = 256;
/// How a block with fast commits begins.
const FAST_COMMIT_HEAD: u16 = 9;

/// Read at a time: a few blocks of the store, under way together.
const WINDOW: u64 = 4 << 20;

/// Journals hold one for each block that was freed, and hardly ever as many.
const MAX_REVOKED: usize = 4 << 20;

/// The blocks of the journal at `map` that are to be replayed; none if it is clean.
pub(super) fn replay(
    disk: &Arc<dyn ReadAt>,
    map: Map,
    block_size: u64,
) -> Result<BTreeMap<u64, Logged>> {
    let mut journal = Journal::open(disk, map, block_size)?;
    if journal.start == 0 {
        return Ok(BTreeMap::new());
    }
    let mut found = Found::default();
    journal.scan(&mut found)?;
    journal.refuse_fast_commits(found.end)?;
    let Found {
        logged, revoked, ..
    } = found;
    Ok(logged
        .into_iter()
        .filter(|(number, (sequence, _))| match revoked.get(number) {
            Some(by) => is_after(*sequence, *by),
            None => true,
        })
        .map(|(number, (_, logged))| (number, logged))
        .collect())
}

/// Whether a transaction is later than another; numbers begin anew at their end.
fn is_after(sequence: u32, other: u32) -> bool {
    sequence.wrapping_sub(other).cast_signed() > 0
}

struct Journal<'a> {
    disk: &'a Arc<dyn ReadAt>,
    map: Map,
    block_size: u64,
    /// Its first block, and the one after its last.
    first: u32,
    end: u32,
    sequence: u32,
    start: u32,
    features: u32,
    /// What checksums begin with, if there are any.
    seed: Option<u32>,
    window: Option<(u64, Vec<u8>)>,
}

/// What the journal holds.
#[derive(Default)]
struct Found {
    /// The last version of each block, and by which transaction.
    logged: BTreeMap<u64, (u32, Logged)>,
    /// The last transaction that revoked each block.
    revoked: BTreeMap<u64, u32>,
    /// The number of the transaction after the last one.
    end: u32,
}

/// What a transaction did, as long as it is not known to be committed.
#[derive(Default)]
struct Pending {
    logged: Vec<(u64, Logged)>,
    revoked: Vec<u64>,
    /// Whether a checksum was wrong, as it is in what is left of an earlier round.
    doubtful: bool,
}

impl<'a> Journal<'a> {
    fn open(disk: &'a Arc<dyn ReadAt>, map: Map, block_size: u64) -> Result<Self> {
        let mut journal = Self {
            disk,
            map,
            block_size,
            first: 0,
            end: 0,
            sequence: 0,
            start: 0,
            features: 0,
            seed: None,
            window: None,
        };
        let block = journal.block(0)?;
        let superblock = part(&block, 0..SUPERBLOCK)?;
        let kind = be32(superblock, 4)?;
        ensure(
            be32(superblock, 0)? == MAGIC && matches!(kind, 3 | 4),
            || "the journal has no superblock".into(),
        )?;
        if kind == 4 {
            journal.features = be32(superblock, 40)?;
        }
        let unknown = journal.features & !incompat::KNOWN;
        if unknown != 0 {
            return Err(unsupported(&format!(
                "the journal has features that are not known here, {unknown:#x}"
            )));
        }
        if journal.features & (incompat::CSUM_V2 | incompat::CSUM_V3) != 0 {
            let pieces = [
                part(superblock, 0..0xfc)?,
                &[0; 4],
                part(superblock, 0x100..SUPERBLOCK)?,
            ];
            ensure(
                crc32c_from(u32::MAX, &pieces) == be32(superblock, 0xfc)?,
                || "the journal's superblock has a wrong checksum".into(),
            )?;
            journal.seed = Some(crc32c_from(u32::MAX, &[piece(superblock, 48, 16)?]));
        }
        let fast = match journal.features & incompat::FAST_COMMIT {
            0 => 0,
            _ => match be32(superblock, 84)? {
                0 => FAST_COMMIT_BLOCKS,
                blocks => blocks,
            },
        };
        let blocks = be32(superblock, 16)?;
        journal.first = be32(superblock, 20)?;
        journal.end = blocks.saturating_sub(fast);
        journal.sequence = be32(superblock, 24)?;
        journal.start = be32(superblock, 28)?;
        let log = journal.first..journal.end;
        ensure(
            u64::from(be32(superblock, 12)?) == block_size
                && u64::from(blocks) <= journal.map.blocks()
                && journal.first > 0
                && !log.is_empty()
                && (journal.start == 0 || log.contains(&journal.start)),
            || "the journal's superblock makes no sense".into(),
        )?;
        Ok(journal)
    }

    /// Where a block of the journal lies.
    fn place(&self, number: u64) -> Result<u64> {
        let start = number.saturating_mul(self.block_size);
        let end = start.saturating_add(self.block_size);
        let span = self.map.spans(start, end).next();
        span.filter(|span| span.start == start)
            .and_then(|span| span.at)
            .ok_or_else(|| corrupt(format!("block {number} of the journal lies nowhere")))
    }

    fn block(&mut self, number: u64) -> Result<Vec<u8>> {
        let at = self.place(number)?;
        let len = usize::try_from(self.block_size).unwrap_or_default();
        if let Some((start, bytes)) = &self.window
            && let Some(within) = at.checked_sub(*start)
            && let Ok(within) = usize::try_from(within)
            && let Some(block) = bytes.get(within..within.saturating_add(len))
        {
            return Ok(block.to_vec());
        }
        // One block is all that a clean journal is asked for.
        let ahead = match number {
            0 => self.block_size,
            _ => WINDOW
                .min(self.disk.size().saturating_sub(at))
                .max(self.block_size),
        };
        let mut bytes = vec![0; usize::try_from(ahead).unwrap_or_default()];
        read_disk(self.disk, at, &mut bytes)?;
        let block = part(&bytes, 0..len)?.to_vec();
        self.window = Some((at, bytes));
        Ok(block)
    }

    /// The block after `number`, as the log is a ring.
    fn after(&self, number: u32) -> u32 {
        match number.saturating_add(1) {
            next if next >= self.end => self.first,
            next => next,
        }
    }

    fn scan(&mut self, found: &mut Found) -> Result<()> {
        let (mut number, mut sequence) = (self.start, self.sequence);
        let mut pending = Pending::default();
        let mut last_time = (0, 0);
        // Each block of the ring is looked at once.
        let mut budget = self.end.saturating_sub(self.first);
        while budget > 0 {
            let block = self.block(number.into())?;
            if be32(&block, 0)? != MAGIC || be32(&block, 8)? != sequence {
                break;
            }
            number = self.after(number);
            budget = budget.saturating_sub(1);
            match be32(&block, 4)? {
                DESCRIPTOR => {
                    if !self.has_true_tail(&block)? {
                        pending.doubtful = true;
                    }
                    let before = pending.logged.len();
                    self.tags(&block, sequence, &mut number, &mut pending)?;
                    let passed = pending.logged.len().saturating_sub(before);
                    budget = budget.saturating_sub(u32::try_from(passed).unwrap_or(u32::MAX));
                }
                REVOKE => {
                    if !self.has_true_tail(&block)? {
                        pending.doubtful = true;
                    }
                    self.revoked(&block, &mut pending)?;
                    let all = found.revoked.len().saturating_add(pending.revoked.len());
                    if all > MAX_REVOKED {
                        return Err(unsupported(
                            "the journal revokes more blocks than can be held in memory",
                        ));
                    }
                }
                COMMIT => {
                    let time = (be64(&block, 48)?, be32(&block, 56)?);
                    if pending.doubtful {
                        ensure(time < last_time, || {
                            format!("transaction {sequence} of the journal has a wrong checksum")
                        })?;
                        break;
                    }
                    if !self.is_true_commit(&block)? {
                        break;
                    }
                    last_time = time;
                    let Pending {
                        logged, revoked, ..
                    } = std::mem::take(&mut pending);
                    let logged = logged
                        .into_iter()
                        .map(|(block, logged)| (block, (sequence, logged)));
                    found.logged.extend(logged);
                    found
                        .revoked
                        .extend(revoked.into_iter().map(|block| (block, sequence)));
                    sequence = sequence.wrapping_add(1);
                }
                _ => break,
            }
        }
        found.end = sequence;
        Ok(())
    }

    /// Whether the checksum at a block's end holds.
    fn has_true_tail(&self, block: &[u8]) -> Result<bool> {
        let Some(seed) = self.seed else {
            return Ok(true);
        };
        let tail = block.len().saturating_sub(4);
        let found = crc32c_from(seed, &[part(block, 0..tail)?, &[0; 4]]);
        Ok(found == be32(block, tail)?)
    }

    fn is_true_commit(&self, block: &[u8]) -> Result<bool> {
        let Some(seed) = self.seed else {
            return Ok(true);
        };
        let stored = be32(block, 16)?;
        let zeroed = [part(block, 0..16)?, &[0; 4]];
        let whole = crc32c_from(seed, &[zeroed[0], zeroed[1], part(block, 20..block.len())?]);
        if whole == stored {
            return Ok(true);
        }
        // Some kernels leave what follows the fields as it was, and count it as zeros.
        let rest = vec![0; block.len().saturating_sub(60)];
        let fields = [zeroed[0], zeroed[1], part(block, 20..60)?, &rest];
        Ok(crc32c_from(seed, &fields) == stored)
    }

    /// The blocks that follow a descriptor, and where they belong.
    fn tags(
        &self,
        block: &[u8],
        sequence: u32,
        number: &mut u32,
        pending: &mut Pending,
    ) -> Result<()> {
        let has = |feature| self.features & feature != 0;
        let (v2, v3, wide) = (
            has(incompat::CSUM_V2),
            has(incompat::CSUM_V3),
            has(incompat::BITS_64),
        );
        let len = match (v3, v2, wide) {
            (true, ..) => 16,
            (_, true, true) => 14,
            (_, true, false) => 10,
            (_, _, true) => 12,
            _ => 8,
        };
        let tail = if self.seed.is_some() { 4 } else { 0 };
        let end = block.len().saturating_sub(tail);
        let mut at = HEADER;
        while at.saturating_add(len) <= end {
            let field = |offset: usize| at.saturating_add(offset);
            let low = u64::from(be32(block, at)?);
            let high = match wide {
                true => u64::from(be32(block, field(8))?) << 32,
                false => 0,
            };
            let flags = match v3 {
                true => be32(block, field(4))?,
                false => be16(block, field(6))?.into(),
            };
            let checksum = match self.seed {
                None => None,
                Some(seed) => {
                    let (value, mask) = match v3 {
                        true => (be32(block, field(12))?, u32::MAX),
                        false => (be16(block, field(4))?.into(), 0xffff),
                    };
                    let seed = crc32c_from(seed, &[&sequence.to_be_bytes()]);
                    Some(Checksum { seed, value, mask })
                }
            };
            let logged = Logged {
                at: self.place(u64::from(*number))?,
                escaped: flags & ESCAPED != 0,
                checksum,
            };
            pending.logged.push((high | low, logged));
            *number = self.after(*number);
            at = at.saturating_add(len);
            if flags & SAME_UUID == 0 {
                at = at.saturating_add(16);
            }
            if flags & LAST != 0 {
                break;
            }
        }
        // No journal holds more blocks than it has.
        let all = usize::try_from(self.end).unwrap_or(usize::MAX);
        ensure(pending.logged.len() <= all, || {
            format!("transaction {sequence} of the journal does not fit into it")
        })
    }

    fn revoked(&self, block: &[u8], pending: &mut Pending) -> Result<()> {
        let wide = self.features & incompat::BITS_64 != 0;
        let end = usize::try_from(be32(block, HEADER)?).unwrap_or(usize::MAX);
        let records = part(block, 16..end.max(16))?;
        let len = if wide { 8 } else { 4 };
        for record in records.chunks_exact(len) {
            pending.revoked.push(match wide {
                true => be64(record, 0)?,
                false => be32(record, 0)?.into(),
            });
        }
        Ok(())
    }

    /// Fails if there is a fast commit on top of the last transaction.
    fn refuse_fast_commits(&mut self, sequence: u32) -> Result<()> {
        if self.features & incompat::FAST_COMMIT == 0 {
            return Ok(());
        }
        // The first block after the log's end is nobody's.
        let block = self.block(u64::from(self.end).saturating_add(1))?;
        let is_head = le16(&block, 0)? == FAST_COMMIT_HEAD && byte(&block, 2)? >= 8;
        if is_head && le32(&block, 8)? == sequence {
            return Err(unsupported(
                "the journal ends with fast commits, which only the kernel replays: as root, `ebsfs browse` has it do so",
            ));
        }
        Ok(())
    }
}

fn unsupported(what: &str) -> Error {
    Error::new(ErrorKind::Unsupported, what)
}
