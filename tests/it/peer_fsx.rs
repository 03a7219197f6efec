//! fsx on a writable mount: random reads, writes, mappings and holes against its own model.
//!
//! Run by `scripts/test --peers`, which installs it.

use std::fs;
use std::path::Path;
use std::sync::atomic::Ordering;

use crate::ram_disk::{Mounted, SIZE};
use crate::world::{World, finish, limited};

const FSX: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/peers/bin/fsx");

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

#[test]
#[ignore = "needs fsx: scripts/test --peers"]
fn fsx_finds_what_it_wrote() {
    assert!(
        Path::new(FSX).exists(),
        "no {FSX}: scripts/test --peers installs it"
    );
    let Some(world) = World::new() else { return };
    // A partition that begins within a page.
    let mount = Mounted::with(&world, SIZE, 63 * 512..SIZE - 512, true);
    mount.disk.reluctant.store(true, Ordering::Relaxed);
    fs::write(world.path("fsx.toml"), SETTINGS).unwrap();
    for (file, seed) in [(&mount.part, "1"), (&mount.whole, "2")] {
        let mut fsx = limited(FSX);
        fsx.args(["-N", "20000", "-S", seed, "-P", ".", "-f", "fsx.toml"]);
        finish(fsx.arg(file).current_dir(world.dir())).ok();
    }
}
