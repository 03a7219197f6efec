//! `ebsfs list`: what snapshots there are.

use std::fmt::Write as _;

use clap::Args;
use serde::Serialize;

use super::{Common, Outcome, print, print_json, stack};
use crate::snapshot::SnapshotInfo;

#[derive(Args)]
pub(super) struct List {
    /// For programs
    #[arg(long)]
    json: bool,
}

/// A snapshot as programs read it.
#[derive(Serialize)]
pub(super) struct Shown<'a> {
    #[serde(flatten)]
    info: &'a SnapshotInfo,
    /// Bytes of the volume, beside the service's `volume_size` in GiB.
    size: u64,
}

impl<'a> From<&'a SnapshotInfo> for Shown<'a> {
    fn from(info: &'a SnapshotInfo) -> Self {
        Self {
            info,
            size: info.volume_size.bytes(),
        }
    }
}

impl List {
    pub(super) fn run(self, common: &Common) -> Outcome {
        let runtime = stack::runtime()?;
        let opened = stack::open_store(common, &runtime)?;
        let all = runtime.block_on(opened.store.list())?;
        if self.json {
            return print_json(&all.iter().map(Shown::from).collect::<Vec<_>>());
        }
        print(&table(&all))
    }
}

fn table(all: &[SnapshotInfo]) -> String {
    let width = all
        .iter()
        .map(|info| info.id.as_str().len())
        .chain([8])
        .max()
        .unwrap_or(8);
    let parent = all.iter().any(|info| info.parent.is_some());
    let mut text = format!(
        "{:width$}  {:>9}  {:9}  {:20}",
        "SNAPSHOT", "SIZE", "STATUS", "STARTED"
    );
    text.push_str(if parent { "  PARENT" } else { "" });
    let _ = writeln!(
        text,
        "{}  DESCRIPTION",
        if parent {
            " ".repeat(width - 6)
        } else {
            String::new()
        }
    );
    for info in all {
        let size = info.volume_size.to_string();
        let _ = write!(
            text,
            "{:width$}  {size:>9}  {:9}  {:20}",
            info.id,
            info.status,
            started(info)
        );
        if parent {
            let parent = info.parent.as_ref().map_or("-", |parent| parent.as_str());
            let _ = write!(text, "  {parent:width$}");
        }
        let _ = writeln!(text, "  {}", printable(&info.description));
    }
    text
}

/// When a snapshot was started, to the second.
pub(super) fn started(info: &SnapshotInfo) -> String {
    info.start_time
        .map_or_else(|| "-".to_owned(), |time| format!("{time:.0}"))
}

/// Text from a store without what could steer a terminal.
pub(super) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            // These turn the direction of writing around, so that a text reads as another one.
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => char::REPLACEMENT_CHARACTER,
            c if c.is_control() => char::REPLACEMENT_CHARACTER,
            c => c,
        })
        .collect()
}
