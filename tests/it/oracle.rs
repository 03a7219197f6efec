//! Disk images to import, and what a mounted file must hold because of them.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use ebsfs::block::{Block, BlockIndex};
use ebsfs::snapshot::{NewSnapshot, Seal, SnapshotId, VolumeSize};
use ebsfs::store::Store as _;
use ebsfs::store::directory::DirectoryStore;
use rustix::fs::{SeekFrom, seek};
use sha2::{Digest as _, Sha256};

use crate::world::{World, run};

pub(crate) const KIB: u64 = 1 << 10;
pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const GIB: u64 = 1 << 30;
pub(crate) const BLOCK: u64 = 512 * KIB;

/// SplitMix64: the same seed, the same numbers.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub(crate) fn bytes(&mut self, len: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < len {
            bytes.extend(self.next().to_le_bytes());
        }
        bytes.truncate(len as usize);
        bytes
    }
}

/// A sparse image of `len` bytes with random ones at `islands`.
pub(crate) fn sparse(
    path: &Path,
    len: u64,
    islands: impl IntoIterator<Item = Range<u64>>,
    seed: u64,
) {
    let file = File::create(path).unwrap();
    file.set_len(len).unwrap();
    let mut random = Random(seed);
    for island in islands {
        let bytes = random.bytes(island.end - island.start);
        file.write_all_at(&bytes, island.start).unwrap();
    }
}

/// An image made by `scripts/fixtures.sh`.
pub(crate) struct Fixture {
    pub(crate) image: PathBuf,
    /// What `sha256sum -c` reads.
    pub(crate) manifest: PathBuf,
}

/// The fixture of that kind, made once and kept below `target` for as long as the scripts stay the same.
pub(crate) fn fixture(kind: &str) -> &'static Fixture {
    const KINDS: [&str; 19] = [
        "ext4",
        "xfs",
        "xfs-v4",
        "btrfs",
        "gpt",
        "mbr63",
        "logical",
        "kernel ext2",
        "kernel ext3",
        "kernel ext3-dirty",
        "kernel ext4",
        "kernel ext4-dirty",
        "kernel ext4-data-dirty",
        "kernel ext4-1k-full",
        "kernel ext4-clusters",
        "kernel ext4-clusters-meta",
        "kernel xfs-full",
        "kernel xfs-large",
        "kernel xfs-dirty",
    ];
    static FIXTURES: [OnceLock<Fixture>; KINDS.len()] = [const { OnceLock::new() }; KINDS.len()];
    let number = KINDS.iter().position(|known| *known == kind).unwrap();
    FIXTURES[number].get_or_init(|| {
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts");
        let mut hasher = Sha256::new();
        for script in ["fixtures.sh", "lib.sh", "kernel_tree.py"] {
            hasher.update(fs::read(scripts.join(script)).unwrap());
        }
        let version: String = hasher.finalize()[..8]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let kept = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("{}-{version}", kind.replace(' ', "-")));
        if !kept.exists() {
            let making = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
            let script = scripts.join("fixtures.sh");
            let at = |name| making.path().join(name).into_os_string();
            let kind = kind.split(' ').map(Into::into);
            run(
                script.to_str().unwrap(),
                kind.chain([at("image"), at("manifest")]),
            )
            .ok();
            let making = making.keep();
            // Whoever was first has made the same.
            if run(
                "mv",
                ["-T", making.to_str().unwrap(), kept.to_str().unwrap()],
            )
            .code
                != Some(0)
            {
                fs::remove_dir_all(&making).unwrap();
            }
        }
        Fixture {
            image: kept.join("image"),
            manifest: kept.join("manifest"),
        }
    })
}

/// A completed snapshot of these blocks, made through the library.
pub(crate) fn snapshot(
    world: &World,
    gib: u32,
    blocks: impl IntoIterator<Item = (u32, Vec<u8>)>,
) -> String {
    let store = DirectoryStore::create(&world.store()).unwrap();
    runtime().block_on(async {
        let new = NewSnapshot::new(VolumeSize::from_gib(gib).unwrap()).unwrap();
        let id = store.start(&new).await.unwrap().id;
        let mut count = 0;
        for (index, bytes) in blocks {
            let block = Block::seal(bytes).unwrap();
            store
                .put(&id, BlockIndex::new(index), &block)
                .await
                .unwrap();
            count += 1;
        }
        let seal = Seal {
            count,
            checksum: None,
        };
        store.complete(&id, &seal).await.unwrap();
        id.to_string()
    })
}

