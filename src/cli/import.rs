//! `ebsfs import`: a disk image becomes a snapshot.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use indicatif::HumanBytes;
use serde::{Deserialize, Serialize};

use super::interrupt::unless_interrupted;
use super::progress::Progress;
use super::state::Checkpoint;
use super::{Common, Outcome, print, stack, tell};
use crate::error::{Error, ErrorKind, Result};
use crate::snapshot::{NewSnapshot, SnapshotInfo, Status, Tags};
use crate::source::{BlockSource, RawSource};
use crate::store::Store;
use crate::upload::{Config, upload};

#[derive(Args)]
pub(super) struct Import {
    /// A raw disk image: a file or a block device
    image: PathBuf,

    /// Go on with an interrupted import of this image
    #[arg(long = "continue")]
    go_on: bool,

    /// A description of the snapshot
    #[arg(long, default_value_t)]
    description: String,

    /// A tag of the snapshot; may be given several times
    #[arg(long, value_name = "Key=K,Value=V", value_parser = parse_tag)]
    tags: Vec<(String, String)>,

    /// Minutes after which an unfinished snapshot expires, 10 to 60
    #[arg(long, value_name = "MINUTES", default_value_t = 60)]
    timeout: u64,
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

fn parse_tag(text: &str) -> Result<(String, String), String> {
    let form = || "a tag is written Key=K,Value=V".to_owned();
    let (key, value) = text
        .strip_prefix("Key=")
        .and_then(|rest| rest.split_once(",Value="))
        .ok_or_else(form)?;
    Ok((key.to_owned(), value.to_owned()))
}

impl Import {
    pub(super) fn run(self, common: &Common) -> Outcome {
        // Before anything is made: a bad image leaves no store behind.
        let source = Arc::new(RawSource::open(&self.image)?);
        let wanted = self.wanted(&source)?;
        let store = stack::create_store(common)?;
        let path = fs::canonicalize(&self.image).map_err(|e| Error::io(e, "find", &self.image))?;
        let checkpoint = Checkpoint::of("import", &[&store.identity(), &path.to_string_lossy()]);
        let image = image_state(&path, source.image_len())?;
        let new = self.choose(wanted, &checkpoint, &image)?;

        let runtime = stack::runtime()?;
        let (new, info) = runtime.block_on(start(&*store, new, &checkpoint, &image))?;
        if info.status == Status::Completed {
            tell(&format!(
                "{} was completed before the import was interrupted",
                info.id
            ));
        } else {
            let bytes = source.volume_size().bytes();
            if bytes != source.image_len() {
                let (len, size) = (HumanBytes(source.image_len()), source.volume_size());
                tell(&format!(
                    "{} has {len} ({} bytes): padded with zeros to {size}",
                    path.display(),
                    source.image_len()
                ));
            }
            let progress = Progress::new("import", source.image_len());
            let reached = |index| progress.reached(index);
            let blocks: Arc<dyn BlockSource> = Arc::<RawSource>::clone(&source);
            let config = Config::default();
            let work = upload(store, &info, &new, blocks, &config, &reached);
            let again = common.again(&format!("import --continue {}", self.image.display()));
            let go_on = format!("{} stays pending; {again} goes on with it", info.id);
            runtime
                .block_on(unless_interrupted(work, &go_on))
                .map_err(|stop| stop.context(&go_on))?;
        }
        checkpoint.clear();
        if image_state(&path, source.image_len())? != image {
            tell(&format!(
                "{} changed while it was read: {} may mix old and new",
                path.display(),
                info.id
            ));
        }
        print(&format!("{}\n", info.id))
    }

    fn wanted(&self, source: &RawSource) -> Result<NewSnapshot> {
        let minutes = self.timeout.saturating_mul(60);
        let new = NewSnapshot {
            description: self.description.clone(),
            tags: self.tags.iter().cloned().collect::<Tags>(),
            timeout: Duration::from_secs(minutes),
            ..NewSnapshot::new(source.volume_size())?
        };
        if new.tags.len() != self.tags.len() {
            return Err(Error::new(ErrorKind::Invalid, "two tags have the same key"));
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
                let same = NewSnapshot {
                    client_token: before.new.client_token.clone(),
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

/// Starts the snapshot; one that has expired meanwhile, or was removed, is started anew.
async fn start(
    store: &dyn Store,
    new: NewSnapshot,
    checkpoint: &Checkpoint,
    image: &ImageState,
) -> Result<(NewSnapshot, SnapshotInfo)> {
    checkpoint.save(&Unfinished {
        image: image.clone(),
        new: new.clone(),
    })?;
    let info = store.start(&new).await?;
    if info.status != Status::Error {
        return Ok((new, info));
    }
    tell(&format!("{} has expired: starting again", info.id));
    let new = NewSnapshot {
        client_token: NewSnapshot::new(new.volume_size)?.client_token,
        ..new
    };
    checkpoint.save(&Unfinished {
        image: image.clone(),
        new: new.clone(),
    })?;
    let info = store.start(&new).await?;
    Ok((new, info))
}

fn image_state(path: &Path, len: u64) -> Result<ImageState> {
    let meta = fs::metadata(path).map_err(|e| Error::io(e, "read", path))?;
    Ok(ImageState {
        len,
        inode: meta.ino(),
        modified: (meta.mtime(), meta.mtime_nsec()),
    })
}
