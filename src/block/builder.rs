//! A block that arrives in pieces.

use super::{BLOCK_SIZE, Block, Buffer, Digest};
use crate::error::{Error, ErrorKind, Result};

/// What has come of a block so far. Only [`finish`](Self::finish) makes a block of it.
#[derive(Default)]
pub struct BlockBuilder {
    buffer: Buffer,
    filled: usize,
}

impl BlockBuilder {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `piece` behind what came before; `Corrupt`, and nothing is added, if that is more than a block.
    pub fn push(&mut self, piece: &[u8]) -> Result<()> {
        let end = self.filled.saturating_add(piece.len());
        let Some(place) = self.buffer.get_mut(self.filled..end) else {
            let what = format!("more than the {BLOCK_SIZE} bytes of a block");
            return Err(Error::new(ErrorKind::Corrupt, what));
        };
        place.copy_from_slice(piece);
        self.filled = end;
        Ok(())
    }

    /// The block; `Corrupt` if it is not whole or hashes to something else than `expected`.
    pub async fn finish(self, expected: &Digest) -> Result<Block> {
        if self.filled != BLOCK_SIZE {
            let what = format!("{} bytes where a block has {BLOCK_SIZE}", self.filled);
            return Err(Error::new(ErrorKind::Corrupt, what));
        }
        Block::verify_together(self.buffer, expected).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn built(pieces: &[&[u8]], expected: &Digest) -> Result<Block> {
        let mut builder = BlockBuilder::new();
        for piece in pieces {
            builder.push(piece)?;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.unwrap().block_on(builder.finish(expected))
    }

    #[test]
    fn pieces_make_the_block_that_they_are_together() {
        let whole: Vec<u8> = (0..251).cycle().take(BLOCK_SIZE).collect();
        let block = Block::seal(whole.clone()).unwrap();
        let (a, b) = whole.split_at(70_001);
        let made = built(&[a, &[], b], &block.digest()).unwrap();
        assert_eq!(made.bytes(), whole);
        assert!(built(&[b, a], &block.digest()).is_err());
    }

    #[test]
    fn too_much_too_little_and_something_else_make_no_block() {
        let zeros = vec![0; BLOCK_SIZE];
        let kind = |pieces: &[&[u8]], digest| built(pieces, digest).unwrap_err().kind();
        let digest = &Digest::ZERO_BLOCK;
        assert_eq!(kind(&[&zeros, &[0]], digest), ErrorKind::Corrupt);
        assert_eq!(kind(&[&zeros[1..]], digest), ErrorKind::Corrupt);
        assert_eq!(kind(&[&zeros], &Digest::of(b"")), ErrorKind::Corrupt);
        assert!(matches!(built(&[&zeros], digest), Ok(Block::Zero)));
    }
}
