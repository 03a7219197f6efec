//! The disk that is read: an ext4 with a tree of many small files and some large ones, the same in every run.

use std::fs;
use std::fs::File;
use std::io::Read as _;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;

use fastrand::Rng;

use crate::measure::time;
use crate::setup::{MIB, Scratch, noise};

/// The unit of snapshots.
pub(crate) const BLOCK: u64 = 512 << 10;

/// An image, and the snapshot of it.
pub(crate) struct DiskImage {
    pub(crate) path: PathBuf,
    /// The snapshot's, in the store that it was imported to.
    pub(crate) id: String,
    /// Where it has data, in whole blocks: what the snapshot has, and what every reader reads.
    pub(crate) data: Vec<Range<u64>>,
    /// A small file of the tree, neither its first nor its last.
    pub(crate) small_file: PathBuf,
    /// Bytes in the files of the tree.
    pub(crate) tree_bytes: u64,
}

impl DiskImage {
    /// An image of `gib` GiB with about `mib` MiB of files, and the snapshot of it in `store`.
    pub(crate) fn make(scratch: &Scratch, store: &Path, gib: u64, mib: u64) -> Self {
        let root = scratch.path("tree");
        let (small_file, tree_bytes) = make_tree(&root, mib * MIB);
        let path = scratch.path("disk.img");
        File::create_new(&path).unwrap().set_len(gib << 30).unwrap();
        let mut mkfs = Command::new("mkfs.ext4");
        // What mkfs would draw by lot decides how directories are laid out.
        let seed = "5eed0000-0000-4000-8000-000000000000";
        mkfs.args(["-q", "-m", "0", "-U", seed, "-E"])
            .arg(format!("hash_seed={seed}"))
            .arg("-d");
        time(mkfs.arg(&root).arg(&path));
        fs::remove_dir_all(root).unwrap();
        let (_, id) = time(scratch.ebsfs(store).arg("import").arg(&path));
        Self {
            id: id.trim().to_owned(),
            data: data_of(&path),
            path,
            small_file,
            tree_bytes,
        }
    }

    /// Blocks with data.
    pub(crate) fn blocks(&self) -> u64 {
        let lens = self.data.iter().map(|range| range.end - range.start);
        lens.sum::<u64>() / BLOCK
    }

    /// MiB of blocks with data.
    pub(crate) fn mib(&self) -> u64 {
        self.blocks() * BLOCK / MIB
    }

    /// Where the blocks with data begin.
    pub(crate) fn starts(&self) -> Vec<u64> {
        let blocks = self.data.iter().flat_map(|range| {
            let step = usize::try_from(BLOCK).unwrap();
            range.clone().step_by(step)
        });
        blocks.collect()
    }
}

/// Of so many bytes a tenth is in files up to 64 KiB, four in files up to 2 MiB, the rest in large ones.
fn make_tree(root: &Path, bytes: u64) -> (PathBuf, u64) {
    let mut rng = Rng::with_seed(5);
    let kinds = [
        ("etc", bytes / 10, 10..16),
        ("usr/lib", bytes * 4 / 10, 17..21),
        ("var/lib", bytes / 2, 24..26),
    ];
    let (mut number, mut all) = (0, 0);
    let mut small = vec![];
    for (name, share, sizes) in kinds {
        let mut left = share;
        while left > 0 {
            let len = (1 << rng.u32(sizes.clone())) + rng.u64(0..1 << sizes.start);
            let len = len.min(left);
            left -= len;
            // Some fifty files in a directory, as trees of programs have.
            let path = Path::new(name).join(format!("d{:03}/f{number}", number / 50));
            fs::create_dir_all(root.join(&path).parent().unwrap()).unwrap();
            let len = usize::try_from(len).unwrap();
            let mut content = noise(number, len);
            content.truncate(len);
            fs::write(root.join(&path), content).unwrap();
            if name == "etc" {
                small.push(path);
            }
            number += 1;
        }
        all += share;
    }
    (small.swap_remove(small.len() / 2), all)
}

/// The runs of blocks that are not all zeros.
fn data_of(image: &Path) -> Vec<Range<u64>> {
    let mut file = File::open(image).unwrap();
    let len = file.metadata().unwrap().len();
    let mut block = vec![0; usize::try_from(BLOCK).unwrap()];
    let mut data: Vec<Range<u64>> = vec![];
    for at in (0..len).step_by(block.len()) {
        file.read_exact(&mut block).unwrap();
        if block.iter().all(|byte| *byte == 0) {
            continue;
        }
        match data.last_mut() {
            Some(last) if last.end == at => last.end += BLOCK,
            _ => data.push(at..at + BLOCK),
        }
    }
    data
}
