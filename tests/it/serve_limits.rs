//! Every documented limit, and the error that the documents give for what is beyond it.

use ebsfs::block::{BLOCK_SIZE, Digest};
use serde_json::{Value, json};

use crate::server::{Call, Server, linear};

const VALUE: &str = "400 ValidationException INVALID_PARAMETER_VALUE";

#[test]
fn start_takes_what_the_documents_permit_and_nothing_else() {
    let server = Server::start(&[]);
    let start = |body: &Value| server.send(&Call::post("/snapshots", body.to_string().as_bytes()));
    let with = |name: &str, value: Value| {
        let mut body = json!({ "VolumeSize": 1 });
        body[name] = value;
        body
    };
    let tags = |n: usize| -> Value { (0..n).map(|i| json!({ "Key": i.to_string() })).collect() };
    let tag = |k: usize, v: usize| json!([{ "Key": "k".repeat(k), "Value": "v".repeat(v) }]);
    let arn = "arn:aws:kms:us-east-1:012345678901:key/a";
    let parent = server.snapshot(&[]);
    for good in [
        with("VolumeSize", json!(65536)),
        with("Description", json!("ä".repeat(255))),
        with("ClientToken", json!("t".repeat(255))),
        with("ClientToken", json!("töken")),
        with("Tags", tags(50)),
        with("Tags", tag(127, 255)),
        with("Timeout", json!(10)),
        with("Timeout", json!(60)),
        with("Encrypted", json!(true)),
        with("Encrypted", json!(false)),
        with("KmsKeyArn", json!(arn)),
        with("ParentSnapshotId", json!(parent)),
        with("ParentSnapshot", json!("is not a field")),
        with("Tags", Value::Null),
    ] {
        let reply = start(&good);
        assert_eq!(reply.status, 201, "{good}: {reply:?}");
    }
    let size = "400 ValidationException INVALID_VOLUME_SIZE";
    let bad_tag = "400 ValidationException INVALID_TAG";
    let bad_id = "400 ValidationException INVALID_SNAPSHOT_ID";
    let both = |name: &str, value: Value| {
        let mut body = with("ParentSnapshotId", json!(parent));
        body[name] = value;
        body
    };
    let twice = json!([{ "Key": "a" }, { "Key": "a" }]);
    for (bad, wanted) in [
        (json!({}), size),
        (with("VolumeSize", json!(0)), size),
        (with("VolumeSize", json!(-1)), size),
        (with("VolumeSize", json!(65537)), size),
        (with("VolumeSize", json!("1")), VALUE),
        (with("VolumeSize", json!(1.5)), VALUE),
        (with("Description", json!("d".repeat(256))), VALUE),
        (with("ClientToken", json!("t".repeat(256))), VALUE),
        (with("ClientToken", json!("")), VALUE),
        (with("ClientToken", json!("a b")), VALUE),
        (with("Tags", tags(51)), bad_tag),
        (with("Tags", tag(0, 1)), bad_tag),
        (with("Tags", tag(128, 1)), bad_tag),
        (with("Tags", tag(1, 256)), bad_tag),
        (with("Tags", twice), bad_tag),
        (with("Timeout", json!(9)), VALUE),
        (with("Timeout", json!(61)), VALUE),
        (with("Timeout", json!(-1)), VALUE),
        (with("KmsKeyArn", json!("alias/mine")), VALUE),
        (with("ParentSnapshotId", json!("snap-X")), bad_id),
        (with("ParentSnapshotId", json!("vol-1")), bad_id),
        (both("Encrypted", json!(true)), VALUE),
        (both("Encrypted", json!(false)), VALUE),
        (both("KmsKeyArn", json!(arn)), VALUE),
        (json!([1]), VALUE),
    ] {
        assert_eq!(start(&bad).error(), wanted, "{bad}");
    }
    let reply = server.send(&Call::post("/snapshots", b"{"));
    assert_eq!(reply.error(), VALUE);
    let unknown = start(&with("ParentSnapshotId", json!("snap-0")));
    assert_eq!(
        unknown.error(),
        "404 ResourceNotFoundException SNAPSHOT_NOT_FOUND"
    );
    let pending = server.started(1);
    let of_pending = start(&with("ParentSnapshotId", json!(pending)));
    assert_eq!(of_pending.error(), VALUE);
}

#[test]
fn a_repeated_start_gives_the_first_result_or_a_conflict() {
    let server = Server::start(&[]);
    for token in ["t", &"t".repeat(255)] {
        let body = json!({ "VolumeSize": 1, "ClientToken": token }).to_string();
        let first = server.started_as(&body);
        assert_eq!(server.started_as(&body), first);
        let other = json!({ "VolumeSize": 2, "ClientToken": token }).to_string();
        let reply = server.send(&Call::post("/snapshots", other.as_bytes()));
        assert_eq!(reply.error(), "503 ConflictException");
    }
    assert_ne!(
        server.started(1),
        server.started(1),
        "each has its own token"
    );
}

