//! Files named by their content: `blocks/ab/abcd...` of 512 KiB each and `trees/ab/abcd...`.
//!
//! A file is written under `tmp/` and renamed, so a name never holds half a write while the machine runs. After
//! a power failure it may: a name alone is therefore not believed until its bytes were written or read by this
//! process, and a damaged file is replaced by the next put of the same bytes.

use std::fs::{self, File};
use std::io::{ErrorKind as IoKind, Read as _, Write as _};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use log::warn;
use lru::LruCache;

use crate::block::{BLOCK_SIZE, Block, Buffer, Digest};
use crate::durable;
use crate::error::{Error, ErrorKind, Result};

/// Digests remembered as sound: 6 MiB for 32 GiB of blocks; past that an old one is read again when it recurs.
const SOUND_DIGESTS: NonZeroUsize = NonZeroUsize::new(65536).expect("not zero");

/// The largest tree object: a root of 32768 segments takes 1.25 MiB.
const MAX_TREE: u64 = 2 << 20;

pub(super) struct Objects {
    top: PathBuf,
    /// Blocks that this process wrote or found to be sound. Guards nothing slow.
    sound: Mutex<LruCache<Digest, ()>>,
}

impl Objects {
    pub(super) fn new(top: &Path) -> Self {
        Self {
            top: top.to_owned(),
            sound: Mutex::new(LruCache::new(SOUND_DIGESTS)),
        }
    }

    pub(super) fn blocks_dir(&self) -> PathBuf {
        self.top.join("blocks")
    }

    pub(super) fn trees_dir(&self) -> PathBuf {
        self.top.join("trees")
    }

    pub(super) fn tmp_dir(&self) -> PathBuf {
        self.top.join("tmp")
    }

    /// While it exists no file is believed by its name or by what is read back: the disk failed to keep
    /// something that memory may still show. A complete gc removes it, as only what was durable is left then.
    pub(super) fn suspect(&self) -> PathBuf {
        self.top.join("suspect")
    }

    /// From now on nothing is believed that is not published.
    pub(super) fn distrust(&self) {
        if let Err(e) = File::create(self.suspect()) {
            warn!(
                "{} cannot be made: delete what was not completed before importing again: {e}",
                self.suspect().display()
            );
        }
    }

    /// Reads and verifies a block.
    pub(super) fn read_block(&self, digest: &Digest) -> Result<Block> {
        if *digest == Digest::ZERO_BLOCK {
            return Ok(Block::Zero);
        }
        let path = object_path(&self.blocks_dir(), digest);
        read_whole_block(&path)
            .and_then(|bytes| Block::verify(bytes, digest))
            .map_err(|e| e.context(format!("block file {}", path.display())))
    }

    /// Stores a block; not durable before the next flush of the file system.
    pub(super) fn write_block(&self, block: &Block) -> Result<()> {
        let Block::Data(_) = block else { return Ok(()) };
        let digest = block.digest();
        let path = object_path(&self.blocks_dir(), &digest);
        if !self.holds_sound_block(&path, &digest) {
            self.write(&path, block.bytes())?;
            self.remember(&digest);
        }
        Ok(())
    }

    /// Whether the file is there and, if this process did not write it, holds what its name says.
    fn holds_sound_block(&self, path: &Path, digest: &Digest) -> bool {
        if fs::metadata(path).is_err() || self.suspect().exists() {
            return false; // Collected by another process, never written, or not to be believed.
        }
        let known = self
            .sound
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(digest)
            .is_some();
        let sound = known || self.read_block(digest).is_ok();
        if sound && !known {
            self.remember(digest);
        }
        sound
    }

    fn remember(&self, digest: &Digest) {
        self.sound
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .put(*digest, ());
    }

    /// Reads a tree object whose bytes hash to its name.
    pub(super) fn read_tree(&self, digest: &Digest) -> Result<Vec<u8>> {
        let path = object_path(&self.trees_dir(), digest);
        let read = || -> Result<Vec<u8>> {
            let mut bytes = Vec::new();
            File::open(&path)
                .map_err(missing)?
                .take(MAX_TREE)
                .read_to_end(&mut bytes)?;
            if Digest::of(&bytes) != *digest {
                return Err(Error::new(
                    ErrorKind::Corrupt,
                    "its checksum is not its name",
                ));
            }
            Ok(bytes)
        };
        read().map_err(|e| e.context(format!("tree object {}", path.display())))
    }

    /// Stores a tree object, returns its digest; durable with the next flush.
    pub(super) fn write_tree(&self, bytes: &[u8]) -> Result<Digest> {
        let digest = Digest::of(bytes);
        if self.suspect().exists() || self.read_tree(&digest).is_err() {
            self.write(&object_path(&self.trees_dir(), &digest), bytes)?;
        }
        Ok(digest)
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        let temporary = self.tmp_dir().join(durable::unique_name());
        let written = create_with_parent(&temporary).and_then(|mut file| {
            file.write_all(bytes)
                .map_err(|e| Error::io(e, "write", path))?;
            durable::begin(&file, 0, bytes.len());
            match path.parent() {
                Some(parent) if !parent.exists() => durable::create_private_dir(parent),
                _ => Ok(()),
            }
        });
        let placed = written.and_then(|()| durable::place(&temporary, path));
        if placed.is_err() {
            drop(fs::remove_file(&temporary));
        }
        placed
    }
}

/// `top/ab/abcd...`
fn object_path(top: &Path, digest: &Digest) -> PathBuf {
    let name = digest.to_string();
    top.join(name.get(..2).unwrap_or_default()).join(&name)
}

fn read_whole_block(path: &Path) -> Result<Buffer> {
    let mut file = File::open(path).map_err(missing)?;
    let len = file.metadata()?.len();
    if u64::try_from(BLOCK_SIZE) != Ok(len) {
        return Err(Error::new(
            ErrorKind::Corrupt,
            format!("it has {len} bytes where a block has {BLOCK_SIZE}"),
        ));
    }
    let mut bytes = Buffer::new();
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// A missing object is damage to the store, not something that the caller asked for and that is not there.
fn missing(e: std::io::Error) -> Error {
    match e.kind() {
        IoKind::NotFound => Error::new(ErrorKind::Corrupt, "it is missing"),
        _ => e.into(),
    }
}

fn create_with_parent(path: &Path) -> Result<File> {
    match (durable::create_private(path), path.parent()) {
        (Err(e), Some(parent)) if e.kind() == ErrorKind::NotFound => {
            durable::create_private_dir(parent)?;
            durable::create_private(path)
        }
        (created, _) => created,
    }
}
