//! What a child has from its parent.

use ebsfs::error::ErrorKind;

use super::World;
use crate::common::{assert_holds, kind, snap};

behaviours! {
    a_child_inherits_overrides_and_zeroes,
    a_child_without_puts_equals_its_parent,
    a_grandchild_inherits_from_both,
    siblings_do_not_see_each_other,
    a_parent_does_not_see_what_its_child_changed,
    a_child_may_be_larger_than_its_parent,
    a_child_smaller_than_its_parent_is_refused,
    a_child_counts_only_its_own_puts,
    a_child_outlives_its_parent,
    a_pending_child_outlives_its_parent,
    a_deleted_parent_cannot_be_one_again,
}

async fn a_child_inherits_overrides_and_zeroes(world: &World) {
    let parent = snap(1).block(1, 1).block(2, 2).block(3, 3).block(64, 4);
    let parent = parent.build(world.store()).await;
    let child = snap(1).child_of(&parent).block(2, 9).zero(3).block(5, 5);
    let child = child.build(world.store()).await;
    let expected = [(1, 1), (2, 9), (3, 0), (5, 5), (64, 4)];
    assert_holds(world.store(), &child, &expected).await;
    let info = world.store().info(&child).await.unwrap();
    let mut expected = info.clone();
    expected.parent = Some(parent);
    assert_eq!(info, world.told(&expected));
}

async fn a_child_without_puts_equals_its_parent(world: &World) {
    let parent = snap(1).block(1, 1).zero(2).build(world.store()).await;
    let child = snap(1).child_of(&parent).build(world.store()).await;
    assert_holds(world.store(), &child, &[(1, 1), (2, 0)]).await;
    let of_nothing = snap(1).build(world.store()).await;
    let child = snap(1).child_of(&of_nothing).build(world.store()).await;
    assert_holds(world.store(), &child, &[]).await;
}

async fn a_grandchild_inherits_from_both(world: &World) {
    let first = snap(1).block(1, 1).block(2, 1).block(3, 1);
    let first = first.build(world.store()).await;
    let second = snap(1).child_of(&first).block(2, 2).zero(3).block(4, 2);
    let second = second.build(world.store()).await;
    let third = snap(1).child_of(&second).block(3, 3).block(5, 3);
    let third = third.build(world.store()).await;
    let expected = [(1, 1), (2, 2), (3, 3), (4, 2), (5, 3)];
    assert_holds(world.store(), &third, &expected).await;
}

async fn siblings_do_not_see_each_other(world: &World) {
    let parent = snap(1).block(1, 1).build(world.store()).await;
    let one = snap(1).child_of(&parent).block(1, 2).block(2, 2);
    let other = snap(1).child_of(&parent).block(3, 3);
    let one_id = one.pending(world.store()).await;
    let other_id = other.pending(world.store()).await;
    world.store().complete(&one_id, &one.seal()).await.unwrap();
    let completed = world.store().complete(&other_id, &other.seal()).await;
    completed.unwrap();
    assert_holds(world.store(), &one_id, &[(1, 2), (2, 2)]).await;
    assert_holds(world.store(), &other_id, &[(1, 1), (3, 3)]).await;
}

async fn a_parent_does_not_see_what_its_child_changed(world: &World) {
    let parent = snap(1).block(1, 1).build(world.store()).await;
    let child = snap(1).child_of(&parent).block(1, 2).block(2, 2);
    child.build(world.store()).await;
    assert_holds(world.store(), &parent, &[(1, 1)]).await;
}

async fn a_child_may_be_larger_than_its_parent(world: &World) {
    let parent = snap(1).block(2047, 1).build(world.store()).await;
    let child = snap(4).child_of(&parent).block(2048, 2).block(8191, 3);
    let child = child.build(world.store()).await;
    let expected = [(2047, 1), (2048, 2), (8191, 3)];
    assert_holds(world.store(), &child, &expected).await;
    assert_holds(world.store(), &parent, &[(2047, 1)]).await;
}

async fn a_child_smaller_than_its_parent_is_refused(world: &World) {
    let parent = snap(2).block(1, 1).build(world.store()).await;
    let smaller = snap(1).child_of(&parent).new;
    let refused = world.store().start(&smaller).await;
    assert_eq!(kind(refused), ErrorKind::Invalid);
    assert_eq!(world.store().list().await.unwrap().len(), 1);
}

async fn a_child_counts_only_its_own_puts(world: &World) {
    let parent = snap(1).block(1, 1).block(2, 2).build(world.store()).await;
    let one = snap(1).block(2, 3);
    let child = one.clone().child_of(&parent).pending(world.store()).await;
    // Its checksum, too, is that of a snapshot with this put alone.
    world.store().complete(&child, &one.seal()).await.unwrap();
    assert_holds(world.store(), &child, &[(1, 1), (2, 3)]).await;
}

async fn a_child_outlives_its_parent(world: &World) {
    let first = snap(1).block(1, 1).block(2, 1).build(world.store()).await;
    let second = snap(1).child_of(&first).block(2, 2);
    let second = second.build(world.store()).await;
    let third = snap(1).child_of(&second).block(3, 3);
    let third = third.build(world.store()).await;
    world.store().delete(&second).await.unwrap();
    world.store().delete(&first).await.unwrap();
    assert_holds(world.store(), &third, &[(1, 1), (2, 2), (3, 3)]).await;
    let fourth = snap(1).child_of(&third).block(4, 4);
    let fourth = fourth.build(world.store()).await;
    let expected = [(1, 1), (2, 2), (3, 3), (4, 4)];
    assert_holds(world.store(), &fourth, &expected).await;
}

async fn a_pending_child_outlives_its_parent(world: &World) {
    let parent = snap(1).block(1, 1).build(world.store()).await;
    let child = snap(1).child_of(&parent).block(2, 2);
    let id = child.pending(world.store()).await;
    world.store().delete(&parent).await.unwrap();
    world.store().complete(&id, &child.seal()).await.unwrap();
    assert_holds(world.store(), &id, &[(1, 1), (2, 2)]).await;
}

async fn a_deleted_parent_cannot_be_one_again(world: &World) {
    let parent = snap(1).block(1, 1).build(world.store()).await;
    snap(1).child_of(&parent).build(world.store()).await;
    world.store().delete(&parent).await.unwrap();
    let another = snap(1).child_of(&parent).new;
    let refused = world.store().start(&another).await;
    assert_eq!(kind(refused), ErrorKind::NotFound);
}
