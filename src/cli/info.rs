//! `ebsfs info`: one snapshot in detail.

use std::fmt::Write as _;
use std::ops::Range;
use std::sync::Arc;

use clap::Args;
use futures_util::{TryStreamExt as _, future};
use indicatif::HumanBytes;
use serde_json::{Value, json};

use super::interrupt::unless_interrupted;
use super::list::{Shown, printable, started};
use super::progress::Progress;
use super::stack::Snapshots;
use super::{Common, Outcome, print, print_json, stack};
use crate::block::{BlockIndex, bytes_of};
use crate::cache::BlockCache;
use crate::error::Result;
use crate::partition::{Table, read_table};
use crate::snapshot::{SnapshotId, SnapshotInfo, Status};
use crate::source::runs;

#[derive(Args)]
pub(super) struct Info {
    /// The snapshot
    snapshot: SnapshotId,

    /// For programs
    #[arg(long)]
    json: bool,
}

/// What is known of a snapshot that can be read.
struct Contents {
    blocks: u64,
    table: Table,
}

impl Info {
    pub(super) fn run(self, common: &Common) -> Outcome {
        let runtime = stack::runtime()?;
        let opened = stack::open_store(common, &runtime)?;
        let store = &opened.store;
        let info = runtime.block_on(store.info(&self.snapshot))?;
        let contents = match info.status {
            Status::Completed => {
                let source = stack::snapshot(store, &info);
                // A large disk takes many listings.
                let progress = Progress::new("listing", info.volume_size.bytes());
                let count = |blocks, run: Range<u32>| {
                    progress.reached(BlockIndex::new(run.end));
                    future::ready(Ok(blocks + u64::from(run.end - run.start)))
                };
                let listing = runs(&source, BlockIndex::ZERO).try_fold(0, count);
                let how = "nothing was changed; `ebsfs list` is quicker and tells less";
                let blocks = runtime.block_on(unless_interrupted(listing, how))?;
                drop(progress);
                let cache = Arc::new(BlockCache::new(BlockCache::DEFAULT_CAPACITY));
                let disk = Snapshots::new(store, &cache).opener(&runtime)(&info).data;
                Some(Contents {
                    blocks,
                    table: partitions(&info, read_table(&*disk)),
                })
            }
            Status::Pending | Status::Error => None,
        };
        if self.json {
            print_json(&as_json(&info, contents.as_ref()))
        } else {
            print(&as_text(&info, contents.as_ref()))
        }
    }
}

/// What the rest of the answer is good for without: a table that cannot be read is told as a warning.
fn partitions(info: &SnapshotInfo, table: Result<Table>) -> Table {
    let table = table.unwrap_or_else(|e| Table {
        warnings: vec![format!("{e:#}")],
        ..Table::default()
    });
    table
        .warnings
        .iter()
        .for_each(|warning| log::warn!("{}: {warning}", info.id));
    table
}

fn as_json(info: &SnapshotInfo, contents: Option<&Contents>) -> Value {
    let mut value = json!(Shown::from(info));
    if let Some(contents) = contents {
        value["blocks"] = json!(contents.blocks);
        value["bytes"] = json!(bytes_of(contents.blocks));
        value["partition_table"] = json!(contents.table.scheme.map(|scheme| scheme.to_string()));
        let partitions = contents.table.partitions.iter().map(|partition| {
            json!({
                "number": partition.number,
                "offset": partition.range.start,
                "size": partition.range.end - partition.range.start,
                "type": partition.kind,
                "name": partition.name,
            })
        });
        value["partitions"] = partitions.collect();
    }
    value
}

fn as_text(info: &SnapshotInfo, contents: Option<&Contents>) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "{name:12} {value}");
    };
    line("snapshot", info.id.as_str());
    line(
        "size",
        &format!("{} ({} bytes)", info.volume_size, info.volume_size.bytes()),
    );
    line("status", &info.status.to_string());
    line("started", &started(info));
    if let Some(parent) = &info.parent {
        line("parent", parent.as_str());
    }
    if let Some(encryption) = &info.encryption {
        let key = encryption.kms_key_arn.as_deref();
        line(
            "encrypted",
            &printable(key.unwrap_or("with the account's default key")),
        );
    }
    if !info.description.is_empty() {
        line("description", &printable(&info.description));
    }
    for (key, value) in &info.tags {
        line("tag", &printable(&format!("{key}={value}")));
    }
    if let Some(contents) = contents {
        let bytes = bytes_of(contents.blocks);
        line(
            "blocks",
            &format!(
                "{} present, {} ({bytes} bytes)",
                contents.blocks,
                HumanBytes(bytes)
            ),
        );
        let scheme = contents
            .table
            .scheme
            .map_or("none".into(), |scheme| scheme.to_string());
        line("partitions", &scheme);
        for partition in &contents.table.partitions {
            let size = HumanBytes(partition.range.end - partition.range.start);
            let start = partition.range.start;
            let kind = printable(&format!("{} {}", partition.kind, partition.name));
            line(
                "",
                &format!(
                    "p{:<3} {size} at byte {start}, type {}",
                    partition.number,
                    kind.trim_end()
                ),
            );
        }
    }
    text
}
