//! Many tasks at once.

use std::sync::Arc;

use ebsfs::error::ErrorKind;
use ebsfs::snapshot::Status;
use futures_util::future::join_all;

use super::World;
use crate::common::{assert_holds, at, filled, snap};

behaviours! {
    concurrent_puts_are_all_kept,
    concurrent_puts_of_one_index_leave_one_of_them,
    concurrent_starts_with_one_token_start_one_snapshot,
    of_concurrent_completes_one_succeeds,
    a_snapshot_is_always_found_while_it_is_completed,
}

async fn concurrent_puts_are_all_kept(world: &World) {
    let expected: Vec<(u32, u8)> = (0..64u8).map(|i| (u32::from(i) * 31, i % 9)).collect();
    let all = expected
        .iter()
        .fold(snap(1), |s, (i, byte)| s.block(*i, *byte));
    let id = world.store().start(&all.new).await.unwrap().id;
    let puts = expected.iter().map(|(index, byte)| {
        let (store, id, index, byte) = (world.shared(), id.clone(), *index, *byte);
        tokio::spawn(async move { store.put(&id, at(index), &filled(byte)).await })
    });
    for put in join_all(puts).await {
        put.unwrap().unwrap();
    }
    world.store().complete(&id, &all.seal()).await.unwrap();
    assert_holds(world.store(), &id, &expected).await;
}

async fn concurrent_puts_of_one_index_leave_one_of_them(world: &World) {
    let id = world.store().start(&snap(1).new).await.unwrap().id;
    let puts = (1..=16).map(|byte| {
        let (store, id) = (world.shared(), id.clone());
        tokio::spawn(async move { store.put(&id, at(7), &filled(byte)).await })
    });
    for put in join_all(puts).await {
        put.unwrap().unwrap();
    }
    let seals = (1..=16).map(|byte| (byte, snap(1).block(7, byte).seal()));
    let mut kept = None;
    for (byte, seal) in seals {
        if world.store().complete(&id, &seal).await.is_ok() {
            kept = Some(byte);
            break;
        }
    }
    // The checksum tells which one it is, and the bytes agree with it.
    assert_holds(world.store(), &id, &[(7, kept.unwrap())]).await;
}

async fn concurrent_starts_with_one_token_start_one_snapshot(world: &World) {
    let new = Arc::new(snap(1).new);
    let starts = (0..8).map(|_| {
        let (store, new) = (world.shared(), Arc::clone(&new));
        tokio::spawn(async move { store.start(&new).await.unwrap().id })
    });
    let ids: Vec<_> = join_all(starts).await;
    let first = ids.first().unwrap().as_ref().unwrap();
    assert!(ids.iter().all(|id| id.as_ref().unwrap() == first));
    assert_eq!(world.store().list().await.unwrap().len(), 1);
}

async fn of_concurrent_completes_one_succeeds(world: &World) {
    let one = snap(1).block(1, 1);
    let id = one.pending(world.store()).await;
    let completes = (0..8).map(|_| {
        let (store, id, seal) = (world.shared(), id.clone(), one.seal());
        tokio::spawn(async move { store.complete(&id, &seal).await })
    });
    let results: Vec<_> = join_all(completes).await;
    let (good, bad): (Vec<_>, Vec<_>) = results
        .into_iter()
        .map(|result| result.unwrap())
        .partition(|result| result.is_ok());
    assert_eq!(good.len(), 1);
    for refused in bad {
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Invalid);
    }
    assert_holds(world.store(), &id, &[(1, 1)]).await;
}

/// It goes from pending to completed in one step: nobody finds it gone in between.
async fn a_snapshot_is_always_found_while_it_is_completed(world: &World) {
    for _ in 0..400 {
        let one = snap(1).zero(1);
        let id = one.pending(world.store()).await;
        let watchers = (0..4).map(|_| {
            let (store, id) = (world.shared(), id.clone());
            tokio::spawn(async move {
                loop {
                    let listed = store.list().await.unwrap();
                    assert!(listed.iter().any(|info| info.id == id), "{id} not listed");
                    if store.info(&id).await.unwrap().status == Status::Completed {
                        break;
                    }
                }
            })
        });
        let watchers: Vec<_> = watchers.collect();
        world.store().complete(&id, &one.seal()).await.unwrap();
        for watcher in watchers {
            watcher.await.unwrap();
        }
        world.store().delete(&id).await.unwrap();
    }
}
