//! A service that is not there for a while, answers late, or whose answers get lost.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ebsfs::error::ErrorKind;
use ebsfs::server::Faults;
use ebsfs::snapshot::{NewSnapshot, Status};
use ebsfs::store::Store;
use ebsfs::store::ebs::{Config, EbsStore, Limits};
use ebsfs::store::memory::MemoryStore;
use futures_util::future::join_all;

use crate::common::{assert_holds, at, block_on, filled, gib, snap};
use crate::program::Sandbox;
use crate::scripted::{Scripted, answer, refusal};
use crate::wire::{Wire, client};

fn limits(deadline: u64, attempt: u64) -> Limits {
    Limits {
        deadline: Duration::from_millis(deadline),
        attempt: Duration::from_millis(attempt),
    }
}

fn config(limits: Limits) -> Config {
    Config {
        reads: limits,
        writes: limits,
        ..Config::default()
    }
}

#[test]
fn an_endless_outage_ends_with_the_deadline_and_reads_work_again_afterwards() {
    let memory: Arc<dyn Store> = Arc::new(MemoryStore::new().unwrap());
    let id = block_on(snap(1).block(3, 7).build(&*memory));
    let wire = Wire::serve(Arc::clone(&memory), Faults::default());
    let address = wire.address;
    block_on(async {
        let (store, remote) = wire.client(config(limits(1500, 500))).await;
        store.get(&id, at(3)).await.unwrap();
        tokio::task::spawn_blocking(move || wire.end())
            .await
            .unwrap();
        let begin = Instant::now();
        let error = store.get(&id, at(3)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:#}");
        assert!(begin.elapsed() >= Duration::from_millis(1500));
        assert!(begin.elapsed() < Duration::from_secs(5));
        assert!(remote.retries.get() > 3);
        let back =
            tokio::task::spawn_blocking(move || Wire::serve_at(memory, Faults::default(), address));
        let _back = back.await.unwrap();
        // The server has new keys: the token of before is refused, which nobody sees.
        assert_eq!(store.get(&id, at(3)).await.unwrap(), filled(7));
    });
}

#[test]
fn a_server_that_accepts_and_is_silent_does_not_hold_a_call_for_ever() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    block_on(async {
        let (store, remote) = client(&url, config(limits(1000, 300))).await;
        let begin = Instant::now();
        let error = store.blocks(&"snap-0".parse().unwrap(), at(0)).await;
        assert_eq!(error.unwrap_err().kind(), ErrorKind::Unavailable);
        assert!(begin.elapsed() < Duration::from_secs(3));
        assert!(
            remote.timeouts.get() >= 2,
            "one attempt took the whole deadline"
        );
    });
}

#[test]
fn every_fault_at_once_is_unseen_by_many_readers_and_writers() {
    let faults = "latency=5ms,error=0.1,throttle=0.1,truncate=0.05,reset=0.05,corrupt=0.05,token-ttl=1s,rotate-tokens,seed=3";
    let wire = Wire::serve(
        Arc::new(MemoryStore::new().unwrap()),
        faults.parse().unwrap(),
    );
    block_on(async {
        let (store, remote) = wire.client(Config::default()).await;
        let snap = (0..60).fold(snap(1), |snap, i| snap.block(i * 30, i as u8 + 1));
        let id = store.start(&snap.new).await.unwrap().id;
        let put = |i: u32| {
            let (store, id) = (&store, &id);
            async move {
                store
                    .put(id, at(i * 30), &filled(i as u8 + 1))
                    .await
                    .unwrap()
            }
        };
        join_all((0..60).map(put)).await;
        store.complete(&id, &snap.seal()).await.unwrap();
        let expected: Vec<_> = (0..60).map(|i| (i * 30, i as u8 + 1)).collect();
        for _ in 0..2 {
            assert_holds(&*store, &id, &expected).await;
        }
        assert!(
            remote.corrupt.get() > 0 && remote.throttles.get() > 0,
            "{remote:?}"
        );
    });
}

#[test]
fn a_start_whose_answer_is_lost_starts_one_snapshot() {
    let memory: Arc<dyn Store> = Arc::new(MemoryStore::new().unwrap());
    let wire = Wire::serve(Arc::clone(&memory), "reset=0.5,seed=1".parse().unwrap());
    block_on(async {
        let (store, _) = wire.client(Config::default()).await;
        for _ in 0..10 {
            store
                .start(&NewSnapshot::new(gib(1)).unwrap())
                .await
                .unwrap();
        }
        assert_eq!(memory.list().await.unwrap().len(), 10);
    });
}

#[test]
fn a_complete_whose_answer_is_lost_is_complete() {
    for seed in 0..12 {
        let memory: Arc<dyn Store> = Arc::new(MemoryStore::new().unwrap());
        let faults = format!("reset=0.5,seed={seed}");
        let wire = Wire::serve(Arc::clone(&memory), faults.parse().unwrap());
        block_on(async {
            let (store, _) = wire.client(Config::default()).await;
            let snap = snap(1).block(1, 1);
            let id = snap.pending(&*store).await;
            store.complete(&id, &snap.seal()).await.unwrap();
            assert_eq!(memory.info(&id).await.unwrap().status, Status::Completed);
        });
    }
}

