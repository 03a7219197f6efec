//! Requests as the documents print them, and what comes back, as text: the shapes of the wire, pinned apart from
//! the code that makes them. Ids, tokens, times and hosts are this run's; everything else is literal.

use ebsfs::block::BLOCK_SIZE;

use crate::server::{Call, Reply, Server, between, linear};

/// A server that takes requests as they are, since the documents' are signed with somebody else's key.
fn server() -> Server {
    Server::start(&["--no-auth"])
}

/// The documents' request, with this run's id in the place of `ID`.
fn ask(server: &Server, request: &str, id: &str, body: &[u8]) -> Reply {
    let head = request.replace("ID", id).replace('\n', "\r\n");
    let length = format!("Content-Length: {}\r\n\r\n", body.len());
    server.send_raw(&[head.as_bytes(), length.as_bytes(), body].concat())
}

/// The head of an answer: its status line, and its headers but for date and request id.
fn head(reply: &Reply) -> String {
    let id = &reply.headers["x-amzn-requestid"];
    let lengths: Vec<_> = id.split('-').map(str::len).collect();
    assert_eq!(lengths, [8, 4, 4, 4, 12], "{id}");
    assert!(reply.headers["date"].ends_with(" GMT"));
    let mut head = format!("{}\n", reply.line);
    for (name, value) in &reply.headers {
        if name != "date" && name != "x-amzn-requestid" {
            head += &format!("{name}: {value}\n");
        }
    }
    head
}

/// A body with each number of that name as `TIME` and each token as `TOKEN`.
fn body(reply: &Reply) -> String {
    let mut text = reply.text();
    for name in ["ExpiryTime", "StartTime"] {
        if text.contains(name) {
            let number = between(&text, &format!("\"{name}\":"), ",").to_owned();
            let seconds: f64 = number.parse().unwrap();
            assert!(
                seconds > 1.7e9 && seconds < 1e10,
                "seconds since 1970: {number}"
            );
            text = text.replace(&number, "TIME");
        }
    }
    let parts: Vec<_> = text.split("Token\":\"").collect();
    let mut out = parts[0].to_owned();
    for part in &parts[1..] {
        let (token, rest) = part.split_once('"').unwrap();
        let good = |c: char| c.is_ascii_alphanumeric() || "+/=".contains(c);
        assert!(!token.is_empty() && token.len() <= 256 && token.chars().all(good));
        out += &format!("Token\":\"TOKEN\"{rest}");
    }
    out
}

const START: &str = "POST /snapshots HTTP/1.1
Host: ebs.us-east-2.amazonaws.com
Accept-Encoding: identity
User-Agent: <User agent paramater>
X-Amz-Date: 20200618T040724Z
Authorization: <Authentication parameter>
";

const PUT: &str = "PUT /snapshots/ID/blocks/1000 HTTP/1.1
Host: ebs.us-east-2.amazonaws.com
Accept-Encoding: identity
x-amz-Data-Length: 524288
x-amz-Checksum: B4VNL+8pega6gWheZgwzLeNtXRjVRpJ9MNqtbX/aFUE=
x-amz-Checksum-Algorithm: SHA256
User-Agent: <User agent paramater>
X-Amz-Date: 20200618T042215Z
X-Amz-Content-SHA256: UNSIGNED-PAYLOAD
Authorization: <Authentication parameter>
";

const COMPLETE: &str = "POST /snapshots/completion/ID HTTP/1.1
Host: ebs.us-east-2.amazonaws.com
Accept-Encoding: identity
x-amz-ChangedBlocksCount: 1
x-amz-Checksum: CHECKSUM
x-amz-Checksum-Algorithm: SHA256
x-amz-Checksum-Aggregation-Method: LINEAR
User-Agent: <User agent paramater>
X-Amz-Date: 20200618T043158Z
Authorization: <Authentication parameter>
";

