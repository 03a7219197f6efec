//! Damage that a checksum covers is noticed: whatever bit of the metadata flips, what is told is as it was, or an error.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use ebsfs::error::Result;
use ebsfs::filesystem::{FileTree, Kind, Node, Walk, open};
use ebsfs::read_at::ReadAt as _;

use super::Damaged;
use crate::images::Random;
use crate::oracle::fixture;
use crate::program::is_root;

/// What a tree tells of each path, but for contents; none where that is an error. Targets that no checksum covers are left out.
fn told(tree: &dyn FileTree, targets: bool) -> BTreeMap<Vec<u8>, Option<String>> {
    let tell = |node: Node| -> Result<String> {
        let metadata = tree.metadata(node)?;
        let mut xattrs = tree.xattrs(node)?;
        xattrs.sort();
        let rest = match metadata.kind {
            Kind::File => format!("{:?}", tree.extents(node)?),
            Kind::Symlink if targets => format!("{:?}", tree.link_target(node)?),
            Kind::Directory => format!("{:?}", tree.entries(node)?),
            _ => String::new(),
        };
        Ok(format!("{node:?} {metadata:?} {xattrs:?} {rest}"))
    };
    let facts = tree.facts().map(|facts| format!("{facts:?}"));
    let files = Walk::new(tree, b"/", tree.root()).map(|found| {
        let told = found.file.and_then(|(node, _)| tell(node));
        (found.path, told.ok())
    });
    files.chain([(b"".to_vec(), facts.ok())]).collect()
}

/// So many bits flip, each in a case of its own.
fn a_flipped_bit_changes_no_answer(kind: &str, flips: u64, targets: bool) {
    if !is_root(kind) {
        return;
    }
    let mut disk = Damaged::new(&fixture(kind).image);
    let shared = Arc::new(disk);
    let before = told(&*open(Arc::<Damaged>::clone(&shared)).unwrap(), targets);
    assert!(before.len() > 500 && before.values().all(Option::is_some));
    disk = Arc::into_inner(shared).unwrap();
    let read = disk.touched.take().unwrap().into_inner().unwrap();
    // A place that is read often is as good as another.
    let units: BTreeSet<u64> = read
        .iter()
        .flat_map(|range| range.start / 64..range.end.div_ceil(64))
        .collect();
    let units: Vec<u64> = units.into_iter().collect();
    let mut random = Random(7);
    let mut noticed = 0;
    for _ in 0..flips {
        let unit = units[random.number() as usize % units.len()];
        let at = unit * 64 + random.number() % 64;
        let mut byte = [0];
        disk.read_at(at, &mut byte).unwrap();
        let flipped = byte[0] ^ 1 << (random.number() % 8);
        disk.changed = BTreeMap::from([(at, flipped)]);
        disk.reads = AtomicU64::new(0);
        let shared = Arc::new(disk);
        match open(Arc::<Damaged>::clone(&shared)) {
            Ok(tree) => {
                let after = told(&*tree, targets);
                for (path, told) in &after {
                    let shown = path.escape_ascii();
                    if let Some(told) = told {
                        let known = before.get(path).and_then(Option::as_ref);
                        assert_eq!(Some(told), known, "{shown} after byte {at}");
                    }
                }
                let is_whole = after.values().all(Option::is_some);
                assert!(
                    !is_whole || after.len() == before.len(),
                    "files are missing after byte {at}"
                );
                noticed += u64::from(!is_whole);
            }
            Err(_) => noticed += 1,
        }
        disk = Arc::into_inner(shared).unwrap();
        disk.changed.clear();
    }
    // The others are in what is read and not needed.
    assert!(noticed > flips / 3, "{noticed} of {flips}");
}

#[test]
fn no_flipped_bit_of_ext4_is_an_answer() {
    a_flipped_bit_changes_no_answer("kernel ext4", 200, false);
}

#[test]
fn no_flipped_bit_of_xfs_is_an_answer() {
    a_flipped_bit_changes_no_answer("kernel xfs-full", 100, true);
}
