//! XFS, versions 4 and 5.
//!
//! The hard part, replaying the log as the kernel does, is the crate `lamxfs`'s (0.1.3, Apache-2.0 or MIT, no unsafe code, no
//! dependency but `crc`, written for a boot loader and fuzzed by its authors); it also refuses what cannot be read right, such
//! as features it does not know. It goes by paths, and tells of a file its size, mode and contents; it takes blocks of
//! directories for contiguous, and reads the whole map of a file again for each piece. So inodes, maps, names and attributes
//! are read here, each in a short file, from the volume that it has replayed ([`replayed`] has how). Layouts are those of "XFS
//! Algorithms & Data Structures".
//!
//! Not read are realtime sections, logs on another device, and dirty logs of version 4: `Unsupported`. Of attributes,
//! parent pointers are left out, as the kernel leaves them.

use std::cell::RefCell;
use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;

use self::inode::{Inode, Layout};
use self::replayed::Volume;
use super::bytes::{be32, be64, bring, corrupt, ensure, has_checksum, part, piece};
use super::map::Map;
use super::{Entry, Extent, Facts, FileTree, Kind, Metadata, Node, expect};
use crate::error::{Error, ErrorKind, Result};
use crate::read_at::ReadAt;

mod attributes;
mod directory;
mod inode;
mod map;
mod replayed;
mod superblock;

/// As long as a target may be.
const MAX_TARGET: u64 = 1024;
/// Bytes of blocks that a target may take, headers and what is not used included.
const MAX_TARGET_EXTENT: u64 = 128 << 10;
const SYMLINK: &[u8] = b"XSLM";
const SYMLINK_HEADER: usize = 56;
/// More groups than that are not gone through to count what is free.
const MAX_GROUPS: u32 = 1 << 16;
const GROUP_CHECKSUM_AT: usize = 216;

/// Whether `head`, the first bytes of a disk, are of this kind.
pub(super) fn recognise(head: &[u8]) -> bool {
    head.starts_with(superblock::MAGIC)
}

/// The files of one.
struct Tree {
    /// Below the replay: to have blocks brought near.
    disk: Arc<dyn ReadAt>,
    volume: Volume,
    /// The file that was read last: contents are read piece by piece.
    last: RefCell<Option<Rc<File>>>,
}

/// A file with its map.
struct File {
    number: u64,
    size: u64,
    map: Map,
}

/// Opens the file system on `disk`, and replays its log in memory if it must be.
pub(super) fn open(disk: Arc<dyn ReadAt>) -> Result<Box<dyn FileTree>> {
    let volume = Volume::open(&disk)?;
    Ok(Box::new(Tree {
        disk,
        volume,
        last: RefCell::default(),
    }))
}

impl Tree {
    fn inode(&self, node: Node) -> Result<Inode> {
        let number = node.number();
        let superblock = &self.volume.superblock;
        let read = || {
            let mut raw = vec![0; usize::try_from(superblock.inode_size).unwrap_or_default()];
            self.volume.read(superblock.inode_at(number)?, &mut raw)?;
            let inode = Inode::parse(superblock, number, raw)?;
            ensure(!inode.is_free(), || {
                "it is not in use, and has a name".into()
            })?;
            Ok(inode)
        };
        read().map_err(|e: Error| e.context(format!("inode {number}")))
    }