#[test]
fn the_documents_way_of_writing_a_snapshot() {
    let server = server();
    let parent = server.started(8);
    let zeros = vec![0; BLOCK_SIZE];
    server.filled(&parent, &[(3, 3)]);
    let request = format!(
        r#"{{
    "VolumeSize": 8,
    "ParentSnapshotId": "{parent}",
    "ClientToken": "550e8400-e29b-41d4-a716-446655440000",
    "Timeout": 60
}}"#
    );
    let started = ask(&server, START, "", request.as_bytes());
    let id = started.json()["SnapshotId"].as_str().unwrap().to_owned();
    assert_eq!(
        body(&started),
        format!(
            r#"{{"BlockSize":524288,"OwnerId":"000000000000","ParentSnapshotId":"{parent}","SnapshotId":"{id}","StartTime":TIME,"Status":"pending","VolumeSize":8}}"#
        )
    );
    assert_eq!(
        head(&started),
        format!(
            "HTTP/1.1 201 Created\ncontent-length: {}\ncontent-type: application/json\n",
            started.body.len()
        )
    );

    let put = ask(&server, PUT, &id, &zeros);
    assert_eq!(
        head(&put),
        "HTTP/1.1 201 Created
content-length: 2
content-type: application/json
x-amz-checksum: B4VNL+8pega6gWheZgwzLeNtXRjVRpJ9MNqtbX/aFUE=
x-amz-checksum-algorithm: SHA256
"
    );
    assert_eq!(put.text(), "{}");

    let request = COMPLETE.replace("CHECKSUM", &linear(&[zeros]));
    let completed = ask(&server, &request, &id, b"");
    assert_eq!(
        head(&completed),
        "HTTP/1.1 202 Accepted\ncontent-length: 22\ncontent-type: application/json\n"
    );
    assert_eq!(completed.text(), r#"{"Status":"completed"}"#);
}

