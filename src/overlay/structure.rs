//! What changes an overlay's header: its layers, its base, its size, its commit.
//!
//! Each is one publication of the header, before which whatever the new one names is durable, and after which the files
//! go that only the old one named. Where a publication fails and it is not known which header is on the disk, both
//! describe the same disk, except for a seal's: then the overlay takes no more writes.

use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};

use log::debug;

use super::header::Named;
use super::journal::Binding;
use super::layer::Home;
use super::{Commit, Layer, Overlay, State, View, remove_layers};
use crate::error::{Error, ErrorKind, Result};
use crate::snapshot::VolumeSize;

impl Overlay {
    /// Makes the disk larger; `Invalid` if it would become smaller.
    pub fn grow(&self, size: VolumeSize) -> Result<()> {
        let _structure = self.structure();
        let mut named = self.named().clone();
        if size < named.header.size {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "the disk has {}, and can become larger only, not {size}",
                    named.header.size
                ),
            ));
        }
        named.header.size = size;
        self.publish(named)
    }

    /// Seals the top layer for `commit`, and goes on with a new one: a point in time for all writers, who wait
    /// meanwhile. `Conflict` if there is a sealed layer. What was sealed is durable when this returns.
    pub fn seal(&self, commit: Commit) -> Result<()> {
        let _structure = self.structure();
        let mut named = self.named().clone();
        if named.sealed.is_some() {
            return Err(Error::new(
                ErrorKind::Conflict,
                "another commit of this overlay is not finished",
            ));
        }
        check_size(&commit, &named)?;
        // Most of it, while writes go on; a new layer takes a moment, too.
        self.sync()?;
        named.sealed = Some(named.top);
        named.top += 1;
        named.header.commit = Some(commit);
        let top = Layer::create(Home {
            directory: Arc::clone(&self.directory),
            health: Arc::clone(&self.health),
            binding: Binding::new(&named.header.id, named.top)?,
            number: named.top,
            config: self.config,
        })?;
        let _writing = self.writing();
        self.turns.alone(|| {
            let sealed = self.view().top;
            sealed.sync()?;
            self.publish(named).map_err(|e| match e.kind() {
                ErrorKind::NoSpace => e,
                // A crash might leave the sealed layer under a new top, without what is written from now on.
                _ => self.health.fail(e),
            })?;
            self.switch(View {
                top,
                sealed: Some(sealed),
            });
            Ok(())
        })
    }

    /// Notes durably how far the commit of the sealed layer has come; `Invalid` if there is none.
    pub fn note(&self, commit: Commit) -> Result<()> {
        let _structure = self.structure();
        let mut named = self.named().clone();
        commit_of(&named)?;
        check_size(&commit, &named)?;
        named.header.commit = Some(commit);
        self.publish(named)
    }

    /// In one durable step: the snapshot of the accepted commit becomes the base and the sealed layer goes. Before
    /// this, whoever reads through the overlay must look for what lies below in the new base.
    ///
    /// `Invalid` unless the commit is accepted.
    pub fn finish(&self) -> Result<()> {
        let _structure = self.structure();
        let mut named = self.named().clone();
        let commit = commit_of(&named)?;
        let Some(snapshot) = commit.snapshot.clone().filter(|_| commit.accepted) else {
            return Err(Error::new(
                ErrorKind::Invalid,
                "the commit is not accepted: its snapshot cannot be the base yet",
            ));
        };
        named.header.base_size = commit.new.volume_size;
        named.header.base = snapshot;
        self.drop_sealed(named)
    }

    /// Gives the commit up: what the sealed layer holds becomes a part of the top layer again. `Invalid` if there is
    /// none. If it fails the sealed layer stays, and it can be tried again.
    pub fn fold_back(&self) -> Result<()> {
        let _structure = self.structure();
        let named = self.named().clone();
        commit_of(&named)?;
        if let Some(sealed) = self.view().sealed {
            let size = named.header.size.bytes();
            let mut at = 0;
            while at < size {
                let (state, end) = sealed.extent(at);
                let end = match state {
                    State::Base | State::Zero => end.min(size),
                    State::Written => end.min(size).min(at + self.config.slice),
                };
                self.fold(&sealed, state, at..end)?;
                at = end;
            }
        }
        self.sync()?;
        self.drop_sealed(named)
    }

    /// Copies what the sealed layer has in `range`, all of which is in `state`, to where the top layer has nothing.
    fn fold(&self, sealed: &Layer, state: State, range: Range<u64>) -> Result<()> {
        if state == State::Base {
            return Ok(());
        }
        let _writing = self.writing();
        self.health.check()?;
        let top = self.view().top;
        let base = |(state, _): &(State, Range<u64>)| *state == State::Base;
        for (_, run) in top.runs(&range).into_iter().filter(base) {
            if state == State::Zero {
                top.zero(run)?;
            } else {
                let mut bytes = vec![0; usize::try_from(run.end - run.start).unwrap_or(0)];
                sealed.read(run.start, &mut bytes, &mut Vec::new())?;
                top.write(run.start, &bytes)?;
            }
        }
        Ok(())
    }

    /// Goes on without the sealed layer and its commit.
    fn drop_sealed(&self, mut named: Named) -> Result<()> {
        named.header.commit = None;
        named.sealed = None;
        self.publish(named)?;
        let view = self.view();
        self.switch(View {
            top: view.top,
            sealed: None,
        });
        let named = self.named().clone();
        // What stays of it is removed when the overlay is opened.
        if let Err(e) = remove_layers(&*self.directory, |name| named.is_left_over(name)) {
            debug!("a sealed layer's files stay for now: {e:#}");
        }
        Ok(())
    }

    fn publish(&self, named: Named) -> Result<()> {
        named.publish(&*self.directory)?;
        self.size
            .store(named.header.size.bytes(), Ordering::Release);
        *self.named() = named;
        Ok(())
    }

    fn switch(&self, view: View) {
        *self.view.write().unwrap_or_else(PoisonError::into_inner) = view;
    }

    fn structure(&self) -> MutexGuard<'_, ()> {
        self.structure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// The commit that is under way; `Invalid` if there is none.
fn commit_of(named: &Named) -> Result<&Commit> {
    named
        .header
        .commit
        .as_ref()
        .ok_or_else(|| Error::new(ErrorKind::Invalid, "no commit of this overlay is under way"))
}

/// `Invalid` if the snapshot would be larger than the disk: as its base it would contradict it.
fn check_size(commit: &Commit, named: &Named) -> Result<()> {
    let (new, size) = (commit.new.volume_size, named.header.size);
    if new <= size {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Invalid,
        format!("a snapshot of {new} cannot be made of a disk of {size}: grow the disk first"),
    ))
}
