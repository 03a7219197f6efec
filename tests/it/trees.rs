//! Files read without the kernel, compared with what the kernel shows of the same image.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use ebsfs::error::{ErrorKind, Result};
use ebsfs::filesystem::{FileTree, Found, Kind, Last, Metadata, Node, Walk, open, probe, resolve};
use ebsfs::partition::{Slice, read_table};
use ebsfs::read_at::{Extent, ReadAt, check_range};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::oracle::{Fixture, fixture};
use crate::program::is_root;

/// Larger files are compared by their last 4096 bytes.
const HUGE: u64 = 1 << 30;

/// An image file.
pub(crate) struct ImageFile(File, u64);

impl ImageFile {
    pub(crate) fn open(path: &Path) -> Arc<dyn ReadAt> {
        let file = File::open(path).unwrap();
        let size = file.metadata().unwrap().len();
        Arc::new(Self(file, size))
    }
}

impl ReadAt for ImageFile {
    fn size(&self) -> u64 {
        self.1
    }

    fn try_read_at(&self, offset: u64, buf: &mut [u8]) -> Result<bool> {
        self.read_at(offset, buf).map(|()| true)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        check_range(self.1, offset, buf.len())?;
        Ok(self.0.read_exact_at(buf, offset)?)
    }

    fn extent(&self, _: u64) -> Result<Extent> {
        Ok(Extent::Data { end: self.1 })
    }

    fn allocated(&self, _: Range<u64>) -> Option<u64> {
        None
    }
}

/// The fixture, if it is there or can be made.
pub(crate) fn kernel_fixture(kind: &str) -> Option<&'static Fixture> {
    is_root(kind).then(|| fixture(kind))
}

/// What the kernel shows of each file, in the order of a walk; and of all: contents, size, free.
pub(crate) fn lines(fixture: &Fixture) -> (Vec<(Vec<u8>, Value)>, Value) {
    let text = fs::read_to_string(&fixture.manifest).unwrap();
    let mut files: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let all = files.pop().unwrap();
    assert!(
        files.len() > 500 && all["contents"].is_string(),
        "this is no whole manifest: {all}"
    );
    let path = |value: &Value| hex::decode(value["path"].as_str().unwrap()).unwrap();
    (
        files
            .into_iter()
            .map(|value| (path(&value), value))
            .collect(),
        all,
    )
}

/// The files of it by path.
fn manifest(fixture: &Fixture) -> (BTreeMap<Vec<u8>, Value>, Value) {
    let (files, all) = lines(fixture);
    (files.into_iter().collect(), all)
}

fn nanoseconds(time: SystemTime) -> String {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => after.as_nanos().to_string(),
        Err(e) => format!("-{}", e.duration().as_nanos()),
    }
}

pub(crate) fn contents(tree: &dyn FileTree, node: Node) -> Vec<u8> {
    // No multiple of anything.
    let mut buf = vec![0xaa; 70_001];
    let mut bytes = Vec::new();
    loop {
        let read = tree.read(node, bytes.len() as u64, &mut buf).unwrap();
        if read == 0 {
            return bytes;
        }
        bytes.extend_from_slice(&buf[..read]);
    }
}

/// The digest of a file, and how many of its bytes are no hole; its extents are true.
fn looked_at(disk: &dyn ReadAt, tree: &dyn FileTree, node: Node, size: u64) -> (String, u64) {
    let extents = tree.extents(node).unwrap();
    if size > HUGE {
        let mut end = vec![0xaa; 5000];
        let read = tree.read(node, size - 4096, &mut end).unwrap();
        assert_eq!(read, 4096, "up to the end and no further");
        return (hex::encode(Sha256::digest(&end[..read])), 0);
    }
    let bytes = contents(tree, node);
    let mut outside = bytes.clone();
    let (mut end, mut written) = (0, 0);
    for extent in &extents {
        let Range { start, end: stop } = extent.range;
        assert!(end <= start && start < stop && stop <= size, "{extents:?}");
        end = stop;
        let range = start as usize..stop as usize;
        if let Some(at) = extent.at {
            written += stop - start;
            let mut there = vec![0; range.len()];
            disk.read_at(at, &mut there).unwrap();
            assert!(there == bytes[range.clone()], "not at {at}: {extent:?}");
        }
        outside[range].fill(0);
    }
    assert!(
        outside.iter().all(|byte| *byte == 0),
        "more than holes outside {extents:?}"
    );
    (hex::encode(Sha256::digest(&bytes)), written)
}

