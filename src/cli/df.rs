//! `ebsfs df`: what lies on a snapshot, and how full it is.

use std::fmt::Write as _;

use clap::Args;
use indicatif::HumanBytes;
use serde_json::{Value, json};

use super::files::Failures;
use super::list::printable;
use super::reading::Reading;
use super::stack::{Trees, Volume};
use super::{Common, Outcome, print, print_json};
use crate::filesystem::Facts;
use crate::snapshot::SnapshotId;

#[derive(Args)]
pub(super) struct Df {
    /// The snapshot
    snapshot: SnapshotId,

    /// For programs
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    reading: Reading,
}

/// A partition, or the whole disk, and what is on it.
struct Row<'a> {
    volume: &'a Volume,
    /// The name of what is on it, if that is known.
    kind: Option<&'static str>,
    /// What it says of itself, if it is read here.
    facts: Option<Facts>,
}

impl Df {
    pub(super) fn run(self, common: &Common) -> Outcome {
        let trees = Trees::open(common, &self.reading)?;
        let disk = trees.disk(&self.snapshot)?;
        let mut failures = Failures::default();
        let rows: Vec<_> = disk
            .volumes
            .iter()
            .map(|volume| Row::new(volume, &mut failures))
            .collect();
        if self.json {
            print_json(&rows.iter().map(Row::as_json).collect::<Value>())?;
        } else {
            print(&table(&rows))?;
        }
        failures.end("file system")
    }
}

impl<'a> Row<'a> {
    /// What could be found out; the rest is said.
    fn new(volume: &'a Volume, failures: &mut Failures) -> Self {
        let mut row = Self {
            volume,
            kind: None,
            facts: None,
        };
        let format = match volume.format() {
            Ok(format) => format,
            Err(e) => {
                failures.say(&e);
                None
            }
        };
        if let Some(format) = format {
            row.kind = Some(format.name);
            if format.is_readable() {
                let facts = volume.tree().and_then(|tree| {
                    let facts = tree.facts();
                    facts.map_err(|e| e.context(volume.name.clone()))
                });
                match facts {
                    Ok(facts) => {
                        row.kind = Some(facts.name);
                        row.facts = Some(facts);
                    }
                    Err(e) => failures.say(&e),
                }
            }
        }
        row
    }

    fn as_json(&self) -> Value {
        let partition = self.volume.partition.as_ref();
        let facts = self.facts.as_ref();
        json!({
            "volume": self.volume.name,
            "partition": partition.map(|partition| partition.number),
            "partition_type": partition.map(|partition| &partition.kind),
            "partition_name": partition.map(|partition| &partition.name),
            "bytes": self.volume.data.size(),
            "type": self.kind,
            "label": facts.and_then(|facts| facts.label.as_ref()),
            "uuid": facts.and_then(|facts| facts.uuid.as_ref()),
            "size": facts.map(|facts| facts.size),
            "used": facts.map(used),
            "free": facts.map(|facts| facts.free),
        })
    }
}

fn used(facts: &Facts) -> u64 {
    facts.size.saturating_sub(facts.free)
}

fn table(rows: &[Row<'_>]) -> String {
    let width = rows
        .iter()
        .map(|row| row.volume.name.len())
        .chain([6])
        .max()
        .unwrap_or(6);
    let mut text = format!(
        "{:width$}  {:11}  {:>10}  {:>10}  {:>10}  {:36}  LABEL\n",
        "VOLUME", "TYPE", "SIZE", "USED", "FREE", "UUID"
    );
    for row in rows {
        let bytes = |bytes: u64| HumanBytes(bytes).to_string();
        let facts = row.facts.as_ref();
        // What a file system does not tell is what it lies on.
        let size = bytes(facts.map_or(row.volume.data.size(), |facts| facts.size));
        let used = facts.map_or_else(|| "-".into(), |facts| bytes(used(facts)));
        let free = facts.map_or_else(|| "-".into(), |facts| bytes(facts.free));
        let uuid = facts.and_then(|facts| facts.uuid.as_deref()).unwrap_or("-");
        let label = facts
            .and_then(|facts| facts.label.as_deref())
            .unwrap_or("-");
        let _ = writeln!(
            text,
            "{:width$}  {:11}  {size:>10}  {used:>10}  {free:>10}  {uuid:36}  {}",
            row.volume.name,
            row.kind.unwrap_or("-"),
            printable(label)
        );
    }
    text
}
