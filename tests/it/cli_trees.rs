//! `ls`, `cat`, `find` and `df`, as a user types them.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use jiff::Timestamp;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::oracle::{Fixture, fixture};
use crate::program::{Sandbox, is_root, tool};
use crate::serving::Server;
use crate::trees::lines;
use crate::world::{World, run, umount, unless_busy};

/// Runs a command to its end; what it prints need not be text.
fn output(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap()
}

/// The program as the user nobody, who has no FUSE.
fn without_fuse<S: AsRef<OsStr>>(sandbox: &Sandbox, arguments: &[S]) -> Output {
    let mut inner = sandbox.command_as_nobody(&[]);
    let script = "mount --bind /dev/null /dev/fuse 2>/dev/null || [ ! -e /dev/fuse ] || exit 99; exec \"$@\"";
    let mut command = Command::new("timeout");
    command
        .args([
            "-s", "KILL", "100", "unshare", "--mount", "sh", "-c", script, "sh",
        ])
        .arg(inner.get_program())
        .args(inner.get_args())
        .args(arguments)
        .current_dir(inner.get_current_dir().unwrap());
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    inner.env("EBSFS_STORE", "unused");
    output(command.env("EBSFS_STORE", "nobody/store"))
}

#[track_caller]
fn succeeded(output: Output) -> Vec<u8> {
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), &*err), (Some(0), ""));
    output.stdout
}

/// An image in the store of nobody.
fn imported_by_nobody(sandbox: &Sandbox, image: &Path) -> String {
    // Who owns the store is nobody, for whom the image is copied.
    drop(sandbox.command_as_nobody(&[]));
    let copied = sandbox.path("image");
    tool(
        "cp",
        &[
            "--sparse=always",
            image.to_str().unwrap(),
            copied.to_str().unwrap(),
        ],
    );
    tool("chmod", &["644", copied.to_str().unwrap()]);
    let imported = without_fuse(sandbox, &["import", copied.to_str().unwrap()]);
    assert!(imported.status.success(), "{imported:?}");
    fs::remove_file(copied).unwrap();
    String::from_utf8(imported.stdout)
        .unwrap()
        .trim_end()
        .to_owned()
}

fn number(value: &Value, name: &str) -> u64 {
    value[name].as_u64().unwrap()
}

/// What `ls -l` says of a file, in columns, by what the kernel says.
fn columns(value: &Value) -> [String; 6] {
    let mode = number(value, "mode");
    let bit = |bit: u64, letter: char| if mode & bit != 0 { letter } else { '-' };
    let special = |special: u64, execute: u64, both: char, alone: char| match (
        mode & special,
        mode & execute,
    ) {
        (0, 0) => '-',
        (0, _) => 'x',
        (_, 0) => alone,
        _ => both,
    };
    let kind = match value["type"].as_str().unwrap() {
        "file" => '-',
        "directory" => 'd',
        "symlink" => 'l',
        "char-device" => 'c',
        "block-device" => 'b',
        "fifo" => 'p',
        "socket" => 's',
        other => panic!("{other}"),
    };
    let text = [
        kind,
        bit(0o400, 'r'),
        bit(0o200, 'w'),
        special(0o4000, 0o100, 's', 'S'),
        bit(0o40, 'r'),
        bit(0o20, 'w'),
        special(0o2000, 0o10, 's', 'S'),
        bit(0o4, 'r'),
        bit(0o2, 'w'),
        special(0o1000, 0o1, 't', 'T'),
    ];
    let seconds = value["modified"]
        .as_str()
        .unwrap()
        .parse::<i128>()
        .unwrap()
        .div_euclid(1_000_000_000);
    let size = match &value["device"] {
        Value::Array(numbers) => format!("{}, {}", numbers[0], numbers[1]),
        _ => value["size"]
            .as_u64()
            .map_or("-".into(), |size| size.to_string()),
    };
    [
        text.into_iter().collect(),
        value["links"].to_string(),
        value["uid"].to_string(),
        value["gid"].to_string(),
        size,
        Timestamp::from_second(seconds.try_into().unwrap())
            .unwrap()
            .to_string(),
    ]
}