fn as_manifest(
    disk: &dyn ReadAt,
    tree: &dyn FileTree,
    path: &[u8],
    node: Node,
    metadata: &Metadata,
) -> Value {
    let mut value = json!({
        "path": hex::encode(path),
        "mode": metadata.mode,
        "uid": metadata.uid,
        "gid": metadata.gid,
        "links": metadata.links,
        "inode": node.number(),
        "accessed": nanoseconds(metadata.accessed),
        "modified": nanoseconds(metadata.modified),
        "changed": nanoseconds(metadata.changed),
    });
    let xattrs = tree.xattrs(node).unwrap();
    value["xattrs"] = xattrs
        .iter()
        .map(|(name, bytes)| (hex::encode(name), Value::from(hex::encode(bytes))))
        .collect();
    let kind = match metadata.kind {
        Kind::File => {
            let (digest, written) = looked_at(disk, tree, node, metadata.size);
            value["size"] = json!(metadata.size);
            value["sha256"] = json!(digest);
            value["data"] = json!(written);
            "file"
        }
        Kind::Directory => "directory",
        Kind::Symlink => {
            value["size"] = json!(metadata.size);
            value["target"] = json!(hex::encode(tree.link_target(node).unwrap()));
            "symlink"
        }
        Kind::CharDevice { major, minor } => {
            value["device"] = json!([major, minor]);
            "char-device"
        }
        Kind::BlockDevice { major, minor } => {
            value["device"] = json!([major, minor]);
            "block-device"
        }
        Kind::Fifo => "fifo",
        Kind::Socket => "socket",
    };
    value["type"] = json!(kind);
    value
}

/// Every file of a fixture is what the kernel says; holes too where `holes` says so.
fn is_as_the_kernel_shows_it(kind: &str, name: &str, holes: bool) {
    let Some(fixture) = kernel_fixture(kind) else {
        return;
    };
    let disk = ImageFile::open(&fixture.image);
    let tree = open(Arc::clone(&disk)).unwrap();
    let (mut expected, all) = manifest(fixture);
    let facts = tree.facts().unwrap();
    assert_eq!((facts.name, json!(facts.size)), (name, all["size"].clone()));
    let free = all["free"].as_u64().unwrap();
    match name {
        // A mount keeps some of it for its own needs.
        "xfs" => assert!(
            (free..=free + facts.size / 8).contains(&facts.free),
            "{} {free}",
            facts.free
        ),
        _ => assert_eq!(facts.free, free),
    }
    for Found { path, file, .. } in Walk::new(&*tree, b"/", tree.root()) {
        let shown = path.escape_ascii().to_string();
        let (node, metadata) = file.unwrap_or_else(|e| panic!("{shown}: {e:#}"));
        let mut found = as_manifest(&*disk, &*tree, &path, node, &metadata);
        let mut wanted = expected
            .remove(&path)
            .unwrap_or_else(|| panic!("the kernel has no {shown}"));
        let huge = metadata.size > HUGE;
        if !holes || huge {
            found.as_object_mut().unwrap().remove("data");
            wanted.as_object_mut().unwrap().remove("data");
        }
        assert_eq!(found, wanted, "{shown}");
        // By its name alone it is the same.
        assert_eq!(resolve(&*tree, &path, Last::Keep).unwrap(), node, "{shown}");
    }
    assert!(expected.is_empty(), "not found: {:?}", expected.keys());
}

#[test]
fn ext2_is_as_the_kernel_shows_it() {
    is_as_the_kernel_shows_it("kernel ext2", "ext2", true);
}

#[test]
fn ext3_is_as_the_kernel_shows_it() {
    is_as_the_kernel_shows_it("kernel ext3", "ext3", true);
}

#[test]
fn ext4_with_data_in_inodes_is_as_the_kernel_shows_it() {
    is_as_the_kernel_shows_it("kernel ext4", "ext4", false);
}

#[test]
fn ext4_with_thousands_of_names_and_deep_trees_is_as_the_kernel_shows_it() {
    is_as_the_kernel_shows_it("kernel ext4-1k-full", "ext4", true);
}

#[test]
fn ext4_with_clusters_is_as_the_kernel_shows_it() {
    is_as_the_kernel_shows_it("kernel ext4-clusters", "ext4", false);
    is_as_the_kernel_shows_it("kernel ext4-clusters-meta", "ext4", false);
}

#[test]
fn xfs_with_thousands_of_names_and_deep_trees_is_as_the_kernel_shows_it() {
    is_as_the_kernel_shows_it("kernel xfs-full", "xfs", true);
}

#[test]
fn xfs_with_inodes_beyond_32_bits_is_as_the_kernel_shows_it() {
    let kind = "kernel xfs-large";
    is_as_the_kernel_shows_it(kind, "xfs", false);
    let Some(fixture) = kernel_fixture(kind) else {
        return;
    };
    let inode = |file: &Value| file["inode"].as_u64().unwrap();
    let (files, _) = lines(fixture);
    let large = files.iter().filter(|(_, file)| inode(file) >> 32 > 0);
    assert!(large.count() > files.len() / 4);
}

