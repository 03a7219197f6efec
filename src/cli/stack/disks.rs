//! What lies on one snapshot: its partitions, their file systems, and where a path is looked for.
//!
//! Which file system a path without a partition's number speaks of: the one that has the whole disk, if there is one;
//! else of those in partitions the first that has the path, and the root file system is asked before the others. That
//! is the one in a partition of the type for Linux roots, else the first with a directory `/etc`, else the largest.

use std::cell::OnceCell;
use std::rc::Rc;
use std::sync::Arc;

use log::warn;
use tokio::runtime::Runtime;

use super::Snapshots;
use crate::cache::BlockCache;
use crate::cli::place::Place;
use crate::error::{Error, ErrorKind, Result};
use crate::filesystem::{FileTree, Format, Last, Node, probe, resolve};
use crate::partition::{Partition, Slice, Table, read_table};
use crate::read_at::ReadAt;
use crate::snapshot::SnapshotInfo;
use crate::stats::Stats;
use crate::store::Store;

/// The partitions of a snapshot, for who can do without them: none, and a warning, if its table cannot be read.
pub(in crate::cli) fn partitions(
    store: &Arc<dyn Store>,
    runtime: &Runtime,
    info: &SnapshotInfo,
) -> Option<Vec<Partition>> {
    let cache = Arc::new(BlockCache::new(BlockCache::DEFAULT_CAPACITY));
    let disk = Snapshots::new(store, &cache).opener(runtime)(info).data;
    let table = read_table(&*disk);
    let table = table.inspect_err(|e| warn!("{}: its partitions are not known: {e:#}", info.id));
    let table = table.ok()?;
    for warning in &table.warnings {
        warn!("{}: {warning}", info.id);
    }
    Some(table.partitions)
}

/// Types of partitions that hold a root of Linux, by the Discoverable Partitions Specification: x86-64, x86, arm64, arm,
/// riscv64.
pub(in crate::cli) const LINUX_ROOTS: [&str; 5] = [
    "4f68bce3-e8cd-4db1-96e7-fbcaf984b709",
    "44479540-f297-41b2-9af7-d131d5f0458a",
    "b921b045-1df0-41c3-af44-4c6f280d3fae",
    "69dad710-2ce4-4e3c-b16c-21a1d49abed3",
    "72ec70a6-cf74-40e6-bd49-4bda08e8f224",
];

/// One snapshot: what lies on it.
pub(in crate::cli) struct Disk {
    pub(in crate::cli) info: SnapshotInfo,
    pub(in crate::cli) table: Table,
    /// The whole disk if there are no partitions, else those.
    pub(in crate::cli) volumes: Vec<Rc<Volume>>,
    pub(in crate::cli) stats: Arc<Stats>,
}

/// What a file system may lie on.
pub(in crate::cli) struct Volume {
    /// As it is typed before the colon.
    pub(in crate::cli) name: String,
    /// None for a whole disk.
    pub(in crate::cli) partition: Option<Partition>,
    pub(in crate::cli) data: Arc<dyn ReadAt>,
    /// What is known of it before its files are looked at.
    format: OnceCell<Result<Option<&'static Format>>>,
    tree: OnceCell<Result<Rc<dyn FileTree>>>,
}

/// A file that was found.
pub(in crate::cli) struct Spot {
    /// Where it is.
    pub(in crate::cli) volume: Rc<Volume>,
    pub(in crate::cli) tree: Rc<dyn FileTree>,
    pub(in crate::cli) node: Node,
}

impl Disk {
    pub(super) fn open(
        info: SnapshotInfo,
        data: Arc<dyn ReadAt>,
        stats: Arc<Stats>,
    ) -> Result<Self> {
        let table = read_table(&*data)?;
        for warning in &table.warnings {
            warn!("{}: {warning}", info.id);
        }
        let volume = |partition: Option<&Partition>| -> Result<Rc<Volume>> {
            let (name, data) = match partition {
                Some(partition) => {
                    let slice = Slice::new(Arc::clone(&data), partition.range.clone())?;
                    let slice: Arc<dyn ReadAt> = Arc::new(slice);
                    (format!("{}.p{}", info.id, partition.number), slice)
                }
                None => (info.id.to_string(), Arc::clone(&data)),
            };
            Ok(Rc::new(Volume {
                name,
                partition: partition.cloned(),
                data,
                format: OnceCell::new(),
                tree: OnceCell::new(),
            }))
        };
        let volumes = match table.partitions.is_empty() {
            true => vec![volume(None)?],
            false => table
                .partitions
                .iter()
                .map(|partition| volume(Some(partition)))
                .collect::<Result<_>>()?,
        };
        Ok(Self {
            info,
            table,
            volumes,
            stats,
        })
    }

    /// The file at a place on this disk.
    pub(super) fn find(&self, place: &Place, last: Last) -> Result<Spot> {
        let volumes = match place.partition {
            Some(number) => vec![self.numbered(number)?],
            None => self.candidates()?,
        };
        let mut missed = Vec::new();
        let mut failed = None;
        for volume in &volumes {
            let tree = match volume.tree() {
                Ok(tree) => tree,
                // With only one there is nothing else to look at.
                Err(e) if volumes.len() == 1 => return Err(e),
                Err(e) => {
                    warn!("{e:#}");
                    failed.get_or_insert(e);
                    continue;
                }
            };
            match resolve(&*tree, &place.path, last) {
                Ok(node) => {
                    let volume = Rc::clone(volume);
                    return Ok(Spot { volume, tree, node });
                }
                Err(e) if e.kind() == ErrorKind::NotFound => missed.push((volume, e)),
                Err(e) => return Err(e.context(volume.name.clone())),
            }
        }
        match (missed.as_slice(), failed) {
            ([], Some(e)) => Err(e),
            ([(volume, e)], None) if volumes.len() == 1 => Err(self.not_in(volume, e.clone())),
            _ => Err(self.nowhere(place, &volumes)),
        }
    }

