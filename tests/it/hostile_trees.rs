//! Damaged file systems: whatever the bytes are, there are files or errors, soon, and no panic.
//!
//! Bytes of the metadata are changed, thousands of times, by numbers that are the same each time. `EBSFS_FUZZ_SECONDS=600` goes on for so
//! long with each image, from numbers of the clock; a case that fails names its seed, which `EBSFS_FUZZ_SEED` repeats.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, UNIX_EPOCH};

use ebsfs::error::{Error, ErrorKind, Result};
use ebsfs::filesystem::{FileTree, Found, Kind, Node, Walk, open};
use ebsfs::read_at::{Extent, ReadAt, check_range};

use crate::images::Random;
use crate::oracle::fixture;
use crate::program::is_root;
use crate::trees::ImageFile;

mod noticed;
mod planted;

/// Cases of each image.
const CASES: u64 = 500;
/// No case asks for more, however its maps lead in circles.
const MOST_READS: u64 = 400_000;
/// Nor takes longer on the slowest machine.
const LONGEST: Duration = Duration::from_secs(30);

const PAGE: u64 = 64 << 10;

/// An image in memory, as far as there is anything in it, of which bytes can be changed.
struct Damaged {
    size: u64,
    pages: BTreeMap<u64, Vec<u8>>,
    changed: BTreeMap<u64, u8>,
    reads: AtomicU64,
    /// What was read, as long as that is wanted.
    touched: Option<Mutex<Vec<Range<u64>>>>,
}

impl Damaged {
    fn new(path: &Path) -> Self {
        let file = ImageFile::open(path);
        let mut pages = BTreeMap::new();
        for start in (0..file.size()).step_by(PAGE as usize) {
            let mut page = vec![0; PAGE.min(file.size() - start) as usize];
            file.read_at(start, &mut page).unwrap();
            if page.iter().any(|byte| *byte != 0) {
                pages.insert(start, page);
            }
        }
        Self {
            size: file.size(),
            pages,
            changed: BTreeMap::new(),
            reads: AtomicU64::new(0),
            touched: Some(Mutex::default()),
        }
    }
}

impl ReadAt for Damaged {
    fn size(&self) -> u64 {
        self.size
    }

    fn try_read_at(&self, offset: u64, buf: &mut [u8]) -> Result<bool> {
        self.read_at(offset, buf).map(|()| true)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        check_range(self.size, offset, buf.len())?;
        if self.reads.fetch_add(1, Ordering::Relaxed) > MOST_READS {
            return Err(Error::new(ErrorKind::Io, "read too often"));
        }
        let end = offset + buf.len() as u64;
        if let Some(touched) = &self.touched {
            touched.lock().unwrap().push(offset..end);
        }
        buf.fill(0);
        for (start, page) in self.pages.range(offset / PAGE * PAGE..end) {
            let from = (*start).max(offset);
            let to = (start + page.len() as u64).min(end);
            let (source, target) = (from - start..to - start, from - offset..to - offset);
            let within = |range: Range<u64>| range.start as usize..range.end as usize;
            buf[within(target)].copy_from_slice(&page[within(source)]);
        }
        for (at, byte) in self.changed.range(offset..end) {
            buf[(at - offset) as usize] = *byte;
        }
        Ok(())
    }

    fn extent(&self, _: u64) -> Result<Extent> {
        Ok(Extent::Data { end: self.size })
    }

    fn allocated(&self, _: Range<u64>) -> Option<u64> {
        None
    }
}

/// Looks at all that a tree tells but contents.
fn look(tree: &dyn FileTree, mut each: impl FnMut(Node, u64)) {
    drop(tree.facts());
    for Found { file, .. } in Walk::new(tree, b"/", tree.root()).take(3000) {
        let told = match file {
            Ok((node, metadata)) => {
                let xattrs = tree.xattrs(node).map(|_| ());
                let rest = match metadata.kind {
                    Kind::File => {
                        each(node, metadata.size);
                        tree.extents(node).map(|_| ())
                    }
                    Kind::Symlink => tree.link_target(node).map(|_| ()),
                    _ => Ok(()),
                };
                xattrs.and(rest)
            }
            Err(e) => Err(e),
        };
        if let Err(e) = told {
            // What a library panicked at is no answer, even if it was caught.
            assert!(!format!("{e:#}").contains("unexpected way"), "{e:#}");
            assert!(
                matches!(
                    e.kind(),
                    ErrorKind::Corrupt | ErrorKind::Unsupported | ErrorKind::Io
                ),
                "damage is told as {e:?}"
            );
        }
    }
}

