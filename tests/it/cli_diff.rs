//! `ebsfs diff`: which blocks differ, from a directory and over HTTP, to people and to programs.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use ebsfs::store::directory::DirectoryStore;
use rustix::process::Pid;
use serde_json::{Value, json};

use crate::common::{block_on, snap};
use crate::images::{BLOCK, Disk, GIB, MIB};
use crate::kernel::memory;
use crate::program::{Ran, Running, Sandbox, tool};
use crate::serving::Server;

/// A disk with three partitions, and what became of it: blocks 0, 20 to 22, 40 and the last one are others.
fn partitioned(sandbox: &Sandbox) -> (String, String) {
    let disk = Disk::new(sandbox.path("old.img"), GIB);
    let image = disk.path().to_str().unwrap().to_owned();
    let layout = ["-n1:2048:18431", "-n2:18432:22527", "-n5:24576:0"];
    tool("sgdisk", &[&["-o"][..], &layout, &[&image]].concat());
    drop(disk.blocks(2, 30, 1));
    std::fs::copy(sandbox.path("old.img"), sandbox.path("new.img")).unwrap();
    let file = File::options()
        .write(true)
        .open(sandbox.path("new.img"))
        .unwrap();
    let write = |at, bytes: &[u8]| std::os::unix::fs::FileExt::write_all_at(&file, bytes, at);
    // Where a boot loader lies: in block 0 and in no partition; p1 ends and p2 begins in block 18.
    write(100, b"boot").unwrap();
    write(17 * BLOCK, &[1; 3 * BLOCK as usize]).unwrap();
    write(40 * BLOCK, b"new").unwrap();
    write(GIB - 512, b"copy").unwrap();
    let from = sandbox.import(&["old.img"]);
    let to = sandbox.import(&["new.img", "--parent", &from]);
    (from, to)
}

const RANGES: [(u64, u64, &[u32]); 4] = [
    (0, BLOCK, &[]),
    (17 * BLOCK, 3 * BLOCK, &[1, 2]),
    (40 * BLOCK, BLOCK, &[5]),
    (GIB - BLOCK, BLOCK, &[5]),
];

#[test]
fn ranges_are_told_with_their_partitions_and_a_total() {
    let sandbox = Sandbox::new();
    let (from, to) = partitioned(&sandbox);
    let ran = sandbox.run(&["diff", &from, &to]);
    let words = [
        "blocks that differ: 6",
        "3.00 MiB (3145728 bytes)",
        "ranges: 4",
    ];
    let text = ran.succeeds_and_tells(&words);
    let told: Vec<Vec<_>> = text
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(told[0], ["OFFSET", "LENGTH", "IN"]);
    let numbers = |numbers: &[u32]| match numbers {
        [] => "-".to_owned(),
        numbers => {
            let names: Vec<_> = numbers.iter().map(|n| format!("p{n}")).collect();
            names.join(",")
        }
    };
    let expected = RANGES.map(|(offset, length, parts)| {
        vec![offset.to_string(), length.to_string(), numbers(parts)]
    });
    assert_eq!(told[1..], expected);
    // The other way round it is the same.
    let back = sandbox.run(&["diff", &to, &from]).succeeds();
    assert_eq!(back, text);
}

#[test]
fn programs_are_told_the_same() {
    let sandbox = Sandbox::new();
    let (from, to) = partitioned(&sandbox);
    let text = sandbox
        .run(&["diff", "--json", &from, &to])
        .succeeds_silently();
    let told: Value = serde_json::from_str(&text).unwrap();
    let ranges = RANGES.map(|(offset, length, parts)| {
        json!({ "offset": offset, "length": length, "partitions": parts })
    });
    let expected = json!({
        "from": from, "to": to, "from_size": GIB, "to_size": GIB, "block_size": BLOCK,
        "ranges": ranges, "blocks": 6, "bytes": 6 * BLOCK,
    });
    assert_eq!(told, expected);
    let none = sandbox
        .run(&["diff", "--json", &to, &to])
        .succeeds_silently();
    let none: Value = serde_json::from_str(&none).unwrap();
    assert_eq!((&none["ranges"], &none["blocks"]), (&json!([]), &json!(0)));
}

#[test]
fn a_difference_is_an_exit_code_only_if_asked_for() {
    let sandbox = Sandbox::new();
    let (from, to) = partitioned(&sandbox);
    let same = sandbox.run(&["diff", "--exit-code", &from, &from]);
    assert_eq!(same.succeeds_and_tells(&["no block differs"]), "");
    let other = sandbox.run(&["diff", "--exit-code", &from, &to]);
    assert_eq!(other.code, 1, "{other:?}");
    assert_eq!(other.out.lines().count(), 5, "{other:?}");
}

/// The program on the server of the sandbox's store.
fn over_http(sandbox: &Sandbox, server: &Server, arguments: &[&str]) -> Ran {
    Running::start(client(sandbox, server, arguments)).finish()
}

fn client(sandbox: &Sandbox, server: &Server, arguments: &[&str]) -> Command {
    let mut command = sandbox.command(arguments);
    server.environment(&mut command);
    command
}

