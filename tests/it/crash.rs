//! `kill -9` at many points of an import: the store stays valid, and it goes on or is cleaned up.

use std::fs;
use std::time::{Duration, Instant};

use crate::images::{Disk, GIB, Random, assert_volume};
use crate::program::{Sandbox, files_below, id_of};

/// Blocks of the image, all different.
const BLOCKS: u64 = 400;
/// Kills while blocks are put, and kills while the snapshot is completed.
const KILLS: u64 = 16;
const LATE_KILLS: u64 = 12;

const BYSTANDER: usize = 3;

/// A store with a completed snapshot of `bystander.img`, and `disk.img` to import.
fn with_bystander() -> (Sandbox, String) {
    let sandbox = Sandbox::new();
    let bystander = Disk::new(sandbox.path("bystander.img"), GIB);
    drop(bystander.blocks(0, BYSTANDER as u64, 1));
    Disk::new(sandbox.path("disk.img"), GIB).blocks(0, BLOCKS, 2);
    let id = sandbox.import(&["bystander.img"]);
    (sandbox, id)
}

fn assert_exports(sandbox: &Sandbox, id: &str, image: &str) {
    sandbox
        .run(&["export", id, "check.img"])
        .succeeds_silently();
    assert_volume(&sandbox.path("check.img"), &sandbox.path(image));
    fs::remove_file(sandbox.path("check.img")).unwrap();
}

/// After any crash: the bystander is whole, and so is every other snapshot that says it is completed.
fn assert_valid(sandbox: &Sandbox, bystander: &str) -> Vec<String> {
    let listed = sandbox.run(&["list", "--json"]).succeeds_silently();
    let listed: Vec<serde_json::Value> = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed[0]["id"], *bystander);
    let mut completed = Vec::new();
    for snapshot in &listed[1..] {
        let id = snapshot["id"].as_str().unwrap();
        if snapshot["status"] == "completed" {
            assert_exports(sandbox, id, "disk.img");
            completed.push(id.to_owned());
        }
    }
    completed
}

/// Removes the snapshots and all that only they needed, and checks that nothing else is left.
fn clean_up(sandbox: &Sandbox, ids: &[String]) {
    for id in ids {
        sandbox.run(&["delete", "--yes", id]).succeeds();
    }
    sandbox.run(&["gc"]).succeeds_silently();
    assert_eq!((sandbox.pending(), sandbox.block_files()), (0, BYSTANDER));
    assert_eq!(files_below(&sandbox.store().join("trees")).len(), 2);
    assert!(files_below(&sandbox.store().join("tmp")).is_empty());
    assert_eq!(files_below(&sandbox.store().join("snapshots")).len(), 1);
}

/// Something that can be seen from outside, in the order in which an import does it.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// So many blocks are there.
    Blocks(usize),
    /// The first part of the new tree is there.
    Tree,
    /// The snapshot's record is there.
    Record,
    /// It is no longer pending.
    Settled,
}

impl Event {
    fn has_come(self, sandbox: &Sandbox) -> bool {
        // What is still being written has a name that begins with a dot.
        let count = |dir: &str| {
            let mut files = files_below(&sandbox.store().join(dir));
            files.retain(|file| !file.file_name().unwrap().to_string_lossy().starts_with('.'));
            files.len()
        };
        match self {
            Self::Blocks(blocks) => sandbox.block_files() >= BYSTANDER + blocks,
            Self::Tree => count("trees") > 2,
            Self::Record => count("snapshots") > 1,
            Self::Settled => count("snapshots") > 1 && sandbox.pending() == 0,
        }
    }
}

/// Kills an import when `event` has come and `delay` has passed since.
fn kill_import(sandbox: &Sandbox, event: Event, delay: Duration) {
    let mut import = sandbox.start(&["import", "disk.img"]);
    let mut came = None;
    import.until(|| {
        if came.is_none() && event.has_come(sandbox) {
            came = Some(Instant::now());
        }
        came.is_some_and(|at| at.elapsed() >= delay)
    });
    let ran = import.kill();
    assert!([0, 137].contains(&ran.code), "{ran:?}");
}

/// Kills one import after another, and checks each time. Returns how many did not come to their end.
fn kill_and_check(
    seed: u64,
    kills: u64,
    points: impl Fn(&mut Random, u64) -> (Event, Duration),
) -> u64 {
    let (sandbox, bystander) = with_bystander();
    let mut random = Random(seed);
    let mut cut = 0;
    for kill in 0..kills {
        let (event, delay) = points(&mut random, kill);
        eprintln!("seed {seed}, kill {kill}: {event:?} and {delay:?}");
        kill_import(&sandbox, event, delay);
        let mut completed = assert_valid(&sandbox, &bystander);
        cut += u64::from(completed.is_empty());
        if random.below(2) == 0 {
            clean_up(&sandbox, &completed);
            continue;
        }
        let ran = sandbox.run(&["import", "--continue", "disk.img"]);
        let id = id_of(&ran.succeeds());
        assert_exports(&sandbox, &id, "disk.img");
        if !completed.contains(&id) {
            completed.push(id);
        }
        clean_up(&sandbox, &completed);
    }
    assert_exports(&sandbox, &bystander, "bystander.img");
    eprintln!("{cut} of {kills} came before the end");
    cut
}

#[test]
fn an_import_killed_while_it_puts_blocks_leaves_a_valid_store() {
    let cut = kill_and_check(1, KILLS, |random, kill| {
        // Spread over the whole import, at no round place.
        let blocks = kill * BLOCKS / KILLS + random.below(BLOCKS / KILLS);
        let delay = Duration::from_micros(random.below(3000));
        (Event::Blocks(blocks as usize), delay)
    });
    assert!(cut > KILLS / 2, "only {cut} came before the end");
}

#[test]
fn an_import_killed_while_it_completes_leaves_a_valid_store() {
    let last = [
        Event::Blocks(BLOCKS as usize),
        Event::Tree,
        Event::Record,
        Event::Settled,
    ];
    let cut = kill_and_check(2, LATE_KILLS, |random, kill| {
        let event = last[kill as usize % last.len()];
        (event, Duration::from_micros(random.below(500)))
    });
    assert!(
        (1..LATE_KILLS).contains(&cut),
        "{cut} came before the end, which is all or none"
    );
}

#[test]
fn an_import_killed_as_it_makes_the_store_can_be_repeated() {
    let mut random = Random(3);
    for kill in 0..10 {
        let sandbox = Sandbox::new();
        Disk::new(sandbox.path("disk.img"), GIB).blocks(0, 4, 2);
        let delay = Duration::from_micros(random.below(2000));
        let mut import = sandbox.start(&["import", "disk.img"]);
        let mut reached = None;
        // From the first thing that can be seen of it.
        import.until(|| {
            if reached.is_none() && sandbox.store().exists() {
                reached = Some(Instant::now());
            }
            reached.is_some_and(|at| at.elapsed() >= delay)
        });
        import.kill();
        let ran = sandbox.run(&["list"]);
        if sandbox.store().join("format").exists() {
            ran.succeeds_silently();
        } else {
            ran.fails(3, &["no store"]);
        }
        let options: &[&str] = if kill % 2 == 0 { &["--continue"] } else { &[] };
        let id = sandbox.import(&[&["disk.img"], options].concat());
        assert_exports(&sandbox, &id, "disk.img");
        sandbox.run(&["gc"]).succeeds_silently();
        assert_exports(&sandbox, &id, "disk.img");
    }
}
