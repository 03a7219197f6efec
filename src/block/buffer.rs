//! Room for one block, used again and again.
//!
//! Half a MiB from the allocator is fresh memory from the kernel each time: 128 page faults, which cost more than
//! reading the block. So a buffer that is let go waits here for the next one who needs it; a few do, and after a burst many.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

use super::BLOCK_SIZE;

/// Buffers that wait, 128 MiB at most. A new one is made only when none waits, so there are never more than were once in
/// use together. To give some back earlier saves nothing: the allocator seldom gets their room together again, and the
/// next burst takes other room.
const SPARE: usize = 256;

/// Guards push and pop.
static POOL: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

/// Bytes for a block, or for as much as a reader asks for at one time. What a new one holds is not said: whoever takes it fills all of it.
pub struct Buffer(Vec<u8>);

impl Buffer {
    /// 512 KiB of unspecified content.
    pub fn new() -> Self {
        let spare = POOL.lock().unwrap_or_else(PoisonError::into_inner).pop();
        Self(spare.unwrap_or_else(|| vec![0; BLOCK_SIZE]))
    }

    /// At least `len` bytes, likewise. More than a block's come from the allocator.
    pub fn of(len: usize) -> Self {
        match len {
            0..=BLOCK_SIZE => Self::new(),
            _ => Self(vec![0; len]),
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
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.0);
        let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
        if bytes.len() == BLOCK_SIZE && pool.len() < SPARE {
            pool.push(bytes);
        }
    }
}
