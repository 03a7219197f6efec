//! Windows that follow the line.

use std::time::Duration;

use ebsfs::block::BlockIndex;
use ebsfs::cache::Outcome;

use super::simulated::{FAR, Line, NEAR, World};

#[test]
fn a_distant_store_has_hundreds_under_way_after_a_few_round_trips() {
    let mut world = World::dense(8, FAR);
    let taken = world.read_all(0..600);
    assert!(world.most_under_way >= 150, "{}", world.most_under_way);
    assert!(taken < 12 * FAR.latency, "{taken:?}");
    // From now on the line is the limit.
    let taken = world.read_all(600..3600);
    assert!(taken < 3000 * FAR.each * 11 / 10, "{taken:?}");
}

#[test]
fn one_next_door_has_few_for_as_long_as_it_is_read() {
    let mut world = World::dense(100, NEAR);
    let taken = world.read_all(0..100_000);
    assert!(taken < 100_000 * NEAR.each * 11 / 10, "{taken:?}");
    assert!(taken > Duration::from_secs(30));
    assert!(world.most_under_way <= 32, "{}", world.most_under_way);
}

#[test]
fn one_who_reads_slowly_gets_no_more_than_arrives_in_time() {
    let mut world = World::dense(8, FAR);
    for index in 0..1000 {
        world.read(index);
        world.now += Duration::from_millis(10);
    }
    // Five blocks are read in a round trip.
    assert!(world.most_under_way <= 32, "{}", world.most_under_way);
    assert!(world.waits <= 20, "{}", world.waits);
}

#[test]
fn a_service_that_throttles_gets_fewer() {
    let mut world = World::dense(32, FAR);
    world.read_all(0..4000);
    assert!(world.policy.outstanding() >= 150);
    world.line.each = Duration::from_millis(10);
    world.read_all(4000..4800);
    assert!(
        world.policy.outstanding() <= 40,
        "{}",
        world.policy.outstanding()
    );
}

#[test]
fn failures_halve_what_is_tried() {
    let mut world = World::dense(8, FAR);
    world.read_all(0..1000);
    let before = world.policy.outstanding();
    for _ in 0..2 {
        world.policy.outcome(Outcome::Failed(BlockIndex::new(0)));
    }
    world.read_all(1000..1100);
    assert!(
        world.policy.outstanding() < before * 3 / 4,
        "{} of {before}",
        world.policy.outstanding()
    );
}

#[test]
fn a_cache_grows_distant_and_the_window_with_it() {
    // What was near for long enough to be believed is far from now on.
    let mut world = World::dense(100, NEAR);
    world.read_all(0..40_000);
    world.line = Line { ..FAR };
    world.read_all(40_000..60_000);
    let taken = world.read_all(60_000..63_000);
    assert!(taken < 3000 * FAR.each * 3 / 2, "{taken:?}");
}

#[test]
fn waste_makes_it_careful() {
    let mut world = World::dense(100, FAR);
    // Runs of 40 blocks, each somewhere else.
    let run = |world: &mut World, at: u32| {
        let start = at * 4919 % 200_000;
        world.read_all(start..start + 40);
        world.unread()
    };
    let first = run(&mut world, 0);
    for at in 1..300 {
        run(&mut world, at);
        for index in std::mem::take(&mut world.given_up) {
            world.policy.outcome(Outcome::Wasted(index));
        }
    }
    let before = world.unread();
    let last = run(&mut world, 300) - before;
    assert!(last * 2 <= first, "{last} after {first}");
}
