//! `ebsfs cp`: files and trees of snapshots, to this machine or as a tar stream, without a mount.
//!
//! The tree is read on a thread of its own, so that a signal is heard while it waits for the store.

use std::fs::File;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use clap::Args;
use tokio::runtime::Builder;
use tokio::sync::oneshot;

use self::destination::{Destination, Wanted};
use self::report::{Report, Watcher};
use super::interrupt::unless_interrupted;
use super::place::{self, Place};
use super::reading::Reading;
use super::stack::{Spot, Trees};
use super::{Common, Outcome, Stop, parse_bytes};
use crate::error::{Error, ErrorKind, Result};
use crate::filesystem::{FileTree, Kind, Last};
use crate::recover::{
    Ahead, Archive, Directory, Limits, Options, Recovery, Source, Target, Trouble,
};

mod destination;
mod report;

#[derive(Args)]
pub(super) struct Cp {
    /// What to copy: SNAPSHOT:/path, or SNAPSHOT.p2:/path; with /. at the end what is in a directory
    #[arg(required = true, value_name = "PLACE", value_parser = place::parser())]
    places: Vec<Place>,

    /// Where to: into a directory, as a new file or directory, or - for a tar stream on stdout
    #[arg(value_name = "DEST")]
    destination: PathBuf,

    /// Directories with all that is in them
    #[arg(short, long)]
    recursive: bool,

    /// Go on with an interrupted copy: files that are there with the same size and time are left alone
    #[arg(long = "continue")]
    go_on: bool,

    /// Give files the owners that they have, by number, as root does anyway
    #[arg(long)]
    numeric: bool,

    /// Keep the bits of setuid and setgid and the capabilities of programs; with the owners only
    #[arg(long)]
    preserve_setuid: bool,

    /// Make devices, pipes and sockets, too; devices as root only
    #[arg(long)]
    devices: bool,

    /// Stop when there are more files than that
    #[arg(long, value_name = "COUNT", default_value_t = Limits::FILES)]
    max_files: u64,

    /// Stop before more than that is written [default: twice the size of the file system]
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    max_bytes: Option<usize>,

    #[command(flatten)]
    reading: Reading,
}

/// How long an interrupted copy may take to leave what it does in order. Longer takes only who waits for the store.
const LAST_WAIT: Duration = Duration::from_secs(3);

impl Cp {
    pub(super) fn run(self, common: &Common) -> Outcome {
        let signals = Builder::new_current_thread().enable_all().build();
        let signals = signals.map_err(|e| Error::from(e).context("cannot watch for signals"))?;
        let report = Arc::new(Report::new(self.recursive));
        let how_to_go_on = self.how_to_go_on(common);
        let (done, finished) = oneshot::channel();
        let thread = {
            let (common, report) = (common.clone(), Arc::clone(&report));
            let work = move || drop(done.send(self.copy(&common, &report)));
            let named = thread::Builder::new().name("cp".into());
            named.spawn(work).map_err(Error::from)?
        };
        let gone = |_| Error::new(ErrorKind::Io, "the copy ended too early");
        let finished = async { finished.await.map_err(gone) };
        match signals.block_on(unless_interrupted(finished, &how_to_go_on)) {
            Ok(outcome) => {
                drop(thread.join());
                outcome.map_err(|stop| match stop {
                    Stop::Interrupted(_) => Stop::Interrupted(how_to_go_on),
                    stop => stop,
                })
            }
            Err(stop) => {
                report.interrupt();
                wait_for(&thread);
                Err(stop)
            }
        }
    }

    fn how_to_go_on(&self, common: &Common) -> String {
        if self.to_stdout() {
            return "the archive is not complete".into();
        }
        let places: String = self
            .places
            .iter()
            .map(|place| format!("{place} "))
            .collect();
        let recursive = if self.recursive { "-r " } else { "" };
        let to = self.destination.display();
        let again = common.again(&format!("cp --continue {recursive}{places}{to}"));
        format!("{again} adds the rest")
    }

    fn to_stdout(&self) -> bool {
        self.destination == Path::new("-")
    }

    fn copy(&self, common: &Common, report: &Arc<Report>) -> Outcome {
        if self.to_stdout() && self.go_on {
            let what = "an archive cannot be gone on with: leave --continue out";
            return Err(Error::new(ErrorKind::Invalid, what).into());
        }
        let begun = Instant::now();
        let options = Options {
            owners: self.numeric || rustix::process::geteuid().is_root(),
            setuid: self.preserve_setuid,
            devices: self.devices,
            go_on: self.go_on,
        };
        let recovery = Recovery::new(options, Box::new(Watcher(Arc::clone(report))));
        let trees = Trees::open(common, &self.reading)?;
        let copied = match self.to_stdout() {
            true => self.to_archive(&trees, &recovery),
            false => self.to_directory(&trees, &recovery),
        };
        report.end(&recovery.tally, begun.elapsed());
        copied?;
        match recovery.tally.errors.load(Ordering::Relaxed) {
            0 => Ok(()),
            _ => Err(Stop::Told(1)),
        }
    }