    /// The map of the contents, up to the size.
    fn map(&self, inode: &Inode) -> Result<Map> {
        if inode.is_realtime()? {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "its contents are in a realtime section, which is not read here",
            ));
        }
        let blocks = inode
            .size
            .div_ceil(self.volume.superblock.block_size.max(1));
        map::read(&self.volume, inode, &inode.data()?, blocks)
    }

    fn file(&self, node: Node) -> Result<Rc<File>> {
        let number = node.number();
        if let Some(file) = &*self.last.borrow()
            && file.number == number
        {
            return Ok(Rc::clone(file));
        }
        let inode = self.inode(node)?;
        expect(inode.kind()?, Kind::File, node)?;
        let map = self.map(&inode).map_err(about(number))?;
        let file = Rc::new(File {
            number,
            size: inode.size,
            map,
        });
        *self.last.borrow_mut() = Some(Rc::clone(&file));
        Ok(file)
    }

    fn names(&self, inode: &Inode) -> Result<Vec<Entry>> {
        let superblock = &self.volume.superblock;
        let fork = inode.data()?;
        if fork.layout == Layout::Local {
            return directory::short(fork.bytes, superblock);
        }
        let blocks = directory::INDEX_AT
            .checked_div(superblock.block_size)
            .unwrap_or_default();
        let map = map::read(&self.volume, inode, &fork, blocks)?;
        let size = superblock.directory_size();
        let mut block = vec![0; usize::try_from(size).unwrap_or_default()];
        let mut entries = Vec::new();
        let mut seen = HashSet::new();
        let mut next = 0;
        for span in map.spans(0, directory::INDEX_AT) {
            // So that a small image cannot say that it has more names than fit into it.
            let mut at = span.start;
            while at < span.start.saturating_add(span.len) {
                let disk = span
                    .at
                    .map(|start| start.saturating_add(at.saturating_sub(span.start)));
                ensure(disk.is_some_and(|disk| seen.insert(disk)), || {
                    "it uses a block twice, or one that is not written".into()
                })?;
                at = at.saturating_add(superblock.block_size);
            }
            // A block of a directory may lie in pieces.
            let end = span.start.saturating_add(span.len);
            while next < end {
                if next.saturating_add(size) <= span.start {
                    next = span
                        .start
                        .checked_div(size)
                        .unwrap_or_default()
                        .saturating_mul(size);
                }
                map.fill(next, &mut block, |at, buf| self.volume.read(at, buf))?;
                directory::block(&block, superblock, inode.number, &mut entries)
                    .map_err(|e| e.context(format!("the block at byte {next} of the directory")))?;
                next = next.saturating_add(size);
            }
        }
        Ok(entries)
    }

    fn target(&self, inode: &Inode) -> Result<Vec<u8>> {
        ensure(inode.size > 0 && inode.size <= MAX_TARGET, || {
            "its target has an impossible length".into()
        })?;
        let size = usize::try_from(inode.size).unwrap_or_default();
        let fork = inode.data()?;
        if fork.layout == Layout::Local {
            return Ok(piece(fork.bytes, 0, size)?.to_vec());
        }
        // Each extent has a header, and the checksum is of all of it.
        let map = map::read(&self.volume, inode, &fork, u64::MAX)?;
        let mut target = Vec::with_capacity(size);
        for span in map.spans(0, MAX_TARGET_EXTENT) {
            let rest = size.saturating_sub(target.len());
            if rest == 0 {
                break;
            }
            let mut extent = vec![0; usize::try_from(span.len).unwrap_or_default()];
            let at = span
                .at
                .ok_or_else(|| corrupt("its target was not written"))?;
            self.volume.read(at, &mut extent)?;
            let bytes = match self.volume.superblock.v5 {
                true => {
                    ensure(
                        piece(&extent, 0, 4)? == SYMLINK
                            && has_checksum(&extent, 12)?
                            && be64(&extent, 32)? == inode.number,
                        || "an extent of its target is damaged".into(),
                    )?;
                    let len = usize::try_from(be32(&extent, 8)?).unwrap_or(usize::MAX);
                    piece(&extent, SYMLINK_HEADER, len)?
                }
                false => &extent,
            };
            target.extend_from_slice(part(bytes, 0..rest.min(bytes.len()))?);
        }
        ensure(target.len() == size, || {
            "its target is not all there".into()
        })?;
        Ok(target)
    }

    /// Blocks that are free in one group: what the superblock says is only true after it was unmounted.
    fn free_in(&self, group: u32) -> Result<u64> {
        let superblock = &self.volume.superblock;
        let at = superblock
            .group_at(group)
            .saturating_add(superblock.sector_size);
        let mut bytes = vec![0; usize::try_from(superblock.sector_size).unwrap_or_default()];
        self.volume.read(at, &mut bytes)?;
        ensure(
            piece(&bytes, 0, 4)? == b"XAGF"
                && be32(&bytes, 8)? == group
                && (!superblock.v5 || has_checksum(&bytes, GROUP_CHECKSUM_AT)?),
            || format!("the header of group {group} is damaged"),
        )?;
        // Free ones, those kept for trees, and those in such trees.
        let field = |at| be32(&bytes, at).map(u64::from);
        Ok(field(52)?
            .saturating_add(field(48)?)
            .saturating_add(field(60)?))
    }
}

