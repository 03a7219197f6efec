//! ext2, ext3 and ext4.
//!
//! A reader of our own, and not the crate `ext4-view` (1.0.0, Apache-2.0 or MIT, well kept, no unsafe code), which would spare
//! little here and stand in the way: it goes by paths alone, so hard links cannot be told; it gives no links, owners of links,
//! change times, extents or extended attributes; what replays the journal is private to it, so all of those would need a second
//! replay to be right; and it fails on files of ext2 and ext3 with a hole over a whole indirect block. With the replay
//! ([`journal`]) here, what it would still do is a directory's names and a file's map: short files, and easier held to the trait's
//! promises. Fields and rules are those of the kernel's documentation and sources.
//!
//! Read are all features of a default mkfs of the last twenty years: extents and block maps, any block size up to 64 KiB,
//! checksums of metadata (which hold, or it is damage), inline data, indexed directories, bigalloc, meta_bg,
//! attributes in inodes of their own. Not read are what fscrypt encrypts, a journal on another device that is not
//! replayed, and one that ends with fast commits: `Unsupported`, each with its reason.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

use self::attributes::{Attribute, Value};
use self::inode::Inode;
use self::superblock::{Superblock, incompat};
use self::volume::Volume;
use super::bytes::{corrupt, crc32c_from, ensure, le16, le32, part, read_disk};
use super::map::Map;
use super::{Entry, FileTree, Kind, Node, expect};
use crate::error::{Error, ErrorKind, Result};
use crate::read_at::ReadAt;

mod attributes;
mod directory;
mod inode;
mod journal;
mod map;
mod superblock;
mod tree;
mod volume;

const ROOT: u32 = 2;
/// A link's target takes at most a block, and a path has no more.
const MAX_TARGET: u64 = 4096;
/// As long as the kernel lets a value of an attribute be.
const MAX_VALUE: u32 = 64 << 10;
/// As many groups as 64 TiB have with the smallest blocks.
const MAX_GROUPS: u64 = 1 << 23;

/// Whether `head`, the first bytes of a disk, are of this kind.
pub(super) fn recognise(head: &[u8]) -> bool {
    let at = usize::try_from(superblock::OFFSET)
        .unwrap_or_default()
        .saturating_add(0x38);
    le16(head, at).is_ok_and(|magic| magic == superblock::MAGIC)
}

/// The files of one.
struct Ext4 {
    superblock: Superblock,
    volume: Volume,
    /// The file that was read last: contents are read piece by piece.
    last: RefCell<Option<Rc<File>>>,
}

/// A file with its map.
struct File {
    inode: Inode,
    contents: Contents,
}

enum Contents {
    Inline(Vec<u8>),
    Mapped(Map),
}

/// Opens the file system on `disk`, and replays its journal in memory if it must be.
pub(super) fn open(disk: Arc<dyn ReadAt>) -> Result<Box<dyn FileTree>> {
    let mut head = vec![0; superblock::LEN];
    read_disk(&disk, superblock::OFFSET, &mut head)?;
    let superblock = Superblock::parse(&head)?;
    let mut tree = Ext4::new(disk, superblock, BTreeMap::new());
    if tree.superblock.has(incompat::RECOVER) {
        tree = tree.replayed()?;
    }
    Ok(Box::new(tree))
}

impl Ext4 {
    fn new(
        disk: Arc<dyn ReadAt>,
        superblock: Superblock,
        logged: BTreeMap<u64, volume::Logged>,
    ) -> Self {
        let volume = Volume::new(disk, superblock.block_size, superblock.blocks, logged);
        Self {
            superblock,
            volume,
            last: RefCell::default(),
        }
    }

    /// The same as the kernel would show it.
    fn replayed(self) -> Result<Self> {
        if self.superblock.journal_elsewhere {
            return Err(unsupported(
                "it was in use, and its journal, without which it is not whole, is on another device",
            ));
        }
        let Some(number) = self.superblock.journal else {
            return Err(corrupt("it has a journal to replay, and no journal"));
        };
        let replay = || {
            let inode = self.inode(number)?;
            let map = map::read(&self.volume, &inode)?;
            journal::replay(self.volume.disk(), map, self.superblock.block_size)
        };
        let logged = replay().map_err(|e| e.context("cannot replay its journal"))?;
        let mut tree = Self::new(Arc::clone(self.volume.disk()), self.superblock, logged);
        if tree.volume.is_replayed() {
            let mut head = vec![0; superblock::LEN];
            tree.volume.read(superblock::OFFSET, &mut head)?;
            let superblock = Superblock::parse(&head)?;
            // A journal may hold the end of growing it.
            ensure(superblock.block_size == tree.superblock.block_size, || {
                "the journal has another block size for it".into()
            })?;
            tree.volume.grow(superblock.blocks);
            tree.superblock = superblock;
        }
        Ok(tree)
    }

