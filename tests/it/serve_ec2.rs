//! `DescribeSnapshots` and `DeleteSnapshot`: filters, pages, and the errors that EC2 gives.

use crate::server::{Call, Server};

/// Ids in the order told, and the token for the next page.
fn describe(server: &Server, form: &str) -> (Vec<String>, Option<String>) {
    let reply = server.send(&Call::ec2(&format!("Action=DescribeSnapshots&{form}")));
    assert_eq!(reply.status, 200, "{form}: {reply:?}");
    let text = reply.text();
    let ids = text.split("<snapshotId>").skip(1);
    let ids = ids.map(|rest| rest.split_once('<').unwrap().0.to_owned());
    let next = text.split_once("<nextToken>");
    let next = next.map(|(_, rest)| rest.split_once('<').unwrap().0.to_owned());
    (ids.collect(), next)
}

#[test]
fn filters_choose_snapshots() {
    let server = Server::start(&[]);
    let arn = "arn:aws:kms:us-east-1:012345678901:key/a";
    let one = server.started_as(
        r#"{"VolumeSize":1,"Description":"daily backup","Tags":[{"Key":"Name","Value":"web"},{"Key":"env","Value":"prod"}]}"#,
    );
    server.filled(&one, &[]);
    let two = server.started_as(&format!(
        r#"{{"VolumeSize":2,"Description":"weekly*","KmsKeyArn":"{arn}","Tags":[{{"Key":"Name","Value":"db"}}]}}"#
    ));
    let both = || vec![one.clone(), two.clone()];
    let filter = |name: &str, value: &str| format!("Filter.1.Name={name}&Filter.1.Value.1={value}");
    for (form, mut wanted) in [
        (String::new(), both()),
        ("Owner.1=self".into(), both()),
        ("Owner.1=000000000000".into(), both()),
        ("Owner.1=amazon".into(), vec![]),
        ("Owner.1=amazon&Owner.2=self".into(), both()),
        (format!("SnapshotId.1={one}"), vec![one.clone()]),
        (
            format!("SnapshotId.1={one}&SnapshotId.2={two}&SnapshotId.3={one}"),
            both(),
        ),
        (filter("snapshot-id", &one), vec![one.clone()]),
        (filter("snapshot-id", "snap-*"), both()),
        (filter("status", "completed"), vec![one.clone()]),
        (filter("status", "pending"), vec![two.clone()]),
        (filter("volume-size", "2"), vec![two.clone()]),
        (filter("description", "daily+backup"), vec![one.clone()]),
        (filter("description", "*ly*"), both()),
        (filter("description", "weekly%5C*"), vec![two.clone()]),
        (filter("description", "dail?+backup"), vec![one.clone()]),
        (filter("encrypted", "true"), vec![two.clone()]),
        (filter("encrypted", "false"), vec![one.clone()]),
        (filter("owner-id", "000000000000"), both()),
        (filter("start-time", "20*"), both()),
        (filter("start-time", "1999*"), vec![]),
        (filter("progress", "100%25"), vec![one.clone()]),
        (filter("tag:Name", "web"), vec![one.clone()]),
        (filter("tag:name", "web"), vec![]),
        (filter("tag:Name", "*"), both()),
        (filter("tag-key", "env"), vec![one.clone()]),
        (
            format!("{}&Filter.1.Value.2=db", filter("tag:Name", "web")),
            both(),
        ),
        (
            format!(
                "{}&Filter.2.Name=tag-key&Filter.2.Value.1=env",
                filter("tag:Name", "*")
            ),
            vec![one.clone()],
        ),
    ] {
        wanted.sort();
        let (mut found, next) = describe(&server, &form);
        found.sort();
        assert_eq!((found, next), (wanted, None), "{form}");
    }
}

#[test]
fn pages_go_on_where_the_last_one_ended_whatever_was_deleted() {
    let server = Server::start(&[]);
    let mut all: Vec<_> = (0..12).map(|_| server.started(1)).collect();
    all.sort();
    let (first, next) = describe(&server, "MaxResults=5");
    assert_eq!(first, all[..5]);
    let delete = format!("Action=DeleteSnapshot&SnapshotId={}", all[4]);
    assert_eq!(server.send(&Call::ec2(&delete)).status, 200);
    let next = format!("MaxResults=5&NextToken={}", next.unwrap());
    let (second, next) = describe(&server, &next);
    assert_eq!(second, all[5..10]);
    let (third, next) = describe(
        &server,
        &format!("MaxResults=5&NextToken={}", next.unwrap()),
    );
    assert_eq!((third, next), (all[10..].to_vec(), None));
    let (rest, _) = describe(&server, "MaxResults=1000000");
    assert_eq!(rest.len(), 11);
}

#[test]
fn requests_that_make_no_sense_have_ec2s_errors() {
    let server = Server::start(&[]);
    let id = server.started(1);
    let value = "400 InvalidParameterValue";
    for (form, wanted) in [
        ("", "400 MissingAction"),
        ("Action=DescribeVolumes", "400 InvalidAction"),
        (
            "Action=DescribeSnapshots&SnapshotId.1=snap-0",
            "400 InvalidSnapshot.NotFound",
        ),
        (
            "Action=DescribeSnapshots&SnapshotId.1=snap-X",
            "400 InvalidSnapshotID.Malformed",
        ),
        ("Action=DescribeSnapshots&Action=DescribeSnapshots", value),
        ("Action=DescribeSnapshots&MaxResults=4", value),
        ("Action=DescribeSnapshots&MaxResults=x", value),
        ("Action=DescribeSnapshots&NextToken=x", value),
        (
            "Action=DescribeSnapshots&Filter.1.Name=color&Filter.1.Value.1=x",
            value,
        ),
        ("Action=DescribeSnapshots&Filter.1.Name=status", value),
        ("Action=DescribeSnapshots&Filter.1.Value.1=x", value),
        ("Action=DescribeSnapshots&Filter.x.Name=status", value),
        (
            &format!("Action=DescribeSnapshots&MaxResults=5&SnapshotId.1={id}"),
            "400 InvalidParameterCombination",
        ),
        (
            "Action=DescribeSnapshots&DryRun=true",
            "412 DryRunOperation",
        ),
        ("Action=DeleteSnapshot", "400 MissingParameter"),
        (
            "Action=DeleteSnapshot&SnapshotId=snap-0",
            "400 InvalidSnapshot.NotFound",
        ),
        (
            "Action=DeleteSnapshot&SnapshotId=x",
            "400 InvalidSnapshotID.Malformed",
        ),
        (
            &format!("Action=DeleteSnapshot&SnapshotId={id}&DryRun=true"),
            "412 DryRunOperation",
        ),
    ] {
        assert_eq!(server.send(&Call::ec2(form)).ec2_error(), wanted, "{form}");
    }
    let mut old = Call::ec2("Action=DescribeSnapshots");
    old.body = b"Action=DescribeSnapshots&Version=2014-01-01".to_vec();
    assert_eq!(server.send(&old).ec2_error(), "400 InvalidAction");
    old.body = b"Action=DescribeSnapshots".to_vec();
    assert_eq!(server.send(&old).ec2_error(), "400 MissingParameter");
    assert_eq!(describe(&server, "").0, [id], "the dry run deleted nothing");
}
