//! `ebsfs diff --files`: real file systems, changed by the kernel, file by file; and how little is fetched for it.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::images::{BLOCK, GIB, MIB, Random};
use crate::serving::Server;
use crate::world::{Said, World, finish, run, umount};

/// A new file system in a sparse file. Its inodes are large, so that those of a tree take many blocks.
fn mkfs(world: &World, kind: &str, name: &str, size: u64) -> PathBuf {
    let image = world.path(name);
    File::create(&image).unwrap().set_len(size).unwrap();
    let path = image.to_str().unwrap();
    let (program, options) = match kind {
        "ext4" => ("mkfs.ext4", "-q -I 1024 -E lazy_itable_init=1,nodiscard"),
        _ => ("mkfs.xfs", "-q -K -i size=1024"),
    };
    run(program, options.split(' ').chain([path])).ok();
    image
}

/// Lets `edit` change what is in an image from `start` on, by the kernel.
fn edited_at(world: &World, options: &str, image: &Path, start: u64, edit: impl FnOnce(&Path)) {
    let dir = tempfile::TempDir::with_prefix_in("edit.", world.dir()).unwrap();
    let at = dir.path().to_str().unwrap();
    let options = format!("loop,offset={start},noatime,{options}");
    run("mount", ["-o", &options, image.to_str().unwrap(), at]).ok();
    edit(dir.path());
    umount(at);
}

fn edited(world: &World, kind: &str, image: &Path, edit: impl FnOnce(&Path)) {
    let options = match kind {
        "ext4" => "noinit_itable",
        _ => "nouuid",
    };
    edited_at(world, options, image, 0, edit);
}

/// A copy with the same holes.
fn copied(world: &World, image: &Path, name: &str) -> PathBuf {
    let copy = world.path(name);
    let paths = [image.to_str().unwrap(), copy.to_str().unwrap()];
    run("cp", [&["--sparse=always"][..], &paths].concat()).ok();
    copy
}

fn child(world: &World, image: &Path, parent: &str) -> String {
    let arguments = ["import", "--parent", parent, image.to_str().unwrap()];
    world.ebsfs(arguments).ok().trim_end().to_owned()
}

/// Many directories of small files, whose contents all differ.
fn populate(at: &Path, directories: u64, files: u64) {
    let mut random = Random(7);
    for dir in 0..directories {
        // Those at the top are put far from each other, each with its inodes.
        let dir = at.join(format!("d{dir}"));
        fs::create_dir(&dir).unwrap();
        for file in 0..files {
            let length = 200 + random.below(1800) as usize;
            let bytes: Vec<_> = (0..length / 8)
                .flat_map(|_| random.number().to_le_bytes())
                .collect();
            fs::write(dir.join(format!("f{file}")), bytes).unwrap();
        }
    }
    fs::create_dir(at.join("etc")).unwrap();
    symlink("/usr/share", at.join("etc/link")).unwrap();
}

/// Changes twenty files; tells each by its letters, as they are printed.
fn change_twenty(at: &Path) -> Vec<(&'static str, String)> {
    let path = |name: &str| at.join(name.trim_start_matches('/'));
    let mut changed = Vec::new();
    let mut tell = |letters: &'static str, name: String| changed.push((letters, name));
    for i in 0..5 {
        let name = format!("/d{}/f{}", 3 + 9 * i, 7 + i);
        let file = File::options().append(true).open(path(&name)).unwrap();
        std::io::Write::write_all(&mut &file, b"appended").unwrap();
        tell("c....t.", name);
    }
    for i in 0..3 {
        let name = format!("/d{}/f{}", 20 + i, i);
        let file = File::options().write(true).open(path(&name)).unwrap();
        file.write_all_at(b"over", 100).unwrap();
        tell("c....t.", name);
    }
    for i in 0..4 {
        let name = format!("/d{}/new{i}", 10 * i);
        fs::write(path(&name), format!("new {i}")).unwrap();
        tell("+......", name);
    }
    for i in 0..3 {
        let name = format!("/d{}/f{}", 30 + i, 3 * i);
        fs::remove_file(path(&name)).unwrap();
        tell("-......", name);
    }
    let name = |file: &str| format!("/d40/{file}");
    fs::set_permissions(path(&name("f0")), fs::Permissions::from_mode(0o4711)).unwrap();
    tell(".p...t.", name("f0"));
    chown(path(&name("f1")), Some(1000), None).unwrap();
    tell("..u..t.", name("f1"));
    chown(path(&name("f2")), None, Some(1001)).unwrap();
    tell("...g.t.", name("f2"));
    let create = rustix::fs::XattrFlags::CREATE;
    rustix::fs::setxattr(path(&name("f3")), "user.origin", b"here", create).unwrap();
    tell("....xt.", name("f3"));
    fs::remove_file(path("/etc/link")).unwrap();
    symlink("/usr/local", path("/etc/link")).unwrap();
    tell("c....t.", "/etc/link".into());
    assert_eq!(changed.len(), 20);
    changed
}

