//! fsx on writable mounts: random reads, writes, mappings and holes against its own model.
//!
//! `scripts/test` installs it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use crate::images::{Disk, GIB};
use crate::overlaid::Overlaid;
use crate::ram_disk::{Mounted, SIZE};
use crate::world::{World, finish, limited, run};

/// Everything that leaves the size as it is.
const SETTINGS: &str = "
blockmode = true
flen = 4194304
[opsize]
max = 262144
[weights]
truncate = 0
posix_fallocate = 0
close_open = 0
read = 10
write = 10
mapread = 10
mapwrite = 10
punch_hole = 5
fsync = 1
fdatasync = 1
invalidate = 1
sendfile = 2
posix_fadvise = 1
copy_file_range = 2
";

/// Where `scripts/test` installs it.
fn fsx() -> PathBuf {
    let made = std::env::var_os("EBSFS_FSX").map(PathBuf::from);
    let dir = made.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/fsx"));
    let program = dir.join("bin/fsx");
    let shown = program.display();
    assert!(program.exists(), "no {shown}: scripts/test installs it");
    program
}

/// 20,000 operations on `file`.
#[track_caller]
fn exercise(world: &World, file: &Path, seed: &str) {
    fs::write(world.path("fsx.toml"), SETTINGS).unwrap();
    let mut fsx = limited(fsx().to_str().unwrap());
    fsx.args(["-N", "20000", "-S", seed, "-P", ".", "-f", "fsx.toml"]);
    finish(fsx.arg(file).current_dir(world.dir())).ok();
}

#[test]
fn fsx_finds_what_it_wrote() {
    let Some(world) = World::new() else { return };
    // A partition that begins within a page.
    let mount = Mounted::with(&world, SIZE, 63 * 512..SIZE - 512, true);
    mount.disk.reluctant.store(true, Ordering::Relaxed);
    exercise(&world, &mount.part, "1");
    exercise(&world, &mount.whole, "2");
}

#[test]
fn fsx_finds_what_it_wrote_to_an_overlay_and_its_partition() {
    let Some(world) = World::new() else { return };
    let image = Disk::new(world.path("disk.img"), GIB).blocks(0, 20, 1);
    let table = "echo 'start=63, size=20001' | sfdisk -q --label dos --no-reread --no-tell-kernel";
    let table = format!("{table} {}", image.path().display());
    run("sh", ["-c", &table]).ok();
    let disk = Overlaid::of(&world, image.path());
    exercise(&world, &disk.mount.part(&disk.id, 1), "3");
    exercise(&world, &disk.disk, "4");
    disk.unmount();
}
