//! Damage that no checksum shows, as it was written with one: by a program that was wrong, or by one that means harm.

use std::path::Path;
use std::process::Command;

use ebsfs::error::{ErrorKind, Result};
use ebsfs::filesystem::{FileTree, Node, open};

use crate::oracle::fixture;
use crate::program::is_root;
use crate::trees::ImageFile;

const KIND: &str = "kernel xfs-full";

/// What `xfs_db` prints, which changes what it is told to and keeps the checksums right.
fn xfs_db(image: &Path, commands: &[&str]) -> String {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let commands = commands.iter().flat_map(|command| ["-c", command]);
    let output = Command::new("xfs_db")
        .env("PATH", path)
        .arg("-x")
        .args(commands)
        .arg(image)
        .output()
        .expect("these tests need xfs_db, of xfsprogs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
    String::from_utf8(output.stdout).unwrap()
}

/// The number behind the last word of one of the lines.
fn number(printed: &str, name: &str) -> u64 {
    let line = printed.lines().find(|line| line.starts_with(name));
    let value = line.and_then(|line| line.rsplit([' ', ':']).next());
    value.and_then(|value| value.parse().ok()).unwrap()
}

/// What becomes of `look` at a copy of the fixture that `commands` changed; nothing where it cannot be made.
fn planted<T>(
    commands: &[&str],
    look: impl FnOnce(&dyn FileTree) -> Result<T>,
) -> Option<Result<T>> {
    if !is_root(KIND) {
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    let copied = Command::new("cp")
        .arg("--sparse=always")
        .args([&fixture(KIND).image, &image])
        .status();
    assert!(copied.unwrap().success());
    xfs_db(&image, commands);
    Some(looked_at(&image, look))
}

fn looked_at<T>(image: &Path, look: impl FnOnce(&dyn FileTree) -> Result<T>) -> Result<T> {
    open(ImageFile::open(image)).and_then(|tree| look(&*tree))
}

fn at(tree: &dyn FileTree, path: &str) -> Result<Node> {
    let mut node = tree.root();
    for name in path.split('/') {
        node = tree.lookup(node, name.as_bytes())?;
    }
    Ok(node)
}

fn extents(path: &str) -> impl Fn(&dyn FileTree) -> Result<()> {
    move |tree| tree.extents(at(tree, path)?).map(drop)
}

fn names(path: &str) -> impl Fn(&dyn FileTree) -> Result<()> {
    move |tree| tree.entries(at(tree, path)?).map(drop)
}

/// It is told as damage, in these words, and was none before.
fn is_damage<T>(commands: &[&str], look: impl Fn(&dyn FileTree) -> Result<T>, words: &str) {
    if let Some(told) = planted(commands, &look) {
        assert!(looked_at(&fixture(KIND).image, look).is_ok(), "{words}");
        let e = told.err();
        let e = e.unwrap_or_else(|| panic!("nobody noticed: {words}"));
        assert_eq!(e.kind(), ErrorKind::Corrupt);
        assert!(format!("{e:#}").contains(words), "{e:#}");
    }
}

#[test]
fn what_belongs_to_another_inode_is_damage() {
    is_damage(
        &["path /etc/fstab", "write v3.inumber 64"],
        |tree| tree.metadata(at(tree, "etc/fstab")?),
        "says that it is another",
    );
    is_damage(
        &["path /names-400", "dblock 0", "write dhdr.hdr.owner 64"],
        names("names-400"),
        "of another directory",
    );
    is_damage(
        &["path /holes/comb", "addr u3.bmbt.ptrs[1]", "write owner 64"],
        extents("holes/comb"),
        "of its map is damaged",
    );
    for (file, commands) in [
        ("attributes/5", ["ablock 0", "write hdr.info.owner 64"]),
        ("attributes/6", ["ablock 1", "write hdr.owner 64"]),
    ] {
        is_damage(
            &[&format!("path /{file}"), commands[0], commands[1]],
            |tree| tree.xattrs(at(tree, file)?),
            "of its attributes is damaged",
        );
    }
    is_damage(
        &["path /links/431", "dblock 0", "write owner 64"],
        |tree| tree.link_target(at(tree, "links/431")?),
        "of its target is damaged",
    );
}

#[test]
fn a_map_that_leads_astray_is_damage() {
    let comb = ["path /holes/comb", "print u3.bmbt.ptrs[1]"];
    let first = is_root(KIND).then(|| number(&xfs_db(&fixture(KIND).image, &comb), "u3.bmbt"));
    is_damage(
        &[
            comb[0],
            &format!("write u3.bmbt.ptrs[2] {}", first.unwrap_or_default()),
        ],
        extents("holes/comb"),
        "twice",
    );
    // From the second group into the third.
    is_damage(
        &["path /names-400", "write u3.bmx[0].blockcount 76790"],
        names("names-400"),
        "lies outside",
    );
    is_damage(
        &["path /names-400", "write u3.bmx[1].startoff 3"],
        names("names-400"),
        "its map goes from block 4 to block 3",
    );
}

#[test]
fn a_directory_of_unwritten_or_repeated_blocks_is_damage() {
    let map = ["path /names-400", "print u3.bmx[0].startblock"];
    let first = is_root(KIND).then(|| number(&xfs_db(&fixture(KIND).image, &map), "u3.bmx"));
    let again = format!("write u3.bmx[1].startblock {}", first.unwrap_or_default());
    for write in ["write u3.bmx[1].extentflag 1", &again] {
        is_damage(
            &[map[0], write],
            names("names-400"),
            "it uses a block twice, or one that is not written",
        );
    }
}

#[test]
fn what_is_free_is_counted_from_sound_headers() {
    let facts = |tree: &dyn FileTree| tree.facts();
    for write in ["write -c freeblks 1", "write -d seqno 2"] {
        is_damage(&["agf 1", write], facts, "the header of group 1 is damaged");
    }
    let fields = ["freeblks", "flcount", "btreeblks"];
    let commands = ["agf 2", "write -d flcount 3", "write -d btreeblks 5"];
    if let Some(facts) = planted(&commands, facts) {
        let image = &fixture(KIND).image;
        let of_group = |group: u64| {
            let (group, print) = (format!("agf {group}"), "print freeblks flcount btreeblks");
            let printed = xfs_db(image, &[&group, print]);
            fields.map(|field| number(&printed, field))
        };
        let blocks: u64 = [0, 1, 3].map(of_group).as_flattened().iter().sum();
        let block_size = number(&xfs_db(image, &["sb 0", "print blocksize"]), "blocksize");
        let expected = blocks + of_group(2)[0] + 3 + 5;
        assert_eq!(facts.unwrap().free, expected * block_size);
    }
}

#[test]
fn what_a_realtime_section_holds_is_left_to_the_kernel() {
    let commands = ["path /etc/fstab", "write core.realtime 1"];
    if let Some(told) = planted(&commands, extents("etc/fstab")) {
        let e = told.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Unsupported, "{e:#}");
    }
}
