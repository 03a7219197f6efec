//! `ebsfs import`: a disk image becomes a snapshot.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use indicatif::HumanBytes;
use log::warn;
use serde::{Deserialize, Serialize};

use super::interrupt::unless_interrupted;
use super::progress::Progress;
use super::state::Checkpoint;
use super::wished::Wished;
use super::{Common, Outcome, print, stack, tell};
use crate::error::{Error, ErrorKind, Result};
use crate::snapshot::{Encryption, NewSnapshot, SnapshotId, SnapshotInfo, Status, VolumeSize};
use crate::source::{BlockSource, RawSource};
use crate::store::{Store, check_readable};
use crate::upload::{Config, Difference, Journal, Known, Upload, until_readable};

#[derive(Args)]
pub(super) struct Import {
    /// A raw disk image: a file or a block device
    image: PathBuf,

    /// Go on with an interrupted import of this image
    #[arg(long = "continue")]
    go_on: bool,

    /// Make a child of this snapshot: only what differs from it is put
    #[arg(long, value_name = "SNAPSHOT", alias = "parent-snapshot-id")]
    parent: Option<SnapshotId>,

    /// Put blocks of zeros, too, where nothing is inherited: what an encrypted snapshot does not have may read as
    /// noise on its volume
    #[arg(long)]
    zero_blocks: bool,

    /// Wait until the snapshot is completed and can be read; the id is printed before
    #[arg(long)]
    wait: bool,

    #[command(flatten)]
    wished: Wished,

    /// Encrypt the snapshot, with the account's default key unless one is named
    #[arg(long)]
    encrypted: bool,

    /// Encrypt the snapshot with this KMS key
    #[arg(long, value_name = "ARN")]
    kms_key_arn: Option<String>,

    /// The same token with the same options starts one snapshot, however often it is sent [default: random]
    #[arg(long, value_name = "TOKEN")]
    client_token: Option<String>,
}

/// What must not change between an import and its continuation.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
struct ImageState {
    len: u64,
    inode: u64,
    modified: (i64, i64),
}

#[derive(Deserialize, Serialize)]
struct Unfinished {
    image: ImageState,
    new: NewSnapshot,
}

impl Import {
    pub(super) fn run(self, common: &Common) -> Outcome {
        // Before anything is made: a bad image leaves no store behind.
        let source = RawSource::open(&self.image)?;
        self.wanted(source.volume_size())?;
        let runtime = stack::runtime()?;
        let (opened, parent) = match &self.parent {
            None => (stack::create_store(common, &runtime)?, None),
            Some(id) => {
                let opened = stack::open_store(common, &runtime)?;
                let parent = runtime.block_on(readable_parent(&*opened.store, id))?;
                (opened, Some(parent))
            }
        };
        let store = &opened.store;
        let source = match &parent {
            Some(parent) => source.padded_to(parent.volume_size),
            None => source,
        };
        let path = fs::canonicalize(&self.image).map_err(|e| Error::io(e, "find", &self.image))?;
        let checkpoint = Checkpoint::of("import", &[&store.identity(), &path.to_string_lossy()]);
        let image = image_state(&path, source.image_len())?;
        let new = self.choose(self.wanted(source.volume_size())?, &checkpoint, &image)?;

        if new.encryption.is_some() && stack::keeps_plain(common) {
            tell("a directory does not encrypt: the key is noted, the blocks are stored plain");
        }
        let info = runtime.block_on(start(&**store, new, &checkpoint, &image))?;
        let id = &info.id;
        if info.status == Status::Completed {
            tell(&format!("{id} was completed already"));
        } else {
            tell_padding(&path, &source);
            let again = common.again(&format!("import --continue {}", self.image.display()));
            let go_on = format!("{id} stays pending; {again} goes on with it");
            let progress = Progress::new("import", source.image_len());
            let reached = |index| progress.reached(index);
            let inherited = |info: SnapshotInfo| -> Arc<dyn BlockSource> {
                Arc::new(stack::snapshot(store, &info))
            };
            let upload = Upload {
                store: Arc::clone(store),
                id: id.clone(),
                changes: Arc::new(Difference {
                    source: Arc::new(source),
                    parent: parent.map(inherited),
                    zero_blocks: self.zero_blocks,
                }),
                config: Config {
                    concurrency: opened.concurrency,
                },
            };
            let (mut journal, known) = open_journal(&checkpoint, id);
            let work = upload.run(&mut journal, known, &reached);
            runtime
                .block_on(unless_interrupted(work, &go_on))
                .map_err(|stop| stop.context(&go_on))?;
        }
        checkpoint.clear();
        if image_state(&path, image.len)? != image {
            tell(&format!(
                "{} changed while it was read: {id} may mix old and new",
                path.display(),
            ));
        }
        print(&format!("{id}\n"))?;
        if self.wait {
            let how = format!("{id} is being completed; `ebsfs info {id}` tells when it is");
            runtime.block_on(unless_interrupted(until_readable(&**store, id), &how))?;
        }
        Ok(())
    }