/// The lines of a directory's `ls -la`, without what the kernel does not tell: how large directories are.
fn expected_lines(files: &[(Vec<u8>, Value)], directory: &[u8]) -> Vec<(Vec<u8>, [String; 6])> {
    let prefix = [directory.strip_suffix(b"/").unwrap_or(directory), b"/"].concat();
    let inside = files.iter().filter_map(|(path, value)| {
        let name = path.strip_prefix(&*prefix)?;
        (!name.is_empty() && !name.contains(&b'/')).then_some((name.to_vec(), value))
    });
    inside
        .map(|(mut name, value)| {
            if let Some(target) = value["target"].as_str() {
                name.extend_from_slice(b" -> ");
                name.extend(hex::decode(target).unwrap());
            }
            (name, columns(value))
        })
        .collect()
}

/// What all verbs show of a fixture is what the kernel shows.
fn shows_what_the_kernel_does(kind: &str) {
    if !is_root(kind) {
        return;
    }
    let fixture: &Fixture = fixture(kind);
    let sandbox = Sandbox::new();
    let id = imported_by_nobody(&sandbox, &fixture.image);
    let (files, all) = lines(fixture);

    // ls -laR: a title for each directory, then its lines.
    let out = succeeded(without_fuse(&sandbox, &["ls", "-laR", &format!("{id}:/")]));
    let mut rest = &out[..];
    for (path, _) in files
        .iter()
        .filter(|(_, value)| value["type"] == "directory")
    {
        let title = [&path[..], b":\n"].concat();
        if path != b"/" {
            rest = rest.strip_prefix(b"\n").unwrap();
        }
        rest = rest
            .strip_prefix(&*title)
            .unwrap_or_else(|| panic!("{}", path.escape_ascii()));
        for (name, columns) in expected_lines(&files, path) {
            let mut fields = columns.into_iter();
            for (index, field) in fields.by_ref().enumerate() {
                rest = rest.trim_ascii_start();
                // How large a directory is, everybody counts in another way.
                let end = rest.iter().position(|byte| *byte == b' ').unwrap();
                let end = if index == 4 && field.contains(", ") {
                    field.len()
                } else {
                    end
                };
                let found = str::from_utf8(&rest[..end]).unwrap();
                assert!(
                    field == "-" || found == field,
                    "{found} {field} of {}",
                    name.escape_ascii()
                );
                rest = &rest[end..];
            }
            let line = [b" ", &name[..], b"\n"].concat();
            rest = rest
                .strip_prefix(&*line)
                .unwrap_or_else(|| panic!("{}", name.escape_ascii()));
        }
    }
    assert_eq!(rest, b"");

    // find: the same paths in the same order.
    let out = succeeded(without_fuse(
        &sandbox,
        &["find", "--print0", &format!("{id}:/")],
    ));
    let found: Vec<_> = out
        .strip_suffix(b"\0")
        .unwrap()
        .split(|byte| *byte == 0)
        .collect();
    let wanted: Vec<_> = files.iter().map(|(path, _)| &path[..]).collect();
    assert_eq!(found, wanted);
    let out = succeeded(without_fuse(
        &sandbox,
        &["find", "--json", &format!("{id}:/")],
    ));
    let found: Vec<Value> = serde_json::from_slice(&out).unwrap();
    assert_eq!(found.len(), files.len());
    for (found, (path, wanted)) in found.iter().zip(&files) {
        let shown = path.escape_ascii();
        match found["path_hex"].as_str() {
            Some(hex) => assert_eq!(hex::decode(hex).unwrap(), *path),
            None => assert_eq!(found["path"].as_str().unwrap().as_bytes(), path),
        }
        for name in ["type", "inode", "uid", "gid", "links", "device"] {
            assert_eq!(found[name], wanted[name], "{name} of {shown}");
        }
        assert_eq!(
            found["mode"],
            format!("{:04o}", number(wanted, "mode")),
            "{shown}"
        );
    }

    // cat: the contents of all files, one after the other.
    let is_small = |value: &Value| value["type"] == "file" && number(value, "size") <= 1 << 30;
    let places: Vec<OsString> = files
        .iter()
        .filter(|(_, value)| is_small(value))
        .map(|(path, _)| OsString::from_vec([id.as_bytes(), b":", path].concat()))
        .collect();
    let arguments = [&[OsString::from("cat"), "--".into()][..], &places].concat();
    let out = succeeded(without_fuse(&sandbox, &arguments));
    assert_eq!(hex::encode(Sha256::digest(out)), all["contents"]);

    let out = succeeded(without_fuse(&sandbox, &["df", "--json", &id]));
    let shown: Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(shown[0]["size"], all["size"]);
}