#[test]
fn a_put_right_after_a_start_waits_until_the_service_knows_the_snapshot() {
    let puts = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&puts);
    let server = Scripted::start(move |line| {
        let ok = "Content-Type: application/json\r\n";
        if line.starts_with("POST /snapshots ") {
            let body =
                br#"{"SnapshotId":"snap-0b","BlockSize":524288,"VolumeSize":1,"Status":"pending"}"#;
            return answer("201 Created", ok, body);
        }
        match counted.fetch_add(1, Ordering::SeqCst) {
            0..3 => refusal("404 Not Found", "ResourceNotFoundException", None),
            _ => answer("201 Created", ok, b"{}"),
        }
    });
    block_on(async {
        let (store, _) = client(&server.url(), Config::default()).await;
        let id = store.start(&snap(1).new).await.unwrap().id;
        store.put(&id, at(0), &filled(1)).await.unwrap();
        assert_eq!(puts.load(Ordering::SeqCst), 4);
        // One that it did not start is not waited for.
        puts.store(0, Ordering::SeqCst);
        let other = "snap-0c".parse().unwrap();
        let put = store.put(&other, at(0), &filled(1)).await;
        assert_eq!(put.unwrap_err().kind(), ErrorKind::NotFound);
    });
}

#[test]
fn without_ec2_a_snapshot_is_known_from_its_blocks() {
    let server = Scripted::start(|line| {
        match line.starts_with("POST / ") {
        true => answer(
            "403 Forbidden",
            "",
            b"<Response><Errors><Error><Code>UnauthorizedOperation</Code><Message>You are not authorized</Message></Error></Errors></Response>",
        ),
        false => answer(
            "200 OK",
            "Content-Type: application/json\r\n",
            br#"{"Blocks":[],"BlockSize":524288,"VolumeSize":3}"#,
        ),
    }
    });
    block_on(async {
        let (store, remote) = client(&server.url(), Config::default()).await;
        let id = "snap-0".parse().unwrap();
        let info = store.info(&id).await.unwrap();
        assert_eq!((info.volume_size, info.status), (gib(3), Status::Completed));
        assert_eq!(info.start_time, None);
        // One listing in all: the one that told the size is kept.
        store.blocks(&id, at(0)).await.unwrap();
        assert_eq!(remote.listings.get(), 1);
        let error = store.list().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied);
        let text = format!("{error:#}");
        assert!(
            text.contains("ec2:DescribeSnapshots") && text.contains("by their ids"),
            "{text}"
        );
    });
}

#[test]
fn an_archived_snapshot_says_how_to_get_it_back() {
    let server = Scripted::start(|_| {
        answer(
            "200 OK",
            "",
            b"<DescribeSnapshotsResponse><snapshotSet><item><snapshotId>snap-0</snapshotId><status>completed</status><volumeSize>1</volumeSize><storageTier>archive</storageTier></item></snapshotSet></DescribeSnapshotsResponse>",
        )
    });
    block_on(async {
        let (store, _) = client(&server.url(), Config::default()).await;
        let id = "snap-0".parse().unwrap();
        store.info(&id).await.unwrap();
        for error in [
            store.blocks(&id, at(0)).await.unwrap_err(),
            store.get(&id, at(0)).await.unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(
                format!("{error:#}").contains("restore-snapshot-tier"),
                "{error:#}"
            );
        }
    });
}

#[test]
fn who_has_no_region_or_no_credentials_is_told_at_once() {
    let sandbox = Sandbox::new();
    let begin = Instant::now();
    let aws = |arguments: &[&str]| sandbox.run(&[&["--store", "aws"], arguments].concat());
    aws(&["list"]).fails(2, &["no AWS region", "--region"]);
    aws(&["list", "--region", "us-east-1"]).fails(4, &["no AWS credentials", "--profile"]);
    aws(&["--region", "us-east-1", "info", "snap-0"]).fails(4, &["no AWS credentials"]);
    assert!(begin.elapsed() < Duration::from_secs(10));
    let mixed = ["--store", "store", "list", "--region", "us-east-1"];
    sandbox
        .run(&mixed)
        .fails(2, &["--region", "leave them out"]);
}

#[test]
fn a_store_is_known_by_its_partition_and_region_or_its_url() {
    block_on(async {
        for (url, identity) in [
            (None, "aws:aws-cn:cn-north-1"),
            (Some("http://127.0.0.1:1/"), "http://127.0.0.1:1"),
        ] {
            let mut config = crate::wire::aws("http://127.0.0.1:1").into_builder();
            config.set_region(aws_config::Region::new("cn-north-1"));
            config.set_endpoint_url(url.map(str::to_owned));
            let config = config.build();
            let store = EbsStore::with(&config, Config::default(), Arc::default()).await;
            assert_eq!(store.unwrap().identity(), identity);
        }
    });
}