/// Letters and path of each line.
fn lines(out: &str) -> Vec<(String, String)> {
    let mut lines = out.lines();
    if let Some(head) = lines.next() {
        assert!(head.starts_with("CHANGE "), "{head}");
    }
    let line = |line: &str| {
        let (letters, rest) = line.split_at(7);
        let path = rest.rsplit_once("Z  ").unwrap().1;
        (letters.to_owned(), path.to_owned())
    };
    lines.map(line).collect()
}

#[track_caller]
fn assert_lines(out: &str, expected: &[(&str, String)]) {
    let mut expected: Vec<_> = expected
        .iter()
        .map(|(letters, path)| ((*letters).to_owned(), path.clone()))
        .collect();
    let mut told = lines(out);
    expected.sort_by(|a, b| a.1.cmp(&b.1));
    told.sort_by(|a, b| a.1.cmp(&b.1));
    assert_eq!(told, expected, "{out}");
}

/// Blocks that were fetched of each snapshot, as the log tells.
fn fetches(said: &Said, id: &str) -> u64 {
    let line = said.err.lines().find_map(|line| {
        let json: Value = serde_json::from_str(line.get(line.find('{')?..)?).ok()?;
        json.get(id)?.get("fetches")?.as_u64()
    });
    line.unwrap_or_else(|| panic!("no fetches of {id} in {said:?}"))
}

/// Twenty files of a volume of 8 GiB: what is told, and what is fetched for it.
fn twenty_of_many(kind: &str) {
    let Some(world) = World::for_root() else {
        return;
    };
    let old = mkfs(&world, kind, "old.img", 8 * GIB);
    edited(&world, kind, &old, |at| populate(at, 100, 200));
    let new = copied(&world, &old, "new.img");
    let mut changed = Vec::new();
    edited(&world, kind, &new, |at| changed = change_twenty(at));
    let from = world.import(&old);
    let to = child(&world, &new, &from);

    let said = world.ebsfs(["-v", "diff", "--files", &from, &to]);
    assert_lines(&said.out, &changed);
    assert_eq!(said.code, Some(0), "{said:?}");
    let totals = "4 added, 3 removed, 9 changed, 4 only in mode";
    assert!(said.err.contains(totals), "{said:?}");

    // No more than one tree's metadata and what has changed.
    let listed = world.ebsfs(["-v", "ls", "-lRa", "--no-read-ahead", &format!("{from}:/")]);
    let metadata = fetches(&listed, &from);
    let blocks = world.ebsfs(["diff", "--json", &from, &to]).ok();
    let blocks: Value = serde_json::from_str(&blocks).unwrap();
    let blocks = blocks["blocks"].as_u64().unwrap();
    let (first, second) = (fetches(&said, &from), fetches(&said, &to));
    eprintln!(
        "{kind}: {metadata} blocks of metadata, {blocks} differ; fetched {first} and {second}"
    );
    assert!(first <= metadata, "{first} of {metadata}");
    assert!(second <= blocks, "{second} of {blocks}");
    // Else to fetch both trees would do, too.
    assert!(
        metadata > blocks,
        "{metadata}, {blocks}: the bound says nothing"
    );

    // With contents it is the same, and only what differs is read besides.
    let said = world.ebsfs(["-v", "diff", "--files", "--content", &from, &to]);
    assert_lines(&said.out, &changed);
    let (first, second) = (fetches(&said, &from), fetches(&said, &to));
    eprintln!("{kind}: with contents {first} and {second}");
    assert!(first <= metadata + blocks && second <= blocks);

    // And from the service.
    let server = Server::start(world.dir(), &[]);
    let mut command = world.bare();
    server.environment(&mut command);
    command.args(["-v", "diff", "--files", "--cache-dir", "cached", &from, &to]);
    let said = finish(&mut command);
    assert_lines(&said.out, &changed);
    assert!(fetches(&said, &from) <= metadata && fetches(&said, &to) <= blocks);
    // What was fetched is on this machine's disk then.
    let mut command = world.bare();
    server.environment(&mut command);
    command.args(["map", "--cache-dir", "cached", &from]);
    let map = finish(&mut command).ok();
    let cached = map.lines().find(|line| line.contains(" cached ")).unwrap();
    assert!(!cached.contains(" 0 blocks"), "{map}");
}

