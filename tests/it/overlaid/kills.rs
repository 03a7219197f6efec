//! `kill -9` of the daemon under load: what fsync acknowledged is there, and no page is a mixture.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::fs::{FallocateFlags, fallocate, fdatasync};

use super::Overlaid;
use crate::images::{Disk, GIB, Random};
use crate::world::World;

const CYCLES: u64 = 40;
const WRITERS: u64 = 4;
/// Each writer has pages of its own.
const PAGES: u64 = 64;
const PAGE: usize = 4096;

/// What may be found in a page: the generation that was acknowledged, or any that was begun after it. An even one
/// stands for zeros.
#[derive(Clone, Copy, Default)]
struct Fate {
    acknowledged: u64,
    begun: u64,
}

fn offset(writer: u64, page: u64) -> u64 {
    // Far apart, so that blocks are shared by few, and next to each other, so that some are.
    (writer % 2) * (PAGE as u64) + (writer / 2 * 977 + page * 37) * 2 * PAGE as u64
}

fn content(writer: u64, page: u64, generation: u64) -> Vec<u8> {
    if generation.is_multiple_of(2) {
        return vec![0; PAGE];
    }
    let stamp = writer << 56 | page << 40 | generation;
    stamp.to_le_bytes().repeat(PAGE / 8)
}

/// Writes, discards and syncs until the daemon is gone.
fn write_on(file: &File, writer: u64, fates: &Mutex<Vec<Fate>>, seed: u64, stop: &AtomicBool) {
    let mut random = Random(seed);
    while !stop.load(Ordering::Relaxed) {
        let mut touched = vec![];
        for _ in 0..=random.below(4) {
            let page = random.below(PAGES);
            let at = offset(writer, page);
            let generation = {
                let fate = &mut fates.lock().unwrap()[page as usize];
                // Now and then zeros, which have an even number.
                let zeros = random.below(4) == 0;
                fate.begun += 1;
                fate.begun += u64::from(fate.begun.is_multiple_of(2) != zeros);
                fate.begun
            };
            let done = if generation.is_multiple_of(2) {
                let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                fallocate(file, flags, at, PAGE as u64).is_ok()
            } else {
                file.write_all_at(&content(writer, page, generation), at)
                    .is_ok()
            };
            if !done {
                return;
            }
            touched.push((page, generation));
        }
        if fdatasync(file).is_err() {
            return;
        }
        for (page, generation) in touched {
            let fate = &mut fates.lock().unwrap()[page as usize];
            fate.acknowledged = fate.acknowledged.max(generation);
        }
    }
}

fn check(file: &File, writer: u64, fates: &mut [Fate], cycle: u64) {
    for (page, fate) in (0..).zip(fates) {
        let mut found = vec![0; PAGE];
        file.read_exact_at(&mut found, offset(writer, page))
            .unwrap();
        let is = |generation: &u64| found == content(writer, page, *generation);
        let generation = (fate.acknowledged..=fate.begun).find(is);
        let Some(generation) = generation else {
            panic!(
                "cycle {cycle}: page {page} of writer {writer} holds {:x?}, not {} to {}",
                &found[..8],
                fate.acknowledged,
                fate.begun
            );
        };
        // What was found once must not change any more.
        *fate = Fate {
            acknowledged: generation,
            begun: fate.begun,
        };
    }
}

#[test]
fn nothing_that_was_acknowledged_is_lost_by_forty_kills() {
    let Some(world) = World::for_root() else {
        return;
    };
    let image = Disk::new(world.path("disk.img"), GIB).blocks(0, 8, 3);
    // The pages that are written begin as zeros.
    let id = {
        let zeros = vec![0; PAGE];
        let image = (0..WRITERS)
            .flat_map(|writer| (0..PAGES).map(move |page| offset(writer, page)))
            .fold(image, |image, at| image.bytes(at, &zeros));
        world.import(image.path())
    };
    let fates: Vec<Mutex<Vec<Fate>>> = (0..WRITERS)
        .map(|_| Mutex::new(vec![Fate::default(); PAGES as usize]))
        .collect();
    let mut random = Random(11);
    let mut acknowledged = 0;
    for cycle in 0..CYCLES {
        let disk = Overlaid::over(&world, &id);
        let file = disk.open();
        for (writer, fates) in (0..).zip(&fates) {
            check(&file, writer, &mut fates.lock().unwrap(), cycle);
        }
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            for (writer, fates) in (0..).zip(&fates) {
                let (file, stop, seed) = (&file, &stop, random.number());
                scope.spawn(move || write_on(file, writer, fates, seed, stop));
            }
            thread::sleep(Duration::from_millis(20 + random.below(150)));
            disk.kill();
            stop.store(true, Ordering::Relaxed);
        });
        let sum = |fates: &Mutex<Vec<Fate>>| -> u64 {
            let fates = fates.lock().unwrap();
            fates.iter().map(|fate| fate.acknowledged).sum()
        };
        acknowledged = fates.iter().map(sum).sum();
    }
    assert!(acknowledged > 1000, "only {acknowledged} were acknowledged");
}