    /// Blocks that the journal takes.
    fn journal_blocks(&self) -> Result<u64> {
        match self.superblock.journal {
            Some(number) => Ok(self
                .inode(number)?
                .size
                .div_ceil(self.superblock.block_size.max(1))),
            None => Ok(0),
        }
    }

    fn descriptor(&self, group: u64) -> Result<Vec<u8>> {
        ensure(group < self.superblock.groups(), || {
            format!("group {group} of {} is spoken of", self.superblock.groups())
        })?;
        let mut bytes =
            vec![0; usize::try_from(self.superblock.descriptor_size).unwrap_or_default()];
        self.volume
            .read(self.superblock.descriptor_at(group), &mut bytes)?;
        self.check_descriptor(group, &bytes)?;
        Ok(bytes)
    }

    fn check_descriptor(&self, group: u64, bytes: &[u8]) -> Result<()> {
        if let Some(seed) = self.superblock.seed {
            let number = u32::try_from(group).unwrap_or(u32::MAX).to_le_bytes();
            let (before, after) = (bytes.get(..0x1e), bytes.get(0x20..));
            let pieces = [
                &number,
                before.unwrap_or_default(),
                &[0; 2],
                after.unwrap_or_default(),
            ];
            let found = crc32c_from(seed, &pieces) & 0xffff;
            ensure(found == u32::from(le16(bytes, 0x1e)?), || {
                format!("the descriptor of group {group} has a wrong checksum")
            })?;
        }
        Ok(())
    }

