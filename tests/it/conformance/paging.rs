//! Listings of many blocks, of few blocks far apart, and from the middle. `pages` checks each page.

use super::World;
use crate::common::{assert_holds, at, changed, gib, kind, present, snap};

behaviours! {
    a_listing_begins_at_the_block_asked_for_or_the_next,
    a_listing_tells_the_volume_size,
    more_blocks_and_changes_than_fit_a_page_are_all_listed_once,
    a_few_blocks_all_over_a_large_volume_are_listed,
    the_largest_volume_holds_its_first_and_its_last_block,
}

/// More than the service's largest page, over four runs of 4096 indexes.
const MANY: u32 = 12_400;

async fn a_listing_begins_at_the_block_asked_for_or_the_next(world: &World) {
    let id = snap(4).zero(10).zero(12).zero(4095).zero(4096);
    let id = id.build(world.store()).await;
    for (from, expected) in [
        (0, &[10, 12, 4095, 4096][..]),
        (10, &[10, 12, 4095, 4096]),
        (11, &[12, 4095, 4096]),
        (13, &[4095, 4096]),
        (4096, &[4096]),
        (4097, &[]),
        (8191, &[]),
    ] {
        assert_eq!(present(world.store(), &id, from).await, expected);
    }
}

async fn a_listing_tells_the_volume_size(world: &World) {
    let parent = snap(1).build(world.store()).await;
    let child = snap(2).child_of(&parent).build(world.store()).await;
    let blocks = world.store().blocks(&child, at(0)).await.unwrap();
    assert_eq!(blocks.volume_size, gib(2));
    let changed = world.store().changed(&parent, &child, at(0)).await.unwrap();
    assert_eq!(changed.volume_size, gib(2));
}

async fn more_blocks_and_changes_than_fit_a_page_are_all_listed_once(world: &World) {
    let parent = snap(16).block(6, 6).build(world.store()).await;
    let child = snap(16).child_of(&parent).zeros(5..5 + MANY);
    let child = child.build(world.store()).await;
    let all: Vec<u32> = (5..5 + MANY).collect();
    assert_eq!(present(world.store(), &child, 0).await, all);
    assert_eq!(present(world.store(), &child, 9000).await, all[8995..]);
    assert_eq!(changed(world.store(), &parent, &child, 0).await, all);
    let later = changed(world.store(), &parent, &child, 9000).await;
    assert_eq!(later, all[8995..]);
}

async fn a_few_blocks_all_over_a_large_volume_are_listed(world: &World) {
    let places: Vec<u32> = (0..600).map(|i| i * 200_003).collect();
    let parent = snap(65536).build(world.store()).await;
    let child = snap(65536).child_of(&parent).zeros(places.clone());
    let child = child.build(world.store()).await;
    assert_eq!(present(world.store(), &child, 0).await, places);
    assert_eq!(changed(world.store(), &parent, &child, 0).await, places);
}

async fn the_largest_volume_holds_its_first_and_its_last_block(world: &World) {
    const LAST: u32 = (1 << 27) - 1;
    let id = snap(65536).block(LAST, 2).block(0, 1);
    let id = id.build(world.store()).await;
    assert_holds(world.store(), &id, &[(0, 1), (LAST, 2)]).await;
    let past = world.store().get(&id, at(LAST + 1)).await;
    assert_eq!(kind(past), ebsfs::error::ErrorKind::Invalid);
}
