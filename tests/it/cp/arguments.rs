//! What may be asked for, where it goes, and what is said of it.

use std::fs;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;

use crate::program::{Sandbox, tool};

/// A store with one snapshot of an ext4, and its id.
fn sandbox() -> (Sandbox, String) {
    let sandbox = Sandbox::new();
    let (image, tree) = (sandbox.path("image"), sandbox.path("tree"));
    fs::create_dir_all(tree.join("a/b")).unwrap();
    for (name, text) in [("a/one", "1"), ("a/b/two", "2"), ("three", "3")] {
        fs::write(tree.join(name), text).unwrap();
    }
    std::os::unix::fs::symlink("a", tree.join("link")).unwrap();
    fs::hard_link(tree.join("three"), tree.join("three again")).unwrap();
    fs::File::create(&image).unwrap().set_len(8 << 20).unwrap();
    let (tree, image) = (tree.to_str().unwrap(), image.to_str().unwrap());
    tool("mkfs.ext4", &["-q", "-d", tree, image]);
    let id = sandbox.import(&[image]);
    (sandbox, id)
}

fn holds(sandbox: &Sandbox, path: &str, text: &str) {
    let found = fs::read_to_string(sandbox.path(path));
    assert_eq!(
        found.unwrap_or_else(|e| panic!("{path}: {e}")),
        text,
        "{path}"
    );
}

#[test]
fn files_and_trees_go_where_they_are_wanted() {
    let (sandbox, id) = sandbox();
    let at = |path: &str| format!("{id}:{path}");
    fs::create_dir(sandbox.path("dir")).unwrap();
    // One file is where it was wanted: there is nothing to say.
    sandbox
        .run(&["cp", &at("/three"), "new"])
        .succeeds_silently();
    holds(&sandbox, "new", "3");
    sandbox
        .run(&["cp", &at("/a/one"), "new"])
        .succeeds_silently();
    holds(&sandbox, "new", "1");
    sandbox
        .run(&["cp", &at("/three"), &at("/a/one"), "dir/"])
        .succeeds_silently();
    holds(&sandbox, "dir/three", "3");
    holds(&sandbox, "dir/one", "1");
    sandbox
        .run(&["cp", "-r", &at("/a"), "dir"])
        .succeeds_and_tells(&["copied 2 files, 2 B, 2 directories in "]);
    holds(&sandbox, "dir/a/b/two", "2");
    sandbox.run(&["cp", "-r", &at("/a"), "as new/"]).succeeds();
    holds(&sandbox, "as new/b/two", "2");
    fs::create_dir(sandbox.path("inner")).unwrap();
    sandbox.run(&["cp", "-r", &at("/a/."), "inner"]).succeeds();
    holds(&sandbox, "inner/b/two", "2");
    fs::create_dir(sandbox.path("all")).unwrap();
    sandbox.run(&["cp", "-r", &at("/"), "all"]).succeeds();
    holds(&sandbox, "all/a/one", "1");
    // A link is a link, unless a slash follows it.
    sandbox
        .run(&["cp", &at("/link"), "dir"])
        .succeeds_silently();
    assert_eq!(
        fs::read_link(sandbox.path("dir/link")).unwrap(),
        Path::new("a")
    );
    sandbox
        .run(&["cp", "-r", &at("/link/"), "followed"])
        .succeeds();
    holds(&sandbox, "followed/one", "1");
}

#[test]
fn what_makes_no_sense_is_refused_and_nothing_is_made() {
    let (sandbox, id) = sandbox();
    let at = |path: &str| format!("{id}:{path}");
    fs::write(sandbox.path("file"), "kept").unwrap();
    let before = fs::read_dir(sandbox.path("")).unwrap().count();
    let cases: &[(&[&str], i32, &[&str])] = &[
        (&[&at("/a"), "out"], 2, &["is a directory", "-r"]),
        (&[&at("/none"), "out"], 3, &["none"]),
        (&["-r", &at("/a"), "file"], 2, &["file is a file"]),
        (&["-r", &at("/a"), "file/x"], 2, &["file"]),
        (&[&at("/three"), "out/"], 3, &["no directory out"]),
        (&[&at("/three"), "none/out"], 3, &["no directory none"]),
        (
            &[&at("/three"), &at("/a/one"), "out"],
            2,
            &["several files"],
        ),
        (&["--continue", "-r", &at("/a"), "-"], 2, &["--continue"]),
        (&["/etc/passwd", "out"], 2, &["write SNAPSHOT:/path"]),
        (&[&at("/three")], 2, &["DEST"]),
    ];
    for (arguments, code, words) in cases {
        sandbox
            .run(&[&["cp"], *arguments].concat())
            .fails(*code, words);
    }
    assert_eq!(fs::read_dir(sandbox.path("")).unwrap().count(), before);
    holds(&sandbox, "file", "kept");
}