fn one_case(disk: &Arc<Damaged>) {
    let disk: Arc<dyn ReadAt> = Arc::<Damaged>::clone(disk);
    match open(disk) {
        Ok(tree) => {
            let mut buf = vec![0; 20_000];
            look(&*tree, |node, size| {
                for offset in [0, size / 2, size.saturating_sub(1)] {
                    drop(tree.read(node, offset, &mut buf));
                }
            });
        }
        Err(e) => assert!(!format!("{e:#}").contains("unexpected way"), "{e:#}"),
    }
}

/// Changes bytes of metadata in as many ways as there is time for.
fn bears_damage(kind: &str) {
    let mut disk = Damaged::new(&fixture(kind).image);
    // Where there is metadata is told by what reads it.
    let shared = Arc::new(disk);
    look(&*open(Arc::<Damaged>::clone(&shared)).unwrap(), |_, _| ());
    disk = Arc::into_inner(shared).unwrap();
    let touched = disk.touched.take().unwrap().into_inner().unwrap();
    let mut places: Vec<u64> = touched
        .into_iter()
        .flat_map(|range| range.start / 64..range.end.div_ceil(64))
        .collect();
    places.sort_unstable();
    places.dedup();
    // Zeros are changed as well, but most of them say nothing.
    let mut head = [0; 64];
    places.retain(|place| {
        let len = head.len().min((disk.size - place * 64) as usize);
        disk.read_at(place * 64, &mut head[..len]).unwrap();
        head.iter().any(|byte| *byte != 0) || place.is_multiple_of(8)
    });

    let seconds = number("EBSFS_FUZZ_SECONDS").map(Duration::from_secs);
    let repeated = number("EBSFS_FUZZ_SEED");
    let first = match (repeated, seconds) {
        (Some(seed), _) => seed,
        (None, Some(_)) => UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64,
        (None, None) => 1,
    };
    let began = Instant::now();
    let mut cases = 0;
    while match (repeated, seconds) {
        (Some(_), _) => cases < 1,
        (None, Some(seconds)) => began.elapsed() < seconds,
        (None, None) => cases < CASES,
    } {
        let seed = first.wrapping_add(cases);
        let mut random = Random(seed);
        disk.changed.clear();
        disk.reads = AtomicU64::new(0);
        for _ in 0..=random.number() % 6 {
            let place = places[random.number() as usize % places.len()];
            let at = (place * 64 + random.number() % 64).min(disk.size - 1);
            let width = [1, 1, 2, 4][random.number() as usize % 4];
            let fill = random.number();
            for (at, index) in (at..(at + width).min(disk.size)).zip(0..) {
                let byte = match fill % 4 {
                    0 => 0,
                    1 => 0xff,
                    2 => 1 << (fill >> 8 & 7),
                    _ => (fill >> (16 + index * 8)) as u8,
                };
                disk.changed.insert(at, byte);
            }
        }
        let shared = Arc::new(disk);
        let start = Instant::now();
        let done = catch_unwind(AssertUnwindSafe(|| one_case(&shared)));
        assert!(done.is_ok(), "{kind}: EBSFS_FUZZ_SEED={seed} repeats it");
        let reads = shared.reads.load(Ordering::Relaxed);
        assert!(
            reads <= MOST_READS && start.elapsed() < LONGEST,
            "{kind}: {reads} reads; EBSFS_FUZZ_SEED={seed} repeats it"
        );
        disk = Arc::into_inner(shared).unwrap();
        cases += 1;
    }
    eprintln!("{kind}: {cases} cases over {} places", places.len());
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable)
        .ok()
        .map(|text| text.parse().unwrap())
}

fn bears_damage_of_the_kernels(kind: &str) {
    if is_root(kind) {
        bears_damage(kind);
    }
}

#[test]
fn damaged_ext2_is_an_error_at_most() {
    bears_damage_of_the_kernels("kernel ext2");
}

#[test]
fn damaged_ext3_with_a_journal_to_replay_is_an_error_at_most() {
    bears_damage_of_the_kernels("kernel ext3-dirty");
}

#[test]
fn damaged_ext4_with_checksums_and_a_journal_is_an_error_at_most() {
    bears_damage_of_the_kernels("kernel ext4-dirty");
}

