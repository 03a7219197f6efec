//! Room for one block, used again and again.
//!
//! Half a MiB from the allocator is fresh memory from the kernel each time: 128 page faults, which cost more than
//! reading the block. So a buffer that is let go waits here for the next one who needs it; a few do, and after a burst many.
//! They begin at pages, as files want it that are written past the page cache.

use std::ops::{Deref, DerefMut, Range};
use std::sync::{Mutex, PoisonError};

use super::{BLOCK_SIZE, PAGE_SIZE};

/// Buffers that wait, 128 MiB at most. A new one is made only when none waits, so there are never more than were once in
/// use together. To give some back earlier saves nothing: the allocator seldom gets their room together again, and the
/// next burst takes other room.
const SPARE: usize = 256;

/// Guards push and pop.
static POOL: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

/// A block, wherever in it the first page begins: what the allocator gives begins at none.
const ROOM: usize = BLOCK_SIZE + PAGE_SIZE - 1;

/// Bytes for a block, or for as much as a reader asks for at one time. What a new one holds is not said: whoever takes it fills all of it.
pub struct Buffer {
    room: Vec<u8>,
    /// Where the bytes are in it.
    at: Range<usize>,
}

impl Buffer {
    /// 512 KiB of unspecified content, which begin at a page.
    pub fn new() -> Self {
        let spare = POOL.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let room = spare.unwrap_or_else(|| vec![0; ROOM]);
        // It may say that it cannot tell.
        let start = match room.as_ptr().align_offset(PAGE_SIZE) {
            start @ 0..PAGE_SIZE => start,
            _ => 0,
        };
        let at = start..start + BLOCK_SIZE;
        Self { room, at }
    }

    /// At least `len` bytes, likewise. More than a block's come from the allocator.
    pub fn of(len: usize) -> Self {
        match len {
            0..=BLOCK_SIZE => Self::new(),
            _ => vec![0; len].into(),
        }
    }
}

impl Default for Buffer {
    fn default() -> Self {
        Self::new()
    }
}

impl From<Vec<u8>> for Buffer {
    /// Of any length: [`Block`](super::Block) takes only a block's.
    fn from(room: Vec<u8>) -> Self {
        let at = 0..room.len();
        Self { room, at }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.room[self.at.clone()]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.room[self.at.clone()]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let room = std::mem::take(&mut self.room);
        let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
        if room.len() == ROOM && pool.len() < SPARE {
            pool.push(room);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_begins_at_a_page_also_when_it_is_used_again() {
        for _ in 0..2 {
            let all: Vec<_> = (0..5).map(|_| Buffer::new()).collect();
            for buffer in &all {
                assert_eq!(buffer.len(), BLOCK_SIZE);
                assert_eq!(buffer.as_ptr().align_offset(PAGE_SIZE), 0);
            }
        }
        assert_eq!(Buffer::of(BLOCK_SIZE + 1).len(), BLOCK_SIZE + 1);
        assert_eq!(Buffer::from(vec![1; 3])[..], [1; 3]);
    }
}
