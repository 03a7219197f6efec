//! What the trait asks of the files of one.

use super::super::bytes::{bring, ensure};
use super::super::{Entry, Extent, Facts, FileTree, Kind, Metadata, Node, expect};
use super::{Contents, Ext4, MAX_TARGET, ROOT, attributes, refuse_encrypted};
use crate::error::{Error, Result};

impl FileTree for Ext4 {
    fn facts(&self) -> Result<Facts> {
        let superblock = &self.superblock;
        let free = self.free()?;
        let overhead = match superblock.overhead_blocks() {
            Some(blocks) => blocks,
            None => superblock
                .counted_overhead()
                .saturating_add(self.journal_blocks()?),
        };
        let bytes = |blocks: u64| blocks.saturating_mul(superblock.block_size);
        Ok(Facts {
            name: superblock.name(),
            label: superblock.label.clone(),
            uuid: superblock.uuid.clone(),
            size: bytes(superblock.blocks.saturating_sub(overhead)),
            free: bytes(free.saturating_mul(superblock.cluster)),
        })
    }

    fn root(&self) -> Node {
        Node::new(ROOT.into())
    }

    fn entries(&self, dir: Node) -> Result<Vec<Entry>> {
        let inode = self.node(dir)?;
        expect(inode.kind()?, Kind::Directory, dir)?;
        refuse_encrypted(&inode)?;
        self.names(&inode)
            .map_err(|e| e.context(format!("inode {}", dir.number())))
    }

    fn ahead(&self, nodes: &[Node]) {
        let disk = &**self.volume.disk();
        let numbers = || {
            nodes
                .iter()
                .filter_map(|node| u32::try_from(node.number()).ok())
        };
        // The descriptors first, by which the inodes are found, and these, by which blocks are.
        bring(
            disk,
            numbers()
                .map(|number| self.superblock.descriptor_of(number))
                .collect(),
        );
        bring(
            disk,
            numbers()
                .filter_map(|number| self.inode_at(number).ok())
                .collect(),
        );
        let first_block = |node: &Node| {
            let inode = self.node(*node).ok()?;
            inode.first_of_directory()
        };
        let blocks = nodes.iter().filter_map(first_block);
        let byte = |block: u64| block.saturating_mul(self.superblock.block_size);
        bring(disk, blocks.map(byte).collect());
    }

    fn metadata(&self, node: Node) -> Result<Metadata> {
        let inode = self.node(node)?;
        inode
            .metadata()
            .map_err(|e| e.context(format!("inode {}", node.number())))
    }

    fn read(&self, node: Node, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let file = self.file(node)?;
        let rest = file.inode.size.saturating_sub(offset);
        let len = usize::try_from(rest).unwrap_or(usize::MAX).min(buf.len());
        let buf = buf.get_mut(..len).unwrap_or_default();
        let read = match &file.contents {
            Contents::Inline(bytes) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX);
                if let Some(bytes) = bytes.get(start..start.saturating_add(len)) {
                    buf.copy_from_slice(bytes);
                }
                Ok(())
            }
            Contents::Mapped(map) => map.fill(offset, buf, |at, part| self.volume.read(at, part)),
        };
        read.map_err(|e| e.context(format!("inode {}", node.number())))?;
        Ok(len)
    }

    fn extents(&self, node: Node) -> Result<Vec<Extent>> {
        let file = self.file(node)?;
        let size = file.inode.size;
        let map = match &file.contents {
            Contents::Inline(_) => {
                let all = Extent {
                    range: 0..size,
                    at: None,
                };
                return Ok(if size > 0 { vec![all] } else { Vec::new() });
            }
            Contents::Mapped(map) => map,
        };
        let mut extents = Vec::new();
        for span in map.spans(0, size) {
            let mut done = 0;
            while done < span.len {
                let rest = span.len.saturating_sub(done);
                let (at, len) = match span.at {
                    Some(at) => {
                        let (at, len) = self.volume.place(at.saturating_add(done), rest);
                        (Some(at), len.clamp(1, rest))
                    }
                    None => (None, rest),
                };
                let start = span.start.saturating_add(done);
                let range = start..start.saturating_add(len);
                extents.push(Extent { range, at });
                done = done.saturating_add(len);
            }
        }
        Ok(extents)
    }

    fn link_target(&self, node: Node) -> Result<Vec<u8>> {
        let inode = self.node(node)?;
        expect(inode.kind()?, Kind::Symlink, node)?;
        refuse_encrypted(&inode)?;
        let read = || {
            if let Some(target) = inode.short_target()? {
                return Ok(target.to_vec());
            }
            ensure(inode.size <= MAX_TARGET, || {
                "its target is longer than a path can be".into()
            })?;
            let mut target = vec![0; usize::try_from(inode.size).unwrap_or_default()];
            match self.contents(&inode)? {
                Contents::Inline(bytes) => return Ok(bytes),
                Contents::Mapped(map) => {
                    map.fill(0, &mut target, |at, buf| self.volume.read(at, buf))?
                }
            }
            Ok(target)
        };
        read().map_err(|e: Error| e.context(format!("inode {}", node.number())))
    }

    fn xattrs(&self, node: Node) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let inode = self.node(node)?;
        let read = || {
            let mut found = Vec::new();
            let block = match inode.attribute_block()? {
                Some(number) => Some((number, self.volume.block(number)?)),
                None => None,
            };
            let mut attributes = attributes::in_inode(inode.rest()?)?;
            if let Some((number, block)) = &block {
                attributes.append(&mut attributes::in_block(
                    block,
                    *number,
                    self.superblock.seed,
                )?);
            }
            for attribute in attributes {
                let Some(name) = attribute.full_name() else {
                    continue;
                };
                let value = self.value(&attribute)?;
                let value = match attribute.is_acl() {
                    true => attributes::acl(&value)?,
                    false => value,
                };
                found.push((name, value));
            }
            Ok(found)
        };
        read().map_err(|e: Error| e.context(format!("the attributes of inode {}", node.number())))
    }
}
