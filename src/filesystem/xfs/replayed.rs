//! The volume as it is after its log was replayed, which the crate `lamxfs` does in memory.
//!
//! The library checks the superblock and replays the log, and then shows files. It keeps the replayed blocks to itself, while
//! all of owners, times, links, maps and attributes must be read from just those. So it is shown one file more than there
//! are: an inode in the first block of the log, where there can be none and where no replay ever writes. Its map has one extent,
//! made anew for each read, which begins at the block that is wanted; to read that file is to read the replayed volume.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;

use lamxfs::{BlockRead, Inode, SuperblockReason, Xfs};

use super::super::bytes::{be32, bring, corrupt, crc32c, ensure, read_disk};
use super::superblock::{LEN, Superblock};
use crate::error::{Error, ErrorKind, Result};
use crate::read_at::ReadAt;

/// The unit of the log.
const BASIC: u64 = 512;
/// What the head of a record begins with.
const RECORD: u32 = 0xfeed_babe;
/// How far apart places are that are looked at next, and how many at most.
const NEARBY: u64 = 256 << 10;
const MOST_PLACES: usize = 64;

/// Bytes of an inode before its map.
const CORE_V2: usize = 100;
const CORE_V3: usize = 176;
const CHECKSUM_AT: usize = 100;

/// A volume that can be read as if it were clean.
pub(super) struct Volume {
    library: RefCell<Xfs<Below>>,
    /// The inode that is shown to the library.
    window: Rc<Window>,
    /// Why the last read from the disk failed: the library only says that it did.
    failure: Rc<RefCell<Option<Error>>>,
    pub(super) superblock: Superblock,
}

/// A file of the library's that is in no directory.
#[derive(Default)]
struct Window {
    /// The byte at which its inode is found.
    at: Cell<u64>,
    /// That, as long as it is to be found.
    inode: RefCell<Vec<u8>>,
}

/// What the library reads from.
struct Below {
    disk: Arc<dyn ReadAt>,
    window: Rc<Window>,
    failure: Rc<RefCell<Option<Error>>>,
}

impl BlockRead for Below {
    type Error = ();

    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> Result<(), ()> {
        let inode = self.window.inode.borrow();
        if offset == self.window.at.get() && buf.len() == inode.len() {
            buf.copy_from_slice(&inode);
            return Ok(());
        }
        read_disk(&self.disk, offset, buf).map_err(|e| {
            *self.failure.borrow_mut() = Some(e);
        })
    }
}

impl Volume {
    /// Replays the log of what is on `disk`, if it must be.
    pub(super) fn open(disk: &Arc<dyn ReadAt>) -> Result<Self> {
        let mut head = vec![0; LEN];
        read_disk(disk, 0, &mut head)?;
        bring_log(disk, &head);
        let window = Rc::<Window>::default();
        let failure = Rc::<RefCell<Option<Error>>>::default();
        let below = Below {
            disk: Arc::clone(disk),
            window: Rc::clone(&window),
            failure: Rc::clone(&failure),
        };
        let library = guarded(|| Xfs::open(below, disk.size()), &failure)?;
        let mut volume = Self {
            library: RefCell::new(library),
            window,
            failure,
            superblock: Superblock::parse(&head)?,
        };
        // The log may hold the end of growing it.
        volume.read(0, &mut head)?;
        volume.superblock = Superblock::parse(&head)?;
        Ok(volume)
    }

    /// Fills `buf` from the byte `offset` on.
    pub(super) fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let superblock = &self.superblock;
        let (block, within) = superblock.block_of(offset);
        let len = u64::try_from(buf.len()).unwrap_or(u64::MAX);
        let size = superblock.blocks.saturating_mul(superblock.block_size);
        ensure(offset.saturating_add(len) <= size, || {
            format!("{len} bytes at byte {offset} are past the file system's end at {size}")
        })?;
        let log = superblock.block_at(superblock.log_start, 1)?;
        self.window.at.set(log);
        let blocks = within.saturating_add(len).div_ceil(superblock.block_size);
        *self.window.inode.borrow_mut() = self.made_up(block, blocks);
        let inode = Inode {
            ino: superblock.first_inode_of(superblock.log_start),
        };
        let mut library = self
            .library
            .try_borrow_mut()
            .map_err(|e| Error::new(ErrorKind::Io, e.to_string()))?;
        let read = guarded(|| library.read_file_at(&inode, within, buf), &self.failure);
        self.window.inode.borrow_mut().clear();
        ensure(read? == buf.len(), || {
            format!("the bytes at {offset} are not all there")
        })
    }

    /// An inode whose contents are `blocks` blocks from `first` on.
    fn made_up(&self, first: u64, blocks: u64) -> Vec<u8> {
        let superblock = &self.superblock;
        let mut inode = vec![0; usize::try_from(superblock.inode_size).unwrap_or_default()];
        let mut put = |at: usize, bytes: &[u8]| {
            if let Some(field) = inode.get_mut(at..at.saturating_add(bytes.len())) {
                field.copy_from_slice(bytes);
            }
        };
        let (version, core) = match superblock.v5 {
            true => (3, CORE_V3),
            false => (2, CORE_V2),
        };
        put(0, b"IN");
        put(2, &0o100_000_u16.to_be_bytes());
        // Its version, and that its map is a list.
        put(4, &[version, 2]);
        put(
            56,
            &blocks.saturating_mul(superblock.block_size).to_be_bytes(),
        );
        // One extent.
        put(76, &1_u32.to_be_bytes());
        // 1 bit, 54 bits of the file's block, 52 of the volume's, 21 of how many.
        put(core, &(first >> 43).to_be_bytes());
        put(
            core.saturating_add(8),
            &(first << 21 | blocks.min((1 << 21) - 1)).to_be_bytes(),
        );
        if superblock.v5 {
            let checksum = crc32c(&[&inode]);
            if let Some(field) = inode.get_mut(CHECKSUM_AT..CHECKSUM_AT.saturating_add(4)) {
                field.copy_from_slice(&checksum.to_le_bytes());
            }
        }
        inode
    }
}