/// A snapshot that nobody completes.
pub(crate) fn pending(world: &World) -> SnapshotId {
    let store = DirectoryStore::create(&world.store()).unwrap();
    let new = NewSnapshot::new(VolumeSize::from_gib(1).unwrap()).unwrap();
    runtime().block_on(store.start(&new)).unwrap().id
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// A block of random bytes.
pub(crate) fn random_block(seed: u64) -> Vec<u8> {
    Random(seed).bytes(BLOCK)
}

/// Opens past the page cache.
pub(crate) fn open_direct(path: &Path) -> File {
    let direct = rustix::fs::OFlags::DIRECT.bits() as i32;
    OpenOptions::new()
        .read(true)
        .custom_flags(direct)
        .open(path)
        .unwrap()
}

/// Reads past the page cache.
pub(crate) fn read_direct(path: &Path, offset: u64, len: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len as usize];
    open_direct(path).read_exact_at(&mut bytes, offset)?;
    Ok(bytes)
}

/// `range` of an image, with zeros where it has ended.
pub(crate) fn padded(image: &File, range: Range<u64>) -> Vec<u8> {
    let len = image.metadata().unwrap().len();
    let mut bytes = vec![0; (range.end - range.start) as usize];
    // A hole is not read: its zeros would fill the page cache.
    let end = match seek(image, SeekFrom::Data(range.start)) {
        Ok(data) if data < range.end => range.end.min(len),
        Ok(_) | Err(rustix::io::Errno::NXIO) => range.start,
        Err(e) => panic!("SEEK_DATA at {}: {e}", range.start),
    };
    let there = end.saturating_sub(range.start) as usize;
    image
        .read_exact_at(&mut bytes[..there], range.start)
        .unwrap();
    bytes
}

/// Panics unless `file` holds the bytes `range` of `image`, which go on as zeros behind its end.
#[track_caller]
pub(crate) fn assert_holds(file: &Path, image: &Path, range: Range<u64>) {
    let (mounted, image) = (File::open(file).unwrap(), File::open(image).unwrap());
    let size = range.end - range.start;
    assert_eq!(
        mounted.metadata().unwrap().len(),
        size,
        "{}",
        file.display()
    );
    let mut at = 0;
    let mut buffer = vec![0; MIB as usize];
    while at < size {
        let len = MIB.min(size - at);
        let found = &mut buffer[..len as usize];
        mounted.read_exact_at(found, at).unwrap();
        let expected = padded(&image, range.start + at..range.start + at + len);
        if *found != expected[..] {
            let wrong = (0..found.len()).find(|i| found[*i] != expected[*i]);
            let wrong = at + wrong.unwrap() as u64;
            panic!("{} differs at byte {wrong}", file.display());
        }
        at += len;
    }
    assert_eq!(mounted.read_at(&mut buffer, size).unwrap(), 0);
}

/// Panics unless `file` is the whole of `image`, padded to GiB.
#[track_caller]
pub(crate) fn assert_disk(file: &Path, image: &Path) {
    let len = fs::metadata(image).unwrap().len();
    assert_holds(file, image, 0..len.next_multiple_of(GIB));
}

/// Where `file` says that it has data.
pub(crate) fn data_of(file: &File) -> Vec<Range<u64>> {
    let mut found = Vec::new();
    let mut at = 0;
    let mut stuck = 0;
    loop {
        match seek(file, SeekFrom::Data(at)) {
            Ok(start) => {
                at = seek(file, SeekFrom::Hole(start)).unwrap();
                // An empty run may stand where one listing ends and the next begins, and leads on from there.
                stuck = if at == start { stuck + 1 } else { 0 };
                assert!(stuck < 2, "no way on from {at}");
                if at > start {
                    found.push(start..at);
                }
            }
            Err(rustix::io::Errno::NXIO) => return found,
            Err(e) => panic!("SEEK_DATA at {at}: {e}"),
        }
    }
}

/// The blocks of `image` that are not all zeros, merged, as a file sees them that shows `range` of it.
pub(crate) fn expected_data(image: &Path, range: Range<u64>) -> Vec<Range<u64>> {
    let image = File::open(image).unwrap();
    let mut expected: Vec<Range<u64>> = Vec::new();
    let mut start = range.start - range.start % BLOCK;
    while start < range.end {
        let end = start + BLOCK;
        if padded(&image, start..end).iter().any(|byte| *byte != 0) {
            let shown = start.max(range.start) - range.start..end.min(range.end) - range.start;
            match expected.last_mut() {
                Some(last) if last.end == shown.start => last.end = shown.end,
                _ => expected.push(shown),
            }
        }
        start = end;
    }
    expected
}
