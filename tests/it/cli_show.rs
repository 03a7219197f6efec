//! `ebsfs list`, `ebsfs info` and the help: what is told, to people and to programs.

use serde_json::json;

use crate::images::{Disk, GIB, MIB};
use crate::program::{Sandbox, tool};

#[test]
fn a_list_tells_all_snapshots_oldest_first() {
    let sandbox = Sandbox::new();
    Disk::new(sandbox.path("disk.img"), 2 * GIB).block(0, 1);
    let ids: Vec<_> = (0..12)
        .map(|i| sandbox.import(&["disk.img", "--description", &format!("number {i}")]))
        .collect();
    let listed = sandbox.list();
    let told: Vec<_> = listed
        .iter()
        .map(|one| one["id"].as_str().unwrap())
        .collect();
    assert_eq!(told, ids);
    for (i, one) in listed.iter().enumerate() {
        assert_eq!(one["description"], format!("number {i}"));
        assert_eq!(one["size"], 2 * GIB);
        assert_eq!(one["volume_size"], 2);
        assert_eq!(one["status"], "completed");
        let time: jiff::Timestamp = one["start_time"].as_str().unwrap().parse().unwrap();
        assert!(time.duration_until(jiff::Timestamp::now()).as_secs() < 300);
    }
    let text = sandbox.run(&["list"]).succeeds_silently();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 13);
    assert!(lines[0].starts_with("SNAPSHOT"));
    for (line, id) in lines[1..].iter().zip(&ids) {
        assert!(
            line.starts_with(id.as_str()) && line.contains("2 GiB"),
            "{line}"
        );
        assert!(
            line.contains("completed") && line.contains("number "),
            "{line}"
        );
    }
}

#[test]
fn an_empty_store_lists_nothing() {
    let sandbox = Sandbox::new();
    Disk::new(sandbox.path("disk.img"), GIB);
    let id = sandbox.import(&["disk.img"]);
    sandbox.run(&["delete", "--yes", &id]).succeeds();
    assert_eq!(sandbox.list(), [json!(null); 0]);
    assert_eq!(
        sandbox.run(&["list"]).succeeds_silently().lines().count(),
        1
    );
}

#[test]
fn info_tells_what_a_snapshot_is_and_holds() {
    let sandbox = Sandbox::new();
    let disk = Disk::new(sandbox.path("disk.img"), 64 * MIB);
    let image = disk.path().to_str().unwrap().to_owned();
    tool(
        "sgdisk",
        &[
            "-o",
            "-n1:2048:34815",
            "-c1:system",
            "-n7:34816:0",
            "-c7:data",
            &image,
        ],
    );
    drop(disk.block(100, 1));
    let id = sandbox.import(&[
        "disk.img",
        "--description",
        "nightly",
        "--tags",
        "Key=host,Value=db1",
        "--tags",
        "Key=env,Value=a=b,c",
    ]);
    let info = sandbox.info(&id);
    assert_eq!(info["id"], *id);
    assert_eq!(info["description"], "nightly");
    assert_eq!(info["tags"], json!({"host": "db1", "env": "a=b,c"}));
    assert_eq!(info["status"], "completed");
    assert_eq!(
        (&info["size"], &info["volume_size"]),
        (&json!(GIB), &json!(1))
    );
    // The table's copy at the disk's end is in a block of its own.
    assert_eq!(
        (&info["blocks"], &info["bytes"]),
        (&json!(3), &json!(3 * 512 * 1024))
    );
    assert_eq!(info["partition_table"], "gpt");
    let partitions = info["partitions"].as_array().unwrap();
    let told: Vec<_> = partitions
        .iter()
        .map(|p| {
            (
                p["number"].as_u64(),
                p["offset"].as_u64(),
                p["name"].as_str(),
            )
        })
        .collect();
    let expected = [
        (Some(1), Some(MIB), Some("system")),
        (Some(7), Some(17 * MIB), Some("data")),
    ];
    assert_eq!(told, expected);
    assert_eq!(partitions[0]["size"], 16 * MIB);

    let text = sandbox.run(&["info", &id]).succeeds_silently();
    for words in [
        &*id,
        "1 GiB (1073741824 bytes)",
        "completed",
        "nightly",
        "host=db1",
        "env=a=b,c",
        "3 present",
        "1572864 bytes",
        "gpt",
        "p1 ",
        "p7 ",
        "16.00 MiB at byte 1048576",
        "data",
    ] {
        assert!(text.contains(words), "{words:?} is missing:\n{text}");
    }
}

#[test]
fn a_parent_is_told_where_there_is_one() {
    use ebsfs::snapshot::{NewSnapshot, Seal, VolumeSize};
    use ebsfs::store::Store as _;
    use ebsfs::store::directory::DirectoryStore;

    let sandbox = Sandbox::new();
    Disk::new(sandbox.path("disk.img"), GIB).block(3, 3);
    let parent = sandbox.import(&["disk.img"]);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let child = runtime.block_on(async {
        let store = DirectoryStore::open(&sandbox.store()).unwrap();
        let new = NewSnapshot {
            parent: Some(parent.parse().unwrap()),
            ..NewSnapshot::new(VolumeSize::from_gib(1).unwrap()).unwrap()
        };
        let info = store.start(&new).await.unwrap();
        let seal = Seal {
            count: 0,
            checksum: None,
        };
        store.complete(&info.id, &seal).await.unwrap();
        info.id.to_string()
    });
    assert_eq!(sandbox.info(&child)["parent"], *parent);
    assert_eq!(sandbox.info(&child)["blocks"], 1);
    assert!(sandbox.info(&parent).get("parent").is_none());
    assert_eq!(sandbox.list()[1]["parent"], *parent);
    let text = sandbox.run(&["list"]).succeeds_silently();
    assert!(text.lines().next().unwrap().contains("PARENT"), "{text}");
    assert_eq!(text.matches(&parent).count(), 2, "{text}");
    let text = sandbox.run(&["info", &child]).succeeds_silently();
    assert!(text.contains(&format!("parent       {parent}")), "{text}");
}