#[test]
fn a_journal_without_checksums_reads_as_if_it_had_been_replayed() {
    is_as_the_kernel_shows_it("kernel ext3-dirty", "ext3", true);
}

#[test]
fn a_journal_with_checksums_reads_as_if_it_had_been_replayed() {
    is_as_the_kernel_shows_it("kernel ext4-dirty", "ext4", false);
}

#[test]
fn contents_in_a_journal_read_as_if_they_had_been_replayed() {
    is_as_the_kernel_shows_it("kernel ext4-data-dirty", "ext4", false);
}

#[test]
fn a_log_of_xfs_reads_as_if_it_had_been_replayed() {
    is_as_the_kernel_shows_it("kernel xfs-dirty", "xfs", true);
}

/// Without a replay, the images above would not be as the kernel shows them: the tests can fail.
#[test]
fn the_dirty_images_need_their_journals() {
    for kind in [
        "kernel ext3-dirty",
        "kernel ext4-dirty",
        "kernel ext4-data-dirty",
    ] {
        let Some(fixture) = kernel_fixture(kind) else {
            return;
        };
        let mut bytes = fs::read(&fixture.image).unwrap();
        // The bit that says that there is something to replay, and then a checksum that is true again.
        assert_eq!(bytes[1024 + 0x60] & 4, 4, "{kind} is not dirty");
        bytes[1024 + 0x60] &= !4;
        let has_checksum = bytes[1024 + 0x65] & 4 != 0;
        if has_checksum {
            let crc = crc32c(&bytes[1024..2044]);
            bytes[2044..2048].copy_from_slice(&crc.to_le_bytes());
        }
        let path = tempfile::NamedTempFile::new().unwrap();
        fs::write(path.path(), &bytes).unwrap();
        let tree = open(ImageFile::open(path.path())).unwrap();
        let (expected, _) = manifest(fixture);
        let differs = |found: Found| match (found.file, expected.get(&found.path)) {
            (Ok((node, metadata)), Some(wanted)) => {
                wanted["inode"] != node.number()
                    || wanted["modified"] != nanoseconds(metadata.modified).as_str()
            }
            _ => true,
        };
        let mut walk = Walk::new(&*tree, b"/", tree.root());
        assert!(walk.any(differs), "{kind} is the same without its journal");
    }
}

/// As ext4 has it: without the last inversion.
fn crc32c(bytes: &[u8]) -> u32 {
    bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (if crc & 1 == 1 { 0x82f6_3b78 } else { 0 })
        })
    })
}

/// Files of a tree that a `sha256sum` manifest names.
fn holds_what_mkfs_was_given(disk: Arc<dyn ReadAt>, manifest: &str, prefix: &str) {
    let tree = open(disk).unwrap();
    let mut files = 0;
    for line in manifest.lines() {
        let (digest, path) = line.split_once("  ").unwrap();
        let Some(path) = path.strip_prefix(prefix) else {
            continue;
        };
        let node = resolve(&*tree, path.as_bytes(), Last::Follow).unwrap();
        let found = hex::encode(Sha256::digest(contents(&*tree, node)));
        assert_eq!(found, digest, "{path}");
        files += 1;
    }
    assert!(files > 300, "{files}");
}

#[test]
fn what_mkfs_made_is_read_without_a_kernel_having_seen_it() {
    for kind in ["ext4", "xfs", "xfs-v4"] {
        let fixture = fixture(kind);
        let manifest = fs::read_to_string(&fixture.manifest).unwrap();
        holds_what_mkfs_was_given(ImageFile::open(&fixture.image), &manifest, "");
        let facts = open(ImageFile::open(&fixture.image))
            .unwrap()
            .facts()
            .unwrap();
        assert_eq!(facts.label.as_deref(), Some("fixture"), "{kind}");
        assert!(
            facts
                .uuid
                .unwrap()
                .starts_with("00000000-0000-4000-8000-00000000000")
        );
    }
}

#[test]
fn partitions_of_both_tables_hold_what_mkfs_was_given() {
    for (kind, numbers) in [("gpt", [1, 2]), ("logical", [1, 5])] {
        let fixture = fixture(kind);
        let manifest = fs::read_to_string(&fixture.manifest).unwrap();
        let disk = ImageFile::open(&fixture.image);
        let table = read_table(&*disk).unwrap();
        for number in numbers {
            let partition = table
                .partitions
                .iter()
                .find(|partition| partition.number == number)
                .unwrap();
            let slice = Slice::new(Arc::clone(&disk), partition.range.clone()).unwrap();
            holds_what_mkfs_was_given(Arc::new(slice), &manifest, &format!("p{number}/"));
        }
    }
}