#[test]
fn snapshots_of_two_lineages_are_refused_with_the_way_out() {
    let sandbox = Sandbox::new();
    Disk::new(sandbox.path("disk.img"), MIB).block(0, 1);
    let (one, other) = (sandbox.import(&["disk.img"]), sandbox.import(&["disk.img"]));
    let way_out = format!("`ebsfs diff --files --content {one} {other}`");
    let words = ["cannot be compared", &way_out, "not related"];
    let server = Server::start(sandbox.path("").as_path(), &[]);
    for verb in ["diff", "map"] {
        sandbox.run(&[verb, &one, &other]).fails(2, &words);
        let words = [&words[..2], &["UNRELATED_SNAPSHOTS"]].concat();
        over_http(&sandbox, &server, &[verb, &one, &other]).fails(2, &words);
    }
    sandbox.run(&["diff", &one, "snap-0"]).fails(3, &["snap-0"]);
    let named = format!("{one}.p1");
    let words = ["--files", "without a partition"];
    sandbox.run(&["diff", &named, &other]).fails(2, &words);
    sandbox
        .run(&["diff", "--content", &one, &one])
        .fails(2, &["--files"]);
}

#[test]
fn a_pending_snapshot_is_refused() {
    let sandbox = Sandbox::new();
    let (complete, pending) = block_on(async {
        let store = DirectoryStore::create(&sandbox.store()).unwrap();
        let complete = snap(1).block(0, 1).build(&store).await;
        let pending = snap(1).child_of(&complete).pending(&store).await;
        (complete.to_string(), pending.to_string())
    });
    for pair in [[&complete, &pending], [&pending, &complete]] {
        for verb in ["diff", "map"] {
            sandbox
                .run(&[verb, pair[0], pair[1]])
                .fails(2, &[&pending, "pending"]);
        }
    }
}

#[test]
fn volumes_of_two_sizes_are_compared_and_that_is_told() {
    let sandbox = Sandbox::new();
    let (small, large) = block_on(async {
        let store = DirectoryStore::create(&sandbox.store()).unwrap();
        let small = snap(1).block(0, 1).block(3, 3).build(&store).await;
        let large = snap(3).child_of(&small).block(3, 4);
        let large = large.block(2047, 1).block(2048, 2).build(&store).await;
        (small.to_string(), large.to_string())
    });
    let grown = sandbox.run(&["diff", &small, &large]);
    let text = grown.succeeds_and_tells(&["larger, 3 GiB instead of 1 GiB", "differ: 3,"]);
    let last = text.lines().last().unwrap();
    assert!(last.contains(&(2047 * BLOCK).to_string()), "{text}");
    assert!(last.contains(&(2 * BLOCK).to_string()), "{text}");
    let shrunk = sandbox.run(&["diff", &large, &small]);
    let text = shrunk.succeeds_and_tells(&["smaller, 1 GiB instead of 3 GiB", "differ: 2,"]);
    assert_eq!(text.lines().count(), 3);
}

#[test]
fn pages_of_the_service_are_joined_and_empty_ones_are_passed() {
    let sandbox = Sandbox::new();
    let (from, to) = block_on(async {
        let store = DirectoryStore::create(&sandbox.store()).unwrap();
        let from = snap(8192).block(0, 1).build(&store).await;
        let to = snap(8192).child_of(&from).zeros(5000..30_000);
        // Many segments lie between these, and pages end for them, too.
        let to = to
            .zeros((1..700).map(|i| i * 20_000 + 50_000))
            .zero(16_777_215);
        (from.to_string(), to.build(&store).await.to_string())
    });
    let server = Server::start(sandbox.path("").as_path(), &[]);
    let direct = sandbox.run(&["diff", &from, &to]).succeeds();
    let lines: Vec<_> = direct.lines().collect();
    assert_eq!(lines.len(), 1 + 1 + 699 + 1);
    let first: Vec<_> = lines[1].split_whitespace().collect();
    let (offset, length) = ((5000 * BLOCK).to_string(), (25_000 * BLOCK).to_string());
    assert_eq!(first, [&offset, &length, "-"]);
    let ran = over_http(&sandbox, &server, &["diff", &from, &to]);
    let words = ["blocks that differ: 25700", "ranges: 701"];
    assert_eq!(ran.succeeds_and_tells(&words), direct);
}

#[test]
fn ranges_are_printed_as_they_are_listed_and_not_remembered() {
    const CHANGED: u32 = 25_000;
    let sandbox = Sandbox::new();
    let (from, to) = block_on(async {
        let store = DirectoryStore::create(&sandbox.store()).unwrap();
        let from = snap(65536).block(0, 1).build(&store).await;
        let to = snap(65536).child_of(&from);
        let to = to
            .zeros((0..CHANGED).map(|i| 2 * i + 1))
            .zero((1 << 27) - 1);
        (from.to_string(), to.build(&store).await.to_string())
    });
    let server = Server::start(sandbox.path("").as_path(), &["--fault", "latency=1s"]);
    let mut command = client(&sandbox, &server, &["diff", &from, &to]);
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    // The first page is there, and the second one is waited for.
    assert_eq!(lines.by_ref().take(9_000).count(), 9_000);
    assert!(child.try_wait().unwrap().is_none());
    let pid = Pid::from_child(&child);
    let before = memory(pid, "VmHWM");
    assert_eq!(lines.by_ref().take(10_500).count(), 10_500);
    // The third page is waited for. The second one has taken the place of the first, or a part of the heap of its own.
    let after = memory(pid, "VmHWM");
    assert!(after < 64 << 20, "{before} {after}");
    assert!(after - before < 4 << 20, "{before} {after}");
    assert_eq!(lines.count(), 1 + CHANGED as usize + 1 - 19_500);
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_reader_of_a_difference_may_go_away() {
    let sandbox = Sandbox::new();
    let (from, to) = partitioned(&sandbox);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = sandbox.command(&["diff", &from, &to]);
    let output = command.stdout(writer).output().unwrap();
    assert_eq!(output.status.code(), Some(141));
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}