#[test]
fn twenty_files_of_a_large_ext4_are_told_for_little() {
    twenty_of_many("ext4");
}

/// A volume of the size and its edited copy, as snapshots.
fn before_and_after(
    world: &World,
    kind: &str,
    fill: impl FnOnce(&Path),
    edit: impl FnOnce(&Path),
) -> (String, String) {
    let old = mkfs(world, kind, "old.img", 512 * MIB);
    edited(world, kind, &old, fill);
    let new = copied(world, &old, "new.img");
    edited(world, kind, &new, edit);
    let from = world.import(&old);
    let to = child(world, &new, &from);
    (from, to)
}

fn every_kind(kind: &str) {
    let Some(world) = World::for_root() else {
        return;
    };
    let deep = ["deep"].into_iter().chain(["d"; 60]).collect::<PathBuf>();
    let fill = |at: &Path| {
        fs::create_dir_all(at.join("gone/below")).unwrap();
        fs::write(at.join("gone/below/file"), "gone").unwrap();
        fs::create_dir_all(at.join(&deep)).unwrap();
        fs::write(at.join(&deep).join("bottom"), "old").unwrap();
        fs::write(at.join("names"), "one").unwrap();
        fs::hard_link(at.join("names"), at.join("names too")).unwrap();
        fs::write(at.join("becomes a directory"), "file").unwrap();
        fs::create_dir(at.join("becomes a link")).unwrap();
        fs::write(at.join("moved"), "moved").unwrap();
        let sparse = File::create(at.join("sparse")).unwrap();
        sparse.set_len(GIB).unwrap();
        sparse.write_all_at(b"data", 100 * MIB).unwrap();
        fs::write(at.join("odd\n\u{1b}[31mname\u{e4}"), "1").unwrap();
        run("mkfifo", [at.join("pipe")]).ok();
        run("mknod", [at.join("null").to_str().unwrap(), "c", "1", "3"]).ok();
        fs::write(at.join("same"), vec![7; 100_000]).unwrap();
    };
    let edit = |at: &Path| {
        fs::remove_dir_all(at.join("gone")).unwrap();
        fs::write(at.join(&deep).join("bottom"), "newer").unwrap();
        fs::hard_link(at.join("names"), at.join("third")).unwrap();
        fs::remove_file(at.join("becomes a directory")).unwrap();
        fs::create_dir(at.join("becomes a directory")).unwrap();
        fs::write(at.join("becomes a directory/child"), "").unwrap();
        fs::remove_dir(at.join("becomes a link")).unwrap();
        symlink("sparse", at.join("becomes a link")).unwrap();
        run("mv", [at.join("moved"), at.join("moved away")]).ok();
        let sparse = File::options().write(true).open(at.join("sparse")).unwrap();
        sparse.write_all_at(b"more", 700 * MIB).unwrap();
        fs::write(at.join("odd\n\u{1b}[31mname\u{e4}"), "22").unwrap();
        run("mknod", [at.join("zero").to_str().unwrap(), "c", "1", "5"]).ok();
        fs::set_permissions(at.join("same"), fs::Permissions::from_mode(0o600)).unwrap();
    };
    let (from, to) = before_and_after(&world, kind, fill, edit);
    let said = world.ebsfs(["diff", "--files", "--json", &from, &to]);
    assert_eq!(said.err, "", "{said:?}");
    let told: Value = serde_json::from_str(&said.ok()).unwrap();
    assert_eq!(
        (&told["from"], &told["to"]),
        (&from.clone().into(), &to.clone().into())
    );
    let change = |file: &Value| {
        let what = file["what"].as_array().into_iter().flatten();
        let what: Vec<_> = what.map(|what| what.as_str().unwrap()).collect();
        let (change, path) = (
            file["change"].as_str().unwrap(),
            file["path"].as_str().unwrap(),
        );
        format!("{change} {path} {}", what.join(","))
            .trim_end()
            .to_owned()
    };
    let mut changes: Vec<_> = told["files"]
        .as_array()
        .unwrap()
        .iter()
        .map(change)
        .collect();
    changes.sort_unstable();
    let bottom = format!("changed /{}/bottom contents,times", deep.to_str().unwrap());
    let mut expected = vec![
        "removed /gone",
        "removed /gone/below",
        "removed /gone/below/file",
        &bottom,
        "changed /names times,links",
        "changed /names too times,links",
        "added /third",
        "retyped /becomes a directory",
        "added /becomes a directory/child",
        "retyped /becomes a link",
        "removed /moved",
        "added /moved away",
        "changed /sparse contents,times",
        "changed /odd\n\u{1b}[31mname\u{e4} contents,times",
        "added /zero",
        "changed /same mode,times",
    ];
    expected.sort_unstable();
    assert_eq!(changes, expected);
    let of = |path: &str| {
        let files = told["files"].as_array().unwrap();
        files.iter().find(|file| file["path"] == path).unwrap()
    };
    let sizes = |file: &Value| (file["old"]["size"].as_u64(), file["new"]["size"].as_u64());
    assert_eq!(
        sizes(of(&format!("/{}/bottom", deep.to_str().unwrap()))),
        (Some(3), Some(5))
    );
    assert_eq!(sizes(of("/gone/below/file")), (Some(4), None));
    assert_eq!(of("/zero")["new"]["device"], serde_json::json!([1, 5]));
    assert_eq!(
        of("/moved")["old"]["inode"],
        of("/moved away")["new"]["inode"]
    );
    let totals = serde_json::json!({
        "added": 4, "removed": 4, "changed": 5, "attributes": 3, "unknown": 0,
    });
    assert_eq!(told["totals"], totals);
    // Turned round, what was added is removed.
    let back = world.ebsfs(["diff", "--files", "--json", &to, &from]).ok();
    let back: Value = serde_json::from_str(&back).unwrap();
    assert_eq!(back["totals"]["added"], 4);
    assert_eq!(back["totals"]["removed"], 4);
    // Nothing differs from itself.
    for content in [&[][..], &["--content"]] {
        let verb = ["diff", "--files", "--exit-code"];
        let same = world.ebsfs([&verb[..], content, &[&to, &to]].concat());
        assert_eq!(same.ok(), "");
    }
    let other = world.ebsfs(["diff", "--files", "--exit-code", &from, &to]);
    assert_eq!(other.code, Some(1), "{other:?}");
    assert!(!other.err.contains("could not be read"), "{other:?}");
}

