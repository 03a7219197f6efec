//! A server that means harm, or is none: each lie is a clear error, and takes neither memory nor time without bound.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ebsfs::block::{BLOCK_SIZE, Digest};
use ebsfs::error::{Error, ErrorKind};
use ebsfs::snapshot::SnapshotId;
use ebsfs::stats::Remote;
use ebsfs::store::Store as _;
use ebsfs::store::ebs::{Config, Limits};

use crate::common::{at, block_on};
use crate::scripted::{Scripted, answer, refusal};
use crate::wire::client;

fn id() -> SnapshotId {
    "snap-0a".parse().unwrap()
}

/// Patience for a test: what is retried to the deadline ends after a second.
fn config() -> Config {
    let limits = Limits {
        deadline: Duration::from_secs(1),
        attempt: Duration::from_millis(500),
    };
    Config {
        reads: limits,
        writes: limits,
        ..Config::default()
    }
}

fn json(body: &str) -> Vec<u8> {
    answer(
        "200 OK",
        "Content-Type: application/json\r\n",
        body.as_bytes(),
    )
}

/// A page with these blocks, and the end of its JSON.
fn page(blocks: &[i64], end: &str) -> Vec<u8> {
    let block = |index: &i64| format!(r#"{{"BlockIndex":{index},"BlockToken":"AAA="}}"#);
    let blocks: Vec<_> = blocks.iter().map(block).collect();
    json(&format!(r#"{{"Blocks":[{}],{end}}}"#, blocks.join(",")))
}

const END: &str = r#""BlockSize":524288,"VolumeSize":1,"ExpiryTime":9999999999.0"#;

fn block(body: &[u8], checksum: &str, algorithm: &str) -> Vec<u8> {
    let headers = format!(
        "x-amz-Data-Length: 524288\r\nx-amz-Checksum: {checksum}\r\nx-amz-Checksum-Algorithm: {algorithm}\r\n"
    );
    answer("200 OK", &headers, body)
}

/// The error of a listing that is answered so.
fn listing(answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> (Error, usize) {
    let server = Scripted::start(answer);
    let error = block_on(async {
        let (store, _) = client(&server.url(), config()).await;
        store.blocks(&id(), at(0)).await.unwrap_err()
    });
    (error, server.requests())
}

/// The error of a get whose block is answered so, and what was counted.
fn get(body: impl Fn() -> Vec<u8> + Send + Sync + 'static) -> (Error, Arc<Remote>) {
    let server = Scripted::start(move |line| match line.contains("/blocks/5") {
        true => body(),
        false => page(&[5], END),
    });
    block_on(async {
        let (store, remote) = client(&server.url(), config()).await;
        (store.get(&id(), at(5)).await.unwrap_err(), remote)
    })
}

#[test]
fn a_listing_that_cannot_be_is_an_error_at_once() {
    let size =
        |block_size: u32, volume: u32| format!(r#""BlockSize":{block_size},"VolumeSize":{volume}"#);
    for answer in [
        page(&[3, 2], END),
        page(&[3, 3], END),
        page(&[2048], END),
        page(&[-1], END),
        page(&[1], &size(512, 1)),
        page(&[1], &size(524_288, 0)),
        page(&[1], &size(524_288, 65_537)),
        page(&[1], r#""VolumeSize":1"#),
    ] {
        let text = String::from_utf8_lossy(&answer).into_owned();
        let (error, requests) = listing(move |_| answer.clone());
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{text}");
        assert!(
            format!("{error:#}").contains("the server's listing"),
            "{error:#}"
        );
        assert_eq!(requests, 1, "{text}");
    }
}

#[test]
fn pages_that_never_end_and_volumes_that_change_are_errors() {
    let count = AtomicUsize::new(0);
    let (error, _) = listing(move |_| {
        let n = count.fetch_add(1, Ordering::SeqCst);
        page(&[], &format!(r#"{END},"NextToken":"t{n}""#))
    });
    assert!(format!("{error:#}").contains("does not end"), "{error:#}");
    let (error, requests) = listing(|_| page(&[], &format!(r#"{END},"NextToken":"same""#)));
    assert!(format!("{error:#}").contains("does not end"), "{error:#}");
    assert_eq!(requests, 2);
    let count = AtomicUsize::new(0);
    let (error, _) = listing(move |_| {
        let n = count.fetch_add(1, Ordering::SeqCst) + 1;
        let end = format!(r#""BlockSize":524288,"VolumeSize":{n},"NextToken":"t{n}""#);
        page(&[], &end)
    });
    assert!(
        format!("{error:#}").contains("changes the size"),
        "{error:#}"
    );
}

#[test]
fn what_is_no_listing_at_all_is_an_error() {
    for garbage in ["<html>", "[]", "{\"Blocks\":7", "", "{\"Blocks\":{}}"] {
        let (error, requests) = listing(move |_| json(garbage));
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{garbage}: {error:#}");
        assert!(requests <= 8, "{garbage}");
    }
    let (error, _) = listing(|_| json(&" ".repeat(9 << 20)));
    assert!(format!("{error:#}").contains("longer than"), "{error:#}");
}

#[test]
fn a_long_refusal_is_told_shortly() {
    let long = "x".repeat(10 << 20);
    let (error, _) = listing(move |_| answer("403 Forbidden", "", long.as_bytes()));
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(format!("{error:#}").len() < 2000);
    assert!(
        format!("{error:#}").contains("ebs:ListSnapshotBlocks"),
        "{error:#}"
    );
}

#[test]
fn a_redirect_is_not_followed() {
    let elsewhere = Scripted::start(|_| page(&[], END));
    let location = format!("Location: {}/\r\n", elsewhere.url());
    let (error, requests) = listing(move |_| answer("307 Temporary Redirect", &location, b""));
    assert!(format!("{error:#}").contains("redirect"), "{error:#}");
    assert_eq!((requests, elsewhere.requests()), (1, 0));
}

#[test]
fn a_body_that_is_no_block_never_becomes_one() {
    let zeros = vec![0; BLOCK_SIZE];
    let right = Digest::ZERO_BLOCK.to_base64();
    let wrong = Digest::of(b"").to_base64();
    let long = vec![0; BLOCK_SIZE + 1];
    for (body, checksum, algorithm) in [
        (&long[..], &right, "SHA256"),
        (&zeros[1..], &right, "SHA256"),
        (&zeros, &wrong, "SHA256"),
        (&zeros, &right, "MD5"),
        (&zeros, &"nonsense".to_owned(), "SHA256"),
    ] {
        let answer = block(body, checksum, algorithm);
        let (error, remote) = get(move || answer.clone());
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:#}");
        assert!(
            format!("{error:#}").contains("block 5 of snap-0a"),
            "{error:#}"
        );
        assert!(remote.corrupt.get() > 1, "it was not fetched again");
    }
    let (error, _) = get(move || answer("200 OK", "", &zeros));
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:#}");
}

#[test]
fn no_more_than_a_block_is_read_of_a_body_without_end() {
    let begin = Instant::now();
    let (error, _) = get(|| {
        let mut answer = block(&[], &Digest::ZERO_BLOCK.to_base64(), "SHA256");
        let text = String::from_utf8(answer).unwrap();
        answer = text
            .replace("Content-Length: 0", "Content-Length: 99999999999")
            .into_bytes();
        answer.resize(answer.len() + (64 << 20), 0);
        answer
    });
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:#}");
    assert!(begin.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_corrupt_block_is_fetched_again_and_then_right() {
    let first = AtomicUsize::new(0);
    let server = Scripted::start(move |line| {
        if !line.contains("/blocks/5") {
            return page(&[5], END);
        }
        let mut body = vec![7; BLOCK_SIZE];
        let checksum = Digest::of(&body).to_base64();
        if first.fetch_add(1, Ordering::SeqCst) < 2 {
            body[4711] ^= 1;
        }
        block(&body, &checksum, "SHA256")
    });
    block_on(async {
        let (store, remote) = client(&server.url(), config()).await;
        let block = store.get(&id(), at(5)).await.unwrap();
        assert!(block.bytes().iter().all(|byte| *byte == 7));
        assert_eq!(remote.corrupt.get(), 2);
        assert_eq!(remote.retries.get(), 2);
    });
}

#[test]
fn a_refusal_ends_the_call_at_once_and_a_fault_does_not() {
    for (status, code, reason, kind) in [
        (
            "403 Forbidden",
            "AccessDeniedException",
            None,
            ErrorKind::Denied,
        ),
        (
            "404 Not Found",
            "ResourceNotFoundException",
            None,
            ErrorKind::NotFound,
        ),
        (
            "402 Payment Required",
            "ServiceQuotaExceededException",
            None,
            ErrorKind::Unavailable,
        ),
        (
            "400 Bad Request",
            "ValidationException",
            Some("INVALID_BLOCK"),
            ErrorKind::Invalid,
        ),
    ] {
        let (error, remote) = get(move || refusal(status, code, reason));
        assert_eq!(error.kind(), kind, "{error:#}");
        assert!(format!("{error:#}").contains("it is so"), "{error:#}");
        assert_eq!(remote.requests.get(), 2, "{code}");
    }
    for (status, code) in [
        ("500 Internal Server Error", "InternalServerException"),
        ("400 Bad Request", "RequestThrottledException"),
        ("503 Service Unavailable", ""),
    ] {
        let (error, remote) = get(move || refusal(status, code, None));
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:#}");
        assert!(format!("{error:#}").contains("gave up"), "{error:#}");
        assert!(remote.retries.get() > 2, "{code}");
    }
}
