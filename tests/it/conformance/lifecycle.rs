//! From `start` over `put` to `complete`, and what each refuses.

use ebsfs::block::Digest;
use ebsfs::error::ErrorKind;
use ebsfs::snapshot::{Seal, SnapshotId, Status};

use super::World;
use crate::common::{assert_holds, at, count, filled, gib, kind, present, snap};

behaviours! {
    a_completed_snapshot_reads_back_what_was_put,
    a_later_put_of_an_index_wins_and_counts_once,
    a_put_of_zeros_is_present_and_reads_as_zeros,
    an_absent_block_reads_as_zeros,
    a_snapshot_without_puts_is_empty,
    the_last_block_of_a_volume_can_be_put_and_read,
    an_index_outside_the_volume_is_refused,
    a_pending_snapshot_cannot_be_read,
    a_pending_snapshot_cannot_be_a_parent,
    a_completed_snapshot_takes_no_put_and_no_second_complete,
    an_unknown_id_is_not_found_by_every_call,
    a_wrong_count_is_refused_and_leaves_it_pending,
    a_wrong_checksum_is_refused_and_leaves_it_pending,
    the_checksum_is_over_raw_digests_by_ascending_index,
    the_checksum_of_a_single_block_is_not_its_digest,
    the_checksum_may_be_left_out,
    a_deleted_snapshot_is_unknown,
    a_pending_snapshot_can_be_deleted,
    a_store_tells_the_same_identity_always,
}

async fn a_completed_snapshot_reads_back_what_was_put(world: &World) {
    let started = world.store().start(&snap(1).new).await.unwrap();
    assert_eq!(started.status, Status::Pending);
    assert_eq!(started.volume_size, gib(1));
    for (index, byte) in [(700, 3), (0, 1), (64, 2)] {
        let put = world
            .store()
            .put(&started.id, at(index), &filled(byte))
            .await;
        put.unwrap();
    }
    let info = world.store().info(&started.id).await.unwrap();
    assert_eq!(info.status, Status::Pending);
    world
        .store()
        .complete(&started.id, &count(3))
        .await
        .unwrap();
    let info = world.store().info(&started.id).await.unwrap();
    assert_eq!(info.status, Status::Completed);
    assert_holds(world.store(), &started.id, &[(0, 1), (64, 2), (700, 3)]).await;
}

async fn a_later_put_of_an_index_wins_and_counts_once(world: &World) {
    let twice = snap(1).block(7, 1).block(8, 5).block(7, 2).block(8, 0);
    let id = twice.pending(world.store()).await;
    world.store().complete(&id, &twice.seal()).await.unwrap();
    assert_eq!(twice.seal().count, 2);
    assert_holds(world.store(), &id, &[(7, 2), (8, 0)]).await;
}

async fn a_put_of_zeros_is_present_and_reads_as_zeros(world: &World) {
    let id = snap(1).zero(5).zero(4).build(world.store()).await;
    assert_holds(world.store(), &id, &[(4, 0), (5, 0)]).await;
}

async fn an_absent_block_reads_as_zeros(world: &World) {
    let id = snap(1).block(9, 0xFF).build(world.store()).await;
    for index in [0, 8, 10, 2047] {
        let block = world.store().get(&id, at(index)).await.unwrap();
        assert_eq!(block.digest(), Digest::ZERO_BLOCK);
    }
    assert_eq!(present(world.store(), &id, 0).await, [9]);
}

async fn a_snapshot_without_puts_is_empty(world: &World) {
    let id = snap(1).pending(world.store()).await;
    let nothing = Seal {
        count: 0,
        checksum: Some(Digest::of(b"")),
    };
    world.store().complete(&id, &nothing).await.unwrap();
    assert_holds(world.store(), &id, &[]).await;
}

async fn the_last_block_of_a_volume_can_be_put_and_read(world: &World) {
    let id = snap(3).block(3 * 2048 - 1, 7).build(world.store()).await;
    assert_holds(world.store(), &id, &[(3 * 2048 - 1, 7)]).await;
}