#[test]
fn nobody_sees_all_of_an_ext4_in_use_without_fuse() {
    shows_what_the_kernel_does("kernel ext4-dirty");
}

#[test]
fn nobody_sees_all_of_an_xfs_in_use_without_fuse() {
    shows_what_the_kernel_does("kernel xfs-dirty");
}

#[test]
fn nobody_sees_all_of_an_ext3_in_use_without_fuse() {
    shows_what_the_kernel_does("kernel ext3-dirty");
}

/// A file system with these files, each of which holds its own path.
fn file_system(sandbox: &Sandbox, mkfs: &[&str], size: u64, files: &[&str]) -> std::path::PathBuf {
    let dir = tempfile::tempdir_in(sandbox.path("")).unwrap();
    for file in files {
        let path = dir.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, file).unwrap();
    }
    let image = dir.path().with_extension("img");
    File::create(&image).unwrap().set_len(size).unwrap();
    let from = dir.path().to_str().unwrap();
    let arguments = [&mkfs[1..], &["-q", "-d", from, image.to_str().unwrap()]].concat();
    tool(mkfs[0], &arguments);
    image
}

const MIB: u64 = 1 << 20;

/// A disk with a GPT of these file systems, each with its type.
fn disk(sandbox: &Sandbox, parts: &[(&str, Option<&Path>)]) -> std::path::PathBuf {
    let path = sandbox.path("disk");
    File::create(&path)
        .unwrap()
        .set_len((parts.len() as u64 * 20 + 2) * MIB)
        .unwrap();
    let mut script = "label: gpt\n".to_owned();
    for (index, (kind, _)) in parts.iter().enumerate() {
        script += &format!("start={}MiB, size=20MiB, type={kind}\n", index * 20 + 1);
    }
    fs::write(sandbox.path("script"), script).unwrap();
    let shell = format!(
        "sfdisk -q --no-reread --no-tell-kernel {} < {}",
        path.display(),
        sandbox.path("script").display()
    );
    tool("sh", &["-c", &shell]);
    for (index, (_, image)) in parts.iter().enumerate() {
        if let Some(image) = image {
            let seek = format!("seek={}", index * 20 + 1);
            let (from, to) = (
                format!("if={}", image.display()),
                format!("of={}", path.display()),
            );
            tool(
                "dd",
                &[
                    &from,
                    &to,
                    "bs=1M",
                    &seek,
                    "conv=notrunc,sparse",
                    "status=none",
                ],
            );
        }
    }
    path
}

const EXT4: &[&str] = &["mkfs.ext4"];

#[test]
fn without_a_partition_the_root_is_meant_and_else_whichever_has_the_path() {
    let sandbox = Sandbox::new();
    let boot = file_system(&sandbox, EXT4, 20 * MIB, &["vmlinuz", "both"]);
    let root = file_system(&sandbox, EXT4, 16 * MIB, &["etc/fstab", "both"]);
    let swap = sandbox.path("swap");
    File::create(&swap).unwrap().set_len(20 * MIB).unwrap();
    tool("mkswap", &["-q", swap.to_str().unwrap()]);
    let disk = disk(
        &sandbox,
        &[
            ("linux", Some(&boot)),
            ("swap", Some(&swap)),
            ("linux", Some(&root)),
        ],
    );
    let id = sandbox.import(&[disk.to_str().unwrap()]);
    let cat = |place: &str| sandbox.run(&["cat", &format!("{id}{place}")]);
    // The third has a directory /etc.
    assert_eq!(cat(":/both").succeeds_silently(), "both");
    let listed = sandbox.run(&["ls", &id]).succeeds_silently();
    assert_eq!(listed, "both\netc\nlost+found\n");
    assert_eq!(cat(":/vmlinuz").succeeds_silently(), "vmlinuz");
    assert_eq!(cat(".p1:/vmlinuz").succeeds_silently(), "vmlinuz");
    assert_eq!(cat(":etc/fstab").succeeds_silently(), "etc/fstab");
    cat(".p1:/etc/fstab").fails(3, &[".p1", "/etc", "no such name"]);
    cat(":/missing").fails(
        3,
        &[
            "/missing is in none of p3 (ext4), p1 (ext4)",
            "p2 (swap)",
            ".pN:/path",
            "ebsfs df",
        ],
    );
    cat(".p4:/both").fails(3, &["no partition 4", "p1, p2, p3"]);
    cat(".p2:/both").fails(2, &["swap", "ebsfs browse"]);
}

