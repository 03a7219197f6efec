//! A disk in memory that can be written to, with faults on demand, and a mount of it in this process.
//!
//! Nothing in this process may map the mount's files: a page fault would wait for threads that may wait for it.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use ebsfs::catalog::{Catalog, Opened};
use ebsfs::error::{Error, ErrorKind, Result};
use ebsfs::fuse;
use ebsfs::read_at::{Extent, ReadAt, WriteAt, check_range};
use ebsfs::snapshot::SnapshotInfo;
use ebsfs::stats::Stats;
use ebsfs::store::Store;
use ebsfs::store::memory::MemoryStore;
use tokio::runtime::Runtime;

use crate::common::{block_on, snap};
use crate::kernel::abort;
use crate::world::{World, run, umount};

const PAGE: u64 = 4096;

/// Bytes of a disk that most tests are content with.
pub(crate) const SIZE: u64 = 32 << 20;

/// Where its partition lies.
pub(crate) const PARTITION: Range<u64> = 1 << 20..31 << 20;

pub(crate) struct RamDisk {
    content: Mutex<Content>,
    /// Told when `stuck` changes.
    changed: Condvar,
    /// Whether every other call says that it would have to wait.
    pub(crate) reluctant: AtomicBool,
    calls: AtomicU64,
    /// Syncs that succeeded.
    pub(crate) syncs: AtomicU64,
}

struct Content {
    bytes: Vec<u8>,
    /// Which pages hold data.
    data: Vec<bool>,
    /// Whether all that was written is synced.
    durable: bool,
    /// What the next writes and discards fail with.
    write_faults: VecDeque<ErrorKind>,
    /// What the next syncs fail with.
    sync_faults: VecDeque<ErrorKind>,
    /// Reads and writes here wait until this is taken away.
    stuck: Option<Range<u64>>,
}

impl RamDisk {
    /// A disk of zeros with one partition.
    pub(crate) fn new(size: u64, partition: &Range<u64>) -> Arc<Self> {
        let disk = Self {
            content: Mutex::new(Content {
                bytes: vec![0; size as usize],
                data: vec![false; size.div_ceil(PAGE) as usize],
                durable: true,
                write_faults: VecDeque::new(),
                sync_faults: VecDeque::new(),
                stuck: None,
            }),
            changed: Condvar::new(),
            reluctant: AtomicBool::new(false),
            calls: AtomicU64::new(0),
            syncs: AtomicU64::new(0),
        };
        let mut sector = [0; 512];
        let sectors = |bytes: u64| u32::try_from(bytes / 512).unwrap().to_le_bytes();
        sector[446 + 4] = 0x83;
        sector[446 + 8..446 + 12].copy_from_slice(&sectors(partition.start));
        sector[446 + 12..446 + 16].copy_from_slice(&sectors(partition.end - partition.start));
        sector[510..].copy_from_slice(&[0x55, 0xAA]);
        disk.write_at(0, &sector).unwrap();
        disk.sync().unwrap();
        Arc::new(disk)
    }

    fn lock(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap()
    }

    pub(crate) fn bytes(&self, range: Range<u64>) -> Vec<u8> {
        self.lock().bytes[range.start as usize..range.end as usize].to_vec()
    }

    pub(crate) fn fail_write(&self, kind: ErrorKind) {
        self.lock().write_faults.push_back(kind);
    }

    pub(crate) fn fail_sync(&self, kind: ErrorKind) {
        self.lock().sync_faults.push_back(kind);
    }

    /// Lets reads and writes of a range wait, or all go on.
    pub(crate) fn hold(&self, range: Option<Range<u64>>) {
        self.lock().stuck = range;
        self.changed.notify_all();
    }

    pub(crate) fn is_durable(&self) -> bool {
        self.lock().durable
    }

    /// Pages that hold data.
    pub(crate) fn pages(&self) -> usize {
        self.lock().data.iter().filter(|data| **data).count()
    }

    fn would_wait(&self) -> bool {
        let calls = self.calls.fetch_add(1, Ordering::Relaxed);
        self.reluctant.load(Ordering::Relaxed) && calls.is_multiple_of(2)
    }

    /// The content, once nothing holds up who wants these bytes.
    fn free(&self, offset: u64, len: usize) -> MutexGuard<'_, Content> {
        let mut content = self.lock();
        while meets(content.stuck.as_ref(), offset, len) {
            content = self.changed.wait(content).unwrap();
        }
        content
    }

    fn put(&self, mut content: MutexGuard<'_, Content>, offset: u64, data: &[u8]) -> Result<()> {
        fault(&mut content.write_faults)?;
        let range = offset..offset + data.len() as u64;
        content.bytes[range.start as usize..range.end as usize].copy_from_slice(data);
        let pages = range.start / PAGE..range.end.div_ceil(PAGE);
        content.data[pages.start as usize..pages.end as usize].fill(true);
        content.durable = false;
        Ok(())
    }
}

fn fault(faults: &mut VecDeque<ErrorKind>) -> Result<()> {
    match faults.pop_front() {
        Some(kind) => Err(Error::new(kind, "on purpose")),
        None => Ok(()),
    }
}

fn meets(stuck: Option<&Range<u64>>, offset: u64, len: usize) -> bool {
    stuck.is_some_and(|stuck| offset < stuck.end && stuck.start < offset + len as u64)
}

impl ReadAt for RamDisk {
    fn size(&self) -> u64 {
        self.lock().bytes.len() as u64
    }

