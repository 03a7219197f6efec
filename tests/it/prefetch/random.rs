//! Reads that follow no pattern fetch next to nothing but what they touch.

use proptest::prelude::*;

use super::simulated::{FAR, World};

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    /// On a small disk, where neighbours are met by chance, too.
    #[test]
    fn at_most_a_tenth_more_is_fetched_than_touched(seed in any::<u64>(), reads in 1_usize..3000) {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut world = World::dense(2, FAR);
        world.read_all((0..reads).map(|_| random.u32(0..4096)));
        let (fetched, touched) = (world.fetched.len(), world.touched.len());
        prop_assert!(fetched * 10 <= touched * 11 + 20, "{} fetched, {} touched", fetched, touched);
    }

    /// Whatever is read, no window is wider than it may be, and no block is fetched twice. (The world asserts it.)
    #[test]
    fn windows_keep_their_bounds(jumps in prop::collection::vec((0_u32..16_384, -3_i64..4, 1_i64..200), 1..40)) {
        let mut world = World::dense(8, FAR);
        for (start, by, len) in jumps {
            let run = (0..len).filter_map(|at| u32::try_from(i64::from(start) + at * by).ok());
            world.read_all(run.filter(|at| *at < 16_384));
        }
        let fetched: std::collections::BTreeSet<_> = world.fetched.iter().collect();
        prop_assert_eq!(fetched.len(), world.fetched.len());
    }
}

#[test]
fn a_walk_of_metadata_fetches_what_it_reads() {
    let mut world = World::dense(8, FAR);
    // As a mount of ext4 and the first small file do: the superblock, descriptors, journal, a few inode tables.
    world.read_all([0, 0, 1, 0, 1043, 1024, 2, 1044, 0, 3072, 1026, 4100]);
    assert!(
        world.fetched.len() <= world.touched.len() + 4,
        "{:?}",
        world.fetched
    );
}

/// Each of them looks like a stream at first; the allowance for such is soon used up.
#[test]
fn runs_that_end_as_soon_as_they_are_believed_fetch_little_more() {
    let mut random = fastrand::Rng::with_seed(11);
    let mut world = World::dense(100, FAR);
    world.read_all((0..300).flat_map(|_| {
        let start = random.u32(0..200_000);
        start..start + 3
    }));
    let (fetched, touched) = (world.fetched.len(), world.touched.len());
    assert!(fetched * 10 <= touched * 11, "{fetched} of {touched}");
}
