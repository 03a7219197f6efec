//! The server's misbehaviour: each kind as asked for, and the same sequence for the same seed.

use std::time::{Duration, Instant};

use ebsfs::block::{BLOCK_SIZE, Digest};

use crate::program::wait_until;
use crate::server::{Call, Server};

/// What becomes of requests, one letter each.
fn fates(server: &Server, call: &Call, count: usize) -> String {
    let fate = |bytes: &[u8]| match server.exchange(bytes) {
        Err(broken) if broken.got.is_empty() => 'r',
        Err(_) => 't',
        Ok(reply) if reply.status == 200 => {
            let sum = reply.headers.get("x-amz-checksum");
            let good = sum.is_none_or(|sum| *sum == Digest::of(&reply.body).to_base64());
            if good { '.' } else { 'c' }
        }
        Ok(reply) => match reply.error().as_str() {
            "500 InternalServerException" => 'e',
            "400 RequestThrottledException RESOURCE_LEVEL_THROTTLE" => '1',
            "400 ThrottlingException ACCOUNT_THROTTLED" => '2',
            "503 ServiceUnavailable" => '3',
            other => panic!("{other}"),
        },
    };
    (0..count).map(|_| fate(&server.signed(call))).collect()
}

const MANY: &str = "error=0.1,throttle=0.3,reset=0.1,truncate=0.1,corrupt=0.1,seed=";

#[test]
fn faults_are_the_same_for_the_same_seed() {
    let maker = Server::start(&[]);
    let id = maker.snapshot(&[(0, 7)]);
    let (mut sandbox, _) = maker.stop();
    let mut seen = Vec::new();
    for seed in ["5", "5", "6"] {
        let server = Server::start_in(sandbox, &["--fault", &format!("{MANY}{seed}")]);
        // The token takes lots of its own; as many each time.
        let listed = (0..20).find_map(|_| {
            let call = Call::get(&format!("/snapshots/{id}/blocks"));
            let reply = server.exchange(&server.signed(&call)).ok();
            let reply = reply.filter(|reply| reply.status == 200)?;
            Some(reply.json()["Blocks"][0]["BlockToken"].as_str()?.to_owned())
        });
        let call = Call::get(&format!(
            "/snapshots/{id}/blocks/0?blockToken={}",
            listed.unwrap()
        ));
        seen.push(fates(&server, &call, 150));
        // Requests that are not signed draw no lots.
        let plain = server.send_raw(&call.plain(server.address));
        assert_eq!(plain.error(), "403 MissingAuthenticationToken");
        sandbox = server.stop().0;
    }
    assert_eq!(seen[0], seen[1]);
    assert_ne!(seen[0], seen[2]);
    for fate in ".re123tc".chars() {
        assert!(seen[0].contains(fate), "no {fate} in {}", seen[0]);
    }
}

#[test]
fn a_corrupt_block_differs_in_one_bit_and_lists_stay_whole() {
    let server = Server::start(&["--fault", "corrupt=1"]);
    let id = server.snapshot(&[(0, 7)]);
    let token = server.token(&id, 0);
    let call = Call::get(&format!("/snapshots/{id}/blocks/0?blockToken={token}"));
    let reply = server.send(&call);
    assert_eq!(
        reply.headers["x-amz-checksum"],
        Digest::of(&[7; BLOCK_SIZE]).to_base64()
    );
    let flipped: u32 = reply.body.iter().map(|byte| (byte ^ 7).count_ones()).sum();
    assert_eq!(flipped, 1);
}

#[test]
fn a_truncated_answer_breaks_off_in_the_middle() {
    let server = Server::start(&["--fault", "truncate=1"]);
    let call = Call::post("/snapshots", br#"{"VolumeSize":1}"#);
    let broken = server.exchange(&server.signed(&call)).unwrap_err();
    let got = String::from_utf8(broken.got).unwrap();
    let (head, body) = got.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 201"), "{head}");
    assert!(head.contains("content-length: "), "{head}");
    assert!(body.starts_with('{') && !body.contains('}'), "{body}");
    // It was done all the same.
    assert_eq!(server.sandbox.pending(), 1);
}

#[test]
fn puts_and_ec2_are_befallen_too() {
    let server = Server::start(&["--fault", "error=1"]);
    let put = Call::put("snap-0", 0, &[0; BLOCK_SIZE]);
    assert_eq!(server.send(&put).error(), "500 InternalServerException");
    let describe = Call::ec2("Action=DescribeSnapshots");
    assert_eq!(server.send(&describe).ec2_error(), "500 InternalError");
    let server = Server::start(&["--fault", "throttle=1"]);
    let mut codes: Vec<_> = (0..30)
        .map(|_| server.send(&describe).ec2_error())
        .collect();
    codes.sort();
    codes.dedup();
    assert_eq!(codes, ["503 RequestLimitExceeded", "503 Unavailable"]);
    let server = Server::start(&["--fault", "reset=1"]);
    for _ in 0..5 {
        let broken = server.exchange(&server.signed(&put)).unwrap_err();
        assert_eq!(broken.got, b"");
    }
}

#[test]
fn every_answer_comes_later_by_the_latency() {
    let server = Server::start(&["--fault", "latency=200ms"]);
    let start = Instant::now();
    server.send(&Call::get("/snapshots/snap-0/blocks"));
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(200), "{took:?}");
}

#[test]
fn a_completed_snapshot_stays_pending_as_long_as_asked_for() {
    let server = Server::start(&["--fault", "complete-after=2s"]);
    let id = server.started(1);
    let since = Instant::now();
    let reply = server.send(&Call::complete(&id, 0));
    assert_eq!(reply.text(), r#"{"Status":"pending"}"#);
    let status = || {
        let form = format!("Action=DescribeSnapshots&SnapshotId.1={id}");
        let text = server.send(&Call::ec2(&form)).text();
        crate::server::between(&text, "<status>", "</status>").to_owned()
    };
    assert_eq!(status(), "pending");
    let value = "400 ValidationException INVALID_PARAMETER_VALUE";
    let list = Call::get(&format!("/snapshots/{id}/blocks"));
    assert_eq!(server.send(&list).error(), value);
    let child = format!(r#"{{"VolumeSize":1,"ParentSnapshotId":"{id}"}}"#);
    let start = Call::post("/snapshots", child.as_bytes());
    assert_eq!(server.send(&start).error(), value);
    assert_eq!(
        server.send(&Call::put(&id, 0, &[0; BLOCK_SIZE])).error(),
        value
    );
    assert_eq!(server.send(&Call::complete(&id, 0)).error(), value);
    assert_eq!(status(), "pending", "whatever was tried");
    wait_until("it is completed", || status() == "completed");
    assert!(since.elapsed() >= Duration::from_secs(2));
    assert_eq!(server.send(&list).status, 200);
    assert_eq!(server.send(&start).status, 201);
}
