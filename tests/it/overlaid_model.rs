//! Random operations on a disk that can be written to, from its partitions down to the store, and what must be read
//! afterwards: a plain array of bytes.
//!
//! All of it is in one process: views of an image, over an overlay on a disk that loses power, over a cached snapshot
//! in memory, with real commits. The array stands for the blocks around the borders of a sparse volume: of blocks, of
//! partitions, of the volume before and after it has grown. A failure prints the smallest operations that show it: keep
//! them below as a test.

use std::ops::Range;

use proptest::prelude::*;

use crate::commit::cuts::CUTS;
use crate::images::{BLOCK, GIB, MIB};

mod world;

use world::World;

#[derive(Clone, Debug)]
enum Op {
    Write {
        view: usize,
        place: Place,
        zeros: bool,
    },
    /// A whole block, with bytes of its own, zeros, or those it has.
    WriteBlock {
        block: usize,
        what: usize,
    },
    Discard {
        view: usize,
        place: Place,
    },
    /// From one place to another, gibibytes maybe.
    DiscardFar {
        view: usize,
        from: Place,
        to: Place,
    },
    Read {
        view: usize,
        place: Place,
    },
    Extents {
        view: usize,
    },
    Sync,
    Reopen,
    /// The process is killed and comes back.
    Kill,
    /// The power fails.
    Crash {
        seed: u64,
    },
    /// Begins a commit, or goes on with one; `cut`: how it is cut off, and at which call to the store.
    Commit {
        restart: bool,
        cut: Option<(usize, usize)>,
    },
    Settle,
    Grow,
}

use Op::{
    Commit, Crash, Discard, DiscardFar, Extents, Grow, Kill, Read, Reopen, Settle, Sync, Write,
    WriteBlock,
};

/// Bytes near a border.
#[derive(Clone, Copy, Debug)]
struct Place {
    border: usize,
    from: i64,
    len: u64,
}

const PAGE: u64 = 4096;

/// A partition as old tools begin it: every page of it is a part of two of the disk's. Its end is within a page, too.
const OLD: Range<u64> = 63 * 512..600 * MIB - 1536;
/// One as new tools make it, up to the second table at the disk's end.
const NEW: Range<u64> = 600 * MIB..GIB - 33 * 512;

const BORDERS: [u64; 9] = [
    0,
    OLD.start,
    BLOCK,
    OLD.end,
    NEW.start,
    NEW.end,
    GIB,
    2 * GIB,
    3 * GIB,
];

/// The blocks that the array stands for: those beside a border.
const BLOCKS: [u32; 9] = [0, 1, 1199, 1200, 2047, 2048, 4095, 4096, 6143];

/// Those of them that the snapshot has.
const HELD: [u32; 3] = [0, 1200, 2047];

fn place() -> impl Strategy<Value = Place> {
    let from = prop_oneof![-12_000..12_000i64, (-3..3i64).prop_map(|page| page * 4096)];
    let len = prop_oneof![1..30_000u64, (1..8u64).prop_map(|pages| pages * PAGE)];
    (0..BORDERS.len(), from, len).prop_map(|(border, from, len)| Place { border, from, len })
}

fn op() -> impl Strategy<Value = Op> {
    let view = 0..3usize;
    let cut = proptest::option::of((0..CUTS.len(), 0..8usize));
    prop_oneof![
        12 => (view.clone(), place(), prop::bool::weighted(0.15))
            .prop_map(|(view, place, zeros)| Write { view, place, zeros }),
        2 => (0..BLOCKS.len(), 0..3usize).prop_map(|(block, what)| WriteBlock { block, what }),
        5 => (view.clone(), place()).prop_map(|(view, place)| Discard { view, place }),
        1 => (view.clone(), place(), place())
            .prop_map(|(view, from, to)| DiscardFar { view, from, to }),
        3 => (view.clone(), place()).prop_map(|(view, place)| Read { view, place }),
        2 => view.prop_map(|view| Extents { view }),
        3 => Just(Sync),
        1 => Just(Reopen),
        1 => Just(Kill),
        2 => any::<u64>().prop_map(|seed| Crash { seed }),
        4 => (prop::bool::weighted(0.2), cut)
            .prop_map(|(restart, cut)| Commit { restart, cut }),
        4 => Just(Settle),
        1 => Just(Grow),
    ]
}

fn replay(ops: &[Op]) {
    let mut world = World::new();
    for op in ops {
        world.apply(op);
    }
    world.end();
}

#[test]
fn an_edited_disk_does_as_an_array_of_bytes() {
    let config = ProptestConfig {
        cases: 128,
        failure_persistence: None,
        max_shrink_iters: 2000,
        ..ProptestConfig::default()
    };
    proptest!(config, |(ops in prop::collection::vec(op(), 1..40))| replay(&ops));
}
