//! A file's map: which of its blocks lie where. What the adapters read out of their trees, in one form.

use super::bytes::ensure;
use crate::error::Result;

/// Blocks of a file that lie in a row.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Run {
    /// The first, counted from the file's start.
    pub(super) first: u64,
    /// How many.
    pub(super) len: u64,
    /// The byte at which the first lies; none if nothing is written there yet.
    pub(super) at: Option<u64>,
}

impl Run {
    pub(super) fn end(&self) -> u64 {
        self.first.saturating_add(self.len)
    }
}

/// Runs in ascending order, none overlapping.
#[derive(Debug, Default)]
pub(super) struct Map {
    runs: Vec<Run>,
    block_size: u64,
}

/// Bytes of a file that lie together.
#[derive(Debug)]
pub(super) struct Span {
    pub(super) start: u64,
    pub(super) len: u64,
    pub(super) at: Option<u64>,
}

impl Map {
    pub(super) fn new(block_size: u64) -> Self {
        Self {
            runs: Vec::new(),
            block_size,
        }
    }

    /// Takes the next run; `Corrupt` unless it comes after all others. One that goes on where the last ends becomes part
    /// of it.
    pub(super) fn push(&mut self, run: Run) -> Result<()> {
        let end = self.runs.last().map_or(0, Run::end);
        ensure(
            run.len > 0 && run.first >= end && run.end() > run.first,
            || format!("its map goes from block {end} to block {} of it", run.first),
        )?;
        if let Some(last) = self.runs.last_mut()
            && last.end() == run.first
            && last
                .at
                .map(|at| at.saturating_add(last.len.saturating_mul(self.block_size)))
                == run.at
        {
            last.len = last.len.saturating_add(run.len);
        } else {
            self.runs.push(run);
        }
        Ok(())
    }

    /// What of the bytes from `start` to `end` is no hole, in order.
    pub(super) fn spans(&self, start: u64, end: u64) -> impl Iterator<Item = Span> + '_ {
        let byte = |block: u64| block.saturating_mul(self.block_size);
        let from = self.runs.partition_point(|run| byte(run.end()) <= start);
        let runs = self.runs.get(from..).unwrap_or_default().iter();
        runs.map_while(move |run| {
            let first = byte(run.first).max(start);
            let last = byte(run.end()).min(end);
            let within = first.saturating_sub(byte(run.first));
            (first < last).then(|| Span {
                start: first,
                len: last.saturating_sub(first),
                at: run.at.map(|at| at.saturating_add(within)),
            })
        })
    }

    /// Blocks that it names.
    pub(super) fn blocks(&self) -> u64 {
        self.runs
            .iter()
            .map(|run| run.len)
            .fold(0, u64::saturating_add)
    }

    /// Fills `buf` with the contents from `offset` on, zeros where there are none; `read` fills a buffer from a byte of the
    /// disk.
    pub(super) fn fill(
        &self,
        offset: u64,
        buf: &mut [u8],
        mut read: impl FnMut(u64, &mut [u8]) -> Result<()>,
    ) -> Result<()> {
        let len = u64::try_from(buf.len()).unwrap_or(u64::MAX);
        let within = |byte: u64| usize::try_from(byte.saturating_sub(offset)).unwrap_or(usize::MAX);
        let mut filled = 0;
        for span in self.spans(offset, offset.saturating_add(len)) {
            let start = within(span.start);
            if let Some(hole) = buf.get_mut(filled..start) {
                hole.fill(0);
            }
            filled = within(span.start.saturating_add(span.len));
            if let Some(part) = buf.get_mut(start..filled) {
                match span.at {
                    Some(at) => read(at, part)?,
                    None => part.fill(0),
                }
            }
        }
        if let Some(hole) = buf.get_mut(filled..) {
            hole.fill(0);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(first: u64, len: u64, at: Option<u64>) -> Run {
        Run { first, len, at }
    }

    #[test]
    fn runs_that_meet_are_one_and_those_that_overlap_are_damage() {
        let mut map = Map::new(10);
        map.push(run(1, 2, Some(100))).unwrap();
        map.push(run(3, 1, Some(120))).unwrap();
        map.push(run(4, 1, None)).unwrap();
        map.push(run(5, 1, None)).unwrap();
        assert_eq!(map.runs, [run(1, 3, Some(100)), run(4, 2, None)]);
        assert!(map.push(run(5, 1, Some(0))).is_err());
        assert!(map.push(run(9, 0, Some(0))).is_err());
        assert_eq!(map.blocks(), 5);
    }

    #[test]
    fn what_is_in_no_run_reads_as_zeros() {
        let mut map = Map::new(4);
        map.push(run(1, 1, Some(100))).unwrap();
        map.push(run(3, 1, None)).unwrap();
        let mut buf = [9; 13];
        let read = |at: u64, part: &mut [u8]| {
            part.fill(u8::try_from(at).unwrap());
            Ok(())
        };
        map.fill(2, &mut buf, read).unwrap();
        assert_eq!(buf, [0, 0, 100, 100, 100, 100, 0, 0, 0, 0, 0, 0, 0]);
        let mut buf = [9; 2];
        map.fill(6, &mut buf, read).unwrap();
        assert_eq!(buf, [102, 102]);
    }
}
