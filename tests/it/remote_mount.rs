//! A mount over HTTP: how little it asks of the service.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use ebsfs::store::directory::DirectoryStore;
use serde_json::Value;

use crate::common::{block_on, snap};
use crate::images::BLOCK;
use crate::serving::Server;
use crate::world::{Mount, World, finish};

#[test]
fn a_mount_of_64_tib_lists_once_and_fetches_what_is_read() {
    let Some(world) = World::new() else { return };
    let id = block_on(async {
        let store = DirectoryStore::create(&world.store()).unwrap();
        let last = (1 << 27) - 1;
        let snapshot = snap(65536).block(0, 1).block(70_000, 2).block(last, 3);
        snapshot.build(&store).await.to_string()
    });
    let server = Server::start(world.dir(), &[]);
    let at = world.empty("remote");
    let mut command = world.bare();
    server.environment(&mut command);
    let said = finish(command.args(["mount", &id]).arg(&at));
    assert_eq!(said.ok(), "");
    let mount = Mount::at(at);
    let disk = File::open(mount.disk(&id)).unwrap();
    assert_eq!(disk.metadata().unwrap().len(), 64 << 40);
    let byte = |offset| {
        let mut byte = [0xEE];
        disk.read_exact_at(&mut byte, offset).unwrap();
        byte[0]
    };
    // Of the first block, an absent one, one in the middle, and the last.
    let read = [0, BLOCK, 70_000 * BLOCK, (64 << 40) - 1].map(byte);
    assert_eq!(read, [1, 0, 2, 3]);
    let stats = std::fs::read_to_string(mount.dir.join(".ebsfs/stats.json")).unwrap();
    let stats: Value = serde_json::from_str(&stats).unwrap();
    let remote = &stats["remote"];
    assert_eq!(remote["listings"], 1, "{stats:#}");
    assert_eq!(stats["snapshots"][&id]["fetches"], 3, "{stats:#}");
}