#[test]
fn text_from_a_store_cannot_steer_the_terminal() {
    let sandbox = Sandbox::new();
    let disk = Disk::new(sandbox.path("disk.img"), 64 * MIB);
    let image = disk.path().to_str().unwrap().to_owned();
    tool(
        "sgdisk",
        &["-o", "-n1:2048:0", "-c1:\u{1b}[31mred\u{9b}2J", &image],
    );
    let evil = "\u{1b}]0;title\u{7}\r\nsnap-0 forged\u{9b}2J\u{7f}";
    let tag = format!("Key=k{evil},Value=v{evil}");
    let id = sandbox.import(&["disk.img", "--description", evil, "--tags", &tag]);
    for arguments in [&["list"][..], &["info", &id], &["delete", &id]] {
        let ran = sandbox.run(arguments);
        let text = ran.out + &ran.err;
        let steering = text.chars().find(|c| c.is_control() && *c != '\n');
        assert_eq!(steering, None, "{text:?}");
        assert!(
            !text.lines().any(|line| line.starts_with("snap-0 forged")),
            "{text:?}"
        );
    }
    // Programs get it as it is.
    assert_eq!(sandbox.info(&id)["description"], evil);
    assert_eq!(
        sandbox.info(&id)["tags"][format!("k{evil}")],
        format!("v{evil}")
    );
    assert_eq!(sandbox.list()[0]["description"], evil);
}

#[test]
fn a_reader_of_a_list_may_go_away() {
    let sandbox = Sandbox::new();
    Disk::new(sandbox.path("disk.img"), GIB);
    sandbox.import(&["disk.img"]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = sandbox.command(&["list"]).stdout(writer).output().unwrap();
    assert_eq!(output.status.code(), Some(141));
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}

#[test]
fn the_help_of_every_verb_names_its_options() {
    let sandbox = Sandbox::new();
    for (verb, options) in [
        (
            "import",
            &[
                "<IMAGE>",
                "--continue",
                "--description",
                "--tags",
                "--timeout",
            ][..],
        ),
        ("list", &["--json"]),
        ("info", &["<SNAPSHOT>", "--json"]),
        (
            "mount",
            &[
                "--foreground",
                "--allow-other",
                "--cache-size",
                "--log-file",
                "MOUNTPOINT",
            ],
        ),
        ("umount", &["MOUNTPOINT", "--lazy", "--force"]),
        (
            "export",
            &["<SNAPSHOT>", "<TARGET>", "--force", "--continue"],
        ),
        ("delete", &["<SNAPSHOT>...", "--yes"]),
        ("gc", &["--dry-run", "--json"]),
    ] {
        let help = sandbox.run(&[verb, "--help"]).succeeds_silently();
        for option in options
            .iter()
            .chain(&["--store", "EBSFS_STORE", "--verbose"])
        {
            assert!(
                help.contains(option),
                "{verb}: {option} is missing:\n{help}"
            );
        }
        assert!(
            sandbox
                .run(&["--help"])
                .succeeds_silently()
                .contains(&format!("\n  {verb} "))
        );
        sandbox
            .run(&[verb, "--no-such-option"])
            .fails(2, &["--no-such-option"]);
    }
    sandbox.run(&["no-such-verb"]).fails(2, &["no-such-verb"]);
    sandbox.run(&[]).fails(2, &["Usage"]);
}

#[test]
fn the_help_lists_the_exit_codes_that_are_used() {
    use ebsfs::cli::Stop;
    use ebsfs::error::{Error, ErrorKind};

    let help = Sandbox::new().run(&["--help"]).succeeds_silently();
    let (_, codes) = help.split_once("Exit codes:").unwrap();
    let mut told: Vec<u8> = codes
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|number| number.parse().ok())
        .collect();
    told.dedup();
    use ErrorKind as K;
    let kinds = [
        K::Io,
        K::NoSpace,
        K::ReadOnly,
        K::Invalid,
        K::Unsupported,
        K::Conflict,
        K::NotFound,
        K::Denied,
        K::Corrupt,
        K::Unavailable,
    ];
    let mut used: Vec<_> = kinds
        .map(|kind| Stop::Failed(Error::new(kind, "")).exit_code())
        .into_iter()
        .chain([
            0,
            Stop::Interrupted(String::new()).exit_code(),
            Stop::BrokenPipe.exit_code(),
        ])
        .collect();
    used.sort_unstable();
    used.dedup();
    assert_eq!(told, used);
    // No line was broken where the author did not.
    assert!(
        codes.lines().all(|line| line.len() > 12 || line.is_empty()),
        "{codes}"
    );
}
