//! s3backer, a peer that shows a disk over HTTP as well, and the bucket that it reads: its blocks as objects, to whom
//! all may read. It verifies nothing unless told to by digests that it made itself.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract;
use axum::routing::get;
use bytes::Bytes;
use http::StatusCode;
use tokio::time::sleep;

use crate::http::Served;
use crate::measure::time;

const BLOCK: usize = 512 << 10;

/// The objects, in memory, by their names. There is none for a block of zeros.
type Objects = HashMap<String, Bytes>;

/// An image's blocks behind a server.
pub(super) struct Bucket {
    served: Served,
    /// Bytes of the disk.
    size: u64,
}

impl Bucket {
    /// Of the blocks of `image`; each answer comes so much later.
    pub(crate) fn open(image: &Path, latency: Duration) -> Self {
        let file = File::open(image).unwrap();
        let size = file.metadata().unwrap().len();
        let objects = Arc::new(objects(&file, size));
        // To a HEAD the same is answered, without its body.
        let answer = move |extract::Path(name): extract::Path<String>| {
            let objects = Arc::clone(&objects);
            async move {
                sleep(latency).await;
                // Others than blocks: the flag of a mount that writes, of which there is none.
                let object = objects.get(&name).cloned();
                object.ok_or(StatusCode::NOT_FOUND)
            }
        };
        let router = Router::new().route("/bucket/{name}", get(answer));
        Self {
            served: Served::start(router),
            size,
        }
    }
}

fn objects(file: &File, size: u64) -> Objects {
    let mut objects = HashMap::new();
    for (index, at) in (0..size).step_by(BLOCK).enumerate() {
        let mut block = vec![0; BLOCK];
        file.read_exact_at(&mut block, at).unwrap();
        if block.iter().any(|byte| *byte != 0) {
            objects.insert(format!("{index:08x}"), block.into());
        }
    }
    objects
}

/// A mount of a bucket that ends with it.
pub(super) struct S3Backer {
    path: PathBuf,
}

impl S3Backer {
    /// With read-ahead of 32 blocks on 64 threads, and more options.
    pub(crate) fn mount(bucket: &Bucket, path: PathBuf, options: &[&str]) -> Self {
        fs::create_dir(&path).unwrap();
        let mut command = Command::new("s3backer");
        command
            .args([
                "--readOnly",
                "--quiet",
                "--blockSize=512k",
                "--readAhead=32",
            ])
            .args(["--blockCacheThreads=64", "--blockCacheSize=512"])
            .arg(format!("--size={}", bucket.size))
            .arg(format!("--baseURL={}/", bucket.served.url))
            // No keys of the user's.
            .arg("--accessFile=/dev/null")
            .args(options)
            .arg("bucket")
            .arg(&path);
        time(&mut command);
        Self { path }
    }

    /// The disk's file.
    pub(crate) fn file(&self) -> PathBuf {
        self.path.join("file")
    }
}

impl Drop for S3Backer {
    fn drop(&mut self) {
        drop(Command::new("umount").arg(&self.path).status());
    }
}