#[test]
fn the_documents_way_of_reading_a_snapshot() {
    let server = server();
    let first = server.snapshot(&[(0, 1), (1536, 2)]);
    let second = server.child(&first, &[(0, 9), (2000, 8)]);
    let list = "GET /snapshots/ID/blocks?maxResults=100&startingBlockIndex=0 HTTP/1.1
Host: ebs.us-east-2.amazonaws.com
Accept-Encoding: identity
User-Agent: <User agent paramater>
X-Amz-Date: 20200617T231953Z
Authorization: <Authentication parameter>
";
    let listed = ask(&server, list, &first, b"");
    assert_eq!(listed.line, "HTTP/1.1 200 OK");
    assert_eq!(listed.headers["content-type"], "application/json");
    assert_eq!(
        body(&listed),
        r#"{"Blocks":[{"BlockIndex":0,"BlockToken":"TOKEN"},{"BlockIndex":1536,"BlockToken":"TOKEN"}],"BlockSize":524288,"ExpiryTime":TIME,"VolumeSize":1}"#
    );

    let changed = list.replace(
        "blocks?maxResults=100",
        &format!("changedblocks?firstSnapshotId={first}&maxResults=500"),
    );
    let both = ask(&server, &changed, &second, b"");
    assert_eq!(
        body(&both),
        r#"{"ChangedBlocks":[{"BlockIndex":0,"FirstBlockToken":"TOKEN","SecondBlockToken":"TOKEN"},{"BlockIndex":2000,"SecondBlockToken":"TOKEN"}],"BlockSize":524288,"ExpiryTime":TIME,"VolumeSize":1}"#
    );
    // The other way round: a block that only the first has.
    let changed = list.replace(
        "blocks?maxResults=100",
        &format!("changedblocks?firstSnapshotId={second}&maxResults=500"),
    );
    let back = ask(&server, &changed, &first, b"");
    assert!(
        body(&back).contains(r#"{"BlockIndex":2000,"FirstBlockToken":"TOKEN"}"#),
        "{back:?}"
    );
    // Against nothing: all that the second has.
    let alone = list.replace("blocks?", "changedblocks?");
    let alone = ask(&server, &alone, &second, b"");
    assert_eq!(
        body(&alone),
        r#"{"ChangedBlocks":[{"BlockIndex":0,"SecondBlockToken":"TOKEN"},{"BlockIndex":1536,"SecondBlockToken":"TOKEN"},{"BlockIndex":2000,"SecondBlockToken":"TOKEN"}],"BlockSize":524288,"ExpiryTime":TIME,"VolumeSize":1}"#
    );

    let token = both.json()["ChangedBlocks"][0]["SecondBlockToken"]
        .as_str()
        .unwrap()
        .to_owned();
    let get = "GET /snapshots/ID/blocks/0?blockToken=TOKEN HTTP/1.1
Host: ebs.us-east-2.amazonaws.com
Accept-Encoding: identity
User-Agent: <User agent paramater>
X-Amz-Date: 20200617T232838Z
Authorization: <Authentication parameter>
";
    let got = ask(&server, &get.replace("TOKEN", &token), &second, b"");
    let checksum = ebsfs::block::Digest::of(&[9; BLOCK_SIZE]).to_base64();
    assert_eq!(
        head(&got),
        format!(
            "HTTP/1.1 200 OK
content-length: 524288
content-type: application/octet-stream
x-amz-checksum: {checksum}
x-amz-checksum-algorithm: SHA256
x-amz-data-length: 524288
"
        )
    );
    assert!(got.body == [9; BLOCK_SIZE]);
}

#[test]
fn an_error_has_the_shape_that_clients_parse() {
    let server = server();
    let reply = server.send(&Call::get("/snapshots/snap-0/blocks"));
    assert_eq!(
        head(&reply),
        format!(
            "HTTP/1.1 404 Not Found
content-length: {}
content-type: application/json
x-amzn-errortype: ResourceNotFoundException
",
            reply.body.len()
        )
    );
    assert_eq!(
        reply.text(),
        r#"{"Message":"snap-0: no such snapshot in this store; `ebsfs list` shows what there is","Reason":"SNAPSHOT_NOT_FOUND"}"#
    );
}

#[test]
fn ec2_answers_in_its_own_xml() {
    let server = server();
    let body = r#"{"VolumeSize":3,"Description":"a <b> & \u0001","Tags":[{"Key":"Name","Value":"\"x\""}],
        "KmsKeyArn":"arn:aws:kms:us-east-1:012345678901:key/a"}"#;
    let id = server.started_as(body);
    server.filled(&id, &[]);
    let reply = server.send(&Call::ec2("Action=DescribeSnapshots&Owner.1=self"));
    assert_eq!(reply.headers["content-type"], "text/xml;charset=UTF-8");
    let request = &reply.headers["x-amzn-requestid"];
    let text = reply.text();
    let time = between(&text, "<startTime>", "</startTime>");
    assert!(time.len() == 24 && time.ends_with('Z'), "{time}");
    assert_eq!(
        text,
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<DescribeSnapshotsResponse xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\">\
            <requestId>{request}</requestId><snapshotSet><item><snapshotId>{id}</snapshotId><volumeId>vol-ffffffff</volumeId>\
            <status>completed</status><startTime>{time}</startTime><progress>100%</progress><ownerId>000000000000</ownerId>\
            <volumeSize>3</volumeSize><description>a &lt;b&gt; &amp; \u{fffd}</description><encrypted>true</encrypted>\
            <kmsKeyId>arn:aws:kms:us-east-1:012345678901:key/a</kmsKeyId><storageTier>standard</storageTier>\
            <tagSet><item><key>Name</key><value>\"x\"</value></item></tagSet></item></snapshotSet></DescribeSnapshotsResponse>"
        )
    );

    let reply = server.send(&Call::ec2(&format!(
        "Action=DeleteSnapshot&SnapshotId={id}"
    )));
    let request = &reply.headers["x-amzn-requestid"];
    assert_eq!(
        reply.text(),
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<DeleteSnapshotResponse xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\">\
            <requestId>{request}</requestId><return>true</return></DeleteSnapshotResponse>"
        )
    );

    let reply = server.send(&Call::ec2(&format!(
        "Action=DeleteSnapshot&SnapshotId={id}"
    )));
    assert_eq!(reply.status, 400);
    let request = &reply.headers["x-amzn-requestid"];
    assert_eq!(
        reply.text(),
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Response><Errors><Error><Code>InvalidSnapshot.NotFound</Code>\
            <Message>{id}: no such snapshot in this store; `ebsfs list` shows what there is</Message></Error></Errors>\
            <RequestID>{request}</RequestID></Response>"
        )
    );
}
