//! `ebsfs overlay`: what an overlay holds, and its end.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use indicatif::HumanBytes;
use serde_json::{Value, json};

use super::commit::{Unmounted, held};
use super::counted::counted;
use super::delete::confirmed;
use super::{Common, Outcome, print, print_json, stack, tell};
use crate::block::PAGE_SIZE;
use crate::commit::Depth;
use crate::error::{Error, ErrorKind, Result};
use crate::overlay::{self, Amount, Holder, LocalDirectory, Summary, inspect};

#[derive(Subcommand)]
pub(super) enum Overlay {
    /// Show what was written, over which snapshot, and how far a commit is
    Info(Info),
    /// Throw away what was written and not committed
    Discard(Discard),
}

#[derive(Args)]
pub(super) struct Info {
    /// The directory of the overlay
    #[arg(value_name = "OVERLAY")]
    directory: PathBuf,

    /// For programs
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(super) struct Discard {
    /// The directory of the overlay
    #[arg(value_name = "OVERLAY")]
    directory: PathBuf,

    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

impl Overlay {
    pub(super) fn run(self, common: &Common) -> Outcome {
        match self {
            Self::Info(info) => info.run(common),
            Self::Discard(discard) => discard.run(),
        }
    }
}

fn found(path: &Path) -> Result<Summary> {
    let missing = || {
        let what = format!("there is no overlay in {}", path.display());
        Error::new(ErrorKind::NotFound, what)
    };
    inspect(path)?.ok_or_else(missing)
}

impl Info {
    fn run(self, common: &Common) -> Outcome {
        let path = std::fs::canonicalize(&self.directory)
            .map_err(|e| Error::io(e, "find", &self.directory))?;
        let mut summary = found(&path)?;
        let mut holder = LocalDirectory::holder(&path)?;
        let accepted = summary.header.commit.as_ref().is_some_and(|c| c.accepted);
        if accepted && holder.is_none() {
            match settle(common, &path) {
                Ok(()) => summary = found(&path)?,
                Err(e) => tell(&format!("the last commit is not settled yet: {e:#}")),
            }
            holder = LocalDirectory::holder(&path)?;
        }
        match self.json {
            true => print_json(&as_json(&path, &summary, holder.as_ref())),
            false => print(&as_text(&path, &summary, holder.as_ref())),
        }
    }
}

/// Finishes a commit that the store has accepted, if it has completed it.
fn settle(common: &Common, path: &Path) -> Result<()> {
    let runtime = stack::runtime()?;
    let unmounted = Unmounted::open(common, &runtime, path)?;
    runtime
        .block_on(unmounted.commits.settle(Depth::Sample))
        .map(drop)
}

/// How far a commit is, in a word.
fn stage(commit: &overlay::Commit) -> &'static str {
    match (&commit.snapshot, commit.accepted) {
        (_, true) => "completing",
        (Some(_), false) => "interrupted or under way",
        (None, false) => "sealed",
    }
}

fn as_json(path: &Path, summary: &Summary, holder: Option<&Holder>) -> Value {
    let header = &summary.header;
    let commit = header.commit.as_ref().map(|commit| {
        json!({
            "state": stage(commit),
            "snapshot": commit.snapshot,
            "sealed": commit.sealed,
            "description": commit.new.description,
            "tags": commit.new.tags,
        })
    });
    json!({
        "overlay": path,
        "id": header.id,
        "store": header.store,
        "base": header.base,
        "base_size": header.base_size,
        "size": header.size,
        "top": layer(&summary.top),
        "sealed": summary.sealed.as_ref().map(layer),
        "commit": commit,
        "allocated": summary.allocated,
        "held_by": holder.map(|holder| json!({ "pid": holder.pid, "doing": holder.doing })),
    })
}

fn layer(amount: &Amount) -> Value {
    json!({ "written": amount.written, "zero": amount.zero, "blocks": amount.blocks })
}

fn as_text(path: &Path, summary: &Summary, holder: Option<&Holder>) -> String {
    let header = &summary.header;
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{name:12} {value}");
    };
    line("overlay", path.display().to_string());
    line("base", format!("{}, {}", header.base, header.base_size));
    line("store", header.store.clone());
    line("size", header.size.to_string());
    line("written", amount(&summary.top));
    if let (Some(commit), Some(sealed)) = (&header.commit, &summary.sealed) {
        let snapshot = commit.snapshot.as_ref().map(ToString::to_string);
        let snapshot = snapshot.unwrap_or_else(|| "no snapshot yet".to_owned());
        line("commit", format!("{}: {snapshot}", stage(commit)));
        line("", format!("of {:.0}: {}", commit.sealed, amount(sealed)));
    }
    line("on disk", HumanBytes(summary.allocated).to_string());
    if let Some(holder) = holder {
        let pid = holder
            .pid
            .map_or("another process".to_owned(), |pid| format!("process {pid}"));
        line(
            "in use by",
            format!("{pid} {}", holder.doing).trim_end().to_owned(),
        );
    }
    text
}

fn amount(amount: &Amount) -> String {
    let page = u64::try_from(PAGE_SIZE).unwrap_or(0);
    format!(
        "{} ({}), {} of zeros; {}",
        counted(amount.written, "page"),
        HumanBytes(amount.written * page),
        amount.zero,
        counted(amount.blocks, "block")
    )
}

impl Discard {
    fn run(self) -> Outcome {
        let path = &self.directory;
        if let Some(mountpoint) = held(path)? {
            let what = format!(
                "the overlay {} is mounted on {at}: `ebsfs umount {at}` first",
                path.display(),
                at = mountpoint.display()
            );
            return Err(Error::new(ErrorKind::Conflict, what).into());
        }
        let summary = match found(path) {
            // What cannot be read any more can still be thrown away.
            Err(e) if e.kind() == ErrorKind::Corrupt => {
                tell(&format!("{e:#}"));
                None
            }
            found => Some(found?),
        };
        let directory = LocalDirectory::open_within(path, Duration::ZERO)?;
        let shown = match &summary {
            Some(summary) => format!(
                "{}  over {}  {}",
                path.display(),
                summary.header.base,
                amount(&summary.top)
            ),
            None => format!("{}  (damaged)", path.display()),
        };
        if !self.yes && !confirmed(&[shown])? {
            return Err(Error::new(ErrorKind::Invalid, "nothing was discarded").into());
        }
        directory.erase()?;
        if let Some(commit) = summary.and_then(|summary| summary.header.commit) {
            tell_orphan(&commit);
        }
        Ok(())
    }
}

/// What the commit that goes with it leaves in the store.
fn tell_orphan(commit: &overlay::Commit) {
    match &commit.snapshot {
        Some(id) if commit.accepted => tell(&format!(
            "{id} holds the disk as it was at {:.0}, and stays",
            commit.sealed
        )),
        Some(id) => tell(&format!(
            "{id} was not completed: `ebsfs delete {id}` removes what is left of it"
        )),
        None => {}
    }
}
