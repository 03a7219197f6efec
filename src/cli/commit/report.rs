//! What a commit tells its user while it runs, and in the end.

use std::sync::{Mutex, MutexGuard, PoisonError};

use indicatif::HumanBytes;
use serde_json::{Value, json};

use super::super::counted::counted;
use super::super::progress::Progress;
use super::super::{Outcome, prices, print, print_json, tell};
use super::freeze::Frozen;
use crate::block::BlockIndex;
use crate::commit::{Accepted, Event, Plan};
use crate::snapshot::SnapshotId;

/// Shows events as they come, prints the id, and thaws what was frozen.
pub(super) struct Report {
    json: bool,
    store: String,
    state: Mutex<State>,
}

/// Guards itself; printing under it keeps lines apart.
#[derive(Default)]
struct State {
    progress: Option<Progress>,
    frozen: Option<Frozen>,
    accepted: Option<SnapshotId>,
    notes: Vec<String>,
    since: Option<u64>,
    settled: bool,
    /// What came of printing the id.
    printed: Option<Outcome>,
}

impl Report {
    /// For a commit into the store of that identity; `frozen` is thawed once the disk is sealed.
    pub(super) fn new(json: bool, store: &str, frozen: Option<Frozen>) -> Self {
        let state = State {
            frozen,
            ..State::default()
        };
        Self {
            json,
            store: store.to_owned(),
            state: Mutex::new(state),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn event(&self, event: Event) {
        let mut state = self.state();
        match event {
            Event::Sealed {
                sealed,
                volume_size,
                since,
            } => {
                state.frozen = None;
                state.progress = Some(Progress::new("commit", volume_size.bytes()));
                state.since = since;
                if let Some(pages) = since {
                    tell(&format!(
                        "going on with the interrupted commit of the disk as it was at {sealed:.0}; {pages} pages were written since, and are not in it (--restart commits what is there now)"
                    ));
                }
            }
            Event::Note { text } => {
                tell(&text);
                state.notes.push(text);
            }
            Event::Progress { index } => {
                if let Some(progress) = &state.progress {
                    progress.reached(BlockIndex::new(index));
                }
            }
            Event::Accepted(accepted) => {
                state.progress = None;
                state.accepted = Some(accepted.id.clone());
                if !self.json {
                    state.printed = Some(print(&format!("{}\n", accepted.id)));
                }
            }
            Event::Settled { .. } => state.settled = true,
        }
    }

    /// The snapshot that the store has accepted, if it came so far.
    pub(super) fn accepted(&self) -> Option<SnapshotId> {
        self.state().accepted.clone()
    }

    /// Ends what is shown and frozen, whatever came of the commit.
    pub(super) fn stop(&self) {
        let mut state = self.state();
        (state.progress, state.frozen) = (None, None);
    }

    /// The last words about a commit that was accepted.
    pub(super) fn finish(&self, accepted: &Accepted) -> Outcome {
        let mut state = self.state();
        let cost = prices::dollars(&self.store, &accepted.requests);
        if self.json {
            let mut value = json!(accepted);
            value["cost"] = json!(cost);
            value["settled"] = json!(state.settled);
            value["pages_since"] = json!(state.since);
            value["notes"] = json!(state.notes);
            return print_json(&value);
        }
        tell(&format!(
            "put {} in {:.1} s; {}, {}",
            blocks(accepted.blocks, accepted.bytes),
            accepted.seconds,
            counted(accepted.requests.total(), "request"),
            prices::shown(cost)
        ));
        state.printed.take().unwrap_or(Ok(()))
    }

    /// What would be done.
    pub(super) fn plan(&self, plan: &Plan) -> Outcome {
        let cost = prices::dollars(&self.store, &plan.requests);
        if self.json {
            let mut value = json!(plan);
            value["cost"] = Value::from(cost);
            return print_json(&value);
        }
        let total = plan.whole + plan.part + plan.zero;
        let what = match plan.resumes {
            true => "goes on with the interrupted commit of",
            false => "makes a child of",
        };
        let requests = &plan.requests;
        print(&format!(
            "{what} {base}, {size}\n\
             at most {blocks}: {whole} written in whole, {part} in part, {zero} of zeros\n\
             at most {puts}, {gets}, {listings}; {cost}\n",
            base = plan.base,
            size = plan.volume_size,
            blocks = blocks(total, plan.bytes),
            whole = plan.whole,
            part = plan.part,
            zero = plan.zero,
            puts = counted(requests.puts, "put"),
            gets = counted(requests.gets, "get"),
            listings = counted(requests.listings, "listing"),
            cost = prices::shown(cost),
        ))
    }
}

fn blocks(count: u64, bytes: u64) -> String {
    format!("{}, {}", counted(count, "block"), HumanBytes(bytes))
}
