//! `ebsfs delete`: asks, then deletes.

use std::collections::BTreeSet;
use std::io::{self, IsTerminal as _};

use clap::Args;
use indicatif::HumanBytes;

use super::list::{printable, started};
use super::{Common, Outcome, agreed, stack, tell};
use crate::error::{Error, ErrorKind};
use crate::snapshot::SnapshotId;

#[derive(Args)]
pub(super) struct Delete {
    /// The snapshots to delete
    #[arg(required = true, value_name = "SNAPSHOT")]
    snapshots: Vec<SnapshotId>,

    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

impl Delete {
    pub(super) fn run(self, common: &Common) -> Outcome {
        let runtime = stack::runtime()?;
        let opened = stack::open_store(common, &runtime)?;
        let store = &opened.store;
        // All are looked up before the first is deleted: a slip in one name deletes nothing.
        let snapshots: BTreeSet<_> = self.snapshots.iter().collect();
        let mut found = Vec::new();
        for id in &snapshots {
            match runtime.block_on(store.info(id)) {
                Ok(info) => found.push(format!(
                    "{id}  {}  {}  {}  {}",
                    HumanBytes(info.volume_size.bytes()),
                    info.status,
                    started(&info),
                    printable(&info.description)
                )),
                // A damaged one is not known, and can still be deleted.
                Err(e) if e.kind() == ErrorKind::Corrupt => found.push(format!("{id}  (damaged)")),
                Err(e) => return Err(e.into()),
            }
        }
        if !self.yes && !confirmed(&found)? {
            return Err(Error::new(ErrorKind::Invalid, "nothing was deleted").into());
        }
        for id in snapshots {
            runtime.block_on(store.delete(id))?;
            log::info!("{id}: deleted");
        }
        tell(match opened.remote {
            None => "deleted; `ebsfs gc` frees the space that nothing else needs",
            Some(_) => "deleted",
        });
        Ok(())
    }
}

/// Whether the user wants what is shown to be gone.
pub(super) fn confirmed(found: &[String]) -> Result<bool, Error> {
    if !io::stdin().is_terminal() {
        return Err(Error::new(
            ErrorKind::Invalid,
            "there is nobody to ask: add --yes to delete without asking",
        ));
    }
    agreed(&format!("{}\nDelete for ever?", found.join("\n")))
}
