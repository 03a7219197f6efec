//! A copy that is killed or interrupted in the middle, and goes on.

use std::fs;
use std::path::Path;

use rustix::process::Signal;

use crate::images::random_block;
use crate::program::{Running, Sandbox, files_below, tool};
use crate::recover::portrait::{ALL, Look, assert_same, portrait};

const FILES: usize = 3000;

/// Contents, modes and links; who runs the test owns all.
const LOOK: Look = Look {
    owners: false,
    ..ALL
};

/// A snapshot of many files, and a whole copy of it.
fn many(sandbox: &Sandbox) -> String {
    let tree = sandbox.path("tree");
    let noise = random_block(5);
    for number in 0..FILES {
        let dir = tree.join(format!("d{}", number / 50));
        fs::create_dir_all(&dir).unwrap();
        let len = if number % 100 == 0 { 400_000 } else { 20_000 };
        fs::write(dir.join(format!("f{number}")), &noise[number..number + len]).unwrap();
    }
    let image = sandbox.path("image");
    fs::File::create(&image)
        .unwrap()
        .set_len(200 << 20)
        .unwrap();
    let (tree, image) = (tree.to_str().unwrap(), image.to_str().unwrap());
    tool("mkfs.ext4", &["-q", "-d", tree, image]);
    let id = sandbox.import(&[image]);
    let whole = sandbox.run(&["cp", "-r", &format!("{id}:/"), "whole/"]);
    whole.succeeds();
    id
}

fn temporary(dir: &Path) -> usize {
    let is = |file: &&std::path::PathBuf| file.extension().is_some_and(|ext| ext == "tmp");
    files_below(dir).iter().filter(is).count()
}

fn no_half_file(sandbox: &Sandbox, out: &Path) -> usize {
    let mut whole = 0;
    for file in files_below(out) {
        if file.extension().is_some_and(|ext| ext == "tmp") {
            continue;
        }
        let below = file.strip_prefix(out).unwrap();
        let theirs = sandbox.path("whole").join(below);
        let (ours, theirs) = (fs::metadata(&file).unwrap(), fs::metadata(&theirs).unwrap());
        assert_eq!(ours.len(), theirs.len(), "{}", file.display());
        assert_eq!(ours.modified().unwrap(), theirs.modified().unwrap());
        whole += 1;
    }
    whole
}

/// Begins a copy and waits until some of it is there.
fn some(sandbox: &Sandbox, id: &str, out: &Path, at_least: usize) -> Running {
    let place = format!("{id}:/");
    let mut running = sandbox.start(&["cp", "-r", "--continue", &place, out.to_str().unwrap()]);
    assert!(
        running.until(|| files_below(out).len() >= at_least),
        "it was too quick"
    );
    running
}

#[test]
fn after_a_kill_in_the_middle_the_rest_is_added() {
    let sandbox = Sandbox::new();
    let id = many(&sandbox);
    let out = sandbox.path("out");
    fs::create_dir(&out).unwrap();
    for at_least in [50, 500, 1000] {
        some(&sandbox, &id, &out, at_least).kill();
        let whole = no_half_file(&sandbox, &out);
        assert!(whole < FILES, "it was too quick");
    }
    let whole = no_half_file(&sandbox, &out);
    let place = format!("{id}:/");
    let ran = sandbox.run(&["cp", "-r", "--continue", &place, "out"]);
    let skipped = format!("; {whole} were there already");
    ran.succeeds_and_tells(&[&skipped]);
    assert_eq!(temporary(&out), 0);
    assert_same(
        &portrait(&out, LOOK),
        &portrait(&sandbox.path("whole"), LOOK),
    );
}

#[test]
fn an_interrupted_copy_ends_in_order_and_says_how_to_go_on() {
    let sandbox = Sandbox::new();
    let id = many(&sandbox);
    let out = sandbox.path("out");
    fs::create_dir(&out).unwrap();
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        fs::remove_dir_all(&out).unwrap();
        fs::create_dir(&out).unwrap();
        let running = some(&sandbox, &id, &out, 100);
        running.signal(signal);
        running
            .finish()
            .fails(130, &["interrupted", "cp --continue -r", "copied "]);
        assert_eq!(temporary(&out), 0);
        assert!(no_half_file(&sandbox, &out) < FILES);
    }
}
