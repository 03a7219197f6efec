//! What was written and never synced is durable when a signal ends the daemon.
//!
//! What reached only its memory is lost with it, so that a mount that comes back with all of it shows that it was
//! flushed: states of pages are on disk only once they are synced.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;

use rustix::process::Signal;

use super::Overlaid;
use crate::images::{BLOCK, Disk, MIB, assert_same, random_block};
use crate::kernel::gone;
use crate::world::{World, eventually, run};

/// So much that the daemon's own flushing now and then has not come to its end when the signal comes.
const WRITTEN: u64 = 256 * MIB;

/// Writes, with nothing that makes it durable: whole blocks, a page of zeros over one of them, and a part of a page.
fn write(file: &File) {
    for block in 0..WRITTEN / BLOCK {
        file.write_all_at(&random_block(block), block * BLOCK)
            .unwrap();
    }
    file.write_all_at(&[0; 4096], 7 * BLOCK + 4096).unwrap();
    file.write_all_at(b"last", WRITTEN + 5).unwrap();
}

#[track_caller]
fn assert_written(file: &File) {
    let mut found = vec![0; BLOCK as usize];
    for block in 0..WRITTEN / BLOCK {
        file.read_exact_at(&mut found, block * BLOCK).unwrap();
        let mut expected = random_block(block);
        if block == 7 {
            expected[4096..8192].fill(0);
        }
        assert!(found == expected, "block {block}");
    }
    let mut found = [0xFF; 10];
    file.read_exact_at(&mut found, WRITTEN).unwrap();
    assert_eq!(&found, b"\0\0\0\0\0last\0");
}

#[test]
fn a_signal_ends_the_daemon_with_all_that_was_written() {
    let Some(world) = World::new() else { return };
    let disk = Overlaid::empty(&world, 1);
    let id = disk.id.clone();
    {
        let file = disk.open();
        write(&file);
    }
    disk.mount.signal(Signal::TERM);
    eventually("the daemon ends", || gone(disk.mount.pid).then_some(()));
    let disk = Overlaid::over(&world, &id);
    assert_written(&disk.open());
}

#[test]
fn a_first_signal_flushes_also_while_the_disk_is_in_use() {
    let Some(world) = World::new() else { return };
    let disk = Overlaid::empty(&world, 1);
    let id = disk.id.clone();
    let file = disk.open();
    write(&file);
    disk.mount.signal(Signal::TERM);
    // It is told after the flush.
    let log = fs::read_link(disk.mount.dir.join(".ebsfs/log")).unwrap();
    eventually("the log says that it is in use", || {
        let text = fs::read_to_string(&log).unwrap();
        text.contains("second signal").then_some(())
    });
    disk.kill();
    drop(file);
    let disk = Overlaid::over(&world, &id);
    assert_written(&disk.open());
}

#[test]
fn a_second_signal_while_a_loop_device_writes_flushes_and_ends_it() {
    let Some(world) = World::for_root() else {
        return;
    };
    let disk = Overlaid::empty(&world, 1);
    let image = Disk::new(world.path("written"), 0).blocks(0, WRITTEN / BLOCK, 9);
    let (id, pid) = (disk.id.clone(), disk.mount.pid);
    let log = fs::read_link(disk.mount.dir.join(".ebsfs/log")).unwrap();
    let device = disk.attach();
    disk.mount.signal(Signal::TERM);
    eventually("the log says that it is in use", || {
        let text = fs::read_to_string(&log).unwrap();
        (text.contains(&device) && text.contains("second signal")).then_some(())
    });
    // The disk is not pulled away: what is written now goes to the daemon, past every cache and without a sync.
    let from = format!("if={}", image.path().display());
    let to = format!("of={device}");
    run("dd", [&*from, &to, "bs=1M", "oflag=direct", "status=none"]).ok();
    disk.mount.signal(Signal::TERM);
    eventually("the daemon ends", || gone(pid).then_some(()));
    let said = fs::read_to_string(&log).unwrap();
    assert!(said.contains("ended by a second signal"), "{said}");
    run("losetup", ["-d", &device]).ok();
    let disk = Overlaid::over(&world, &id);
    let (written, expected) = (disk.open(), File::open(image.path()).unwrap());
    assert_same(&written, &expected, WRITTEN, "what was written");
}
