//! `start` with its client token and its limits, and how what it was told is listed.

use std::time::Duration;

use ebsfs::error::ErrorKind;
use ebsfs::snapshot::{Encryption, NewSnapshot, Status, Tags};

use super::World;
use crate::common::{assert_holds, count, gib, kind, minutes, snap};

behaviours! {
    the_same_start_again_gives_the_same_snapshot,
    the_same_start_after_completion_gives_the_completed_snapshot,
    the_token_of_a_deleted_snapshot_is_free,
    a_token_with_other_parameters_conflicts,
    equal_parameters_with_another_token_start_another,
    what_start_was_told_is_told_again,
    encryption_is_told_again_and_inherited,
    a_child_must_not_say_how_it_is_encrypted,
    snapshots_are_listed_by_start_time,
    a_start_outside_the_limits_is_refused,
    a_start_at_the_limits_is_accepted,
}

async fn the_same_start_again_gives_the_same_snapshot(world: &World) {
    let one = snap(1).block(1, 1).described("one").tag("k", "v");
    let id = one.pending(world.store()).await;
    world.time.advance(minutes(1));
    let again = world.store().start(&one.new).await.unwrap();
    assert_eq!(again, world.store().info(&id).await.unwrap());
    assert_eq!(again.id, id);
    assert_eq!(world.store().list().await.unwrap().len(), 1);
    // It kept what was put.
    world.store().complete(&id, &one.seal()).await.unwrap();
    assert_holds(world.store(), &id, &[(1, 1)]).await;
}

async fn the_same_start_after_completion_gives_the_completed_snapshot(world: &World) {
    let one = snap(1).block(1, 1);
    let id = one.build(world.store()).await;
    let again = world.store().start(&one.new).await.unwrap();
    assert_eq!((again.id, again.status), (id, Status::Completed));
    let other = world.store().start(&one.described("other").new).await;
    assert_eq!(kind(other), ErrorKind::Conflict);
}

async fn the_token_of_a_deleted_snapshot_is_free(world: &World) {
    let one = snap(1).block(1, 1);
    let id = one.build(world.store()).await;
    world.store().delete(&id).await.unwrap();
    let again = world.store().start(&one.new).await.unwrap();
    assert_ne!(again.id, id);
    assert_eq!(again.status, Status::Pending);
}

async fn a_token_with_other_parameters_conflicts(world: &World) {
    let parent = snap(1).build(world.store()).await;
    let other_parent = snap(1).build(world.store()).await;
    let first = snap(2).described("one").tag("k", "v").timeout(minutes(30));
    let first = first.child_of(&parent).new;
    let id = world.store().start(&first).await.unwrap().id;
    let mut others = [(); 7].map(|()| first.clone());
    others[0].volume_size = gib(3);
    others[1].description = "two".into();
    others[2].tags.insert("k".into(), "w".into());
    others[3].tags.clear();
    others[4].timeout = minutes(31);
    others[5].parent = Some(other_parent);
    others[6].parent = None;
    for other in &others {
        let refused = world.store().start(other).await;
        assert_eq!(kind(refused), ErrorKind::Conflict, "{other:?}");
    }
    assert_eq!(world.store().start(&first).await.unwrap().id, id);
    assert_eq!(world.store().list().await.unwrap().len(), 3);
}

async fn equal_parameters_with_another_token_start_another(world: &World) {
    let one = world.store().start(&snap(1).new).await.unwrap();
    let other = world.store().start(&snap(1).new).await.unwrap();
    assert_ne!(one.id, other.id);
}

async fn what_start_was_told_is_told_again(world: &World) {
    let parent = snap(1).build(world.store()).await;
    let new = snap(2).child_of(&parent).described("größer: \"x\"\n");
    let new = new.tag("Name", "root disk").tag("ключ", "");
    let started = world.store().start(&new.new).await.unwrap();
    assert_eq!(started.start_time, Some(world.time.now()));
    assert_eq!(started.parent.as_ref(), Some(&parent));
    assert_eq!(started.volume_size, gib(2));
    assert_eq!(started.description, new.new.description);
    assert_eq!(started.tags, new.new.tags);
    let told = world.store().info(&started.id).await.unwrap();
    assert_eq!(told, world.told(&started));

    world.time.advance(minutes(5));
    let completed = world.store().complete(&started.id, &count(0)).await;
    completed.unwrap();
    let mut expected = world.told(&started);
    expected.status = Status::Completed;
    assert_eq!(world.store().info(&started.id).await.unwrap(), expected);
    assert!(world.store().list().await.unwrap().contains(&expected));
}