#[test]
fn damaged_ext4_with_deep_trees_and_no_checksums_is_an_error_at_most() {
    bears_damage_of_the_kernels("kernel ext4-1k-full");
}

#[test]
fn damaged_xfs_with_a_log_to_replay_is_an_error_at_most() {
    bears_damage_of_the_kernels("kernel xfs-dirty");
}

#[test]
fn damaged_xfs_without_checksums_is_an_error_at_most() {
    bears_damage("xfs-v4");
}

#[test]
fn damaged_file_systems_of_mkfs_are_errors_at_most() {
    bears_damage("ext4");
    bears_damage("xfs");
}

/// An ext2 of these commands of debugfs.
fn made_by_debugfs(dir: &Path, commands: &[&str]) -> Vec<u8> {
    let image = dir.join("image");
    let run = |program: &str, args: &[&str]| {
        let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
        let output = Command::new(program)
            .env("PATH", path)
            .args(args)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    let text = image.to_str().unwrap();
    run("mkfs.ext2", &["-q", "-F", "-b", "1024", text, "2048"]);
    for command in commands {
        run("debugfs", &["-w", "-R", command, text]);
    }
    fs::read(image).unwrap()
}

fn tree_of(dir: &Path, bytes: &[u8]) -> Box<dyn FileTree> {
    let path = dir.join("changed");
    fs::write(&path, bytes).unwrap();
    open(ImageFile::open(&path)).unwrap()
}

#[test]
fn a_directory_that_contains_itself_is_walked_once() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = made_by_debugfs(
        dir.path(),
        &["mkdir a", "mkdir a/b", "link a a/b/again", "mkdir a/c"],
    );
    let tree = tree_of(dir.path(), &bytes);
    let walk: Vec<_> = Walk::new(&*tree, b"/", tree.root()).collect();
    let paths: Vec<_> = walk
        .iter()
        .map(|found| String::from_utf8_lossy(&found.path))
        .collect();
    assert_eq!(
        paths,
        [
            "/",
            "/a",
            "/a/b",
            "/a/b/again",
            "/a/b/again",
            "/a/c",
            "/lost+found"
        ]
    );
    let e = walk[4].file.as_ref().unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Corrupt);
    assert!(e.to_string().contains("second name"), "{e}");
}

#[test]
fn a_name_that_is_a_path_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    let mut bytes = made_by_debugfs(dir.path(), &["mkdir a", "mkdir a/dotdotXpasswd"]);
    let at = bytes
        .windows(13)
        .position(|window| window == b"dotdotXpasswd")
        .unwrap();
    bytes[at..at + 13].copy_from_slice(b"../../x/passw");
    let tree = tree_of(dir.path(), &bytes);
    let a = tree.lookup(tree.root(), b"a").unwrap();
    let e = tree.entries(a).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Corrupt);
    assert!(format!("{e:#}").contains("is no name"), "{e:#}");
}

#[test]
fn a_name_of_an_inode_that_is_not_in_use_is_damage_and_hides_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let commands = [
        "mkdir a",
        "mkdir a/b",
        "sif a/b mode 0",
        "sif a/b links_count 0",
        "mkdir a/c",
    ];
    let tree = tree_of(dir.path(), &made_by_debugfs(dir.path(), &commands));
    let walk: Vec<_> = Walk::new(&*tree, b"/", tree.root()).collect();
    assert_eq!(walk.iter().filter(|found| found.file.is_err()).count(), 1);
    assert!(
        walk.iter()
            .any(|found| found.path == b"/a/c" && found.file.is_ok())
    );
}

#[test]
fn more_groups_than_there_can_be_are_damage_and_soon_told() {
    let dir = tempfile::tempdir().unwrap();
    made_by_debugfs(dir.path(), &[]);
    let number_at = |at: u64, number: u32| (at..).zip(number.to_le_bytes());
    let (blocks, per_group) = (number_at(1024 + 4, u32::MAX), number_at(1024 + 32, 8));
    // Their descriptors end behind the disk, or there are too many to look at.
    for changed in [blocks.clone().collect(), blocks.chain(per_group).collect()] {
        let mut disk = Damaged::new(&dir.path().join("image"));
        disk.changed = changed;
        let disk = Arc::new(disk);
        let told = open(Arc::<Damaged>::clone(&disk)).and_then(|tree| tree.facts().map(drop));
        assert!(told.is_err());
        let reads = disk.reads.load(Ordering::Relaxed);
        assert!(reads < 3000, "{reads} reads of a disk of 2048 blocks");
    }
}
