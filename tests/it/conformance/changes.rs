//! Which blocks differ between two snapshots.

use ebsfs::error::ErrorKind;

use super::World;
use crate::common::{at, changed, kind, snap};

behaviours! {
    changed_names_exactly_the_blocks_that_differ,
    changed_names_a_block_put_over_absence_even_if_zeros,
    changed_between_equal_snapshots_names_nothing,
    changed_works_in_both_directions,
    changed_works_over_generations_and_between_siblings,
    changed_works_when_the_parents_between_are_deleted,
    changed_of_unrelated_snapshots_is_refused,
    changed_begins_where_it_is_asked_to,
    changed_reaches_into_the_part_that_a_child_added,
    changed_speaks_only_of_the_second_volume,
}

async fn changed_names_exactly_the_blocks_that_differ(world: &World) {
    let parent = snap(4).block(1, 1).block(2, 2).block(3, 3).block(5000, 4);
    let parent = parent.build(world.store()).await;
    let child = snap(4).child_of(&parent);
    let child = child.block(2, 9).zero(3).block(7, 7).block(8191, 8);
    let child = child.build(world.store()).await;
    let named = changed(world.store(), &parent, &child, 0).await;
    assert_eq!(named, [2, 3, 7, 8191]);
}

async fn changed_names_a_block_put_over_absence_even_if_zeros(world: &World) {
    let parent = snap(1).block(1, 1).build(world.store()).await;
    let child = snap(1).child_of(&parent).zero(2);
    let child = child.build(world.store()).await;
    assert_eq!(changed(world.store(), &parent, &child, 0).await, [2]);
}

async fn changed_between_equal_snapshots_names_nothing(world: &World) {
    let parent = snap(1).block(1, 1).zero(2).build(world.store()).await;
    let child = snap(1).child_of(&parent).build(world.store()).await;
    let none: [u32; 0] = [];
    assert_eq!(changed(world.store(), &parent, &child, 0).await, none);
    assert_eq!(changed(world.store(), &parent, &parent, 0).await, none);
    let empty = snap(1).build(world.store()).await;
    assert_eq!(changed(world.store(), &empty, &empty, 0).await, none);
}

async fn changed_works_in_both_directions(world: &World) {
    let parent = snap(1).block(1, 1).build(world.store()).await;
    let child = snap(1).child_of(&parent).block(1, 2).block(3, 3);
    let child = child.build(world.store()).await;
    assert_eq!(changed(world.store(), &parent, &child, 0).await, [1, 3]);
    assert_eq!(changed(world.store(), &child, &parent, 0).await, [1, 3]);
}

async fn changed_works_over_generations_and_between_siblings(world: &World) {
    let first = snap(1).block(1, 1).build(world.store()).await;
    let second = snap(1).child_of(&first).block(2, 2).block(3, 3);
    let second = second.build(world.store()).await;
    let third = snap(1).child_of(&second).block(3, 4).block(5, 5);
    let third = third.build(world.store()).await;
    let sibling = snap(1).child_of(&first).block(2, 2).block(6, 6);
    let sibling = sibling.build(world.store()).await;
    assert_eq!(changed(world.store(), &first, &third, 0).await, [2, 3, 5]);
    assert_eq!(changed(world.store(), &sibling, &third, 0).await, [3, 5, 6]);
}

async fn changed_works_when_the_parents_between_are_deleted(world: &World) {
    let zeroth = snap(1).block(1, 1).build(world.store()).await;
    let first = snap(1).child_of(&zeroth).build(world.store()).await;
    let second = snap(1).child_of(&first).block(2, 2);
    let second = second.build(world.store()).await;
    let third = snap(1).child_of(&second).block(3, 3);
    let third = third.build(world.store()).await;
    world.store().delete(&second).await.unwrap();
    assert_eq!(changed(world.store(), &first, &third, 0).await, [2, 3]);
    world.store().delete(&zeroth).await.unwrap();
    assert_eq!(changed(world.store(), &first, &third, 0).await, [2, 3]);
}

async fn changed_of_unrelated_snapshots_is_refused(world: &World) {
    // Equal contents make no relation.
    let one = snap(1).block(1, 1).build(world.store()).await;
    let other = snap(1).block(1, 1).build(world.store()).await;
    let child = snap(1).child_of(&other).build(world.store()).await;
    for new in [&other, &child] {
        let refused = world.store().changed(&one, new, at(0)).await;
        assert_eq!(kind(refused), ErrorKind::Invalid);
    }
}

async fn changed_begins_where_it_is_asked_to(world: &World) {
    let parent = snap(4).build(world.store()).await;
    let child = snap(4).child_of(&parent).block(10, 1).block(12, 2);
    let child = child.block(4096, 3).build(world.store()).await;
    for (from, expected) in [
        (10, &[10, 12, 4096][..]),
        (11, &[12, 4096]),
        (12, &[12, 4096]),
        (13, &[4096]),
        (4097, &[]),
        (8191, &[]),
    ] {
        let named = changed(world.store(), &parent, &child, from).await;
        assert_eq!(named, expected, "from {from}");
    }
}

async fn changed_reaches_into_the_part_that_a_child_added(world: &World) {
    let parent = snap(1).block(0, 1).build(world.store()).await;
    let child = snap(3).child_of(&parent).block(2048, 2).block(6143, 3);
    let child = child.build(world.store()).await;
    let named = changed(world.store(), &parent, &child, 0).await;
    assert_eq!(named, [2048, 6143]);
}

async fn changed_speaks_only_of_the_second_volume(world: &World) {
    let parent = snap(1).block(0, 1).build(world.store()).await;
    let child = snap(3).child_of(&parent).block(1, 1);
    let child = child.block(2048, 2).block(4096, 3);
    let child = child.build(world.store()).await;
    // Turned round, the second snapshot is the smaller one; `changed` checks that nothing past it is listed.
    assert_eq!(changed(world.store(), &child, &parent, 0).await, [1]);
}
