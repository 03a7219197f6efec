//! A pending snapshot that nobody puts to is lost.

use std::time::Duration;

use ebsfs::error::ErrorKind;
use ebsfs::snapshot::Status;

use super::World;
use crate::common::{assert_holds, at, count, filled, kind, minutes, snap};

behaviours! {
    after_its_timeout_a_pending_snapshot_is_an_error,
    a_put_restarts_the_timeout,
    a_refused_call_does_not_restart_the_timeout,
    a_completed_snapshot_has_no_timeout,
}

async fn after_its_timeout_a_pending_snapshot_is_an_error(world: &World) {
    let short = snap(1).timeout(minutes(10)).block(1, 1);
    let id = short.pending(world.store()).await;
    let long = snap(1).timeout(minutes(11)).pending(world.store()).await;
    world.time.advance(minutes(10) + Duration::from_secs(1));

    let info = world.store().info(&id).await.unwrap();
    assert_eq!(info.status, Status::Error);
    let listed = world.store().list().await.unwrap();
    assert!(listed.contains(&info));
    let put = world.store().put(&id, at(1), &filled(1)).await;
    assert_eq!(kind(put), ErrorKind::Invalid);
    let complete = world.store().complete(&id, &short.seal()).await;
    assert_eq!(kind(complete), ErrorKind::Invalid);
    assert_eq!(
        kind(world.store().get(&id, at(1)).await),
        ErrorKind::Invalid
    );
    let child = world.store().start(&snap(1).child_of(&id).new).await;
    assert_eq!(kind(child), ErrorKind::Invalid);
    let again = world.store().start(&short.new).await.unwrap();
    assert_eq!((again.id, again.status), (id.clone(), Status::Error));

    // None of these brought it back; the other one has a minute left.
    let info = world.store().info(&id).await.unwrap();
    assert_eq!(info.status, Status::Error);
    world.store().complete(&long, &count(0)).await.unwrap();
    world.store().delete(&id).await.unwrap();
    assert_eq!(world.store().list().await.unwrap().len(), 1);
}

async fn a_put_restarts_the_timeout(world: &World) {
    let one = snap(1).timeout(minutes(10));
    let id = one.pending(world.store()).await;
    for index in 0..4 {
        world.time.advance(minutes(9));
        let put = world.store().put(&id, at(index), &filled(7)).await;
        put.unwrap();
    }
    world.time.advance(minutes(10));
    world.store().complete(&id, &count(4)).await.unwrap();
    assert_holds(world.store(), &id, &[(0, 7), (1, 7), (2, 7), (3, 7)]).await;
}

async fn a_refused_call_does_not_restart_the_timeout(world: &World) {
    let id = snap(1).timeout(minutes(10)).pending(world.store()).await;
    world.time.advance(minutes(9));
    let put = world.store().put(&id, at(2048), &filled(1)).await;
    assert_eq!(kind(put), ErrorKind::Invalid);
    let complete = world.store().complete(&id, &count(1)).await;
    assert_eq!(kind(complete), ErrorKind::Invalid);
    world.time.advance(minutes(2));
    let info = world.store().info(&id).await.unwrap();
    assert_eq!(info.status, Status::Error);
}

async fn a_completed_snapshot_has_no_timeout(world: &World) {
    let id = snap(1).block(1, 1).build(world.store()).await;
    world.time.advance(minutes(100_000));
    let info = world.store().info(&id).await.unwrap();
    assert_eq!(info.status, Status::Completed);
    assert_holds(world.store(), &id, &[(1, 1)]).await;
}
