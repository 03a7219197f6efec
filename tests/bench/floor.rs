//! The floor: what any program must do that moves a disk and knows what it moved. Reads a file, hashes it block
//! by block on two threads, writes it to another and syncs that. No store, no checks, no names.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use sha2::{Digest as _, Sha256};

const BLOCK: usize = 512 * 1024;
const THREADS: usize = 2;

/// Copies `from` to `to`, which must not exist, and returns a byte of every digest, so that none is left out.
pub(crate) fn read_hash_write_sync(from: &Path, to: &Path) -> u64 {
    let source = File::open(from).expect("open the source");
    let len = source.metadata().expect("length of the source").len();
    let target = File::create_new(to).expect("create the target");
    target.set_len(len).expect("size the target");
    let next = AtomicU64::new(0);
    let worker = || {
        let mut block = vec![0; BLOCK];
        let mut sum = 0;
        loop {
            let offset = next.fetch_add(BLOCK as u64, Ordering::Relaxed);
            if offset >= len {
                return sum;
            }
            source.read_exact_at(&mut block, offset).expect("read");
            sum += u64::from(Sha256::digest(&block)[0]);
            target.write_all_at(&block, offset).expect("write");
        }
    };
    let sum = thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS).map(|_| scope.spawn(worker)).collect();
        workers
            .into_iter()
            .map(|worker| worker.join().expect("worker"))
            .sum()
    });
    target.sync_all().expect("sync");
    sum
}