fn about(number: u64) -> impl FnOnce(Error) -> Error {
    move |e| e.context(format!("inode {number}"))
}

impl FileTree for Tree {
    fn facts(&self) -> Result<Facts> {
        let superblock = &self.volume.superblock;
        let free = match superblock.groups {
            groups @ ..=MAX_GROUPS => {
                let mut free = 0_u64;
                for group in 0..groups {
                    free = free.saturating_add(self.free_in(group)?);
                }
                free
            }
            _ => superblock.free,
        };
        let bytes = |blocks: u64| blocks.saturating_mul(superblock.block_size);
        Ok(Facts {
            name: "xfs",
            label: superblock.label.clone(),
            uuid: superblock.uuid.clone(),
            size: bytes(superblock.blocks.saturating_sub(superblock.log_blocks)),
            free: bytes(free),
        })
    }

    fn root(&self) -> Node {
        Node::new(self.volume.superblock.root)
    }

    fn entries(&self, dir: Node) -> Result<Vec<Entry>> {
        let inode = self.inode(dir)?;
        expect(inode.kind()?, Kind::Directory, dir)?;
        self.names(&inode).map_err(about(dir.number()))
    }

    fn ahead(&self, nodes: &[Node]) {
        let (disk, superblock) = (&*self.disk, &self.volume.superblock);
        let inodes = nodes
            .iter()
            .filter_map(|node| superblock.inode_at(node.number()).ok());
        bring(disk, inodes.collect());
        let first_block = |node: &Node| {
            let inode = self.inode(*node).ok()?;
            let is_directory = matches!(inode.kind(), Ok(Kind::Directory));
            let fork = inode
                .data()
                .ok()
                .filter(|fork| is_directory && fork.layout == Layout::Extents)?;
            // Names in extents take one at least, and these few are in the inode.
            let map = map::read(&self.volume, &inode, &fork, u64::MAX).ok()?;
            map.spans(0, u64::MAX).next()?.at
        };
        bring(disk, nodes.iter().filter_map(first_block).collect());
    }

    fn metadata(&self, node: Node) -> Result<Metadata> {
        self.inode(node)?.metadata().map_err(about(node.number()))
    }

    fn read(&self, node: Node, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let file = self.file(node)?;
        let rest = file.size.saturating_sub(offset);
        let len = usize::try_from(rest).unwrap_or(usize::MAX).min(buf.len());
        let buf = buf.get_mut(..len).unwrap_or_default();
        file.map
            .fill(offset, buf, |at, part| self.volume.read(at, part))
            .map_err(about(node.number()))?;
        Ok(len)
    }

    fn extents(&self, node: Node) -> Result<Vec<Extent>> {
        let file = self.file(node)?;
        let spans = file.map.spans(0, file.size);
        Ok(spans
            .map(|span| Extent {
                range: span.start..span.start.saturating_add(span.len),
                at: span.at,
            })
            .collect())
    }

    fn link_target(&self, node: Node) -> Result<Vec<u8>> {
        let inode = self.inode(node)?;
        expect(inode.kind()?, Kind::Symlink, node)?;
        self.target(&inode).map_err(about(node.number()))
    }

    fn xattrs(&self, node: Node) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let inode = self.inode(node)?;
        let read = || match inode.attributes()? {
            Some(fork) => attributes::read(&self.volume, &inode, &fork),
            None => Ok(Vec::new()),
        };
        read().map_err(|e| e.context(format!("the attributes of inode {}", node.number())))
    }
}