    fn try_read_at(&self, offset: u64, buf: &mut [u8]) -> Result<bool> {
        check_range(self.size(), offset, buf.len())?;
        if self.would_wait() || meets(self.lock().stuck.as_ref(), offset, buf.len()) {
            return Ok(false);
        }
        self.read_at(offset, buf).map(|()| true)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        check_range(self.size(), offset, buf.len())?;
        let content = self.free(offset, buf.len());
        let start = offset as usize;
        buf.copy_from_slice(&content.bytes[start..start + buf.len()]);
        Ok(())
    }

    fn extent(&self, offset: u64) -> Result<Extent> {
        check_range(self.size(), offset, 1)?;
        let (content, page) = (self.lock(), (offset / PAGE) as usize);
        let is_data = content.data[page];
        let run = content.data[page..]
            .iter()
            .take_while(|data| **data == is_data)
            .count();
        let end = ((page + run) as u64 * PAGE).min(content.bytes.len() as u64);
        Ok(if is_data {
            Extent::Data { end }
        } else {
            Extent::Hole { end }
        })
    }

    fn allocated(&self, range: Range<u64>) -> Option<u64> {
        let pages = range.start / PAGE..range.end.div_ceil(PAGE);
        let pages = &self.lock().data[pages.start as usize..pages.end as usize];
        Some(pages.iter().filter(|data| **data).count() as u64 * PAGE)
    }
}

impl WriteAt for RamDisk {
    fn try_write_at(&self, offset: u64, data: &[u8]) -> Result<bool> {
        check_range(self.size(), offset, data.len())?;
        let content = self.lock();
        if self.would_wait() || meets(content.stuck.as_ref(), offset, data.len()) {
            return Ok(false);
        }
        self.put(content, offset, data).map(|()| true)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        check_range(self.size(), offset, data.len())?;
        self.put(self.free(offset, data.len()), offset, data)
    }

    fn zero(&self, range: Range<u64>) -> Result<()> {
        let len = usize::try_from(range.end - range.start).unwrap();
        check_range(self.size(), range.start, len)?;
        let mut content = self.lock();
        fault(&mut content.write_faults)?;
        content.bytes[range.start as usize..range.end as usize].fill(0);
        let whole = range.start.div_ceil(PAGE)..range.end / PAGE;
        if !whole.is_empty() {
            content.data[whole.start as usize..whole.end as usize].fill(false);
        }
        content.durable = false;
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        let mut content = self.lock();
        fault(&mut content.sync_faults)?;
        content.durable = true;
        self.syncs.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// A mount of a disk in memory and its partition.
pub(crate) struct Mounted {
    pub(crate) disk: Arc<RamDisk>,
    pub(crate) dir: PathBuf,
    /// The file of the whole disk.
    pub(crate) whole: PathBuf,
    /// The file of the partition.
    pub(crate) part: PathBuf,
    pub(crate) partition: Range<u64>,
    pub(crate) catalog: Arc<Catalog>,
    _runtime: Runtime,
}

impl Mounted {
    pub(crate) fn new(world: &World) -> Self {
        Self::with(world, SIZE, PARTITION, true)
    }

    pub(crate) fn with(world: &World, size: u64, partition: Range<u64>, writable: bool) -> Self {
        let runtime = Runtime::new().unwrap();
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new().unwrap());
        let id = block_on(snap(1).build(&*store));
        let disk = RamDisk::new(size, &partition);
        let shown = Arc::clone(&disk);
        let open = move |_: &SnapshotInfo| Opened {
            data: Arc::<RamDisk>::clone(&shown),
            writable: writable.then(|| Arc::<RamDisk>::clone(&shown) as Arc<dyn WriteAt>),
            stats: Arc::new(Stats::default()),
            begin: Arc::new(|| ()),
        };
        let (handle, named) = (runtime.handle().clone(), Some(vec![id.clone()]));
        let catalog = Catalog::open(store, handle, Box::new(open), named).unwrap();
        let catalog = Arc::new(catalog);
        let config = fuse::Config {
            mountpoint: world.empty("ram"),
            allow_other: false,
            writable: catalog.is_writable(),
        };
        let exports = Arc::<Catalog>::clone(&catalog);
        fuse::mount(exports, Vec::new(), &config, Box::new(|| ())).unwrap();
        let dir = config.mountpoint;
        Self {
            disk,
            whole: dir.join(format!("{id}.img")),
            part: dir.join(format!("{id}.p1.img")),
            partition,
            dir,
            catalog,
            _runtime: runtime,
        }
    }

    /// Ends it in order; panics if that does not succeed.
    #[track_caller]
    pub(crate) fn unmount(&self) {
        umount(&self.dir);
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.disk.hold(None);
        if !crate::kernel::mounts_below(&self.dir).is_empty()
            && run("umount", [&self.dir]).code != Some(0)
        {
            // What still waits for an answer gets an error; the world takes the rest away.
            abort(&self.dir);
        }
    }
}

/// Opens to read and write.
pub(crate) fn open(path: &Path) -> File {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap()
}

/// Opens to read and write past the page cache.
pub(crate) fn open_direct(path: &Path) -> File {
    let direct = rustix::fs::OFlags::DIRECT.bits() as i32;
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(direct)
        .open(path)
        .unwrap()
}

/// Asks the mount to make a file durable. What becomes of this is what is tested.
#[allow(clippy::disallowed_methods)]
pub(crate) fn sync(file: &File) -> io::Result<()> {
    file.sync_all()
}