    /// Blocks, or clusters of them, that are free by what the groups say. Each block of descriptors is read once.
    fn free(&self) -> Result<u64> {
        let superblock = &self.superblock;
        let groups = superblock.groups();
        ensure(groups <= MAX_GROUPS, || {
            format!("it says that it has {groups} groups of blocks")
        })?;
        let size = superblock.block_size.max(1);
        let mut block = vec![0; usize::try_from(size).unwrap_or_default()];
        let (mut held, mut free) = (None, 0_u64);
        for group in 0..groups {
            let at = superblock.descriptor_at(group);
            let within = at.checked_rem(size).unwrap_or_default();
            let start = at.saturating_sub(within);
            if held != Some(start) {
                self.volume.read(start, &mut block)?;
                held = Some(start);
            }
            let place = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX);
            let end = within.saturating_add(superblock.descriptor_size);
            let descriptor = part(&block, place(within)..place(end))?;
            self.check_descriptor(group, descriptor)?;
            let low = u64::from(le16(descriptor, 0xc)?);
            let high = match superblock.descriptor_size {
                0..64 => 0,
                _ => u64::from(le16(descriptor, 0x2c)?),
            };
            free = free.saturating_add(high << 16 | low);
        }
        Ok(free)
    }

    fn wide(&self, descriptor: &[u8], low: usize, high: usize) -> Result<u64> {
        let high = match self.superblock.descriptor_size {
            0..64 => 0,
            _ => u64::from(le32(descriptor, high)?),
        };
        Ok(high << 32 | u64::from(le32(descriptor, low)?))
    }

    /// The byte at which an inode begins.
    fn inode_at(&self, number: u32) -> Result<u64> {
        let superblock = &self.superblock;
        let index = u64::from(number.saturating_sub(1));
        let per_group = u64::from(superblock.inodes_per_group.max(1));
        let group = index.checked_div(per_group).unwrap_or_default();
        let within = index.checked_rem(per_group).unwrap_or_default();
        let table = self.wide(&self.descriptor(group)?, 0x8, 0x28)?;
        ensure(table > 0 && table < superblock.blocks, || {
            format!("the inodes of group {group} are said to lie at block {table}")
        })?;
        Ok(table
            .saturating_mul(superblock.block_size)
            .saturating_add(within.saturating_mul(superblock.inode_size)))
    }

    fn inode(&self, number: u32) -> Result<Inode> {
        let superblock = &self.superblock;
        let read = || {
            ensure((1..=superblock.inodes).contains(&number), || {
                format!("there are {} inodes", superblock.inodes)
            })?;
            let at = self.inode_at(number)?;
            let mut raw = vec![0; usize::try_from(superblock.inode_size).unwrap_or_default()];
            self.volume.read(at, &mut raw)?;
            Inode::parse(superblock, number, raw)
        };
        read().map_err(|e| e.context(format!("inode {number}")))
    }

    /// The inode of a file that has a name.
    fn node(&self, node: Node) -> Result<Inode> {
        let number = u32::try_from(node.number()).unwrap_or(0);
        let inode = self.inode(number)?;
        ensure(
            (number == ROOT || number >= self.superblock.first_inode)
                && !inode.is_free()
                && !inode.is_value(),
            || format!("inode {number} is not in use as a file, and has a name"),
        )?;
        Ok(inode)
    }

    fn contents(&self, inode: &Inode) -> Result<Contents> {
        if inode.is_inline() {
            return inline(inode).map(Contents::Inline);
        }
        map::read(&self.volume, inode).map(Contents::Mapped)
    }

    fn file(&self, node: Node) -> Result<Rc<File>> {
        let number = node.number();
        if let Some(file) = &*self.last.borrow()
            && u64::from(file.inode.number) == number
        {
            return Ok(Rc::clone(file));
        }
        let inode = self.node(node)?;
        expect(inode.kind()?, Kind::File, node)?;
        refuse_encrypted(&inode)?;
        let contents = self
            .contents(&inode)
            .map_err(|e| e.context(format!("inode {number}")))?;
        let file = Rc::new(File { inode, contents });
        *self.last.borrow_mut() = Some(Rc::clone(&file));
        Ok(file)
    }

    fn names(&self, inode: &Inode) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        match self.contents(inode)? {
            Contents::Inline(bytes) => {
                // The parent's inode, then entries in what lies in the inode's map, then more past its fields.
                let (first, more) = bytes.split_at(bytes.len().min(60));
                directory::read_entries(first.get(4..).unwrap_or_default(), &mut entries)?;
                directory::read_entries(more, &mut entries)?;
            }
            Contents::Mapped(map) => self.mapped_names(inode, &map, &mut entries)?,
        }
        Ok(entries)
    }

    fn mapped_names(&self, inode: &Inode, map: &Map, entries: &mut Vec<Entry>) -> Result<()> {
        let block_size = self.superblock.block_size;
        let mut block = vec![0; usize::try_from(block_size).unwrap_or_default()];
        let mut seen = HashSet::new();
        for span in map.spans(0, inode.size) {
            let Some(start) = span.at else {
                continue;
            };
            let mut done = 0;
            while done < span.len {
                let at = start.saturating_add(done);
                let number = span
                    .start
                    .saturating_add(done)
                    .checked_div(block_size)
                    .unwrap_or_default();
                // So that a small image cannot say that it has more names than fit into it.
                ensure(seen.insert(at), || "it uses a block twice".into())?;
                self.volume.read(at, &mut block)?;
                // The index begins in the first block, which has another checksum.
                let seed = inode.seed.filter(|_| number > 0 || !inode.is_indexed());
                directory::read_block(&block, seed, entries)
                    .map_err(|e| e.context(format!("block {number} of the directory")))?;
                done = done.saturating_add(block_size);
            }
        }
        Ok(())
    }

    /// The bytes of an attribute's value.
    fn value(&self, attribute: &Attribute<'_>) -> Result<Vec<u8>> {
        match attribute.value {
            Value::Here(bytes) => Ok(bytes.to_vec()),
            Value::Inode(number, len) => {
                let inode = self.inode(number)?;
                ensure(
                    inode.is_value() && len <= MAX_VALUE && inode.size == u64::from(len),
                    || format!("inode {number} does not hold the value that it should"),
                )?;
                let mut value = vec![0; usize::try_from(len).unwrap_or_default()];
                map::read(&self.volume, &inode)?
                    .fill(0, &mut value, |at, buf| self.volume.read(at, buf))?;
                let hash = crc32c_from(self.superblock.hash_seed, &[&value]);
                ensure(hash == inode.value_hash()?, || {
                    format!("the value in inode {number} has another hash than it should")
                })?;
                Ok(value)
            }
        }
    }
}

/// The contents of a small file.
fn inline(inode: &Inode) -> Result<Vec<u8>> {
    let mut bytes = inode.map_root()?.to_vec();
    for attribute in attributes::in_inode(inode.rest()?)? {
        if attribute.is_inline_data()
            && let Value::Here(value) = attribute.value
        {
            bytes.extend_from_slice(value);
        }
    }
    let len = usize::try_from(inode.size).unwrap_or(usize::MAX);
    ensure(len <= bytes.len(), || {
        "more is said to lie in it than fits".into()
    })?;
    bytes.truncate(len);
    Ok(bytes)
}

fn refuse_encrypted(inode: &Inode) -> Result<()> {
    match inode.is_encrypted() {
        true => Err(unsupported("it is encrypted, and the key is not here")),
        false => Ok(()),
    }
}

fn unsupported(what: &str) -> Error {
    Error::new(ErrorKind::Unsupported, what)
}
