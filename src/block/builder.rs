//! A block that arrives in pieces.

use super::together::Arriving;
use super::{BLOCK_SIZE, Block, Buffer, Digest, Hasher};
use crate::error::{Error, ErrorKind, Result};

/// What has come of a block so far. Only [`finish`](Self::finish) makes a block of it.
#[derive(Default)]
pub struct BlockBuilder {
    /// None before the first bytes: many blocks are waited for at one time.
    buffer: Option<Buffer>,
    filled: usize,
    /// Of a block that comes alone: it is hashed on its way. Others are hashed together, once they are whole.
    alone: Option<Hasher>,
    arriving: Arriving,
}

impl BlockBuilder {
    /// Nothing yet; to be made when the block is asked for, so that others which are hashed at the same time may wait for it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `piece` behind what came before; `Corrupt`, and nothing is added, if that is more than a block.
    pub fn push(&mut self, piece: &[u8]) -> Result<()> {
        let end = self.filled.saturating_add(piece.len());
        if self.buffer.is_none() && self.arriving.is_alone() {
            self.alone = Some(Hasher::default());
        }
        let buffer = self.buffer.get_or_insert_default();
        let Some(place) = buffer.get_mut(self.filled..end) else {
            let what = format!("more than the {BLOCK_SIZE} bytes of a block");
            return Err(Error::new(ErrorKind::Corrupt, what));
        };
        place.copy_from_slice(piece);
        self.filled = end;
        if let Some(hasher) = &mut self.alone {
            hasher.update(piece);
        }
        Ok(())
    }

    /// The block; `Corrupt` if it is not whole or hashes to something else than `expected`.
    pub async fn finish(self, expected: &Digest) -> Result<Block> {
        let filled = self.filled;
        let Some(buffer) = self.buffer.filter(|_| filled == BLOCK_SIZE) else {
            let what = format!("{filled} bytes where a block has {BLOCK_SIZE}");
            return Err(Error::new(ErrorKind::Corrupt, what));
        };
        drop(self.arriving);
        match self.alone {
            Some(hasher) => Block::verify_hashed(buffer, hasher.finish(), expected),
            None => Block::verify_together(buffer, expected).await,
        }
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
    fn a_block_is_the_same_alone_and_among_many() {
        let whole: Vec<u8> = (0..249).cycle().take(BLOCK_SIZE).collect();
        let block = Block::seal(whole.clone()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let runtime = runtime.unwrap();
        for count in [1, 9] {
            // All of them are on their way before the first bytes of one come.
            let builders: Vec<_> = (0..count).map(|_| BlockBuilder::new()).collect();
            let built = builders.into_iter().map(|mut builder| {
                whole
                    .chunks(60_000)
                    .for_each(|piece| builder.push(piece).unwrap());
                builder
            });
            let built: Vec<_> = built.collect();
            assert!(count == 1 || built.iter().all(|builder| builder.alone.is_none()));
            for builder in built {
                assert_eq!(
                    runtime.block_on(builder.finish(&block.digest())).unwrap(),
                    block
                );
            }
            let mut other = BlockBuilder::new();
            other.push(&whole).unwrap();
            let wrong = runtime.block_on(other.finish(&Digest::of(b"")));
            assert_eq!(wrong.unwrap_err().kind(), ErrorKind::Corrupt);
        }
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
