//! A raw image, a file or a block device, as blocks: padded with absent blocks to whole GiB.

use std::fs::{self, File};
use std::io::{Seek as _, SeekFrom};
use std::os::unix::fs::{FileExt as _, FileTypeExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;

use super::BlockSource;
use crate::block::{BLOCK_SIZE, Block, BlockIndex, BlockSet, Buffer, blocks_for};
use crate::blocking::blocking;
use crate::error::{Error, ErrorKind, Result};
use crate::snapshot::VolumeSize;
use crate::store::Listing;

/// An image file as a source. Holes of the file are absent blocks; nothing is kept in memory.
pub struct RawSource {
    image: Arc<Image>,
}

#[derive(Clone)]
struct Image {
    file: Arc<File>,
    path: PathBuf,
    len: u64,
    volume_size: VolumeSize,
}

/// Runs of data found by one call of `present`.
const PAGE_RUNS: usize = 1024;

impl RawSource {
    /// Opens the image at `path`; `Invalid` if it is empty, too large or no file.
    pub fn open(path: &Path) -> Result<Self> {
        // Before it is opened: a pipe would keep the open waiting for somebody who writes into it.
        let kind = fs::metadata(path)
            .map_err(|e| Error::io(e, "open", path))?
            .file_type();
        if kind.is_dir() {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("{} is a directory, not a disk image", path.display()),
            ));
        }
        if !kind.is_file() && !kind.is_block_device() {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "{} is no disk image: it must be a file or a block device",
                    path.display()
                ),
            ));
        }
        let mut file = File::open(path).map_err(|e| Error::io(e, "open", path))?;
        // The only length that block devices tell, too.
        let len = file
            .seek(SeekFrom::End(0))
            .map_err(|e| Error::io(e, "find the length of", path))?;
        let volume_size = VolumeSize::holding(len)
            .map_err(|e| e.context(format!("cannot use {}", path.display())))?;
        Ok(Self {
            image: Arc::new(Image {
                file: Arc::new(file),
                path: path.to_owned(),
                len,
                volume_size,
            }),
        })
    }

    /// The same image on a volume of `size`, if that is larger than its own.
    #[must_use]
    pub fn padded_to(mut self, size: VolumeSize) -> Self {
        let image = Arc::make_mut(&mut self.image);
        image.volume_size = image.volume_size.max(size);
        self
    }

    /// Bytes in the image itself.
    pub fn image_len(&self) -> u64 {
        self.image.len
    }

    /// The volume that holds it.
    pub fn volume_size(&self) -> VolumeSize {
        self.image.volume_size
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Image) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let image = Arc::clone(&self.image);
        blocking("reading the image", move || work(&image)).await
    }
}

impl Image {
    /// Offset of the next data, or of the next hole, from `offset` on; the end if there is none.
    fn seek(&self, to: impl FnOnce(u64) -> rustix::fs::SeekFrom, offset: u64) -> Result<u64> {
        use rustix::io::Errno;
        match rustix::fs::seek(&self.file, to(offset)) {
            Ok(found) => Ok(found.min(self.len)),
            Err(Errno::NXIO) => Ok(self.len),
            Err(e) => Err(Error::io(e.into(), "find holes in", &self.path)),
        }
    }

    fn present(&self, from: BlockIndex) -> Result<Listing> {
        self.volume_size.check(from)?;
        let mut set = BlockSet::new();
        let mut covered = from.get();
        let end = u32::try_from(blocks_for(self.len)).unwrap_or(u32::MAX);
        for _ in 0..PAGE_RUNS {
            let position = BlockIndex::new(covered).start();
            if position >= self.len {
                break;
            }
            // A block device knows no holes: there, all is data.
            let Ok(data) = self.seek(rustix::fs::SeekFrom::Data, position) else {
                (covered..end).for_each(|index| set.push(BlockIndex::new(index)));
                covered = end;
                break;
            };
            if data >= self.len {
                covered = end;
                break;
            }
            let hole = self.seek(rustix::fs::SeekFrom::Hole, data)?;
            let first = BlockIndex::containing(data).get().max(covered);
            covered = u32::try_from(blocks_for(hole))
                .unwrap_or(u32::MAX)
                .max(first + 1);
            (first..covered).for_each(|index| set.push(BlockIndex::new(index)));
        }
        if covered >= end {
            covered = self.volume_size.blocks();
        }
        Ok(Listing {
            set,
            covered: from.get()..covered,
            volume_size: self.volume_size,
        })
    }

    fn read(&self, index: BlockIndex) -> Result<Buffer> {
        self.volume_size.check(index)?;
        let mut bytes = Buffer::new();
        let left = usize::try_from(self.len.saturating_sub(index.start())).unwrap_or(usize::MAX);
        let (part, padding) = bytes.split_at_mut(left.min(BLOCK_SIZE));
        padding.fill(0);
        self.file.read_exact_at(part, index.start()).map_err(|e| {
            Error::io(e, "read", &self.path).context(format!("block {index} of the image"))
        })?;
        Ok(bytes)
    }
}

#[async_trait]
impl BlockSource for RawSource {
    fn count(&self) -> u32 {
        self.image.volume_size.blocks()
    }

    fn ready(&self, _index: BlockIndex) -> Option<Block> {
        None
    }

    fn listed(&self, _from: BlockIndex) -> Option<Arc<Listing>> {
        None
    }

    async fn present(&self, from: BlockIndex) -> Result<Arc<Listing>> {
        self.blocking(move |image| image.present(from))
            .await
            .map(Arc::new)
    }

    async fn block(&self, index: BlockIndex) -> Result<Block> {
        Block::seal_together(self.blocking(move |image| image.read(index))).await
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;

    use super::*;
    use crate::source::indexes;

    #[test]
    fn holes_are_absent_and_the_last_block_is_padded() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let index = |i| BlockIndex::new(i);
        let len = index(700).start() + 100;
        file.as_file().set_len(len).unwrap();
        file.as_file()
            .write_all_at(b"start", index(3).start() + 7)
            .unwrap();
        file.as_file().write_all_at(b"end", len - 3).unwrap();
        let source = RawSource::open(file.path()).unwrap();
        assert_eq!((source.image_len(), source.volume_size().gib()), (len, 1));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(async {
            let present: Vec<_> = indexes(&source, BlockIndex::ZERO)
                .map(|index| index.unwrap().get())
                .collect()
                .await;
            assert_eq!(present, [3, 700]);
            assert_eq!(
                &source.block(index(3)).await.unwrap().bytes()[7..12],
                b"start"
            );
            let last = source.block(index(700)).await.unwrap();
            assert_eq!(&last.bytes()[97..101], b"end\0");
            assert_eq!(source.block(index(2047)).await.unwrap(), Block::Zero);
            assert!(source.block(index(2048)).await.is_err());
        });
    }

    #[test]
    fn an_empty_image_and_a_directory_are_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(RawSource::open(file.path()).is_err());
        assert!(RawSource::open(std::env::temp_dir().as_path()).is_err());
    }
}