#[test]
fn put_takes_whole_true_blocks_of_pending_snapshots() {
    let server = Server::start(&[]);
    let id = server.started(1);
    let block = vec![7; BLOCK_SIZE];
    let put = || Call::put(&id, 2047, &block);
    let with = |name: &str, value: &str| put().without(name).header(name, value);
    let send = |call: &Call| server.send(call);
    for good in [
        put(),
        put().header("x-amz-Progress", "0"),
        put().header("x-amz-Progress", "100"),
    ] {
        assert_eq!(send(&good).status, 201);
    }
    let (length, sum) = ("x-amz-Data-Length", "x-amz-Checksum");
    let algorithm = "x-amz-Checksum-Algorithm";
    for bad in [
        put().without(length),
        put().without(sum),
        put().without(algorithm),
        with(length, "524287"),
        with(length, "0524288"),
        with(algorithm, "SHA1"),
        with(sum, "AAAA"),
        with(sum, "no base64"),
        put().header(sum, "B4VNL+8pega6gWheZgwzLeNtXRjVRpJ9MNqtbX/aFUE="),
        put().header("x-amz-Progress", "101"),
        put().header("x-amz-Progress", "-1"),
        put().header("x-amz-Progress", "half"),
        Call::put(&id, 2048, &block),
        Call::put(&id, u32::MAX, &block),
    ] {
        assert_eq!(send(&bad).error(), VALUE, "{:?}", bad.headers);
    }
    let invalid = "400 ValidationException INVALID_BLOCK";
    let other = Digest::of(b"other").to_base64();
    assert_eq!(send(&with(sum, &other)).error(), invalid);
    let mut short = put();
    short.body.pop();
    assert_eq!(send(&short).error(), invalid);
    let mut long = put();
    long.body.push(0);
    assert_eq!(send(&long).error(), "413 RequestEntityTooLarge");
    let mut negative = put();
    negative.target = format!("/snapshots/{id}/blocks/-1");
    assert_eq!(send(&negative).error(), VALUE);
    let bad_id = Call::put("snap-X", 0, &block);
    assert_eq!(
        send(&bad_id).error(),
        "400 ValidationException INVALID_SNAPSHOT_ID"
    );
    let missing = "404 ResourceNotFoundException SNAPSHOT_NOT_FOUND";
    assert_eq!(send(&Call::put("snap-0", 0, &block)).error(), missing);
    assert_eq!(send(&Call::complete(&id, 1)).status, 202);
    assert_eq!(send(&put()).error(), VALUE, "completed");
}

#[test]
fn complete_holds_the_count_and_the_checksum() {
    let server = Server::start(&[]);
    let id = server.started(1);
    let blocks = [vec![1; BLOCK_SIZE], vec![2; BLOCK_SIZE]];
    for (index, block) in (0..).zip(&blocks) {
        assert_eq!(server.send(&Call::put(&id, index, block)).status, 201);
    }
    let (sum, algorithm) = ("x-amz-Checksum", "x-amz-Checksum-Algorithm");
    let method = "x-amz-Checksum-Aggregation-Method";
    let complete = || {
        Call::complete(&id, 2)
            .header(sum, &linear(&blocks))
            .header(algorithm, "SHA256")
            .header(method, "LINEAR")
    };
    let with = |name: &str, value: &str| complete().without(name).header(name, value);
    let count = "x-amz-ChangedBlocksCount";
    for bad in [
        complete().without(count),
        with(count, "1"),
        with(count, "-1"),
        with(count, "two"),
        complete().without(algorithm),
        complete().without(method),
        with(algorithm, "SHA512"),
        with(method, "TREE"),
        with(sum, &linear(&blocks[..1])),
        with(sum, "x"),
        complete()
            .without(sum)
            .without(method)
            .without(algorithm)
            .header(method, "TREE"),
    ] {
        assert_eq!(server.send(&bad).error(), VALUE, "{:?}", bad.headers);
    }
    let missing = "404 ResourceNotFoundException SNAPSHOT_NOT_FOUND";
    assert_eq!(server.send(&Call::complete("snap-0", 0)).error(), missing);
    assert_eq!(server.send(&complete()).status, 202);
    assert_eq!(server.send(&complete()).error(), VALUE, "a second time");
}

