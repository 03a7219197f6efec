//! Disk images for tests, and what a volume made from one must hold.

use std::fs::File;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{SeekFrom, seek};

pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const GIB: u64 = 1 << 30;
pub(crate) const BLOCK: u64 = 512 << 10;

/// An image file under construction; what is not written stays a hole.
pub(crate) struct Disk {
    path: PathBuf,
    file: File,
}

impl Disk {
    pub(crate) fn new(path: impl Into<PathBuf>, len: u64) -> Self {
        let path = path.into();
        let file = File::create(&path).unwrap();
        file.set_len(len).unwrap();
        Self { path, file }
    }

    /// One block of the random bytes of `seed`.
    pub(crate) fn block(self, index: u64, seed: u64) -> Self {
        self.bytes(index * BLOCK, &random_block(seed))
    }

    /// `count` blocks from `index` on, each of which is found nowhere else.
    pub(crate) fn blocks(self, index: u64, count: u64, seed: u64) -> Self {
        (index..index + count).fold(self, |disk, at| disk.block(at, seed << 32 | at))
    }

    pub(crate) fn bytes(self, offset: u64, bytes: &[u8]) -> Self {
        self.file.write_all_at(bytes, offset).unwrap();
        self
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// The bytes of `seed`: 512 KiB that do not repeat.
pub(crate) fn random_block(seed: u64) -> Vec<u8> {
    let mut random = Random(seed);
    let mut bytes = vec![0; BLOCK as usize];
    for word in bytes.chunks_exact_mut(8) {
        word.copy_from_slice(&random.number().to_le_bytes());
    }
    bytes
}

/// splitmix64: the same numbers for the same seed.
pub(crate) struct Random(pub u64);

impl Random {
    pub(crate) fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.number() % end
    }
}

/// Panics unless `volume` is `image` followed by zeros up to whole GiB.
pub(crate) fn assert_volume(volume: &Path, image: &Path) {
    let (a, b) = (File::open(volume).unwrap(), File::open(image).unwrap());
    let len = b.metadata().unwrap().len();
    assert_eq!(
        a.metadata().unwrap().len(),
        len.next_multiple_of(GIB),
        "length of {volume:?}"
    );
    assert_same(
        &a,
        &b,
        len.next_multiple_of(GIB),
        &format!("{volume:?} and {image:?}"),
    );
}

/// Panics unless the first `end` bytes agree; past a file's end there are zeros. Holes are skipped, not read.
pub(crate) fn assert_same(a: &File, b: &File, end: u64, what: &str) {
    const PIECE: u64 = 256 << 10;
    let mut position = 0;
    loop {
        position = next_data(a, position).min(next_data(b, position));
        if position >= end {
            return;
        }
        let len = PIECE.min(end - position);
        let (left, right) = (read(a, position, len), read(b, position, len));
        if left != right {
            let at = left.iter().zip(&right).take_while(|(a, b)| a == b).count() as u64;
            panic!("{what} differ at byte {}", position + at);
        }
        position += len;
    }
}

fn next_data(file: &File, from: u64) -> u64 {
    match seek(file, SeekFrom::Data(from)) {
        Ok(at) => at,
        Err(rustix::io::Errno::NXIO) => u64::MAX,
        // A device knows no holes.
        Err(_) => from,
    }
}

fn read(file: &File, mut offset: u64, len: u64) -> Vec<u8> {
    let mut bytes = vec![0; len as usize];
    let mut rest = &mut bytes[..];
    loop {
        let read = file.read_at(rest, offset).unwrap();
        if read == 0 {
            return bytes;
        }
        rest = &mut rest[read..];
        offset += read as u64;
    }
}

/// Bytes that a file takes on its disk.
pub(crate) fn allocated(path: &Path) -> u64 {
    path.metadata().unwrap().blocks() * 512
}