/// Places in the log that are looked at first.
const PROBES: u64 = 16;

/// The library looks for the log's end by halving it: one way to the store after the other. The log is brought near where that will
/// come by, in two steps: places all over it, and the part in which its blocks stop to be of the same round.
fn bring_log(disk: &Arc<dyn ReadAt>, head: &[u8]) {
    // What is wrong with it is the library's to say.
    let Ok(superblock) = Superblock::parse(head) else {
        return;
    };
    let len = superblock.log_blocks.saturating_mul(superblock.block_size);
    let Ok(start) = superblock.block_at(superblock.log_start, superblock.log_blocks) else {
        return;
    };
    let step = (len / PROBES / BASIC).max(1).saturating_mul(BASIC);
    let last = start.saturating_add(len).saturating_sub(BASIC);
    let probes: Vec<_> = (0..PROBES)
        .map(|index| start.saturating_add(index.saturating_mul(step)).min(last))
        .chain([last])
        .collect();
    let root = superblock.inode_at(superblock.root).ok();
    bring(&**disk, probes.iter().copied().chain(root).collect());
    let round = |place: &u64| {
        let mut block = [0; 8];
        read_disk(disk, *place, &mut block).ok()?;
        // The head of a record has a magic number where other blocks have their round.
        let first = be32(&block, 0).ok()?;
        if first == RECORD {
            be32(&block, 4).ok()
        } else {
            Some(first)
        }
    };
    let first = round(&start);
    let ends = probes.windows(2).find_map(|pair| match pair {
        [from, to] if round(to) != first => Some(*from..*to),
        _ => None,
    });
    if let Some(part) = ends {
        let places = (0_u64..).map(|index| part.start.saturating_add(index.saturating_mul(NEARBY)));
        let places = places
            .take_while(|place| *place < part.end)
            .take(MOST_PLACES);
        bring(&**disk, places.chain([part.end]).collect());
    }
}

/// Calls the library. A panic in it is taken for what it most likely is: bytes that nobody thought of.
fn guarded<T>(
    call: impl FnOnce() -> Result<T, lamxfs::Error>,
    failure: &RefCell<Option<Error>>,
) -> Result<T> {
    failure.borrow_mut().take();
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(called) => called.map_err(|e| translated(&e, failure.borrow_mut().take())),
        Err(_) => Err(corrupt("the file system is damaged in an unexpected way")),
    }
}

fn translated(e: &lamxfs::Error, failure: Option<Error>) -> Error {
    use lamxfs::Error as E;
    let of = |kind, what: String| Error::new(kind, what);
    match e {
        E::Io { .. } => failure.unwrap_or_else(|| corrupt("what is spoken of lies outside")),
        E::UnsupportedFeature(feature) => of(
            ErrorKind::Unsupported,
            format!("it has a feature that is not known here, {feature}"),
        ),
        E::BadSuperblock(reason) => match reason {
            SuperblockReason::ExternalLog => of(
                ErrorKind::Unsupported,
                "its log is on another device".into(),
            ),
            SuperblockReason::RealtimeDevice => of(
                ErrorKind::Unsupported,
                "it has a realtime section, which is not read here".into(),
            ),
            SuperblockReason::UnsupportedVersion => of(
                ErrorKind::Unsupported,
                "it is of a version from before XFS had version 4".into(),
            ),
            SuperblockReason::DirtyLog => of(
                ErrorKind::Unsupported,
                "its log cannot be replayed here, as it is damaged, of version 4, or ends with a change that only the kernel completes: as root, `ebsfs browse` has the kernel try".into(),
            ),
            SuperblockReason::BadMagic => corrupt("there is no superblock"),
            SuperblockReason::BadCrc => corrupt("the superblock's checksum is wrong"),
            SuperblockReason::BadGeometry => corrupt("the superblock's geometry makes no sense"),
        },
        other => corrupt(format!("it is damaged: {}", other.token())),
    }
}