#[test]
fn a_partition_of_the_type_of_roots_is_the_root() {
    let sandbox = Sandbox::new();
    let other = file_system(&sandbox, EXT4, 20 * MIB, &["etc/fstab", "other"]);
    let root = file_system(&sandbox, EXT4, 16 * MIB, &["root"]);
    let kind = "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709";
    let disk = disk(&sandbox, &[("linux", Some(&other)), (kind, Some(&root))]);
    let id = sandbox.import(&[disk.to_str().unwrap()]);
    assert_eq!(
        sandbox.run(&["ls", &id]).succeeds_silently(),
        "lost+found\nroot\n"
    );
}

#[test]
fn of_file_systems_without_etc_the_largest_is_the_root() {
    let fixture = fixture("gpt");
    let sandbox = Sandbox::new();
    let id = sandbox.import(&[fixture.image.to_str().unwrap()]);
    let manifest = fs::read_to_string(&fixture.manifest).unwrap();
    let digest = |place: String| {
        let out = succeeded(output(&mut sandbox.command(&["cat", &place])));
        hex::encode(Sha256::digest(out))
    };
    let wanted = |path: &str| {
        let line = manifest
            .lines()
            .find(|line| line.ends_with(&format!("  {path}")))
            .unwrap();
        line.split_once(' ').unwrap().0.to_owned()
    };
    for (place, path) in [
        (":/special/large", "p2/special/large"),
        (".p2:/special/large", "p2/special/large"),
        (".p1:/special/large", "p1/special/large"),
        (".p1:/special/link", "p1/dir000/file00000"),
    ] {
        assert_eq!(digest(format!("{id}{place}")), wanted(path), "{place}");
    }
}

#[test]
fn what_cannot_be_read_here_is_named_and_so_is_who_can() {
    let sandbox = Sandbox::new();
    let id = sandbox.import(&[fixture("btrfs").image.to_str().unwrap()]);
    sandbox
        .run(&["ls", &format!("{id}:/")])
        .fails(2, &[&id, "btrfs", "`ebsfs browse`"]);
    let table = sandbox.run(&["df", &id]).succeeds_silently();
    assert!(table.contains("btrfs"), "{table}");
    let empty = sandbox.path("empty");
    File::create(&empty).unwrap().set_len(MIB).unwrap();
    let id = sandbox.import(&[empty.to_str().unwrap()]);
    sandbox
        .run(&["cat", &format!("{id}:/x")])
        .fails(2, &[&id, "no file system is known"]);
    sandbox
        .run(&["ls", &format!("{id}.p1:/")])
        .fails(3, &["has no partitions", &format!("{id}:/path")]);
    sandbox
        .run(&["cat", "/etc/fstab"])
        .fails(2, &["not a place in a snapshot", "SNAPSHOT:/path"]);
}

#[test]
fn df_tells_each_partition_and_what_is_on_it() {
    let sandbox = Sandbox::new();
    let id = sandbox.import(&[fixture("gpt").image.to_str().unwrap()]);
    let text = sandbox.run(&["df", "--json", &id]).succeeds_silently();
    let rows: Value = serde_json::from_str(&text).unwrap();
    let [first, second] = &rows.as_array().unwrap()[..] else {
        panic!("{rows}");
    };
    assert_eq!(
        (&first["volume"], &first["type"]),
        (&format!("{id}.p1").into(), &"ext4".into())
    );
    assert_eq!(
        (&second["partition"], &second["type"]),
        (&2.into(), &"xfs".into())
    );
    assert_eq!(second["uuid"], "00000000-0000-4000-8000-000000000003");
    for row in [first, second] {
        assert_eq!(row["label"], "fixture");
        assert_eq!(
            number(row, "used") + number(row, "free"),
            number(row, "size")
        );
        assert!(number(row, "used") > 5 * MIB && number(row, "size") <= number(row, "bytes"));
    }
    let table = sandbox.run(&["df", &id]).succeeds_silently();
    assert!(
        table.contains("ext4") && table.contains("xfs") && table.contains("fixture"),
        "{table}"
    );
}