#[test]
fn every_kind_of_change_of_an_ext4_is_told() {
    every_kind("ext4");
}

#[test]
fn bytes_that_changed_behind_equal_metadata_are_found_by_contents() {
    let Some(world) = World::for_root() else {
        return;
    };
    let fill = |at: &Path| {
        for name in ["a", "b", "c"] {
            fs::write(at.join(name), vec![b'x'; 8192]).unwrap();
        }
    };
    let old = mkfs(&world, "ext4", "old.img", 512 * MIB);
    edited(&world, "ext4", &old, fill);
    // By a hand that leaves no trace in the inode.
    let new = copied(&world, &old, "new.img");
    let place = run("debugfs", ["-R", "blocks /b", new.to_str().unwrap()]).ok();
    let block: u64 = place.split_whitespace().next().unwrap().parse().unwrap();
    let file = File::options().read(true).write(true).open(&new).unwrap();
    // Blocks of 4 KiB are what a disk of this size has.
    let at = block * 4096;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    assert_eq!(byte, [b'x']);
    file.write_all_at(b"y", at + 5000).unwrap();
    let from = world.import(&old);
    let to = child(&world, &new, &from);
    let believed = world.ebsfs(["diff", "--files", &from, &to]);
    assert_eq!(believed.ok(), "");
    let said = world.ebsfs(["diff", "--files", "--content", &from, &to]);
    assert_eq!(lines(&said.ok()), [("c......".to_owned(), "/b".to_owned())]);

    // Snapshots of two lineages are compared as well, and all of it is read.
    let stranger = world.import(&new);
    let said = world.ebsfs(["diff", "--files", "--content", &from, &stranger]);
    assert!(said.err.contains("read in full"), "{said:?}");
    assert_eq!(lines(&said.ok()), [("c......".to_owned(), "/b".to_owned())]);
}

