//! After a store has taken a snapshot in: wait until it is completed, verify it, and stand on it from then on.

use std::sync::Arc;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::{Deserialize, Serialize};

use crate::block::BlockIndex;
use crate::error::{Error, ErrorKind, Result};
use crate::overlay::{Commit, Overlay};
use crate::snapshot::{NewSnapshot, SnapshotId, SnapshotInfo, Status};
use crate::stats::Requests;
use crate::upload::{Changes as _, Known, candidates, until_readable};

use super::{Commits, Edited};

/// How much of a new snapshot is compared with what it was made of.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub enum Depth {
    /// Some of the blocks put, spread over the disk: enough to notice a store that mixes up or loses what it is given.
    #[default]
    Sample,
    /// All blocks that were written, each fetched once.
    All,
}

/// Blocks of a sample.
const SAMPLE: u64 = 16;

/// Blocks compared at one time; each takes two buffers.
const COMPARED: usize = 8;

/// What [`Commits::settle`] came to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Settled {
    /// There is no commit that the store has accepted.
    Nothing,
    /// The store is still completing it.
    NotYet(SnapshotId),
    /// It is the base now.
    Done(SnapshotId),
}

impl Commits {
    /// Finishes an accepted commit if the store has completed its snapshot.
    ///
    /// `Corrupt` if the snapshot holds something else than it was given; then nothing is dropped here.
    pub async fn settle(&self, depth: Depth) -> Result<Settled> {
        self.quiet().await;
        let Some((commit, id)) = self.accepted() else {
            return Ok(Settled::Nothing);
        };
        let info = self.store.info(&id).await?;
        match info.status {
            Status::Pending => return Ok(Settled::NotYet(id)),
            Status::Error => return Err(self.reopen(commit, &id).await),
            Status::Completed => {}
        }
        self.adopt(&commit, &info, depth).await?;
        Ok(Settled::Done(id))
    }

    /// Waits until the store has completed an accepted commit, or has lost it; changes nothing.
    pub async fn completed(&self) -> Result<()> {
        match self.accepted() {
            Some((_, id)) => match until_readable(&*self.store, &id).await {
                // That it is lost is for `settle` to say.
                Err(e) if e.kind() != ErrorKind::Invalid => Err(e),
                _ => Ok(()),
            },
            None => Ok(()),
        }
    }

    /// The commit that the store has accepted, and its snapshot.
    pub fn accepted(&self) -> Option<(Commit, SnapshotId)> {
        let commit = self.overlay.header().commit?;
        let id = commit.snapshot.clone().filter(|_| commit.accepted)?;
        Some((commit, id))
    }

    async fn adopt(&self, commit: &Commit, info: &SnapshotInfo, depth: Depth) -> Result<()> {
        let requests = Arc::new(Requests::default());
        let edited = self.edited(commit, &requests)?;
        self.verify(&edited, &info.id, depth).await?;
        // Whoever reads must have the new base before the sealed layer goes: until then it hides what differs.
        self.below
            .switch(info, &|index| edited.change(index).is_some());
        self.on_overlay("dropping the sealed layer", Overlay::finish)
            .await?;
        self.forget_puts();
        log::info!("{}: is the base now", info.id);
        Ok(())
    }

    async fn verify(&self, edited: &Edited, id: &SnapshotId, depth: Depth) -> Result<()> {
        let compare = |index| async move {
            let (given, held) = (edited.block(index).await?, self.store.get(id, index).await?);
            if given == held {
                return Ok(());
            }
            Err(Error::new(
                ErrorKind::Corrupt,
                format!(
                    "{id} holds something else than it was given at block {index}: nothing was dropped, and the disk here is as it was; `ebsfs commit --restart` makes another snapshot, `ebsfs delete {id}` removes this one"
                ),
            ))
        };
        let cannot = |e: Error| e.context(format!("cannot verify {id}"));
        if depth == Depth::All {
            let all = candidates(edited).map_ok(compare);
            return all
                .try_buffer_unordered(COMPARED)
                .try_collect()
                .await
                .map_err(cannot);
        }
        let sample = self.sample(edited, id).await?;
        stream::iter(sample.into_iter().map(compare))
            .buffer_unordered(COMPARED)
            .try_collect()
            .await
            .map_err(cannot)
    }

    /// Some blocks that were put, by the notes; without them, of those that may have been.
    async fn sample(&self, edited: &Edited, id: &SnapshotId) -> Result<Vec<BlockIndex>> {
        let count = self.puts(id)?.fold(0, |count, _| count + 1);
        if count > 0 {
            let puts = (0..).zip(self.puts(id)?);
            let chosen = puts.filter(|(nth, _)| is_chosen(*nth, count));
            return Ok(chosen.map(|(_, index)| index).collect());
        }
        let count = candidates(edited)
            .try_fold(0, async |count, _| Ok(count + 1))
            .await?;
        let mut nth = 0;
        let chosen = candidates(edited).try_filter(|_| {
            nth += 1;
            std::future::ready(is_chosen(nth - 1, count))
        });
        chosen.try_collect().await
    }

    fn puts(&self, id: &SnapshotId) -> Result<impl Iterator<Item = BlockIndex> + use<>> {
        let mut known = Known::read(&self.journal, id)?;
        Ok(std::iter::from_fn(move || known.next_put()))
    }

    /// Takes back that the snapshot was accepted: the next commit starts it anew. Why that is.
    async fn reopen(&self, mut commit: Commit, id: &SnapshotId) -> Error {
        let lost = format!(
            "the store took {id} and then lost it (it turned to `error`): nothing was dropped here, `ebsfs commit` puts all of it again, and `ebsfs delete {id}` removes what is left"
        );
        let reopened = match NewSnapshot::new(commit.new.volume_size) {
            Ok(new) => {
                commit.new.client_token = new.client_token;
                (commit.snapshot, commit.accepted) = (None, false);
                self.note(commit).await
            }
            Err(e) => Err(e),
        };
        match reopened {
            Ok(()) => Error::new(ErrorKind::Invalid, lost),
            Err(e) => e.context(lost),
        }
    }
}

/// Whether the `nth` of `count` belongs to the sample, which is spread over them evenly.
fn is_chosen(nth: u64, count: u64) -> bool {
    count <= SAMPLE || nth * SAMPLE / count != (nth + 1) * SAMPLE / count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_spread_evenly_and_never_larger() {
        let chosen = |count| -> Vec<u64> { (0..count).filter(|n| is_chosen(*n, count)).collect() };
        assert_eq!(chosen(0), [0; 0]);
        assert_eq!(chosen(3), [0, 1, 2]);
        for count in [16, 17, 100, 4096, 134_217_728] {
            assert!(is_chosen(count - 1, count), "the last of {count}");
            if count <= 4096 {
                assert_eq!(chosen(count).len(), 16, "of {count}");
            }
        }
    }
}
