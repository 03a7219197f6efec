//! The layers of an overlay, read as one.

use std::ops::Range;
use std::sync::Arc;

use super::span::length;
use super::{Layer, State};
use crate::error::Result;

/// The layers of an overlay at some moment. As long as it lives, its directory stays taken.
#[derive(Clone)]
pub struct View {
    /// Takes writes.
    pub top: Arc<Layer>,
    /// Is being committed.
    pub sealed: Option<Arc<Layer>>,
}

impl View {
    /// Fills `buf` from `offset` on as far as the layers have it, and appends to `missing` which ranges of `buf`
    /// they have not: those are the base's, and not touched.
    ///
    /// Of pages that are written or discarded meanwhile it reads what they were or what they become.
    pub fn read(&self, offset: u64, buf: &mut [u8], missing: &mut Vec<Range<usize>>) -> Result<()> {
        let Some(sealed) = &self.sealed else {
            return self.top.read(offset, buf, missing);
        };
        let mut below = Vec::new();
        self.top.read(offset, buf, &mut below)?;
        for range in below {
            let start = range.start;
            let mut base = Vec::new();
            if let Some((before, part)) = buf
                .get_mut(..range.end)
                .and_then(|buf| buf.split_at_mut_checked(start))
            {
                sealed.read(offset + length(before), part, &mut base)?;
            }
            missing.extend(
                base.into_iter()
                    .map(|range| start + range.start..start + range.end),
            );
        }
        Ok(())
    }

    /// The state of the page at `offset`, and where the run of pages in this state ends, or earlier; [`u64::MAX`] if
    /// it goes on for ever.
    pub fn extent(&self, offset: u64) -> (State, u64) {
        let (state, end) = self.top.extent(offset);
        match &self.sealed {
            Some(sealed) if state == State::Base => {
                let (state, below) = sealed.extent(offset);
                (state, end.min(below))
            }
            _ => (state, end),
        }
    }
}
