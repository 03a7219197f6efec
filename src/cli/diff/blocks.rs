//! The ranges of blocks that differ, as they are listed: nothing of what was printed is remembered.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _};
use std::ops::Range;
use std::sync::Arc;

use indicatif::HumanBytes;
use serde_json::json;
use tokio::runtime::Runtime;

use super::super::interrupt::unless_interrupted;
use super::super::progress::Progress;
use super::super::{Outcome, Stop, print, stack, tell};
use super::{Pair, if_unrelated};
use crate::block::{BlockIndex, bytes_of};
use crate::partition::Partition;
use crate::store::Store;

/// Prints what differs, and tells whether anything does.
pub(super) fn compare(
    pair: &Pair,
    store: &Arc<dyn Store>,
    runtime: &Runtime,
    as_json: bool,
) -> Outcome<bool> {
    let how = "nothing was changed; `ebsfs diff` begins anew";
    // Refused before anything is printed.
    let list = |at| runtime.block_on(unless_interrupted(pair.differences.page(at), how));
    let mut page = list(BlockIndex::ZERO).map_err(|stop| match stop {
        Stop::Failed(e) => Stop::Failed(if_unrelated(e, pair)),
        other => other,
    })?;
    pair.tell_sizes();
    let mut printer = Printer {
        partitions: stack::partitions(store, runtime, &pair.to),
        as_json,
        ranges: 0,
        blocks: 0,
    };
    printer.begin(pair)?;
    // A bar would stand between the lines on a terminal.
    let progress = (!io::stdout().is_terminal())
        .then(|| Progress::new("listing", pair.to.volume_size.bytes()));
    let mut joined = Joined::default();
    loop {
        let mut text = String::new();
        let done = page.set.runs().filter_map(|run| joined.push(run));
        done.for_each(|run| printer.range(&mut text, &run));
        print(&text)?;
        if let Some(progress) = &progress {
            progress.reached(BlockIndex::new(page.covered.end));
        }
        match page.next() {
            Some(next) => page = list(next)?,
            None => break,
        }
    }
    drop(progress);
    let mut text = String::new();
    if let Some(run) = joined.end() {
        printer.range(&mut text, &run);
    }
    print(&text)?;
    printer.end()
}

/// Runs that touch, as pages cut them, become one.
#[derive(Default)]
struct Joined(Option<Range<u32>>);

impl Joined {
    /// The run before `run`, if that is complete now.
    fn push(&mut self, run: Range<u32>) -> Option<Range<u32>> {
        match &mut self.0 {
            Some(open) if open.end == run.start => {
                open.end = run.end;
                None
            }
            open => open.replace(run),
        }
    }

    /// The last run.
    fn end(self) -> Option<Range<u32>> {
        self.0
    }
}

struct Printer {
    /// None if they are not known.
    partitions: Option<Vec<Partition>>,
    as_json: bool,
    ranges: u64,
    blocks: u64,
}

impl Printer {
    fn begin(&self, pair: &Pair) -> Outcome {
        if !self.as_json {
            return Ok(());
        }
        // Written by hand, as it may be longer than memory.
        print(&format!(
            "{{\n  \"from\": {},\n  \"to\": {},\n  \"from_size\": {},\n  \"to_size\": {},\n  \"block_size\": {},\n  \"ranges\": [",
            json!(pair.from.id),
            json!(pair.to.id),
            pair.from.volume_size.bytes(),
            pair.to.volume_size.bytes(),
            bytes_of(1)
        ))
    }

    fn range(&mut self, text: &mut String, run: &Range<u32>) {
        let (start, end) = (BlockIndex::new(run.start), BlockIndex::new(run.end));
        let (offset, length) = (start.start(), end.start() - start.start());
        let touched = self.partitions.as_ref().map(|partitions| {
            let touched = partitions.iter().filter(|partition| {
                partition.range.start < end.start() && start.start() < partition.range.end
            });
            touched.map(|partition| partition.number)
        });
        if self.as_json {
            let numbers = touched.map(|touched| touched.collect::<Vec<_>>());
            let range = json!({ "offset": offset, "length": length, "partitions": numbers });
            let comma = if self.ranges > 0 { "," } else { "" };
            let _ = write!(text, "{comma}\n    {range}");
        } else {
            if self.ranges == 0 {
                let _ = writeln!(text, "{:>15}  {:>15}  IN", "OFFSET", "LENGTH");
            }
            let names = touched.map(|touched| {
                let names: Vec<_> = touched.map(|number| format!("p{number}")).collect();
                names.join(",")
            });
            let names = names.filter(|names| !names.is_empty());
            let names = names.as_deref().unwrap_or("-");
            let _ = writeln!(text, "{offset:>15}  {length:>15}  {names}");
        }
        self.ranges += 1;
        self.blocks += u64::from(run.end - run.start);
    }

    /// Prints the totals, and tells whether there was anything.
    fn end(&self) -> Outcome<bool> {
        let bytes = bytes_of(self.blocks);
        if self.as_json {
            let line = if self.ranges > 0 { "\n  " } else { "" };
            print(&format!(
                "{line}],\n  \"blocks\": {},\n  \"bytes\": {bytes}\n}}\n",
                self.blocks
            ))?;
        } else if self.blocks == 0 {
            tell("no block differs");
        } else {
            tell(&format!(
                "blocks that differ: {}, {} ({bytes} bytes), ranges: {}",
                self.blocks,
                HumanBytes(bytes),
                self.ranges
            ));
        }
        Ok(self.blocks > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_that_pages_cut_are_told_as_one() {
        let mut joined = Joined::default();
        let pushed: Vec<_> = [3..5, 5..6, 6..9, 10..11, 20..21]
            .into_iter()
            .filter_map(|run| joined.push(run))
            .collect();
        assert_eq!(pushed, [3..9, 10..11]);
        assert_eq!(joined.end(), Some(20..21));
    }
}