#[test]
fn paths_stay_within_the_tree_and_end() {
    let Some(fixture) = kernel_fixture("kernel ext4") else {
        return;
    };
    let tree = open(ImageFile::open(&fixture.image)).unwrap();
    let at = |path: &str| resolve(&*tree, path.as_bytes(), Last::Follow);
    let same = |a: &str, b: &str| assert_eq!(at(a).unwrap(), at(b).unwrap(), "{a} {b}");
    same("/sizes/4096", "sizes//./4096");
    same("/links/good", "/sizes/4096");
    same("/links/absolute/60", "/sizes/60");
    same("/../../sizes/../etc/fstab", "/etc/fstab");
    // Above the root is the root, also for a link: on the machine that reads there is nothing to find.
    same("/..", "/");
    let out = at("/links/out").unwrap_err();
    assert_eq!(out.kind(), ErrorKind::NotFound);
    assert!(format!("{out:#}").contains("/etc/passwd"), "{out:#}");
    let endless = at("/links/loop").unwrap_err();
    assert_eq!(endless.kind(), ErrorKind::Invalid);
    assert!(
        format!("{endless:#}").contains("40 symbolic links"),
        "{endless:#}"
    );
    let through = at("/etc/fstab/x").unwrap_err();
    assert!(
        format!("{through:#}").contains("/etc/fstab is no directory"),
        "{through:#}"
    );
    assert_eq!(at("/etc/fstab/").unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(at("/etc/fstab/..").unwrap_err().kind(), ErrorKind::Invalid);
    // A link that a path ends with is kept where that is asked for, unless a slash follows it.
    let kept = |path: &str| resolve(&*tree, path.as_bytes(), Last::Keep).unwrap();
    assert_ne!(kept("/links/absolute"), at("/sizes").unwrap());
    assert_eq!(kept("/links/absolute/"), at("/sizes").unwrap());
}

#[test]
fn what_is_not_a_file_is_refused_as_one() {
    let Some(fixture) = kernel_fixture("kernel ext4") else {
        return;
    };
    let tree = open(ImageFile::open(&fixture.image)).unwrap();
    let at = |path: &str| resolve(&*tree, path.as_bytes(), Last::Keep).unwrap();
    let kinds = |path: &str| {
        let node = at(path);
        let refused = |error: Option<ErrorKind>| error == Some(ErrorKind::Invalid);
        [
            refused(tree.entries(node).err().map(|e| e.kind())),
            refused(tree.read(node, 0, &mut [0]).err().map(|e| e.kind())),
            refused(tree.extents(node).err().map(|e| e.kind())),
            refused(tree.link_target(node).err().map(|e| e.kind())),
        ]
    };
    assert_eq!(kinds("/etc"), [false, true, true, true]);
    assert_eq!(kinds("/etc/fstab"), [true, false, false, true]);
    assert_eq!(kinds("/links/good"), [true, true, true, false]);
    assert_eq!(kinds("/kinds/fifo"), [true; 4]);
    let missing = tree.lookup(tree.root(), b"missing").unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    assert_eq!(tree.read(at("/etc/fstab"), u64::MAX, &mut [0]).unwrap(), 0);
}

#[test]
fn what_is_not_read_here_is_known_by_name() {
    let recognised = |path: &Path| {
        let format = probe(&*ImageFile::open(path)).unwrap();
        format.map(|format| (format.name, format.is_readable()))
    };
    assert_eq!(recognised(&fixture("btrfs").image), Some(("btrfs", false)));
    let e = open(ImageFile::open(&fixture("btrfs").image))
        .map(|_| ())
        .unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Unsupported);
    assert!(
        e.to_string().contains("btrfs") && e.to_string().contains("`ebsfs browse`"),
        "{e}"
    );
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    let tools: &[(&str, &[&str])] = &[
        ("swap", &["mkswap", "-q"]),
        ("vfat", &["mkfs.vfat"]),
        ("exfat", &["mkfs.exfat"]),
        ("ntfs", &["mkfs.ntfs", "-F", "-q"]),
        ("f2fs", &["mkfs.f2fs", "-q"]),
        ("LVM2_member", &["pvcreate", "-q"]),
    ];
    let mut seen = 0;
    for (name, tool) in tools {
        File::create(&image).unwrap().set_len(64 << 20).unwrap();
        let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
        let made = std::process::Command::new(tool[0])
            .env("PATH", path)
            .args(&tool[1..])
            .arg(&image)
            .output();
        // Not every machine has every tool.
        if made.is_ok_and(|made| made.status.success()) {
            assert_eq!(recognised(&image), Some((*name, false)));
            seen += 1;
        }
    }
    assert!(seen > 0, "mkswap is everywhere");
    File::create(&image).unwrap().set_len(1 << 20).unwrap();
    assert_eq!(recognised(&image), None);
    File::create(&image).unwrap().set_len(10).unwrap();
    assert_eq!(recognised(&image), None);
}
