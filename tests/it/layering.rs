//! Which module may use which, and what a line of code may touch.
//!
//! [`LAYERS`] is the whole truth: an edge that is not in it fails, and so does an entry that no line needs any
//! more. A new edge is a reviewed line here, and only to a module that stands above it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// A module, and what it uses: only modules that stand above it.
const LAYERS: &[(&str, &[&str])] = &[
    ("error", &[]),
    ("stats", &[]),
    ("block", &["error"]),
    ("read_at", &["error"]),
    ("blocking", &["error"]),
    ("durable", &["error"]),
    ("lock", &["error"]),
    ("record", &["error", "block", "durable"]),
    ("snapshot", &["error", "block"]),
    ("partition", &["error", "read_at"]),
    ("filesystem", &["error", "read_at"]),
    ("recover", &["error", "durable", "filesystem"]),
    ("compare", &["error", "filesystem"]),
    (
        "store",
        &[
            "error", "stats", "block", "blocking", "durable", "record", "snapshot",
        ],
    ),
    (
        "overlay",
        &["error", "block", "read_at", "durable", "lock", "snapshot"],
    ),
    ("fuse", &["error", "stats", "block", "read_at"]),
    (
        "source",
        &["error", "block", "blocking", "read_at", "snapshot", "store"],
    ),
    (
        "cache",
        &[
            "error", "stats", "block", "read_at", "blocking", "durable", "record", "snapshot",
            "store", "source",
        ],
    ),
    ("prefetch", &["error", "block", "cache", "store", "source"]),
    (
        "profile",
        &[
            "error", "stats", "block", "durable", "snapshot", "store", "source", "cache",
        ],
    ),
    ("warm", &["error", "block", "snapshot", "source", "cache"]),
    ("server", &["error", "block", "snapshot", "store", "source"]),
    (
        "image",
        &["error", "block", "read_at", "store", "overlay", "source"],
    ),
    ("upload", &["error", "block", "snapshot", "store", "source"]),
    (
        "commit",
        &[
            "error", "stats", "block", "blocking", "durable", "snapshot", "store", "overlay",
            "source", "upload",
        ],
    ),
    ("control", &["error", "snapshot"]),
    (
        "session",
        &["error", "snapshot", "warm", "commit", "control"],
    ),
    (
        "download",
        &["error", "block", "blocking", "durable", "source"],
    ),
    (
        "catalog",
        &[
            "error",
            "stats",
            "read_at",
            "snapshot",
            "partition",
            "store",
            "fuse",
        ],
    ),
    (
        "cli",
        &[
            "error",
            "stats",
            "block",
            "durable",
            "lock",
            "snapshot",
            "partition",
            "recover",
            "filesystem",
            "read_at",
            "store",
            "fuse",
            "source",
            "cache",
            "prefetch",
            "profile",
            "warm",
            "image",
            "upload",
            "commit",
            "control",
            "session",
            "compare",
            "download",
            "catalog",
            "server",
            "blocking",
            "overlay",
        ],
    ),
];

/// Words of code, and the modules that may say them. Each is why its module exists.
const TOUCHES: &[(&str, &[&str])] = &[
    ("fuser::", &["fuse"]),
    ("libc::E", &["fuse"]),
    (".sync_all(", &["durable"]),
    (".sync_data(", &["durable"]),
    ("::fsync(", &["durable"]),
    ("::fdatasync(", &["durable"]),
    ("syncfs(", &["durable"]),
    ("fs::rename", &["durable"]),
    ("renameat", &["durable"]),
    ("env::", &["cli", "main"]),
    ("print!(", &["cli", "main"]),
    ("println!(", &["cli", "main"]),
    ("io::stdout", &["cli", "main"]),
    ("io::stderr", &["cli", "main"]),
    ("io::stdin", &["cli", "main"]),
    ("process::exit", &["main"]),
    ("ExitCode", &["main"]),
    ("axum::", &["server"]),
    ("hyper::", &["server", "store"]),
    ("http::", &["server", "store"]),
    ("aws_", &["server", "store"]),
    ("EbsStore", &["store", "cli"]),
    ("unsafe ", &[]),
    ("512 * 1024", &["block"]),
    ("512 << 10", &["block"]),
    ("524_288", &["block"]),
    ("DirectoryStore", &["store", "cli"]),
];

/// A line of code that is neither comment nor test.
struct Line {
    module: String,
    /// `src/store/memory.rs:12`
    place: String,
    text: String,
}

/// All code below `src`, without comments, strings aside, and without `#[cfg(test)]` modules.
fn code() -> Vec<Line> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = crate::program::files_below(&src);
    files.retain(|file| file.extension().is_some_and(|extension| extension == "rs"));
    assert!(files.len() > 20, "this is not the whole of src: {files:?}");
    files.iter().flat_map(|file| lines_of(&src, file)).collect()
}

