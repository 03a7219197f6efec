//! Who gets in, over the wire. What a signature covers in detail is tested beside the verifier.

use std::fs;
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use ebsfs::block::BLOCK_SIZE;

use crate::program::Sandbox;
use crate::server::{Call, Server};

fn key(id: &str, secret: &str, token: Option<&str>) -> Credentials {
    Credentials::new(id, secret, token.map(str::to_owned), None, "test")
}

#[test]
fn signed_requests_of_every_kind_are_taken() {
    let server = Server::start(&[]);
    let id = server.snapshot(&[(0, 1)]);
    let list = Call::get(&format!("/snapshots/{id}/blocks"));
    let start = Call::post("/snapshots", br#"{"VolumeSize":1}"#);
    let describe = Call::ec2("Action=DescribeSnapshots");
    let query = Call::get("/?Action=DescribeSnapshots&Version=2016-11-15").for_service("ec2");
    let hour = Duration::from_secs(3600);
    for call in [
        list.clone(),
        list.clone().stated_payload(),
        list.clone().in_region("eu-central-1"),
        list.clone().presigned(hour),
        list.header("x-amz-anything", " two   blanks "),
        start.clone(),
        start.clone().stated_payload(),
        start.presigned(hour),
        describe.clone(),
        describe.clone().stated_payload(),
        describe.presigned(hour),
        query.clone(),
        query.presigned(hour),
    ] {
        let reply = server.send(&call);
        let good = [200, 201].contains(&reply.status);
        assert!(good, "{} {}: {reply:?}", call.method, call.target);
    }
    let pending = server.started(1);
    let mut put = Call::put(&pending, 0, &[1; BLOCK_SIZE]).stated_payload();
    assert_eq!(server.send(&put).status, 201);
    put.target = put.target.replace("blocks/0", "blocks/%30");
    assert_eq!(server.send(&put).status, 201, "encoded in the path");
}

#[test]
fn unsigned_requests_and_other_keys_are_refused() {
    let server = Server::start(&[]);
    let list = Call::get("/snapshots/snap-0/blocks");
    let describe = Call::ec2("Action=DescribeSnapshots");
    let plain = |call: &Call| server.send_raw(&call.plain(server.address));
    assert_eq!(plain(&list).error(), "403 MissingAuthenticationToken");
    assert_eq!(
        plain(&describe).ec2_error(),
        "403 MissingAuthenticationToken"
    );
    let unknown = Call::get("/");
    assert_eq!(
        plain(&unknown).ec2_error(),
        "403 MissingAuthenticationToken"
    );

    let now = SystemTime::now();
    let by =
        |call: &Call, key: &Credentials| server.send_raw(&call.signed(server.address, key, now));
    let stranger = key("AKIDEXAMPLE", "secret", None);
    assert_eq!(by(&list, &stranger).error(), "403 InvalidClientTokenId");
    assert_eq!(by(&describe, &stranger).ec2_error(), "401 AuthFailure");
    let guess = key(server.key().access_key_id(), "guess", None);
    assert_eq!(by(&list, &guess).error(), "403 InvalidSignatureException");
    assert_eq!(
        by(&describe, &guess).ec2_error(),
        "403 SignatureDoesNotMatch"
    );
    let other = list.clone().for_service("ec2");
    assert_eq!(server.send(&other).error(), "403 InvalidSignatureException");
    let other = describe.for_service("ebs");
    assert_eq!(server.send(&other).ec2_error(), "403 SignatureDoesNotMatch");
    // Before anything is looked at: this path has no action.
    assert_eq!(
        plain(&Call::get("/x")).error(),
        "403 MissingAuthenticationToken"
    );
}

#[test]
fn a_request_changed_on_its_way_is_refused() {
    let server = Server::start(&[]);
    let pending = server.started(1);
    let changed = |call: &Call, from: &str, to: &str| {
        let mut bytes = server.signed(call);
        let at = bytes
            .windows(from.len())
            .position(|at| at == from.as_bytes());
        let at = at.unwrap_or_else(|| panic!("no {from}"));
        bytes.splice(at..at + from.len(), to.bytes());
        server.send_raw(&bytes).error()
    };
    let mismatch = "403 InvalidSignatureException";
    let put = Call::put(&pending, 7, &[0; BLOCK_SIZE]);
    let list = Call::get(&format!("/snapshots/{pending}/blocks?maxResults=100"));
    let start = Call::post("/snapshots", br#"{"VolumeSize":1}"#);
    for (call, from, to) in [
        (&put, "/blocks/7", "/blocks/8"),
        (&put, "x-amz-Checksum: B4VN", "x-amz-Checksum: B4VO"),
        (&put, "UNSIGNED-PAYLOAD", &"0".repeat(64)),
        (&list, "maxResults=100", "maxResults=200"),
        (&start, "\"VolumeSize\":1", "\"VolumeSize\":2"),
        (
            &start.clone().stated_payload(),
            "\"VolumeSize\":1",
            "\"VolumeSize\":2",
        ),
    ] {
        assert_eq!(changed(call, from, to), mismatch, "{from} -> {to}");
    }
    let incomplete = "400 IncompleteSignature";
    for (call, from, to) in [
        // A header that nobody signed.
        (
            &put,
            "content-length",
            "x-amz-Progress: 7\r\ncontent-length",
        ),
        // Only a put may leave its payload unsigned.
        (&list.clone().unsigned_payload(), "GET", "GET"),
    ] {
        assert_eq!(changed(call, from, to), incomplete, "{from} -> {to}");
    }
}

#[test]
fn a_clock_that_is_off_by_more_than_fifteen_minutes_is_refused() {
    let server = Server::start(&[]);
    let list = Call::get("/snapshots/snap-0/blocks");
    let hour = Duration::from_secs(3600);
    let minutes = |n: u64| Duration::from_secs(60 * n);
    let now = SystemTime::now();
    let known = "404 ResourceNotFoundException SNAPSHOT_NOT_FOUND";
    let expired = "400 RequestExpired";
    for (call, time, wanted) in [
        (list.clone(), now - minutes(14), known),
        (list.clone(), now - minutes(16), expired),
        (list.clone(), now + minutes(14), known),
        (list.clone(), now + minutes(16), expired),
        (list.clone().presigned(hour), now - minutes(74), known),
        (list.presigned(hour), now - minutes(76), expired),
    ] {
        let bytes = call.signed(server.address, &server.key(), time);
        assert_eq!(server.send_raw(&bytes).error(), wanted);
    }
    let old = Call::ec2("Action=DescribeSnapshots");
    let bytes = old.signed(server.address, &server.key(), now - minutes(16));
    assert_eq!(server.send_raw(&bytes).ec2_error(), expired);
}

#[test]
fn every_profile_of_a_credentials_file_gets_in() {
    let sandbox = Sandbox::new();
    let file = sandbox.path("credentials");
    let text = "[default]\naws_access_key_id = AKONE\naws_secret_access_key = one\n\n\
        [other]\naws_access_key_id = AKTWO\naws_secret_access_key = two\naws_session_token = token\n";
    fs::write(&file, text).unwrap();
    let server = Server::start_in(sandbox, &["--credentials", file.to_str().unwrap()]);
    assert_eq!(server.exports.get("AWS_ACCESS_KEY_ID"), None);
    let list = Call::get("/snapshots/snap-0/blocks");
    let now = SystemTime::now();
    for (key, status) in [
        (key("AKONE", "one", None), 404),
        (key("AKTWO", "two", Some("token")), 404),
        (key("AKONE", "two", None), 403),
        (key("AKONE", "one", Some("token")), 403),
        (key("AKTWO", "two", None), 403),
        (key("AKTWO", "two", Some("tokem")), 403),
    ] {
        let reply = server.send_raw(&list.signed(server.address, &key, now));
        assert_eq!(reply.status, status, "{key:?}: {reply:?}");
    }
    // Neither keys nor tokens are in what it said.
    let (_, ran) = server.stop();
    for secret in ["one", "two", "AKTWO"] {
        assert!(!ran.err.contains(secret), "{ran:?}");
    }
}

#[test]
fn unsafe_and_senseless_ways_to_start_are_refused() {
    let sandbox = Sandbox::new();
    let refused = |options: &[&str], code, words: &[&str]| {
        sandbox
            .run(&[&["serve"], options].concat())
            .fails(code, words);
    };
    refused(&["--no-auth", "--listen", "0.0.0.0:0"], 2, &["--no-auth"]);
    refused(&["--no-auth", "--listen", "[::]:0"], 2, &["--no-auth"]);
    refused(
        &["--no-auth", "--credentials", "x"],
        2,
        &["cannot be used with"],
    );
    refused(&["--credentials", "missing"], 3, &["missing"]);
    fs::write(sandbox.path("empty"), "[default]\n").unwrap();
    refused(
        &["--credentials", "empty"],
        2,
        &["no key", "aws_access_key_id"],
    );
    refused(&["--listen", "nowhere"], 2, &["--listen"]);
    refused(&["--fault", "error=2"], 2, &["error=2", "0 to 1"]);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    refused(&["--listen", &address], 1, &["cannot listen", &address]);
}

#[test]
fn another_address_is_served_with_a_key_and_a_warning() {
    let server = Server::start(&["--listen", "0.0.0.0:0"]);
    let list = Call::get("/snapshots/snap-0/blocks");
    assert_eq!(server.send(&list).status, 404);
    let plain = server.send_raw(&list.plain(server.address));
    assert_eq!(plain.error(), "403 MissingAuthenticationToken");
    let (_, ran) = server.stop();
    assert!(ran.err.contains("plain HTTP"), "{ran:?}");
}

#[test]
fn no_secret_is_in_the_log_however_much_is_logged() {
    let server = Server::start(&[]);
    let id = server.snapshot(&[(0, b'S')]);
    let token = server.token(&id, 0);
    let target = format!("/snapshots/{id}/blocks/0?blockToken={token}");
    let presigned = Call::get(&target).presigned(Duration::from_secs(60));
    assert_eq!(server.send(&presigned).status, 200);
    assert_eq!(server.send(&Call::get(&target)).status, 200);
    let key = server.key();
    let (_, ran) = server.stop();
    assert!(
        ran.err
            .contains(&format!("GET /snapshots/{id}/blocks/0: 200")),
        "{ran:?}"
    );
    for secret in [
        &*token,
        key.secret_access_key(),
        key.access_key_id(),
        "X-Amz",
        "SSSS",
    ] {
        assert!(!ran.err.contains(secret), "{secret} is in the log: {ran:?}");
    }
}