#[test]
fn names_with_a_dot_are_hidden_and_directories_shown_as_ls_does() {
    let sandbox = Sandbox::new();
    let image = file_system(&sandbox, EXT4, 16 * MIB, &[".profile", "dir/file", "zero"]);
    let id = sandbox.import(&[image.to_str().unwrap()]);
    let root = format!("{id}:/");
    let ls = |options: &[&str], places: &[&str]| {
        sandbox
            .run(&[&["ls"], options, places].concat())
            .succeeds_silently()
    };
    assert_eq!(ls(&[], &[&root]), "dir\nlost+found\nzero\n");
    assert_eq!(ls(&["-a"], &[&root]), ".profile\ndir\nlost+found\nzero\n");
    assert_eq!(ls(&["-d"], &[&root]), "/\n");
    let dir = format!("{id}:dir/");
    assert_eq!(ls(&[], &[&dir]), "file\n");
    let file = format!("{id}:/zero");
    assert_eq!(ls(&[], &[&file, &dir]), "/zero\n\n/dir:\nfile\n");
    assert_eq!(
        ls(&["-R"], &[&root]),
        "/:\ndir\nlost+found\nzero\n\n/dir:\nfile\n\n/lost+found:\n"
    );
    let value: Value = serde_json::from_str(&ls(&["--json"], &[&dir])).unwrap();
    assert_eq!(
        (&value[0]["path"], &value[0]["size"]),
        (&"/dir/file".into(), &8.into())
    );
    let find = |options: &[&str]| {
        sandbox
            .run(&[&["find", &root], options].concat())
            .succeeds_silently()
    };
    assert_eq!(
        find(&["--name", "*o*", "--type", "f"]),
        "/.profile\n/zero\n"
    );
    assert_eq!(find(&["--type", "d"]), "/\n/dir\n/lost+found\n");
    assert_eq!(find(&["--size", "+7"]), "/.profile\n/dir/file\n");
    assert_eq!(find(&["--size", "-5"]), "/zero\n");
    assert_eq!(find(&["--newer", "2100-01-01"]), "");
    assert_eq!(
        find(&["--newer", "2001-01-01", "--name", "zero"]),
        "/zero\n"
    );
    assert_eq!(find(&["--newer", "2100-01-01", "--json"]), "[]\n");
}