    fn to_directory(&self, trees: &Trees, recovery: &Arc<Recovery>) -> Outcome {
        let destination = Destination::examine(&self.destination, self.places.len())?;
        let spots = self.find(trees, recovery)?;
        // Refused before anything is made.
        for (place, spot) in &spots {
            let is_directory = spot.tree.metadata(spot.node)?.kind == Kind::Directory;
            destination.name_for(&Wanted::of(place, is_directory))?;
        }
        let mut target = Directory::open(destination.directory(), recovery)?;
        self.copy_all(&spots, recovery, &mut target, &|wanted| {
            Ok(destination.name_for(wanted)?.map(<[u8]>::to_vec))
        })
    }

    fn to_archive(&self, trees: &Trees, recovery: &Arc<Recovery>) -> Outcome {
        if std::io::stdout().is_terminal() {
            let what = "an archive is nothing for a terminal: redirect it, or name a directory";
            return Err(Error::new(ErrorKind::Invalid, what).into());
        }
        // Not through the standard handle, which looks for line feeds in all that it writes.
        let stdout = rustix::io::dup(rustix::stdio::stdout()).map_err(Error::from)?;
        let spots = self.find(trees, recovery)?;
        let mut target = Archive::new(Box::new(File::from(stdout)), recovery);
        self.copy_all(&spots, recovery, &mut target, &|wanted| {
            Ok(wanted.name.map(<[u8]>::to_vec))
        })?;
        target.end().map_err(stop)
    }

    /// What was asked for, as far as it is there. With one place it must be.
    fn find<'a>(&'a self, trees: &Trees, recovery: &Recovery) -> Result<Vec<(&'a Place, Spot)>> {
        let mut spots = vec![];
        for place in &self.places {
            match self.find_one(trees, place) {
                Ok(spot) => spots.push((place, spot)),
                Err(e) if self.places.len() == 1 => return Err(e),
                Err(e) => recovery.failed(place.to_string().as_bytes(), &e),
            }
        }
        Ok(spots)
    }

    fn find_one(&self, trees: &Trees, place: &Place) -> Result<Spot> {
        let spot = trees.find(place, Last::Keep)?;
        let is_directory = spot.tree.metadata(spot.node)?.kind == Kind::Directory;
        if is_directory && !self.recursive {
            let what = format!("{place} is a directory: -r copies it, with all that is in it");
            return Err(Error::new(ErrorKind::Invalid, what));
        }
        Ok(spot)
    }

    fn copy_all(
        &self,
        spots: &[(&Place, Spot)],
        recovery: &Arc<Recovery>,
        target: &mut dyn Target,
        name_for: &dyn Fn(&Wanted<'_>) -> Result<Option<Vec<u8>>>,
    ) -> Outcome {
        // One for each tree, that a file with names in several places stays one.
        let mut sources: Vec<(&Rc<dyn FileTree>, Source<'_>)> = vec![];
        for (place, spot) in spots {
            let known = sources
                .iter()
                .position(|(tree, _)| Rc::ptr_eq(tree, &spot.tree));
            let at = match known {
                Some(at) => at,
                None => {
                    let limits = self.limits(&*spot.tree)?;
                    let ahead: Ahead<'_> = Box::new(|range| spot.volume.data.ahead(range));
                    let ahead = (!self.reading.no_read_ahead).then_some(ahead);
                    let source = Source::new(&*spot.tree, limits, ahead);
                    sources.push((&spot.tree, source));
                    sources.len() - 1
                }
            };
            let is_directory = spot.tree.metadata(spot.node)?.kind == Kind::Directory;
            let wanted = Wanted::of(place, is_directory);
            let name = name_for(&wanted)?;
            let source = &mut sources[at].1;
            let copied = source.copy(spot.node, &wanted.shown, name.as_deref(), recovery, target);
            match copied {
                Err(Trouble::File(e)) if spots.len() > 1 => recovery.failed(&wanted.shown, &e),
                copied => copied.map_err(stop)?,
            }
        }
        Ok(())
    }

    fn limits(&self, tree: &dyn FileTree) -> Result<Limits> {
        let limits = Limits::of(&tree.facts()?);
        let bytes = self
            .max_bytes
            .map(|bytes| u64::try_from(bytes).unwrap_or(u64::MAX));
        Ok(Limits {
            files: self.max_files,
            bytes: bytes.unwrap_or(limits.bytes),
        })
    }
}

fn stop(trouble: Trouble) -> Stop {
    match trouble {
        Trouble::File(e) | Trouble::All(e) => Stop::Failed(e),
        Trouble::ReaderGone => Stop::BrokenPipe,
        Trouble::Interrupted => Stop::Interrupted(String::new()),
    }
}

/// Waits for its end, and not for ever.
fn wait_for(thread: &JoinHandle<()>) {
    let begun = Instant::now();
    while !thread.is_finished() && begun.elapsed() < LAST_WAIT {
        thread::sleep(Duration::from_millis(5));
    }
}