#[test]
fn of_several_the_missing_one_is_told_and_the_others_come() {
    let (sandbox, id) = sandbox();
    let at = |path: &str| format!("{id}:{path}");
    fs::create_dir(sandbox.path("dir")).unwrap();
    let ran = sandbox.run(&[
        "cp",
        &at("/three"),
        &at("/none"),
        &at("/a"),
        &at("/a/one"),
        "dir",
    ]);
    ran.fails(1, &["/none", "/a is a directory", "2 errors"]);
    holds(&sandbox, "dir/three", "3");
    holds(&sandbox, "dir/one", "1");
}

#[test]
fn of_several_one_that_cannot_be_made_is_told_and_the_others_come() {
    let (sandbox, id) = sandbox();
    let at = |path: &str| format!("{id}:{path}");
    fs::create_dir_all(sandbox.path("dir/link")).unwrap();
    let ran = sandbox.run(&["cp", &at("/link"), &at("/a/one"), "dir"]);
    ran.fails(1, &[":/link: ", "; 1 error"]);
    holds(&sandbox, "dir/one", "1");
}

#[test]
fn one_file_by_two_names_that_were_asked_for_is_one_file() {
    let (sandbox, id) = sandbox();
    let at = |path: &str| format!("{id}:{path}");
    fs::create_dir(sandbox.path("dir")).unwrap();
    let ran = sandbox.run(&["cp", &at("/three"), &at("/three again"), "dir"]);
    ran.succeeds_silently();
    let [one, other] = ["dir/three", "dir/three again"].map(|name| {
        let metadata = fs::metadata(sandbox.path(name));
        metadata.unwrap().ino()
    });
    assert_eq!(one, other);
}

#[test]
fn limits_are_told_with_the_option_that_widens_them() {
    let (sandbox, id) = sandbox();
    let all = format!("{id}:/");
    for (option, value) in [("--max-files", "3"), ("--max-bytes", "2")] {
        let ran = sandbox.run(&["cp", "-r", option, value, &all, "out"]);
        ran.fails(1, &[option, "more"]);
    }
}

#[test]
fn an_archive_is_listed_by_tar() {
    let (sandbox, id) = sandbox();
    let mut command = sandbox.command(&["cp", "-r", &format!("{id}:/a"), "-"]);
    let out = sandbox.path("a.tar");
    command.stdout(fs::File::create(&out).unwrap());
    crate::program::Running::start_with_stdout(command)
        .finish()
        .succeeds();
    let listed = tool("tar", &["-tf", out.to_str().unwrap()]);
    let mut names: Vec<_> = listed.lines().collect();
    names.sort();
    assert_eq!(names, ["a/", "a/b/", "a/b/two", "a/one"]);
}

#[test]
fn a_damaged_file_is_told_and_the_rest_is_copied() {
    let (sandbox, _) = sandbox();
    let image = sandbox.path("image");
    // A flipped byte in the inode, which has a checksum.
    let told = tool("debugfs", &["-R", "imap /a/one", image.to_str().unwrap()]);
    let number = |after: &str| {
        let text = told.split(after).nth(1).unwrap();
        let text = text
            .split(|c: char| !c.is_ascii_hexdigit() && c != 'x')
            .next()
            .unwrap();
        match text.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16).unwrap(),
            None => text.parse().unwrap(),
        }
    };
    let dumped = tool("dumpe2fs", &["-h", image.to_str().unwrap()]);
    let size: u64 = dumped
        .lines()
        .find_map(|line| line.strip_prefix("Block size:"))
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    let at = number("located at block ") * size + number("offset ");
    let file = fs::File::options()
        .read(true)
        .write(true)
        .open(&image)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at + 8).unwrap();
    file.write_all_at(&[!byte[0]], at + 8).unwrap();
    let id = sandbox.import(&[image.to_str().unwrap()]);
    let place = format!("{id}:/");
    fs::create_dir(sandbox.path("out")).unwrap();
    let ran = sandbox.run(&["cp", "-r", &place, "out"]);
    ran.fails(1, &["/a/one: ", "checksum", "; 1 error"]);
    holds(&sandbox, "out/a/b/two", "2");
    holds(&sandbox, "out/three", "3");
    assert!(!sandbox.path("out/a/one").exists());
}
