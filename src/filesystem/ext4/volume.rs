//! The file system's blocks as they are after the journal was replayed, which happens in memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::bytes::{crc32c_from, ensure, read_disk};
use crate::error::Result;
use crate::read_at::ReadAt;

/// A block whose last version is in the journal.
#[derive(Clone, Copy, Debug)]
pub(super) struct Logged {
    /// The byte at which that begins.
    pub(super) at: u64,
    /// Whether its first four bytes were taken out, as they looked like the journal's own.
    pub(super) escaped: bool,
    /// What its checksum must be.
    pub(super) checksum: Option<Checksum>,
}

/// What was noted of a block in the journal: a checksum, or the lower half of one, from that start.
#[derive(Clone, Copy, Debug)]
pub(super) struct Checksum {
    pub(super) seed: u32,
    pub(super) value: u32,
    pub(super) mask: u32,
}

impl Checksum {
    fn check(&self, bytes: &[u8], number: u64) -> Result<()> {
        let found = crc32c_from(self.seed, &[bytes]);
        ensure(found & self.mask == self.value, || {
            format!("block {number} in the journal has a wrong checksum")
        })
    }
}

/// Bytes of the file system.
pub(super) struct Volume {
    disk: Arc<dyn ReadAt>,
    block_size: u64,
    blocks: u64,
    logged: BTreeMap<u64, Logged>,
}

/// What an escaped block begins with.
const JOURNAL_MAGIC: [u8; 4] = [0xc0, 0x3b, 0x39, 0x98];

impl Volume {
    pub(super) fn new(
        disk: Arc<dyn ReadAt>,
        block_size: u64,
        blocks: u64,
        logged: BTreeMap<u64, Logged>,
    ) -> Self {
        Self {
            disk,
            block_size,
            blocks,
            logged,
        }
    }

    pub(super) fn disk(&self) -> &Arc<dyn ReadAt> {
        &self.disk
    }

    pub(super) fn block_size(&self) -> u64 {
        self.block_size
    }

    /// The journal knew of another number of blocks.
    pub(super) fn grow(&mut self, blocks: u64) {
        self.blocks = blocks;
    }

    pub(super) fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Whether anything of the journal is not in its place.
    pub(super) fn is_replayed(&self) -> bool {
        !self.logged.is_empty()
    }

    /// One block.
    pub(super) fn block(&self, number: u64) -> Result<Vec<u8>> {
        ensure(number > 0 && number < self.blocks, || {
            format!("block {number} of {} is spoken of", self.blocks)
        })?;
        // At most 64 KiB, as the superblock was checked.
        let mut bytes = vec![0; usize::try_from(self.block_size).unwrap_or_default()];
        self.read(number.saturating_mul(self.block_size), &mut bytes)?;
        Ok(bytes)
    }

    /// Fills `buf` from the byte `offset` on.
    pub(super) fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        read_disk(&self.disk, offset, buf)?;
        if self.logged.is_empty() || buf.is_empty() {
            return Ok(());
        }
        let len = u64::try_from(buf.len()).unwrap_or(u64::MAX);
        let end = offset.saturating_add(len);
        let block = |byte: u64| byte.checked_div(self.block_size).unwrap_or_default();
        let touched = block(offset)..=block(end.saturating_sub(1));
        for (number, logged) in self.logged.range(touched) {
            let bytes = self.journaled(*number, logged)?;
            let start = number.saturating_mul(self.block_size);
            let from = start.max(offset);
            let to = start.saturating_add(self.block_size).min(end);
            let within = |byte: u64, base: u64| {
                usize::try_from(byte.saturating_sub(base)).unwrap_or_default()
            };
            let target = buf.get_mut(within(from, offset)..within(to, offset));
            let source = bytes.get(within(from, start)..within(to, start));
            if let (Some(target), Some(source)) = (target, source) {
                target.copy_from_slice(source);
            }
        }
        Ok(())
    }

    fn journaled(&self, number: u64, logged: &Logged) -> Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(self.block_size).unwrap_or_default()];
        read_disk(&self.disk, logged.at, &mut bytes)?;
        if let Some(checksum) = &logged.checksum {
            checksum.check(&bytes, number)?;
        }
        if logged.escaped
            && let Some(first) = bytes.first_chunk_mut()
        {
            *first = JOURNAL_MAGIC;
        }
        Ok(bytes)
    }

    /// Where the bytes from `offset` on are on the disk, and how many of at most `len` lie there in a row: a block that is in the journal
    /// lies there.
    pub(super) fn place(&self, offset: u64, len: u64) -> (u64, u64) {
        let number = offset.checked_div(self.block_size).unwrap_or_default();
        let within = offset.checked_rem(self.block_size).unwrap_or_default();
        match self.logged.range(number..).next() {
            Some((first, logged)) if *first == number => {
                let rest = self.block_size.saturating_sub(within);
                (logged.at.saturating_add(within), len.min(rest))
            }
            Some((first, _)) => {
                let start = first.saturating_mul(self.block_size);
                (offset, len.min(start.saturating_sub(offset)))
            }
            None => (offset, len),
        }
    }
}