async fn an_index_outside_the_volume_is_refused(world: &World) {
    let pending = snap(1).pending(world.store()).await;
    let done = snap(1).block(0, 1).build(world.store()).await;
    for index in [2048, 4096, 1 << 27, u32::MAX].map(at) {
        let store = world.store();
        let put = store.put(&pending, index, &filled(1)).await;
        assert_eq!(kind(put), ErrorKind::Invalid);
        assert_eq!(kind(store.get(&done, index).await), ErrorKind::Invalid);
        assert_eq!(kind(store.blocks(&done, index).await), ErrorKind::Invalid);
        let changed = store.changed(&done, &done, index).await;
        assert_eq!(kind(changed), ErrorKind::Invalid);
    }
    // What was refused was not put.
    world.store().complete(&pending, &count(0)).await.unwrap();
    assert_holds(world.store(), &pending, &[]).await;
}

async fn a_pending_snapshot_cannot_be_read(world: &World) {
    let store = world.store();
    let parent = snap(1).block(0, 1).build(store).await;
    let child = snap(1).child_of(&parent).block(1, 2).pending(store).await;
    assert_eq!(kind(store.get(&child, at(1)).await), ErrorKind::Invalid);
    assert_eq!(kind(store.blocks(&child, at(0)).await), ErrorKind::Invalid);
    for (old, new) in [(&parent, &child), (&child, &parent)] {
        let changed = store.changed(old, new, at(0)).await;
        assert_eq!(kind(changed), ErrorKind::Invalid);
    }
}

async fn a_pending_snapshot_cannot_be_a_parent(world: &World) {
    let pending = snap(1).block(0, 1).pending(world.store()).await;
    let child = snap(1).child_of(&pending);
    let started = world.store().start(&child.new).await;
    assert_eq!(kind(started), ErrorKind::Invalid);
    assert_eq!(world.store().list().await.unwrap().len(), 1);
    // It was refused for now only: the same request succeeds later.
    world.store().complete(&pending, &count(1)).await.unwrap();
    world.store().start(&child.new).await.unwrap();
}

async fn a_completed_snapshot_takes_no_put_and_no_second_complete(world: &World) {
    let one = snap(1).block(0, 1);
    let id = one.build(world.store()).await;
    for index in [0, 1] {
        let put = world.store().put(&id, at(index), &filled(2)).await;
        assert_eq!(kind(put), ErrorKind::Invalid);
    }
    let again = world.store().complete(&id, &one.seal()).await;
    assert_eq!(kind(again), ErrorKind::Invalid);
    assert_holds(world.store(), &id, &[(0, 1)]).await;
}

async fn an_unknown_id_is_not_found_by_every_call(world: &World) {
    let store = world.store();
    let known = snap(1).block(0, 1).build(store).await;
    let id: SnapshotId = "snap-0123456789abcdef0".parse().unwrap();
    let not_found = ErrorKind::NotFound;
    assert_eq!(kind(store.info(&id).await), not_found);
    assert_eq!(kind(store.blocks(&id, at(0)).await), not_found);
    assert_eq!(kind(store.changed(&id, &known, at(0)).await), not_found);
    assert_eq!(kind(store.changed(&known, &id, at(0)).await), not_found);
    assert_eq!(kind(store.get(&id, at(0)).await), not_found);
    assert_eq!(kind(store.put(&id, at(0), &filled(1)).await), not_found);
    assert_eq!(kind(store.complete(&id, &count(0)).await), not_found);
    assert_eq!(kind(store.delete(&id).await), not_found);
    let child = snap(1).child_of(&id);
    assert_eq!(kind(store.start(&child.new).await), not_found);
    assert_eq!(store.list().await.unwrap().len(), 1);
}

async fn a_wrong_count_is_refused_and_leaves_it_pending(world: &World) {
    let three = snap(1).block(1, 1).block(2, 2).zero(3).block(1, 4);
    let id = three.pending(world.store()).await;
    for wrong in [0, 2, 4] {
        for checksum in [None, three.seal().checksum] {
            let seal = Seal {
                count: wrong,
                checksum,
            };
            let refused = world.store().complete(&id, &seal).await;
            assert_eq!(kind(refused), ErrorKind::Invalid);
        }
    }
    let info = world.store().info(&id).await.unwrap();
    assert_eq!(info.status, Status::Pending);
    // It still takes puts, and the right seal.
    let put = world.store().put(&id, at(9), &filled(9)).await;
    put.unwrap();
    let seal = three.block(9, 9).seal();
    world.store().complete(&id, &seal).await.unwrap();
    assert_holds(world.store(), &id, &[(1, 4), (2, 2), (3, 0), (9, 9)]).await;
}