#[test]
fn partitions_are_compared_with_those_of_their_number() {
    let Some(world) = World::for_root() else {
        return;
    };
    let disk = world.path("old.img");
    File::create(&disk).unwrap().set_len(GIB).unwrap();
    let layout = ["-n1:2048:+64M", "-n2:0:+64M", "-n3:0:+64M", "-n14:0:+4M"];
    let path = disk.to_str().unwrap();
    run("sgdisk", [&["-o"][..], &layout, &[path]].concat()).ok();
    let part = |image: &Path, number: u64, edit: &dyn Fn(&Path), make: bool| {
        let start = MIB + (number - 1) * 64 * MIB;
        if make {
            let offset = format!("offset={start}");
            let path = image.to_str().unwrap();
            run("mkfs.ext4", ["-q", "-F", "-E", &offset, path, "64M"]).ok();
        }
        // Two file systems in one file are two loop devices, one after the other.
        edited_at(&world, "noinit_itable", image, start, edit);
    };
    let write = |name: &'static str, text: &'static str| {
        move |at: &Path| fs::write(at.join(name), text).unwrap()
    };
    part(&disk, 1, &write("one", "1"), true);
    part(&disk, 2, &write("two", "2"), true);
    let new = copied(&world, &disk, "new.img");
    part(&new, 1, &write("one", "changed"), false);
    part(&new, 2, &write("more", "added"), false);
    let from = world.import(&disk);
    let to = child(&world, &new, &from);
    // Nothing readable is on p3 and p14, and nothing has changed there.
    let all = world.ebsfs(["diff", "--files", &from, &to]).ok();
    let expected = [
        ("c....t.", "p1:/one".to_owned()),
        ("+......", "p2:/more".to_owned()),
    ];
    assert_lines(&all, &expected);
    let one = |id: &str, number: u32| format!("{id}.p{number}");
    let second = world.ebsfs(["diff", "--files", &one(&from, 2), &one(&to, 2)]);
    assert_lines(&second.ok(), &expected[1..]);
    let crossed = world.ebsfs(["diff", "--files", &one(&from, 1), &one(&to, 2)]);
    let told = lines(&crossed.ok());
    let told = told
        .iter()
        .map(|(letters, path)| format!("{} {path}", &letters[..1]));
    assert_eq!(
        told.collect::<Vec<_>>(),
        ["+ p2:/more", "- p2:/one", "+ p2:/two"]
    );
    let half = world.ebsfs(["diff", "--files", &one(&from, 1), &to]);
    half.refused(2, &["both", "neither"]);
    let none = world.ebsfs(["diff", "--files", &one(&from, 7), &one(&to, 7)]);
    none.refused(3, &["no partition 7"]);

    // A partition that only one has is a difference, though no files of it are told.
    let more = copied(&world, &new, "more.img");
    run("sgdisk", ["-n4:0:+4M", more.to_str().unwrap()]).ok();
    let more = child(&world, &more, &to);
    for pair in [[&to, &more], [&more, &to]] {
        let said = world.ebsfs(["diff", "--files", "--exit-code", pair[0], pair[1]]);
        assert_eq!((said.code, &*said.out), (Some(1), ""), "{said:?}");
        let what = format!("{more}.p4 has nothing to be compared with");
        assert!(said.err.contains(&what), "{said:?}");
    }

    // What has changed where no files can be read is said.
    let file = File::options().write(true).open(&new).unwrap();
    file.write_all_at(&[9; 2 * BLOCK as usize], 140 * MIB)
        .unwrap();
    let third = child(&world, &new, &to);
    let said = world.ebsfs(["diff", "--files", &to, &third]);
    assert_eq!((said.code, &*said.out), (Some(1), ""), "{said:?}");
    let words = [".p3", "1.00 MiB of it", "cannot be listed"];
    assert!(words.iter().all(|word| said.err.contains(word)), "{said:?}");
}