    /// One partition, whose number was typed.
    pub(in crate::cli) fn numbered(&self, number: u32) -> Result<Rc<Volume>> {
        let is_it = |volume: &&Rc<Volume>| {
            volume
                .partition
                .as_ref()
                .is_some_and(|partition| partition.number == number)
        };
        self.volumes.iter().find(is_it).cloned().ok_or_else(|| {
            let numbers: Vec<_> = self
                .table
                .partitions
                .iter()
                .map(|partition| format!("p{}", partition.number))
                .collect();
            let id = &self.info.id;
            let what = match numbers.is_empty() {
                true => format!("{id} has no partitions: write {id}:/path"),
                false => format!(
                    "{id} has no partition {number}: it has {}",
                    numbers.join(", ")
                ),
            };
            Error::new(ErrorKind::NotFound, what)
        })
    }

    /// Where a path without a partition's number may be, in the order in which it is looked for.
    fn candidates(&self) -> Result<Vec<Rc<Volume>>> {
        let [only] = self.volumes.as_slice() else {
            let mut readable = Vec::new();
            for volume in &self.volumes {
                if volume.is_readable()? {
                    readable.push(Rc::clone(volume));
                }
            }
            if readable.is_empty() {
                return Err(self.nothing_readable());
            }
            let root = root_of(&readable);
            let root = readable.remove(root);
            readable.insert(0, root);
            return Ok(readable);
        };
        Ok(vec![Rc::clone(only)])
    }

    fn nothing_readable(&self) -> Error {
        let volumes: Vec<_> = self
            .volumes
            .iter()
            .map(|volume| volume.describe())
            .collect();
        let what = format!(
            "{} has no file system that is read here, but {}: as root, `ebsfs browse` has the kernel read it",
            self.info.id,
            volumes.join(", ")
        );
        Error::new(ErrorKind::Unsupported, what)
    }

    fn not_in(&self, volume: &Volume, e: Error) -> Error {
        e.context(volume.name.clone())
    }

    /// Says where a path was looked for, and how to look elsewhere.
    fn nowhere(&self, place: &Place, looked: &[Rc<Volume>]) -> Error {
        let id = &self.info.id;
        let named = |volumes: &mut dyn Iterator<Item = &Rc<Volume>>| {
            volumes
                .map(|volume| volume.describe())
                .collect::<Vec<_>>()
                .join(", ")
        };
        let mut what = format!(
            "{id}: {} is in none of {}",
            place.shown_path().display(),
            named(&mut looked.iter())
        );
        let others = named(
            &mut self
                .volumes
                .iter()
                .filter(|volume| !looked.iter().any(|looked| Rc::ptr_eq(looked, volume))),
        );
        if !others.is_empty() {
            what.push_str(&format!("; not read here: {others}"));
        }
        what.push_str(&format!(
            ". paths begin at the root of their partition: name one with {id}.pN:/path, `ebsfs df {id}` shows them"
        ));
        Error::new(ErrorKind::NotFound, what)
    }
}

/// Which of several file systems is the root.
fn root_of(volumes: &[Rc<Volume>]) -> usize {
    let by_type = |volume: &Rc<Volume>| {
        volume
            .partition
            .as_ref()
            .is_some_and(|partition| LINUX_ROOTS.contains(&partition.kind.as_str()))
    };
    if let Some(index) = volumes.iter().position(by_type) {
        return index;
    }
    if volumes.len() == 1 {
        return 0;
    }
    let has_etc = |volume: &Rc<Volume>| {
        volume
            .tree()
            .is_ok_and(|tree| tree.lookup(tree.root(), b"etc").is_ok())
    };
    if let Some(index) = volumes.iter().position(has_etc) {
        return index;
    }
    // Of equals the first.
    let sizes = volumes
        .iter()
        .enumerate()
        .rev()
        .map(|(index, volume)| (volume.data.size(), index));
    sizes
        .max_by_key(|(size, _)| *size)
        .map_or(0, |(_, index)| index)
}

impl Volume {
    /// What lies on it, if that is known here.
    pub(in crate::cli) fn format(&self) -> Result<Option<&'static Format>> {
        let probed = self.format.get_or_init(|| probe(&*self.data));
        probed.clone().map_err(|e| e.context(self.name.clone()))
    }

    fn is_readable(&self) -> Result<bool> {
        Ok(self.format()?.is_some_and(Format::is_readable))
    }

    /// Its files.
    pub(in crate::cli) fn tree(&self) -> Result<Rc<dyn FileTree>> {
        let open = || -> Result<Rc<dyn FileTree>> {
            let format = self.format()?.ok_or_else(|| {
                let what = "no file system is known here that looks like what is on it";
                Error::new(ErrorKind::Unsupported, what)
            })?;
            let tree = format.open(Arc::clone(&self.data));
            Ok(Rc::from(tree?))
        };
        let opened = self.tree.get_or_init(open);
        opened.clone().map_err(|e| e.context(self.name.clone()))
    }

    /// In a sentence: which, and what lies on it.
    fn describe(&self) -> String {
        let what = match self.format() {
            Ok(Some(format)) => format.name,
            Ok(None) => "nothing known",
            Err(_) => "cannot be read",
        };
        match &self.partition {
            Some(partition) => format!("p{} ({what})", partition.number),
            None => format!("the disk ({what})"),
        }
    }
}
