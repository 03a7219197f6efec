//! coldsnap as a client of `ebsfs serve`: what one of the two puts, the other gets.
//!
//! Run by `scripts/test --peers`, which installs it.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::images::{Disk, GIB, assert_volume};
use crate::program::{Running, Sandbox, id_of};
use crate::serving::Server;

const COLDSNAP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/peers/bin/coldsnap");

/// Runs coldsnap in the sandbox; what it prints.
fn coldsnap(sandbox: &Sandbox, server: &Server, arguments: &[&str]) -> String {
    assert!(
        Path::new(COLDSNAP).exists(),
        "no {COLDSNAP}: scripts/test --peers installs it"
    );
    let mut command = Command::new(COLDSNAP);
    command.args(arguments).current_dir(sandbox.path(""));
    server.environment(&mut command);
    Running::start(command).finish().succeeds()
}

#[test]
#[ignore = "needs coldsnap: scripts/test --peers"]
fn coldsnap_downloads_what_was_imported() {
    let sandbox = Sandbox::new();
    let server = Server::start(&sandbox.path(""), &[]);
    Disk::new(sandbox.path("disk.img"), GIB)
        .blocks(0, 40, 1)
        .block(2047, 2);
    let id = sandbox.import(&["disk.img"]);
    coldsnap(
        &sandbox,
        &server,
        &["download", "--no-progress", &id, "out.img"],
    );
    assert_volume(&sandbox.path("out.img"), &sandbox.path("disk.img"));
}

#[test]
#[ignore = "needs coldsnap: scripts/test --peers"]
fn what_coldsnap_uploads_is_exported() {
    let sandbox = Sandbox::new();
    let server = Server::start(&sandbox.path(""), &[]);
    Disk::new(sandbox.path("disk.img"), GIB).blocks(5, 40, 1);
    for options in [&["--omit-zero-blocks"][..], &["--description", "all of it"]] {
        let upload = ["upload", "--no-progress", "--wait", "disk.img"];
        let printed = coldsnap(&sandbox, &server, &[&upload[..], options].concat());
        let id = id_of(&printed);
        sandbox.run(&["export", &id, "out.img"]).succeeds_silently();
        assert_volume(&sandbox.path("out.img"), &sandbox.path("disk.img"));
        fs::remove_file(sandbox.path("out.img")).unwrap();
    }
    let listed = sandbox.list();
    assert_eq!(listed[1]["description"], "all of it");
}

#[test]
#[ignore = "needs coldsnap: scripts/test --peers"]
fn coldsnap_uploads_a_child() {
    let sandbox = Sandbox::new();
    let server = Server::start(&sandbox.path(""), &[]);
    Disk::new(sandbox.path("disk.img"), GIB).blocks(0, 10, 1);
    let parent = sandbox.import(&["disk.img"]);
    Disk::new(sandbox.path("new.img"), GIB).blocks(4, 10, 2);
    let upload = ["upload", "--no-progress", "--wait", "new.img"];
    let child_of = ["--parent-snapshot-id", &parent];
    let printed = coldsnap(&sandbox, &server, &[&upload[..], &child_of].concat());
    let child = id_of(&printed);
    assert_eq!(sandbox.info(&child)["parent"], parent.as_str());
    sandbox
        .run(&["export", &child, "out.img"])
        .succeeds_silently();
    assert_volume(&sandbox.path("out.img"), &sandbox.path("new.img"));
}