fn lines_of(src: &Path, file: &Path) -> Vec<Line> {
    let relative = file.strip_prefix(src).unwrap();
    let first = relative.iter().next().unwrap().to_str().unwrap();
    let module = first.trim_end_matches(".rs").to_owned();
    let text = fs::read_to_string(file).unwrap();
    let mut lines = Vec::new();
    let mut in_tests = false;
    for (number, line) in (1..).zip(text.lines()) {
        // rustfmt puts the brace that ends a module of the file at the start of a line.
        if in_tests {
            in_tests = line != "}";
            continue;
        }
        if line == "#[cfg(test)]" {
            in_tests = true;
            continue;
        }
        let code = line.split("//").next().unwrap_or_default().trim();
        if !code.is_empty() {
            lines.push(Line {
                module: module.clone(),
                place: format!("src/{}:{number}", relative.display()),
                text: code.to_owned(),
            });
        }
    }
    lines
}

/// The top-level modules that a line names by a path from the crate's root.
fn named(line: &str) -> Vec<&str> {
    let paths = line.match_indices("crate::").filter(|(at, _)| {
        // `$crate::` and `some_crate::` are something else.
        !line[..*at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$')
    });
    paths
        .map(|(at, root)| first_name(&line[at + root.len()..]))
        .collect()
}

fn first_name(path: &str) -> &str {
    let end = path
        .find(|c: char| !c.is_alphanumeric() && c != '_')
        .unwrap_or(path.len());
    &path[..end]
}

#[test]
fn modules_use_only_what_the_table_permits() {
    let mut permitted = BTreeMap::new();
    for (at, (module, uses)) in LAYERS.iter().enumerate() {
        for used in *uses {
            let above = LAYERS[..at].iter().any(|(name, _)| name == used);
            assert!(
                above,
                "the table lets {module} use {used}, which does not stand above it"
            );
            permitted.insert((*module, *used), false);
        }
    }
    let mut wrong = Vec::new();
    let code = code();
    for line in &code {
        for used in named(&line.text) {
            assert_ne!(
                used, "",
                "{}: name the module in full: {}",
                line.place, line.text
            );
            if used == line.module || line.module == "main" || line.module == "lib" {
                continue;
            }
            match permitted.get_mut(&(line.module.as_str(), used)) {
                Some(seen) => *seen = true,
                None => wrong.push(format!("{}: {} uses {used}", line.place, line.module)),
            }
        }
        // From the first file of a module `super` is the crate's root; deeper down it takes two.
        let depth = line.place.matches('/').count();
        let root = "super::".repeat(depth);
        assert!(
            !line.text.contains(&root),
            "{}: say crate:: instead of {root}",
            line.place
        );
    }
    assert!(wrong.is_empty(), "not in the table:\n{}", wrong.join("\n"));
    let unused: Vec<_> = permitted.iter().filter(|(_, seen)| !**seen).collect();
    assert!(
        unused.is_empty(),
        "in the table, and no line needs it: {unused:?}"
    );
    let modules: BTreeSet<_> = code.iter().map(|line| line.module.as_str()).collect();
    let table = LAYERS
        .iter()
        .map(|(module, _)| *module)
        .chain(["lib", "main"])
        .collect();
    assert_eq!(modules, table, "the table names every module once");
}

#[test]
fn a_line_touches_only_what_its_module_owns() {
    let mut wrong = Vec::new();
    let mut seen = BTreeSet::new();
    for line in code() {
        for (word, owners) in TOUCHES {
            if !line.text.contains(word) {
                continue;
            }
            seen.insert(*word);
            if !owners.contains(&line.module.as_str()) {
                wrong.push(format!("{}: {word:?}: {}", line.place, line.text));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "said where it must not be:\n{}",
        wrong.join("\n")
    );
    // That the search finds anything at all.
    for word in [
        "fuser::",
        ".sync_all(",
        "env::",
        "512 * 1024",
        "DirectoryStore",
    ] {
        assert!(
            seen.contains(word),
            "{word:?} was not found where it must be"
        );
    }
}

#[test]
fn the_search_sees_edges_and_skips_what_is_none() {
    assert_eq!(named("use crate::store::{Listing, Store};"), ["store"]);
    assert_eq!(
        named("x: crate::block::Block, y: crate::error::Error"),
        ["block", "error"]
    );
    assert_eq!(named("use crate::{a, b};"), [""]);
    assert_eq!(named("some_crate::thing() + $crate::thing()"), [""; 0]);
}
