//! Block tokens and page tokens over the wire: what they are good for, and for how long.

use std::time::Duration;

use crate::server::{Call, Reply, Server};

const REFUSED: &str = "400 ValidationException INVALID_BLOCK_TOKEN";

fn get(server: &Server, id: &str, index: u32, token: &str) -> Reply {
    let target = format!("/snapshots/{id}/blocks/{index}?blockToken={token}");
    server.send(&Call::get(&target))
}

#[test]
fn a_token_is_good_for_its_block_alone() {
    let server = Server::start(&[]);
    let id = server.snapshot(&[(0, 1), (1, 2)]);
    let child = server.child(&id, &[(2, 3)]);
    let token = server.token(&id, 0);
    assert_eq!(get(&server, &id, 0, &token).status, 200);
    assert_eq!(get(&server, &id, 1, &token).error(), REFUSED);
    assert_eq!(get(&server, &child, 0, &token).error(), REFUSED);
    for bad in ["", "0", "AAUB", &token[1..], &"a".repeat(257), "%20"] {
        assert_eq!(get(&server, &id, 0, bad).error(), REFUSED, "{bad:?}");
    }
    let none = Call::get(&format!("/snapshots/{id}/blocks/0"));
    assert_eq!(server.send(&none).error(), REFUSED);
    // What the child inherited it has itself.
    let inherited = server.token(&child, 1);
    assert_eq!(get(&server, &child, 1, &inherited).body[..4], [2; 4]);
}

#[test]
fn tokens_do_not_outlive_the_server() {
    let server = Server::start(&[]);
    let id = server.snapshot(&[(0, 1)]);
    let token = server.token(&id, 0);
    let (sandbox, _) = server.stop();
    let again = Server::start_in(sandbox, &[]);
    assert_eq!(get(&again, &id, 0, &token).error(), REFUSED);
    let token = again.token(&id, 0);
    assert_eq!(get(&again, &id, 0, &token).status, 200);
}

#[test]
fn a_token_expires_when_its_list_says() {
    let server = Server::start(&["--fault", "token-ttl=1s"]);
    let id = server.snapshot(&[(0, 1)]);
    let page = server
        .send(&Call::get(&format!("/snapshots/{id}/blocks")))
        .json();
    let token = page["Blocks"][0]["BlockToken"].as_str().unwrap();
    let expiry = page["ExpiryTime"].as_f64().unwrap();
    assert_eq!(get(&server, &id, 0, token).status, 200);
    let now = || jiff::Timestamp::now().as_duration().as_secs_f64();
    assert!(expiry - now() < 1.0, "within a second");
    std::thread::sleep(Duration::from_secs_f64((expiry - now()).max(0.0) + 0.05));
    assert_eq!(get(&server, &id, 0, token).error(), REFUSED);
    let fresh = server.token(&id, 0);
    assert_eq!(get(&server, &id, 0, &fresh).status, 200);
}

#[test]
fn a_list_voids_older_tokens_where_they_rotate() {
    let server = Server::start(&["--fault", "rotate-tokens"]);
    let id = server.snapshot(&[(0, 1)]);
    let child = server.child(&id, &[(1, 2)]);
    let old = server.token(&id, 0);
    let childs = server.token(&child, 1);
    assert_eq!(get(&server, &id, 0, &old).status, 200);
    let new = server.token(&id, 0);
    assert_eq!(get(&server, &id, 0, &old).error(), REFUSED);
    assert_eq!(get(&server, &id, 0, &new).status, 200);
    assert_eq!(
        get(&server, &child, 1, &childs).status,
        200,
        "another snapshot's"
    );
    let both = format!("/snapshots/{child}/changedblocks?firstSnapshotId={id}");
    let page = server.send(&Call::get(&both)).json();
    assert_eq!(get(&server, &id, 0, &new).error(), REFUSED);
    assert_eq!(get(&server, &child, 1, &childs).error(), REFUSED);
    let newest = page["ChangedBlocks"][0]["SecondBlockToken"]
        .as_str()
        .unwrap();
    assert_eq!(get(&server, &child, 1, newest).status, 200);
}

#[test]
fn a_page_token_belongs_to_its_request() {
    let server = Server::start(&[]);
    let blocks: Vec<_> = (0..101).map(|i| (i, 0)).collect();
    let id = server.snapshot(&blocks);
    let child = server.child(&id, &[]);
    let target = format!("/snapshots/{id}/blocks");
    let page = server.send(&Call::get(&target)).json();
    let token = page["NextToken"].as_str().unwrap();
    let go_on = |target: &str| {
        let mark = if target.contains('?') { '&' } else { '?' };
        server.send(&Call::get(&format!("{target}{mark}pageToken={token}")))
    };
    assert_eq!(go_on(&target).status, 200);
    assert_eq!(go_on(&format!("{target}?maxResults=500")).status, 200);
    let refused = "400 ValidationException INVALID_PAGE_TOKEN";
    for other in [
        format!("/snapshots/{child}/blocks"),
        format!("/snapshots/{id}/changedblocks"),
        format!("/snapshots/{child}/changedblocks?firstSnapshotId={id}"),
    ] {
        assert_eq!(go_on(&other).error(), refused, "{other}");
    }
}
