//! What is asked of a commit and what it answers, as values that also travel over the daemon's socket.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::block::BlockIndex;
use crate::error::{Error, ErrorKind, Result};
use crate::overlay::Commit;
use crate::snapshot::{NewSnapshot, SnapshotId, Tags, VolumeSize};
use crate::stats::Requests;

/// What the new snapshot shall be. What is not said here is the interrupted commit's, or the default.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct Wish {
    /// Its description.
    pub description: Option<String>,
    /// Its tags.
    pub tags: Option<Tags>,
    /// How long it may stay pending without a put.
    pub timeout: Option<Duration>,
    /// Give an interrupted commit up and commit what is there now.
    pub restart: bool,
}

impl Wish {
    /// The snapshot to start, a child of `base`.
    pub(super) fn snapshot(&self, base: &SnapshotId, size: VolumeSize) -> Result<NewSnapshot> {
        let unsaid = NewSnapshot::new(size)?;
        let new = NewSnapshot {
            parent: Some(base.clone()),
            description: self.description.clone().unwrap_or_default(),
            tags: self.tags.clone().unwrap_or_default(),
            timeout: self.timeout.unwrap_or(unsaid.timeout),
            ..unsaid
        };
        new.check()?;
        Ok(new)
    }

    /// `Conflict` if the interrupted commit was asked for something else.
    pub(super) fn check_same(&self, before: &Commit) -> Result<()> {
        let (new, wish) = (&before.new, self);
        let same = wish.timeout.is_none_or(|timeout| timeout == new.timeout)
            && (wish.description.as_ref()).is_none_or(|text| *text == new.description)
            && wish.tags.as_ref().is_none_or(|tags| *tags == new.tags);
        if same {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Conflict,
            "the interrupted commit had other options: give the same or none, or --restart to commit what is there now",
        ))
    }
}

/// Requests to a store, by what they cost.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Spent {
    /// Pages of listings.
    pub listings: u64,
    /// Blocks fetched.
    pub gets: u64,
    /// Blocks put.
    pub puts: u64,
    /// Everything else.
    pub others: u64,
}

impl Spent {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.listings + self.gets + self.puts + self.others
    }
}

impl From<&Requests> for Spent {
    fn from(requests: &Requests) -> Self {
        Self {
            listings: requests.listings.get(),
            gets: requests.gets.get(),
            puts: requests.puts.get(),
            others: requests.others.get(),
        }
    }
}

/// What a commit would do.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Plan {
    /// The snapshot's parent.
    pub base: SnapshotId,
    /// Size of the volume.
    pub volume_size: VolumeSize,
    /// Whether it would go on with an interrupted one.
    pub resumes: bool,
    /// Blocks written in whole: each is put, and nothing has to be fetched for it.
    pub whole: u64,
    /// Blocks written in part: each is merged with the base's, and put if it differs.
    pub part: u64,
    /// Blocks of zeros where the base has data: each is put.
    pub zero: u64,
    /// Bytes of all of these.
    pub bytes: u64,
    /// Requests, at most.
    pub requests: Spent,
}

/// A snapshot that a store has taken in.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Accepted {
    /// The new snapshot. It can be read once the store has completed it.
    pub id: SnapshotId,
    /// What it is a child of.
    pub parent: SnapshotId,
    /// The moment whose disk it holds.
    pub sealed: Timestamp,
    /// Blocks put, in earlier attempts, too.
    pub blocks: u64,
    /// Bytes of these.
    pub bytes: u64,
    /// How long this attempt took.
    pub seconds: f64,
    /// What this attempt asked of the store.
    pub requests: Spent,
}

/// What happens during a commit, in order.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Event {
    /// What will be committed stands fixed; writes do not change it any more.
    Sealed {
        /// The moment.
        sealed: Timestamp,
        /// The volume's size.
        volume_size: VolumeSize,
        /// Whether an earlier commit had sealed it, and how many pages were written since.
        since: Option<u64>,
    },
    /// Something that the user should know.
    Note {
        /// In words.
        text: String,
    },
    /// All blocks before this one are done.
    Progress {
        /// The block.
        index: u32,
    },
    /// The store has taken it all.
    Accepted(Accepted),
    /// The new snapshot is the base now.
    Settled {
        /// The snapshot.
        id: SnapshotId,
    },
}

impl Event {
    /// How far it has come.
    pub(super) fn progress(index: BlockIndex) -> Self {
        Self::Progress { index: index.get() }
    }
}

/// Who is told what happens.
pub type Tell<'a> = &'a (dyn Fn(Event) + Send + Sync);
