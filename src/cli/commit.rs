//! `ebsfs commit`: what was edited becomes a snapshot, asked of the daemon that has it mounted, or done here.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use serde_json::json;

use super::interrupt::unless_interrupted;
use super::mounted::Mounted;
use super::wished::Wished;
use super::{Common, Outcome, Stop, stack, tell};
use crate::commit::{Commits, Depth, Event, Settled, Wish};
use crate::error::{Error, ErrorKind, Result};
use crate::fuse::mountpoint::users;
use crate::session::{Answer, COMMIT, CommitOptions};

mod freeze;
mod report;
mod target;

use self::freeze::Frozen;
use self::report::Report;
use self::target::Target;
pub(super) use self::target::{Unmounted, held};

#[derive(Args)]
pub(super) struct Commit {
    /// Where it is mounted, or the directory of an overlay that is not
    #[arg(value_name = "MOUNTPOINT|OVERLAY")]
    target: PathBuf,

    #[command(flatten)]
    wished: Wished,

    /// Wait until the snapshot is completed and verified; the id is printed before
    #[arg(long)]
    wait: bool,

    /// Verify every block that was written by reading it back, and not a sample
    #[arg(long)]
    verify: bool,

    /// Give an interrupted commit up, and commit what is there now
    #[arg(long)]
    restart: bool,

    /// Only tell what would be put, and what that costs
    #[arg(long, conflicts_with_all = ["restart", "freeze", "wait"])]
    dry_run: bool,

    /// Freeze the file system mounted at DIR until the moment is caught, so that it is clean in the snapshot
    #[arg(long, value_name = "DIR")]
    freeze: Option<PathBuf>,

    /// For programs
    #[arg(long)]
    json: bool,
}

impl Commit {
    pub(super) fn run(self, common: &Common) -> Outcome {
        match Target::find(&self.target)? {
            Target::Mounted(mounted) => self.ask(common, &mounted),
            Target::Unmounted(path) => self.commit_here(common, &path),
        }
    }

    fn options(&self) -> Result<CommitOptions> {
        Ok(CommitOptions {
            wish: Wish {
                description: self.wished.description(),
                tags: self.wished.tags()?,
                timeout: self.wished.timeout(),
                restart: self.restart,
            },
            depth: self.depth(),
            wait: self.wait,
            dry_run: self.dry_run,
        })
    }

    fn depth(&self) -> Depth {
        match self.verify {
            true => Depth::All,
            false => Depth::Sample,
        }
    }

    fn again(&self, common: &Common) -> String {
        common.again(&format!("commit {}", self.target.display()))
    }

    /// Has the daemon do it.
    fn ask(&self, common: &Common, mounted: &Mounted) -> Outcome {
        let runtime = stack::runtime()?;
        if common.names_a_store() {
            let identity = stack::open_store(common, &runtime)?.store.identity();
            check_store(&identity, &mounted.store, "is mounted from")?;
        }
        let frozen = self.freeze.as_deref().map(Frozen::new).transpose()?;
        if frozen.is_none() && !self.dry_run {
            tell_of_users(&mounted.mountpoint);
        }
        let report = Arc::new(Report::new(self.json, &mounted.store, frozen));
        let told = Arc::clone(&report);
        let tell = move |event: Event| told.event(event);
        let asked = mounted.ask(&runtime, COMMIT, json!(self.options()?), tell);
        report.stop();
        let answer = asked.map_err(|stop| self.how_to_go_on(common, &report, stop))?;
        finish(&report, &answer)
    }

    /// Does it in this process, on an overlay that nobody has mounted.
    fn commit_here(&self, common: &Common, path: &Path) -> Outcome {
        if let Some(dir) = &self.freeze {
            let what = format!(
                "{} is not mounted, so nothing on {} can be in the snapshot: leave --freeze out",
                path.display(),
                dir.display()
            );
            return Err(Error::new(ErrorKind::Invalid, what).into());
        }
        let runtime = stack::runtime()?;
        if self.dry_run {
            let (plan, store) = target::plan(common, &runtime, path)?;
            return Report::new(self.json, &store, None).plan(&plan);
        }
        let unmounted = Unmounted::open(common, &runtime, path)?;
        let report = Report::new(self.json, &unmounted.opened.store.identity(), None);
        let work = self.commit_alone(&unmounted.commits, &report);
        let done = runtime.block_on(unless_interrupted(work, ""));
        report.stop();
        let answer = done.map_err(|stop| self.how_to_go_on(common, &report, stop))?;
        finish(&report, &answer)
    }

    async fn commit_alone(&self, commits: &Commits, report: &Report) -> Result<Answer> {
        // One of an earlier time may be complete by now; if it is not, the commit says so.
        if !self.restart {
            commits.settle(Depth::Sample).await?;
        }
        let options = self.options()?;
        let accepted = commits
            .run(&options.wish, &|event| report.event(event))
            .await?;
        if self.wait {
            commits.completed().await?;
        }
        let settled = commits.settle(options.depth).await;
        match settled {
            Ok(Settled::Done(id)) => report.event(Event::Settled { id }),
            Ok(Settled::NotYet(id)) => tell(&format!(
                "the store is still completing {id}; until then what was written is kept, and the next mount, commit or `ebsfs overlay info` looks again"
            )),
            Ok(Settled::Nothing) => {}
            Err(e) if e.kind() == ErrorKind::Unavailable && !self.wait => tell(&format!(
                "{} was accepted, and is verified by the next mount, commit or `ebsfs overlay info`: {e:#}",
                accepted.id
            )),
            Err(e) => return Err(e),
        }
        Ok(Answer::Accepted(accepted))
    }

    /// What an interrupted or failed commit leaves, and how it goes on.
    fn how_to_go_on(&self, common: &Common, report: &Report, stop: Stop) -> Stop {
        let again = self.again(common);
        match (report.accepted(), stop) {
            (Some(id), Stop::Interrupted(_)) => Stop::Interrupted(format!(
                "{id} was accepted and will hold the disk; whoever opens the overlay next settles it"
            )),
            (None, Stop::Interrupted(_)) => Stop::Interrupted(format!(
                "nothing is lost; {again} goes on with the same moment, with --restart with a new one"
            )),
            (_, other) => other,
        }
    }
}

fn finish(report: &Report, answer: &Answer) -> Outcome {
    match answer {
        Answer::Plan(plan) => report.plan(plan),
        Answer::Accepted(accepted) => report.finish(accepted),
    }
}

/// `Invalid` if the store that was named is not the one that the overlay needs.
pub(super) fn check_store(named: &str, needed: &str, what: &str) -> Result<()> {
    if named == needed {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Invalid,
        format!(
            "the disk {what} the store {needed}, and the options (or EBSFS_STORE) name {named}: leave them out or name the same"
        ),
    ))
}

/// Whoever has the disk in use has not written all of it.
fn tell_of_users(mountpoint: &Path) {
    let users = users(mountpoint);
    if !users.is_empty() {
        tell(&format!(
            "the disk is in use by {}: the snapshot holds it as a power failure would leave it; for a clean file system unmount it first, or freeze it by --freeze DIR (or `fsfreeze`)",
            users.join(", ")
        ));
    }
}