#[test]
fn a_damaged_file_is_told_and_all_others_are_shown() {
    let sandbox = Sandbox::new();
    let image = file_system(&sandbox, EXT4, 16 * MIB, &["a/bad", "a/good", "dir/x", "z"]);
    let text = image.to_str().unwrap();
    tool("debugfs", &["-w", "-R", "sif /a/bad mode 0", text]);
    tool("debugfs", &["-w", "-R", "sif /a/bad links_count 0", text]);
    let id = sandbox.import(&[text]);
    let ran = sandbox.run(&["ls", "-lR", &format!("{id}:/")]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(
        ran.err.contains("/a/bad: inode") && ran.err.contains("1 file could not be read"),
        "{ran:?}"
    );
    assert!(
        ran.out.contains(" good\n") && ran.out.contains(" x\n") && ran.out.contains(" bad\n"),
        "{ran:?}"
    );
    let ran = sandbox.run(&["find", &format!("{id}:/")]);
    assert_eq!((ran.code, ran.out.lines().count()), (1, 7), "{ran:?}");
    let [bad, good] = ["bad", "good"].map(|name| format!("{id}:/a/{name}"));
    let ran = sandbox.run(&["cat", &bad, &good]);
    assert_eq!((ran.code, &*ran.out), (1, "a/good"), "{ran:?}");
    sandbox
        .run(&["cat", &bad])
        .fails(5, &["/a/bad", "not in use"]);
    sandbox
        .run(&["cat", &format!("{id}:/a")])
        .fails(2, &["is a directory", "`ebsfs ls`"]);
}

#[test]
fn a_reader_that_goes_away_ends_it_quietly() {
    let sandbox = Sandbox::new();
    let id = sandbox.import(&[fixture("ext4").image.to_str().unwrap()]);
    for verb in ["cat {}:/special/large", "find {}:/", "ls -lR {}:/"] {
        let verb = verb.replace("{}", &id);
        let script = format!(
            "trap '' PIPE; {} {verb} | true; exit ${{PIPESTATUS[0]}}",
            env!("CARGO_BIN_EXE_ebsfs")
        );
        let mut command = sandbox.command(&[]);
        let mut shell = Command::new("bash");
        shell.args(["-c", &script]).current_dir(sandbox.path(""));
        shell.envs(
            command
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        );
        let ended = output(&mut shell);
        assert_eq!(
            ended.stderr,
            b"",
            "{verb}: {}",
            String::from_utf8_lossy(&ended.stderr)
        );
        assert!(
            matches!(ended.status.code(), Some(141 | 0)),
            "{verb}: {:?}",
            ended.status
        );
        command.env_clear();
    }
}

/// What a run with `-v` counted.
fn counted(err: &str, id: &str, name: &str) -> u64 {
    let lines = err
        .lines()
        .filter_map(|line| line.find('{').map(|at| &line[at..]));
    let counts = lines
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .find(|value| value[id].is_object());
    number(
        &counts.unwrap_or_else(|| panic!("nothing was counted: {err}"))[id],
        name,
    )
}

#[test]
fn the_first_file_of_a_large_volume_takes_few_blocks() {
    let sandbox = Sandbox::new();
    let files: Vec<String> = (0..400)
        .map(|i| format!("etc/d{}/file{i}", i % 20))
        .collect();
    let mut files: Vec<&str> = files.iter().map(String::as_str).collect();
    files.push("etc/fstab");
    let image = file_system(&sandbox, EXT4, 8 << 30, &files);
    let id = sandbox.import(&[image.to_str().unwrap()]);
    for options in [&[][..], &["--no-read-ahead"]] {
        let place = format!("{id}:/etc/fstab");
        let ran = sandbox.run(&[&["-v", "cat", &place], options].concat());
        assert_eq!((ran.code, &*ran.out), (0, "etc/fstab"), "{ran:?}");
        let fetched = counted(&ran.err, &id, "fetches");
        assert!((1..=16).contains(&fetched), "{fetched} blocks");
    }
}

#[test]
fn a_store_far_away_is_read_through_the_disk_cache() {
    let sandbox = Sandbox::new();
    let image = file_system(&sandbox, EXT4, 64 * MIB, &["etc/fstab"]);
    let id = sandbox.import(&[image.to_str().unwrap()]);
    let server = Server::start(&sandbox.path(""), &[]);
    let run = || {
        let mut command = sandbox.command(&[
            "-v",
            "cat",
            &format!("{id}:/etc/fstab"),
            "--cache-dir",
            "kept",
        ]);
        server.environment(&mut command);
        let ran = crate::program::Running::start(command).finish();
        assert_eq!((ran.code, &*ran.out), (0, "etc/fstab"), "{ran:?}");
        counted(&ran.err, &id, "fetches") - counted(&ran.err, &id, "disk_hits")
    };
    assert!(run() > 0);
    assert_eq!(run(), 0, "all of it was kept");
}

/// The kernel notes small changes in a short form, if it was told so. Without them a file would be as it was before.
#[test]
fn a_journal_with_fast_commits_is_refused_and_browse_replays_it() {
    let Some(world) = World::for_root() else {
        return;
    };
    let (image, copy) = (world.path("image"), world.path("copy"));
    File::create_new(&image).unwrap().set_len(64 * MIB).unwrap();
    let [image, copied] = [&image, &copy].map(|path| path.to_str().unwrap());
    run("mkfs.ext4", ["-q", "-F", "-O", "fast_commit", image]).ok();
    let at = world.empty("at");
    run("mount", ["-o", "loop", image, at.to_str().unwrap()]).ok();
    let path = at.join("file");
    let mut file = File::create(&path).unwrap();
    let path = path.to_str().unwrap();
    run("sync", ["-f", path]).ok();
    let take = || run("cp", ["--sparse=always", image, copied]).ok();
    let cat = |copy: &Path| {
        let id = world.import(copy);
        world.ebsfs(["cat", &format!("{id}:/file")])
    };
    take();
    assert_eq!(cat(&copy).ok(), "");
    for _ in 0..3 {
        file.write_all(b"more\n").unwrap();
        run("sync", [path]).ok();
    }
    take();
    drop(file);
    umount(at);
    let said = cat(&copy);
    said.refused(2, &["fast commits", "ebsfs browse"]);
    let id = world.import(&copy);
    let browsed = world.empty("browsed");
    let browsed = browsed.to_str().unwrap();
    world.ebsfs(["browse", &id, browsed]).ok();
    let text = fs::read_to_string(Path::new(browsed).join("file")).unwrap();
    assert_eq!(text, "more\n".repeat(3));
    unless_busy(|| world.ebsfs(["umount", browsed])).ok();
}
