//! The files `data.0`, `data.1` ...: the bytes of blocks, each where it is on the disk.
//!
//! They are sparse, and split at 1 TiB, as no file of ext4 holds more than 16 TiB. What they hold means nothing without
//! the table of digests. A block of zeros is not written: its digest says all.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::ErrorKind as IoKind;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};
use rustix::io::Errno;

use super::private::{self, Mode};
use crate::block::{BlockIndex, Buffer, MAX_BLOCKS};
use crate::error::{Error, Result};

/// Bytes of the disk in one file.
const FILE_BYTES: u64 = 1 << 40;

/// The way of a block to its file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Way {
    /// Past the page cache, if there is such a way.
    Direct,
    /// Into the page cache, which takes more at one time than the disk.
    Buffered,
}

pub(super) struct Data {
    dir: PathBuf,
    /// Those that were opened. Guards map operations, and the opening of each once.
    files: Mutex<BTreeMap<u64, Arc<Part>>>,
}

/// One of the files.
struct Part {
    file: File,
    /// The same past the page cache; none where that cannot be.
    direct: OnceLock<Option<File>>,
}

impl Data {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            files: Mutex::default(),
        }
    }

    /// The bytes at the place of `index`; none if the file ends before that.
    pub(super) fn read(&self, index: BlockIndex) -> Result<Option<Buffer>> {
        let Some(part) = self.part(number(index), Mode::Existing)? else {
            return Ok(None);
        };
        let mut buffer = Buffer::new();
        match part.file.read_exact_at(&mut buffer, within(index)) {
            Ok(()) => Ok(Some(buffer)),
            Err(e) if e.kind() == IoKind::UnexpectedEof => Ok(None),
            Err(e) => Err(Error::io(e, "read", &self.path(number(index)))),
        }
    }

    /// Writes the bytes of `index`.
    pub(super) fn write(&self, index: BlockIndex, bytes: &[u8], way: Way) -> Result<()> {
        let number = number(index);
        let cannot = |e| Error::io(e, "write", &self.path(number));
        let Some(part) = self.part(number, Mode::Create)? else {
            return Err(cannot(IoKind::NotFound.into()));
        };
        if let Some(direct) = self.direct(number, &part).filter(|_| way == Way::Direct) {
            match direct.write_all_at(bytes, within(index)) {
                // Neither do all file systems say it when they are opened, nor do all bytes begin where they have to.
                Err(e) if e.kind() == IoKind::InvalidInput => {}
                done => return done.map_err(cannot),
            }
        }
        part.file.write_all_at(bytes, within(index)).map_err(cannot)
    }

    fn direct<'a>(&self, number: u64, part: &'a Part) -> Option<&'a File> {
        let open = || {
            let opened = private::open(&self.path(number), Mode::Direct);
            opened.ok().flatten()
        };
        part.direct.get_or_init(open).as_ref()
    }

    /// Gives the room of `index` back.
    pub(super) fn punch(&self, index: BlockIndex) -> Result<()> {
        let number = number(index);
        let Some(part) = self.part(number, Mode::Existing)? else {
            return Ok(());
        };
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let len = index.end() - index.start();
        loop {
            match fallocate(&part.file, flags, within(index), len) {
                Ok(()) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(e) => return Err(Error::io(e.into(), "give room back in", &self.path(number))),
            }
        }
    }

    /// The blocks that take room, whether anything says what they are or not.
    pub(super) fn allocated(&self) -> Result<Vec<Range<u32>>> {
        let mut runs = Vec::new();
        for number in 0..=number(BlockIndex::new(MAX_BLOCKS - 1)) {
            let Some(part) = self.part(number, Mode::Existing)? else {
                continue;
            };
            let base = number * FILE_BYTES;
            let mut at = 0;
            while let Some(extent) = self.extent(&part.file, number, at)? {
                let first = BlockIndex::containing(base + extent.start).get();
                let last = BlockIndex::containing(base + extent.end - 1).get();
                runs.push(first..last + 1);
                // The next extent may begin in the same block.
                at = within(BlockIndex::new(last)) + BlockIndex::ZERO.end();
            }
        }
        Ok(runs)
    }

    /// The first bytes at or after `from` that take room.
    fn extent(&self, file: &File, number: u64, from: u64) -> Result<Option<Range<u64>>> {
        let cannot = |e: Errno| Error::io(e.into(), "look for holes in", &self.path(number));
        let start = match seek(file, SeekFrom::Data(from)) {
            Ok(start) => start,
            Err(Errno::NXIO) => return Ok(None),
            Err(e) => return Err(cannot(e)),
        };
        let end = seek(file, SeekFrom::Hole(start)).map_err(cannot)?;
        // A file may have been cut in between.
        Ok((start < end).then_some(start..end))
    }

    fn part(&self, number: u64, mode: Mode) -> Result<Option<Arc<Part>>> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(part) = files.get(&number) {
            return Ok(Some(Arc::clone(part)));
        }
        let Some(file) = private::open(&self.path(number), mode)? else {
            return Ok(None);
        };
        let part = Arc::new(Part {
            file,
            direct: OnceLock::new(),
        });
        files.insert(number, Arc::clone(&part));
        Ok(Some(part))
    }

    fn path(&self, number: u64) -> PathBuf {
        self.dir.join(format!("data.{number}"))
    }
}

fn number(index: BlockIndex) -> u64 {
    index.start() / FILE_BYTES
}

/// Offset in its file.
fn within(index: BlockIndex) -> u64 {
    index.start() % FILE_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Block;

    #[test]
    fn blocks_at_both_ends_of_a_file_and_of_the_largest_disk_keep_apart() {
        let dir = tempfile::tempdir().unwrap();
        let data = Data::new(dir.path().to_owned());
        let at = [0, 1, (1 << 21) - 1, 1 << 21, MAX_BLOCKS - 1].map(BlockIndex::new);
        for (byte, index) in (1..).zip(at) {
            assert!(data.read(index).unwrap().is_none());
            let way = match byte % 2 {
                0 => Way::Direct,
                _ => Way::Buffered,
            };
            let mut bytes = Buffer::new();
            bytes.fill(byte);
            data.write(index, &bytes, way).unwrap();
        }
        for (byte, index) in (1..).zip(at) {
            let read = data.read(index).unwrap().unwrap();
            assert!(read.iter().all(|b| *b == byte), "block {index}");
        }
        let runs = vec![
            0..2,
            (1 << 21) - 1..1 << 21,
            1 << 21..(1 << 21) + 1,
            MAX_BLOCKS - 1..MAX_BLOCKS,
        ];
        assert_eq!(data.allocated().unwrap(), runs);
        // What does not begin at a page takes the other way.
        data.write(at[1], &vec![9; Block::MAX_MEMORY + 1][1..], Way::Direct)
            .unwrap();
        assert_eq!(data.read(at[1]).unwrap().unwrap()[..2], [9; 2]);
        data.punch(at[0]).unwrap();
        data.punch(at[4]).unwrap();
        let runs = vec![1..2, (1 << 21) - 1..1 << 21, 1 << 21..(1 << 21) + 1];
        assert_eq!(data.allocated().unwrap(), runs);
    }
}