fn with_key(key: &str) -> Option<Encryption> {
    let arn = format!("arn:aws:kms:us-east-1:012345678901:key/{key}");
    Some(Encryption {
        kms_key_arn: Some(arn),
    })
}

async fn encryption_is_told_again_and_inherited(world: &World) {
    let mut parent = snap(1);
    parent.new.encryption = with_key("one");
    let id = parent.build(world.store()).await;
    let told = world.store().info(&id).await.unwrap();
    assert_eq!(told.encryption, with_key("one"));
    let child = world.store().start(&snap(1).child_of(&id).new).await;
    assert_eq!(child.unwrap().encryption, with_key("one"));

    parent.new.encryption = with_key("two");
    let refused = world.store().start(&parent.new).await;
    assert_eq!(kind(refused), ErrorKind::Conflict);

    let mut default = snap(1);
    default.new.encryption = Some(Encryption::default());
    let started = world.store().start(&default.new).await.unwrap();
    assert!(started.encryption.is_some());
}

async fn a_child_must_not_say_how_it_is_encrypted(world: &World) {
    let parent = snap(1).build(world.store()).await;
    let mut child = snap(1).child_of(&parent);
    for encryption in [with_key("one"), Some(Encryption::default())] {
        child.new.encryption = encryption;
        let refused = world.store().start(&child.new).await;
        assert_eq!(kind(refused), ErrorKind::Invalid);
    }
}

async fn snapshots_are_listed_by_start_time(world: &World) {
    assert!(world.store().list().await.unwrap().is_empty());
    let mut ids = Vec::new();
    for i in 0..6 {
        let one = snap(1).zero(i);
        ids.push(match i % 2 {
            0 => one.build(world.store()).await,
            _ => one.pending(world.store()).await,
        });
        world.time.advance(Duration::from_millis(1));
    }
    let listed = world.store().list().await.unwrap();
    assert!(listed.iter().map(|info| &info.id).eq(&ids));
    for info in listed {
        assert_eq!(world.store().info(&info.id).await.unwrap(), info);
    }
}

fn tags(n: usize) -> Tags {
    (0..n).map(|i| (i.to_string(), String::new())).collect()
}

fn tag(key: usize, value: usize) -> Tags {
    Tags::from([("k".repeat(key), "ü".repeat(value))])
}

/// Makes one change to an acceptable request.
type Change = fn(&mut NewSnapshot);

async fn a_start_outside_the_limits_is_refused(world: &World) {
    let changes: [Change; 10] = [
        |new| new.timeout = minutes(10) - Duration::from_secs(1),
        |new| new.timeout = minutes(60) + Duration::from_secs(1),
        |new| new.description = "d".repeat(256),
        |new| new.tags = tags(51),
        |new| new.tags = tag(0, 1),
        |new| new.tags = tag(128, 1),
        |new| new.tags = tag(1, 256),
        |new| new.client_token = String::new(),
        |new| new.client_token = "t".repeat(65),
        |new| new.client_token = "é".into(),
    ];
    for change in changes {
        let mut new = snap(1).new;
        change(&mut new);
        let refused = world.store().start(&new).await;
        assert_eq!(kind(refused), ErrorKind::Invalid, "{new:?}");
    }
    assert!(world.store().list().await.unwrap().is_empty());
}

async fn a_start_at_the_limits_is_accepted(world: &World) {
    let changes: [Change; 7] = [
        |new| new.timeout = minutes(10),
        |new| new.timeout = minutes(60),
        |new| new.description = "ü".repeat(255),
        |new| new.tags = tags(50),
        |new| new.tags = tag(127, 255),
        |new| new.client_token = "t".repeat(64),
        |new| new.volume_size = gib(65536),
    ];
    for change in changes {
        let mut new = snap(1).new;
        change(&mut new);
        let started = world.store().start(&new).await.unwrap();
        assert_eq!(started.tags, new.tags);
    }
    assert_eq!(world.store().list().await.unwrap().len(), changes.len());
}
