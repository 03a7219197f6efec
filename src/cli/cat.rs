//! `ebsfs cat`: contents of files on stdout.

use std::fs::File;
use std::io::Write as _;

use clap::Args;

use super::files::{Failures, told};
use super::place::{self, Place};
use super::reading::Reading;
use super::stack::Trees;
use super::{Common, Outcome};
use crate::error::{Error, ErrorKind, Result};
use crate::filesystem::{Kind, Last, Metadata};

#[derive(Args)]
pub(super) struct Cat {
    /// Files: SNAPSHOT:/path, or SNAPSHOT.p2:/path
    #[arg(required = true, value_name = "PLACE", value_parser = place::parser())]
    places: Vec<Place>,

    #[command(flatten)]
    reading: Reading,
}

/// Read at a time: a few blocks, which are under way together.
const PIECE: usize = 4 << 20;

impl Cat {
    pub(super) fn run(self, common: &Common) -> Outcome {
        let trees = Trees::open(common, &self.reading)?;
        // Not through the standard handle, which looks for line feeds in all that it writes.
        let stdout = rustix::io::dup(rustix::stdio::stdout()).map_err(Error::from)?;
        let mut stdout = File::from(stdout);
        if let [only] = self.places.as_slice() {
            return copy(&trees, only, &mut stdout)?;
        }
        let mut failures = Failures::default();
        for place in &self.places {
            match copy(&trees, place, &mut stdout) {
                Ok(written) => written?,
                Err(e) => failures.say(&e),
            }
        }
        failures.end("file")
    }
}

/// Writes one file; an error is about it, an outcome about stdout.
fn copy(trees: &Trees, place: &Place, stdout: &mut File) -> Result<Outcome> {
    let spot = trees.find(place, Last::Follow)?;
    let failed = |e: Error| e.context(place.to_string());
    let Metadata { kind, size, .. } = spot.tree.metadata(spot.node).map_err(failed)?;
    match kind {
        Kind::File => {}
        Kind::Directory => {
            return Err(failed(Error::new(
                ErrorKind::Invalid,
                "is a directory: `ebsfs ls` shows what is in it",
            )));
        }
        _ => {
            return Err(failed(Error::new(
                ErrorKind::Invalid,
                "is neither a file nor a link to one",
            )));
        }
    }
    let piece = usize::try_from(size).unwrap_or(PIECE).clamp(1, PIECE);
    let mut buf = vec![0; piece];
    let mut offset = 0;
    loop {
        let read = spot
            .tree
            .read(spot.node, offset, &mut buf)
            .map_err(failed)?;
        if read == 0 {
            return Ok(Ok(()));
        }
        if let Err(stop) = told(stdout.write_all(&buf[..read])) {
            return Ok(Err(stop));
        }
        offset += u64::try_from(read).unwrap_or_default();
    }
}
