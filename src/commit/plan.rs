//! What a commit would do, found out by listings alone.

use std::path::Path;
use std::sync::Arc;

use crate::block::{BlockIndex, bytes_of};
use crate::error::Result;
use crate::overlay::{Change, Header, View};
use crate::source::BlockSource;
use crate::stats::Requests;
use crate::upload::{Changes as _, Known};

use super::{Commits, Edited, PUTS, Plan, Spent, completing};

impl Commits {
    /// What [`run`](Commits::run) would do now, without a restart. Changes nothing, here or in the store.
    pub async fn plan(&self) -> Result<Plan> {
        self.quiet().await;
        let overlay = (self.overlay.header(), self.overlay.view());
        plan(overlay, self.below.source(), &self.journal).await
    }
}

impl Plan {
    /// The same of the overlay in `directory`, which is looked at and not taken; `base` is what lies below it.
    pub async fn of(
        directory: &Path,
        overlay: (Header, View),
        base: Arc<dyn BlockSource>,
    ) -> Result<Self> {
        plan(overlay, base, &directory.join(PUTS)).await
    }
}

async fn plan(
    (header, view): (Header, View),
    base: Arc<dyn BlockSource>,
    journal: &Path,
) -> Result<Plan> {
    let (layer, size) = match (&header.commit, view.sealed) {
        (Some(before), _) if before.accepted => return Err(completing(before)),
        (Some(before), Some(sealed)) => (sealed, before.new.volume_size),
        _ => (view.top, header.size),
    };
    let requests = Arc::new(Requests::default());
    let edited = Edited::new(layer, base, size.blocks(), Arc::clone(&requests));
    let mut plan = Plan {
        base: header.base,
        volume_size: size,
        resumes: header.commit.is_some(),
        whole: 0,
        part: 0,
        zero: 0,
        bytes: 0,
        requests: Spent::default(),
    };
    let mut gets = 0;
    let mut from = 0;
    while from < edited.count() {
        let (runs, end) = edited.page(BlockIndex::new(from)).await?;
        for run in runs {
            let count = u64::from(run.end - run.start);
            match edited.change(BlockIndex::new(run.start)) {
                Some(Change::Whole) => plan.whole += count,
                Some(Change::Zero) => plan.zero += count,
                Some(Change::Part) | None => {
                    plan.part += count;
                    gets += fetches(&edited, run.start, run.end).await?;
                }
            }
        }
        from = end;
    }
    let blocks = plan.whole + plan.part + plan.zero;
    plan.bytes = bytes_of(blocks);
    let started = header.commit.and_then(|commit| commit.snapshot);
    let done = match &started {
        Some(id) => {
            let mut known = Known::read(journal, id)?;
            std::iter::from_fn(|| known.next_put()).fold(0, |count, _| count + 1)
        }
        None => 0,
    };
    plan.requests = Spent {
        gets,
        puts: blocks.saturating_sub(done),
        // A start and a completion.
        others: 2,
        ..Spent::from(&*requests)
    };
    Ok(plan)
}

/// How many of these blocks the base has.
async fn fetches(edited: &Edited, start: u32, end: u32) -> Result<u64> {
    let mut count = 0;
    for index in (start..end).map(BlockIndex::new) {
        let listing = edited.listing(index).await?;
        if listing.is_some_and(|listing| listing.set.contains(index)) {
            count += 1;
        }
    }
    Ok(count)
}
