//! `ebsfs diff`: what differs between two snapshots, block by block or file by file.
//!
//! Blocks are what the store tells of them; nothing is fetched but the partition table. Files are found by a walk over
//! both trees (`diff/files.rs`).

use std::str::FromStr;
use std::sync::Arc;

use clap::Args;
use tokio::runtime::Runtime;

use super::disk_cache::DiskOptions;
use super::reading::parse_cache_size;
use super::{Common, Outcome, Stop, stack, tell};
use crate::error::{Error, ErrorKind, Result};
use crate::snapshot::{SnapshotId, SnapshotInfo};
use crate::source::Differences;
use crate::store::{Store, check_readable};

mod blocks;
mod files;
mod told;

#[derive(Args)]
pub(super) struct Diff {
    /// The earlier snapshot, or with --files SNAP1.p2 for its partition 2
    #[arg(value_name = "SNAP1")]
    from: Side,

    /// The later one
    #[arg(value_name = "SNAP2")]
    to: Side,

    /// Compare the files of their file systems
    #[arg(long)]
    files: bool,

    /// Also compare contents of files whose sizes and times are the same, as far as their blocks are not
    #[arg(long, requires = "files")]
    content: bool,

    /// End with exit code 1 if they differ
    #[arg(long)]
    exit_code: bool,

    /// For programs
    #[arg(long)]
    json: bool,

    /// Memory for blocks
    #[arg(long, value_name = "BYTES", default_value = "256MiB", value_parser = parse_cache_size)]
    cache_size: usize,

    #[command(flatten)]
    disk: DiskOptions,
}

/// What is compared, as typed.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Side {
    snapshot: SnapshotId,
    partition: Option<u32>,
}

impl FromStr for Side {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (id, number) = match text.split_once(".p") {
            Some((id, number)) => (id, Some(number)),
            None => (text, None),
        };
        let partition = number.map(|number| {
            let parsed = number.parse::<u32>().ok();
            // As the table has it, and as files are named.
            let parsed = parsed.filter(|parsed| *parsed > 0 && parsed.to_string() == number);
            parsed.ok_or_else(|| {
                let what = format!("{text:?}: a partition is named as in {id}.p1");
                Error::new(ErrorKind::Invalid, what)
            })
        });
        Ok(Self {
            snapshot: id.parse()?,
            partition: partition.transpose()?,
        })
    }
}

/// Two snapshots that can be read.
pub(super) struct Pair {
    pub(super) from: SnapshotInfo,
    pub(super) to: SnapshotInfo,
    pub(super) differences: Arc<Differences>,
}

impl Pair {
    /// Asks the store for both.
    pub(super) fn open(
        store: &Arc<dyn Store>,
        runtime: &Runtime,
        from: &SnapshotId,
        to: &SnapshotId,
    ) -> Result<Self> {
        let (from, to) = runtime.block_on(async {
            let (from, to) = (store.info(from).await?, store.info(to).await?);
            check_readable(&from.id, from.status)?;
            check_readable(&to.id, to.status)?;
            Ok::<_, Error>((from, to))
        })?;
        let differences = Differences::new(Arc::clone(store), &from, &to);
        Ok(Self {
            from,
            to,
            differences: Arc::new(differences),
        })
    }

    /// Tells where volumes of two sizes leave something out.
    fn tell_sizes(&self) {
        let (from, to) = (&self.from, &self.to);
        let (old, new) = (from.volume_size, to.volume_size);
        if new > old {
            tell(&format!(
                "{} is larger, {new} instead of {old}: all that it has beyond that of {} differs",
                to.id, from.id
            ));
        }
        if new < old {
            tell(&format!(
                "{} is smaller, {new} instead of {old}: what {} has beyond that is not compared",
                to.id, from.id
            ));
        }
    }
}

/// With the way out, where the store does not compare the two.
pub(super) fn if_unrelated(error: Error, pair: &Pair) -> Error {
    match error.kind() {
        ErrorKind::Invalid => error.context(format!(
            "the blocks of {from} and {to} cannot be compared, but their files can, by `ebsfs diff --files --content {from} {to}`",
            from = pair.from.id,
            to = pair.to.id
        )),
        _ => error,
    }
}

impl Diff {
    pub(super) fn run(self, common: &Common) -> Outcome {
        let exit_code = self.exit_code;
        let differs = match self.files {
            true => files::compare(self, common)?,
            false => self.blocks(common)?,
        };
        match differs && exit_code {
            true => Err(Stop::Told(1)),
            false => Ok(()),
        }
    }

    fn blocks(&self, common: &Common) -> Outcome<bool> {
        let named = [&self.from, &self.to];
        if let Some(side) = named.iter().find(|side| side.partition.is_some()) {
            let what = format!(
                "blocks are compared all over the disk: name {} without a partition, or add --files",
                side.snapshot
            );
            return Err(Error::new(ErrorKind::Invalid, what).into());
        }
        let runtime = stack::runtime()?;
        let opened = stack::open_store(common, &runtime)?;
        let (from, to) = (&self.from.snapshot, &self.to.snapshot);
        let pair = Pair::open(&opened.store, &runtime, from, to)?;
        blocks::compare(&pair, &opened.store, &runtime, self.json)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_side_is_a_snapshot_or_one_of_its_partitions() {
        let side = str::parse::<Side>;
        let named = |partition| Side {
            snapshot: "snap-0a".parse().unwrap(),
            partition,
        };
        assert_eq!(side("snap-0a").unwrap(), named(None));
        assert_eq!(side("snap-0a.p12").unwrap(), named(Some(12)));
        for bad in [
            "",
            "snap-",
            "snap-0a.p",
            "snap-0a.p0",
            "snap-0a.p01",
            "snap-0a.px",
            "snap-0a.p1.p2",
            "snap-0a.p+1",
        ] {
            assert_eq!(side(bad).unwrap_err().kind(), ErrorKind::Invalid, "{bad}");
        }
    }
}
