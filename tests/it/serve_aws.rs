//! The clients that people have: boto3 and the aws CLI, with their signatures checked, and what they wrote and
//! read compared byte for byte with the embedded store's own idea of it.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use ebsfs::block::BLOCK_SIZE;
use serde_json::Value;

use crate::program::{Running, Sandbox};
use crate::server::Server;

/// A program of the Python environment that `scripts/test` makes.
fn client(name: &str) -> PathBuf {
    let made = std::env::var_os("EBSFS_AWS_CLIENTS").map(PathBuf::from);
    let dir =
        made.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/aws-clients"));
    let program = dir.join("bin").join(name);
    assert!(
        program.exists(),
        "{} is not there: scripts/test installs the aws CLI and boto3",
        program.display()
    );
    program
}

/// Runs a client as someone who has evaluated what the server printed, and nothing else; gives its stdout.
fn run(server: &Server, program: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new("timeout");
    command
        .args(["-s", "KILL", "90"])
        .arg(program)
        .args(arguments)
        .current_dir(server.sandbox.path(""))
        .env_clear()
        .env("HOME", server.sandbox.path("home"))
        .env("PATH", "/usr/bin:/bin")
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("AWS_MAX_ATTEMPTS", "1")
        .envs(&server.exports)
        .stdout(std::process::Stdio::piped());
    Running::start(command).finish().succeeds()
}

fn aws(server: &Server, arguments: &[&str]) -> Value {
    let text = run(server, &client("aws"), arguments);
    serde_json::from_str(&text).unwrap_or(Value::Null)
}

/// An image of 1 GiB: a byte in each of these blocks, at their end so that they are not read as text.
fn image(path: &Path, blocks: impl IntoIterator<Item = (u64, u8)>) {
    let file = File::create(path).unwrap();
    file.set_len(1 << 30).unwrap();
    for (index, byte) in blocks {
        let at = (index + 1) * u64::try_from(BLOCK_SIZE).unwrap() - 3;
        file.write_all_at(&[byte, 0xff, byte], at).unwrap();
    }
}

/// Two files hold the same bytes; compared a piece at a time, as they are large.
#[track_caller]
fn assert_same(a: &Path, b: &Path) {
    let (mut one, mut other) = (File::open(a).unwrap(), File::open(b).unwrap());
    let (mut x, mut y) = (vec![0; BLOCK_SIZE], vec![0; BLOCK_SIZE]);
    assert_eq!(one.metadata().unwrap().len(), 1 << 30, "{a:?}");
    assert_eq!(other.metadata().unwrap().len(), 1 << 30, "{b:?}");
    for block in 0..2048 {
        one.read_exact(&mut x).unwrap();
        other.read_exact(&mut y).unwrap();
        assert!(x == y, "block {block} of {a:?} is not that of {b:?}");
    }
}

/// What the program itself exports of a snapshot is this image.
fn assert_exports(sandbox: &Sandbox, id: &str, image: &Path) {
    let out = sandbox.path("exported.img");
    let out_text = out.to_str().unwrap();
    sandbox.run(&["export", "--force", id, out_text]).succeeds();
    assert_same(&out, image);
}

#[test]
fn boto3_backs_up_and_restores_byte_for_byte() {
    let server = Server::start(&[]);
    let path = |name: &str| server.sandbox.path(name).to_str().unwrap().to_owned();
    let (first, second, back) = (path("first.img"), path("second.img"), path("back.img"));
    let old = || (0..220).map(|i| (i * 9, 1));
    image(Path::new(&first), old());
    // Of the child some blocks are others, some zeros again, some new.
    let kept = old()
        .filter(|(i, _)| i % 7 != 0)
        .chain([(18, 2), (2047, 3)]);
    image(Path::new(&second), kept);
    let session = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/boto3_session.py");
    let ids = run(
        &server,
        &client("python3"),
        &[session, &first, &second, &back],
    );
    let (parent, child) = ids.trim().split_once(' ').unwrap();
    assert_same(Path::new(&back), Path::new(&second));
    assert_exports(&server.sandbox, parent, Path::new(&first));
    assert_exports(&server.sandbox, child, Path::new(&second));
}