async fn a_wrong_checksum_is_refused_and_leaves_it_pending(world: &World) {
    let two = snap(1).block(1, 1).block(2, 2);
    let id = two.pending(world.store()).await;
    let swapped = snap(1).block(1, 2).block(2, 1).seal();
    for wrong in [
        swapped.checksum,
        Some(Digest::of(b"")),
        Some(Digest::ZERO_BLOCK),
    ] {
        let seal = Seal {
            count: 2,
            checksum: wrong,
        };
        let refused = world.store().complete(&id, &seal).await;
        assert_eq!(kind(refused), ErrorKind::Invalid);
    }
    let info = world.store().info(&id).await.unwrap();
    assert_eq!(info.status, Status::Pending);
    world.store().complete(&id, &two.seal()).await.unwrap();
    assert_holds(world.store(), &id, &[(1, 1), (2, 2)]).await;
}

/// Computed once by another program from the service's description, not by the code under test.
async fn the_checksum_is_over_raw_digests_by_ascending_index(world: &World) {
    let out_of_order = snap(1).block(700, 0x22).zero(64).block(0, 0x11);
    let id = out_of_order.pending(world.store()).await;
    let seal = Seal {
        count: 3,
        checksum: Some(
            Digest::from_base64("tUT2722YYYShXvuCMeYB0D26LAQRDgqmihC7J4xnUTU=").unwrap(),
        ),
    };
    world.store().complete(&id, &seal).await.unwrap();
}

async fn the_checksum_of_a_single_block_is_not_its_digest(world: &World) {
    let id = snap(1).block(5, 0x22).pending(world.store()).await;
    let seal = |checksum| Seal {
        count: 1,
        checksum: Some(checksum),
    };
    let its_own = seal(filled(0x22).digest());
    let refused = world.store().complete(&id, &its_own).await;
    assert_eq!(kind(refused), ErrorKind::Invalid);
    let right = Digest::from_base64("4wDcu0HY3GkimxCOwKwO2Ql3hy8yC60DqXdt8FhIb+I=").unwrap();
    world.store().complete(&id, &seal(right)).await.unwrap();
}

async fn the_checksum_may_be_left_out(world: &World) {
    let id = snap(1).block(1, 1).pending(world.store()).await;
    world.store().complete(&id, &count(1)).await.unwrap();
    assert_holds(world.store(), &id, &[(1, 1)]).await;
}

async fn a_deleted_snapshot_is_unknown(world: &World) {
    let id = snap(1).block(1, 1).build(world.store()).await;
    let other = snap(1).block(1, 1).build(world.store()).await;
    // Read first, so that whatever is remembered of it is remembered.
    assert_holds(world.store(), &id, &[(1, 1)]).await;
    world.store().delete(&id).await.unwrap();
    assert_eq!(kind(world.store().info(&id).await), ErrorKind::NotFound);
    let get = world.store().get(&id, at(1)).await;
    assert_eq!(kind(get), ErrorKind::NotFound);
    let blocks = world.store().blocks(&id, at(0)).await;
    assert_eq!(kind(blocks), ErrorKind::NotFound);
    assert_eq!(kind(world.store().delete(&id).await), ErrorKind::NotFound);
    let left = world.store().list().await.unwrap();
    assert_eq!(
        left.iter().map(|info| &info.id).collect::<Vec<_>>(),
        [&other]
    );
    assert_holds(world.store(), &other, &[(1, 1)]).await;
}

async fn a_pending_snapshot_can_be_deleted(world: &World) {
    let id = snap(1).block(1, 1).pending(world.store()).await;
    world.store().delete(&id).await.unwrap();
    assert_eq!(kind(world.store().info(&id).await), ErrorKind::NotFound);
    let put = world.store().put(&id, at(2), &filled(2)).await;
    assert_eq!(kind(put), ErrorKind::NotFound);
    let complete = world.store().complete(&id, &count(1)).await;
    assert_eq!(kind(complete), ErrorKind::NotFound);
    assert!(world.store().list().await.unwrap().is_empty());
}

async fn a_store_tells_the_same_identity_always(world: &World) {
    let identity = world.store().identity();
    snap(1).block(1, 1).build(world.store()).await;
    assert!(!identity.is_empty());
    assert_eq!(world.store().identity(), identity);
}
