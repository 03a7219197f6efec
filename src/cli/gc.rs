//! `ebsfs gc`: frees what no snapshot refers to.

use clap::Args;
use indicatif::HumanBytes;

use super::counted::counted;
use super::{Common, Outcome, print, print_json, stack};
use crate::store::directory::Garbage;

#[derive(Args)]
pub(super) struct Gc {
    /// Only say what would be removed
    #[arg(long)]
    dry_run: bool,

    /// For programs
    #[arg(long)]
    json: bool,
}

impl Gc {
    pub(super) fn run(self, common: &Common) -> Outcome {
        let store = stack::open_directory(common)?;
        let garbage = stack::runtime()?.block_on(store.gc(self.dry_run))?;
        if self.json {
            print_json(&garbage)
        } else {
            print(&sentence(&garbage, self.dry_run))
        }
    }
}

fn sentence(garbage: &Garbage, dry_run: bool) -> String {
    let verb = if dry_run { "would remove" } else { "removed" };
    let Garbage {
        blocks,
        trees,
        temporary_files,
        snapshots,
        bytes,
    } = garbage;
    let mut text = format!(
        "{verb} {}, {} and {}, {} in all\n",
        counted(*blocks, "block"),
        counted(*trees, "tree object"),
        counted(*temporary_files, "temporary file"),
        HumanBytes(*bytes)
    );
    for id in snapshots {
        text.push_str(&format!(
            "{verb} {id}: started, not completed, and nobody works on it\n"
        ));
    }
    text
}