#[test]
fn the_aws_cli_does_what_the_guide_shows() {
    let server = Server::start(&[]);
    let path = |name: &str| server.sandbox.path(name).to_str().unwrap().to_owned();
    let (disk, block, got) = (path("disk.img"), path("block"), path("got"));
    image(Path::new(&disk), [(1000, 7)]);
    let mut data = vec![0; BLOCK_SIZE];
    data[BLOCK_SIZE - 3..].copy_from_slice(&[7, 0xff, 7]);
    fs::write(&block, &data).unwrap();
    let sum = ebsfs::block::Digest::of(&data).to_base64();

    let started = aws(
        &server,
        &[
            "ebs",
            "start-snapshot",
            "--volume-size",
            "1",
            "--timeout",
            "60",
            "--client-token",
            "550e8400-e29b-41d4-a716-446655440000",
            "--description",
            "from the CLI",
            "--tags",
            "Key=Name,Value=cli",
        ],
    );
    assert_eq!(started["Status"], "pending");
    assert_eq!(started["BlockSize"], 524_288);
    let id = started["SnapshotId"].as_str().unwrap();
    let put = aws(
        &server,
        &[
            "ebs",
            "put-snapshot-block",
            "--snapshot-id",
            id,
            "--block-index",
            "1000",
            "--data-length",
            "524288",
            "--block-data",
            &block,
            "--checksum",
            &sum,
            "--checksum-algorithm",
            "SHA256",
        ],
    );
    assert_eq!(put["Checksum"], sum.as_str());
    let completed = aws(
        &server,
        &[
            "ebs",
            "complete-snapshot",
            "--snapshot-id",
            id,
            "--changed-blocks-count",
            "1",
        ],
    );
    assert_eq!(completed["Status"], "completed");
    aws(
        &server,
        &["ec2", "wait", "snapshot-completed", "--snapshot-ids", id],
    );

    let listed = aws(
        &server,
        &["ebs", "list-snapshot-blocks", "--snapshot-id", id],
    );
    assert_eq!(listed["VolumeSize"], 1);
    assert_eq!(listed["Blocks"].as_array().unwrap().len(), 1);
    assert_eq!(listed["Blocks"][0]["BlockIndex"], 1000);
    let token = listed["Blocks"][0]["BlockToken"].as_str().unwrap();
    let said = aws(
        &server,
        &[
            "ebs",
            "get-snapshot-block",
            "--snapshot-id",
            id,
            "--block-index",
            "1000",
            "--block-token",
            token,
            &got,
        ],
    );
    assert_eq!(said["Checksum"], sum.as_str());
    assert!(fs::read(&got).unwrap() == data);

    let child = aws(
        &server,
        &[
            "ebs",
            "start-snapshot",
            "--volume-size",
            "1",
            "--parent-snapshot-id",
            id,
        ],
    );
    let child = child["SnapshotId"].as_str().unwrap();
    let count = [
        "ebs",
        "complete-snapshot",
        "--snapshot-id",
        child,
        "--changed-blocks-count",
        "0",
    ];
    aws(&server, &count);
    let changed = aws(
        &server,
        &[
            "ebs",
            "list-changed-blocks",
            "--first-snapshot-id",
            id,
            "--second-snapshot-id",
            child,
        ],
    );
    assert_eq!(changed["ChangedBlocks"].as_array().unwrap().len(), 0);
    assert_exports(&server.sandbox, child, Path::new(&disk));

    let described = aws(
        &server,
        &[
            "ec2",
            "describe-snapshots",
            "--owner-ids",
            "self",
            "--filters",
            "Name=tag:Name,Values=cli",
        ],
    );
    let found = &described["Snapshots"][0];
    assert_eq!(found["SnapshotId"], id);
    assert_eq!(found["Description"], "from the CLI");
    assert_eq!(found["VolumeSize"], 1);
    aws(&server, &["ec2", "delete-snapshot", "--snapshot-id", id]);
    let left = aws(&server, &["ec2", "describe-snapshots"]);
    let ids: Vec<_> = left["Snapshots"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| &s["SnapshotId"])
        .collect();
    assert_eq!(ids, [child]);
    assert_exports(&server.sandbox, child, Path::new(&disk));
}