#[test]
fn damaged_trees_are_told_file_by_file_and_end() {
    let Some(world) = World::for_root() else {
        return;
    };
    let fill = |at: &Path| {
        fs::create_dir_all(at.join("usr/share")).unwrap();
        populate(&at.join("usr/share"), 4, 6);
    };
    let (from, _) = before_and_after(&world, "ext4", fill, |_| ());
    let debugfs = |image: &Path, commands: &[&str]| {
        let script = world.path("commands");
        fs::write(&script, commands.join("\n")).unwrap();
        let paths = [script.to_str().unwrap(), image.to_str().unwrap()];
        run("debugfs", ["-w", "-f", paths[0], paths[1]]).ok();
    };
    // A directory in itself, a name of nothing, and a file that is not one.
    let new = copied(&world, &world.path("old.img"), "loop.img");
    let commands = [
        "ln /usr /usr/share/again",
        "ln /usr/share/d0/f0 /usr/share/d0/lost",
        "mkdir /added",
        "clri /usr/share/d1/f1",
    ];
    debugfs(&new, &commands);
    let to = child(&world, &new, &from);
    let said = world.ebsfs(["diff", "--files", "--content", &from, &to]);
    assert_eq!(said.code, Some(1), "{said:?}");
    let told = lines(&said.out);
    let is_told = |letter: &str, path: &str| {
        told.iter()
            .any(|(letters, told)| letters.starts_with(letter) && told == path)
    };
    assert!(is_told("+", "/added"), "{said:?}");
    assert!(is_told("+", "/usr/share/d0/lost"), "{said:?}");
    for words in ["/usr/share/again", "/usr/share/d1/f1", "could not be read"] {
        assert!(said.err.contains(words), "{words:?} is missing: {said:?}");
    }

    // Whatever is flipped, it ends, and with a sentence.
    let mut random = Random(20);
    for round in 0..12 {
        let new = copied(&world, &world.path("old.img"), "flipped.img");
        let file = File::options().write(true).open(&new).unwrap();
        for _ in 0..40 {
            // Group descriptors, bitmaps, the inode table, and the first directories.
            let at = 1024 + random.below(12 * MIB);
            file.write_all_at(&[random.below(256) as u8], at).unwrap();
        }
        let to = child(&world, &new, &from);
        let arguments = ["diff", "--files", "--content", &from, &to].map(OsStr::new);
        let said = world.ebsfs(arguments);
        assert!(matches!(said.code, Some(0 | 1)), "round {round}: {said:?}");
        assert!(!said.err.contains("panicked"), "round {round}: {said:?}");
    }
}

#[test]
fn twenty_files_of_a_large_xfs_are_told_for_little() {
    twenty_of_many("xfs");
}

#[test]
fn every_kind_of_change_of_an_xfs_is_told() {
    every_kind("xfs");
}