    fn wanted(&self, volume_size: VolumeSize) -> Result<NewSnapshot> {
        let (wished, default) = (&self.wished, NewSnapshot::DEFAULT_TIMEOUT);
        let mut new = NewSnapshot {
            parent: self.parent.clone(),
            description: wished.description().unwrap_or_default(),
            tags: wished.tags()?.unwrap_or_default(),
            timeout: wished.timeout().unwrap_or(default),
            encryption: (self.encrypted || self.kms_key_arn.is_some()).then(|| Encryption {
                kms_key_arn: self.kms_key_arn.clone(),
            }),
            ..NewSnapshot::new(volume_size)?
        };
        if let Some(token) = &self.client_token {
            new.client_token.clone_from(token);
        }
        new.check()?;
        Ok(new)
    }

    /// The snapshot to start, or the one to go on with.
    fn choose(
        &self,
        wanted: NewSnapshot,
        checkpoint: &Checkpoint,
        image: &ImageState,
    ) -> Result<NewSnapshot> {
        let unfinished: Option<Unfinished> = checkpoint.load();
        match unfinished {
            Some(before) if self.go_on && before.image != *image => {
                tell("the image has changed since the import was interrupted: starting again");
                Ok(wanted)
            }
            Some(before) if self.go_on => {
                let token = self.client_token.as_ref();
                let same = NewSnapshot {
                    client_token: token.unwrap_or(&before.new.client_token).clone(),
                    ..wanted
                };
                if same == before.new {
                    return Ok(same);
                }
                Err(Error::new(
                    ErrorKind::Conflict,
                    "the interrupted import had other options: give the same, or import without --continue",
                ))
            }
            None if self.go_on => {
                tell("there is no interrupted import of this image: starting one");
                Ok(wanted)
            }
            _ => Ok(wanted),
        }
    }
}

/// Where puts are noted, and what was noted of them before the import was interrupted.
fn open_journal(checkpoint: &Checkpoint, id: &SnapshotId) -> (Journal, Known) {
    let nothing = || (Journal::none(id), Known::default());
    let Some(path) = checkpoint.journal() else {
        return nothing();
    };
    Journal::open(&path, id).unwrap_or_else(|e| {
        warn!("if it is interrupted, this import will put all blocks again: {e:#}");
        nothing()
    })
}

/// The parent, which must be completed.
async fn readable_parent(store: &dyn Store, id: &SnapshotId) -> Result<SnapshotInfo> {
    let info = store.info(id).await?;
    check_readable(id, info.status).map_err(|e| e.context("the parent cannot be used"))?;
    Ok(info)
}

fn tell_padding(path: &Path, source: &RawSource) {
    let (len, size) = (source.image_len(), source.volume_size());
    if len != size.bytes() {
        tell(&format!(
            "{} has {} ({len} bytes): padded with zeros to {size}",
            path.display(),
            HumanBytes(len)
        ));
    }
}

/// Starts the snapshot; one that has expired meanwhile, or was removed, is started anew.
async fn start(
    store: &dyn Store,
    mut new: NewSnapshot,
    checkpoint: &Checkpoint,
    image: &ImageState,
) -> Result<SnapshotInfo> {
    let note = |new: &NewSnapshot| {
        checkpoint.save(&Unfinished {
            image: image.clone(),
            new: new.clone(),
        })
    };
    note(&new)?;
    let info = store.start(&new).await?;
    if info.status != Status::Error {
        return Ok(info);
    }
    tell(&format!("{} has expired: starting again", info.id));
    new.client_token = NewSnapshot::new(new.volume_size)?.client_token;
    note(&new)?;
    store.start(&new).await
}

fn image_state(path: &Path, len: u64) -> Result<ImageState> {
    let meta = fs::metadata(path).map_err(|e| Error::io(e, "read", path))?;
    Ok(ImageState {
        len,
        inode: meta.ino(),
        modified: (meta.mtime(), meta.mtime_nsec()),
    })
}