#[test]
fn lists_give_pages_of_the_size_asked_for() {
    let server = Server::start(&[]);
    let indexes: Vec<u32> = (0..250).map(|i| i * 2).collect();
    let blocks: Vec<_> = indexes.iter().map(|i| (*i, 0)).collect();
    let id = server.snapshot(&blocks);
    for (action, list) in [("blocks", "Blocks"), ("changedblocks", "ChangedBlocks")] {
        let page = |query: &str| {
            let reply = server.send(&Call::get(&format!("/snapshots/{id}/{action}?{query}")));
            assert_eq!(reply.status, 200, "{query}: {reply:?}");
            let page = reply.json();
            let found: Vec<u32> = page[list]
                .as_array()
                .unwrap()
                .iter()
                .map(|block| block["BlockIndex"].as_u64().unwrap().try_into().unwrap())
                .collect();
            (found, page["NextToken"].as_str().map(str::to_owned))
        };
        for (query, count) in [
            ("", 100),
            ("maxResults=0", 100),
            ("maxResults=1", 100),
            ("maxResults=101", 101),
            ("maxResults=250", 250),
            ("maxResults=10000", 250),
        ] {
            let (found, next) = page(query);
            assert_eq!(found, indexes[..count], "{query}");
            assert_eq!(next.is_some(), count < 250, "{query}");
        }
        // This index or the next one present; past the last there is nothing.
        for (start, first) in [(0, 0), (1, 2), (2, 2), (497, 498)] {
            let (found, _) = page(&format!("startingBlockIndex={start}"));
            assert_eq!(found[0], first);
        }
        for start in [499, 2048, 99999] {
            let (found, next) = page(&format!("startingBlockIndex={start}"));
            assert_eq!((found.len(), next), (0, None), "{start}");
        }
        // All pages, the token winning over where to start.
        let (mut all, mut next) = page("startingBlockIndex=0");
        while let Some(token) = next {
            let more = page(&format!("pageToken={token}&startingBlockIndex=7"));
            all.extend(more.0);
            next = more.1;
        }
        assert_eq!(all, indexes);
        let refused = |query: &str| {
            let call = Call::get(&format!("/snapshots/{id}/{action}?{query}"));
            server.send(&call).error()
        };
        for bad in [
            "maxResults=10001",
            "maxResults=-1",
            "maxResults=x",
            "maxResults=100&maxResults=100",
            "startingBlockIndex=-1",
            "startingBlockIndex=x",
        ] {
            assert_eq!(refused(bad), VALUE, "{bad}");
        }
        let bad_token = "400 ValidationException INVALID_PAGE_TOKEN";
        for bad in ["", "x", "00", "%C3%A4", &"0".repeat(257)] {
            assert_eq!(refused(&format!("pageToken={bad}")), bad_token, "{bad}");
        }
    }
}

#[test]
fn what_cannot_be_read_is_refused_with_the_reason() {
    let server = Server::start(&[]);
    let (one, other) = (server.snapshot(&[(0, 1)]), server.snapshot(&[(0, 1)]));
    let pending = server.started(1);
    let get = |target: String| server.send(&Call::get(&target)).error();
    let unrelated = "400 ValidationException UNRELATED_SNAPSHOTS";
    let missing = "404 ResourceNotFoundException SNAPSHOT_NOT_FOUND";
    let bad_id = "400 ValidationException INVALID_SNAPSHOT_ID";
    let changed =
        |a: &str, b: &str| get(format!("/snapshots/{b}/changedblocks?firstSnapshotId={a}"));
    assert_eq!(changed(&one, &other), unrelated);
    assert_eq!(changed(&one, &pending), VALUE);
    assert_eq!(changed(&pending, &one), VALUE);
    assert_eq!(changed("snap-0", &one), missing);
    assert_eq!(changed(&one, "snap-0"), missing);
    assert_eq!(changed("snap-", &one), bad_id);
    assert_eq!(get(format!("/snapshots/{pending}/blocks")), VALUE);
    assert_eq!(get("/snapshots/snap-A/blocks".into()), bad_id);
    assert_eq!(
        get(format!("/snapshots/{}/blocks", "snap-".repeat(20))),
        bad_id
    );
    assert_eq!(
        get(format!("/snapshots/{pending}/blocks/0?blockToken=00")),
        VALUE
    );
    for (method, target, status) in [
        ("GET", "/snapshots", 405),
        ("DELETE", "/snapshots/snap-0/blocks/0", 405),
        ("GET", "/snapshots/snap-0", 404),
        ("GET", "/favicon.ico", 404),
    ] {
        let reply = server.send(&Call::new(method, target, b""));
        assert_eq!(reply.error(), format!("{status} UnknownOperationException"));
    }
    // Another process deletes it: noticed within a second, though it was open.
    let target = format!("/snapshots/{one}/blocks");
    assert_eq!(server.send(&Call::get(&target)).status, 200);
    server.sandbox.run(&["delete", "--yes", &one]).succeeds();
    crate::program::wait_until("the server notices", || {
        server.send(&Call::get(&target)).status == 404
    });
}
