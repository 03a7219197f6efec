//! The least client of the EBS direct APIs that there can be: sockets, SHA-256 and a file, and nothing that checks,
//! signs, tries again or adapts. What it reaches is what the machine lets any client reach that shares its cores with
//! the server.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use tape_sha256::hash_many;

use crate::server::Server;

pub(crate) const BLOCK: usize = 512 << 10;

/// As many streams of SHA-256 side by side as gain by it.
const TOGETHER: usize = 16;

/// How long blocks wait to be hashed with others.
const MOMENT: Duration = Duration::from_millis(3);

/// One that hashes for each core of a small machine.
const HASHING: usize = 2;

/// A connection that is kept.
pub(crate) struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    pub(crate) fn open(server: &Server) -> Self {
        let stream = TcpStream::connect(&server.address).unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream: BufReader::with_capacity(64 << 10, stream),
        }
    }

    /// The body of an answer; it must be no longer than `buffer`.
    pub(crate) fn get<'a>(&mut self, path: &str, buffer: &'a mut [u8]) -> &'a [u8] {
        self.ask("GET", path, "", b"", buffer)
    }

    /// Sends `body` with `headers`, each of them a line with its end.
    fn ask<'a>(
        &mut self,
        method: &str,
        path: &str,
        headers: &str,
        body: &[u8],
        buffer: &'a mut [u8],
    ) -> &'a [u8] {
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n{headers}\r\n"
        );
        self.stream.get_mut().write_all(head.as_bytes()).unwrap();
        self.stream.get_mut().write_all(body).unwrap();
        let (mut line, mut length) = (String::new(), 0);
        self.stream.read_line(&mut line).unwrap();
        assert!(line.starts_with("HTTP/1.1 20"), "{path}: {line}");
        while line != "\r\n" {
            line.clear();
            self.stream.read_line(&mut line).unwrap();
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
        }
        let buffer = &mut buffer[..length];
        self.stream.read_exact(buffer).unwrap();
        buffer
    }

    fn json(&mut self, method: &str, path: &str, headers: &str, body: &str) -> serde_json::Value {
        let mut buffer = vec![0; 8 << 20];
        let answer = self.ask(method, path, headers, body.as_bytes(), &mut buffer);
        serde_json::from_slice(answer).unwrap()
    }
}

/// The paths of all blocks of a snapshot that fits one page, with their tokens.
pub(crate) fn block_paths(server: &Server, id: &str) -> Vec<String> {
    let list = format!("/snapshots/{id}/blocks?maxResults=10000");
    let listing = Connection::open(server).json("GET", &list, "", "");
    let path = |block: &serde_json::Value| {
        let token = block["BlockToken"].as_str().unwrap();
        let token = token
            .replace('+', "%2B")
            .replace('/', "%2F")
            .replace('=', "%3D");
        format!(
            "/snapshots/{id}/blocks/{}?blockToken={token}",
            block["BlockIndex"]
        )
    };
    let blocks = listing["Blocks"].as_array().unwrap();
    blocks.iter().map(path).collect()
}

/// Fetches all blocks of a snapshot without holes over so many connections, hashes them, and writes them to their places.
pub(crate) fn download(server: &Server, id: &str, connections: usize, target: &Path) {
    let paths = &block_paths(server, id);
    let file = &File::create_new(target).unwrap();
    let (next, spare) = (&AtomicUsize::new(0), &Spare::default());
    let (hand, taken) = sync_channel(connections);
    let taken = &Mutex::new(taken);
    thread::scope(|scope| {
        for _ in 0..connections {
            let hand: SyncSender<(usize, Vec<u8>)> = hand.clone();
            scope.spawn(move || {
                let mut connection = Connection::open(server);
                while let Some((index, path)) = next_of(paths, next) {
                    let mut block = spare.take();
                    assert_eq!(connection.get(path, &mut block).len(), BLOCK);
                    hand.send((index, block)).unwrap();
                }
            });
        }
        drop(hand);
        for _ in 0..HASHING {
            scope.spawn(move || {
                while let Some(blocks) = some_of(taken) {
                    std::hint::black_box(digests(&blocks));
                    for (index, block) in blocks {
                        file.write_all_at(&block, (index * BLOCK) as u64).unwrap();
                        spare.give(block);
                    }
                }
            });
        }
    });
    file.sync_all().unwrap();
}

/// Reads all blocks of an image, hashes them, and puts them into a new snapshot over so many connections.
pub(crate) fn upload(server: &Server, image: &Path, connections: usize) {
    let file = &File::open(image).unwrap();
    let bytes = file.metadata().unwrap().len();
    let count = bytes as usize / BLOCK;
    let new = format!("{{\"VolumeSize\":{}}}", bytes.div_ceil(1 << 30));
    let kind = "Content-Type: application/json\r\n";
    let started = Connection::open(server).json("POST", "/snapshots", kind, &new);
    let id = started["SnapshotId"].as_str().unwrap();
    let groups: &Vec<_> = &(0..count).step_by(TOGETHER).collect();
    let (next, spare) = (&AtomicUsize::new(0), &Spare::default());
    // What is read ahead is no more than what is under way.
    let (hand, taken) = sync_channel(connections);
    let taken = &Mutex::new(taken);
    thread::scope(|scope| {
        for _ in 0..HASHING {
            let hand: SyncSender<(usize, Vec<u8>, String)> = hand.clone();
            scope.spawn(move || {
                while let Some((_, &start)) = next_of(groups, next) {
                    let read = |index: usize| {
                        let mut block = spare.take();
                        file.read_exact_at(&mut block, (index * BLOCK) as u64)
                            .unwrap();
                        (index, block)
                    };
                    let end = count.min(start + TOGETHER);
                    let blocks: Vec<_> = (start..end).map(read).collect();
                    for (digest, (index, block)) in digests(&blocks).into_iter().zip(blocks) {
                        let checksum = BASE64_STANDARD.encode(digest);
                        hand.send((index, block, checksum)).unwrap();
                    }
                }
            });
        }
        drop(hand);
        for _ in 0..connections {
            scope.spawn(move || {
                let (mut connection, mut answer) = (Connection::open(server), [0; 4096]);
                while let Some((index, block, checksum)) = one_of(taken) {
                    let path = format!("/snapshots/{id}/blocks/{index}");
                    let headers = format!(
                        "x-amz-Data-Length: {BLOCK}\r\nx-amz-Checksum: {checksum}\r\nx-amz-Checksum-Algorithm: SHA256\r\n"
                    );
                    connection.ask("PUT", &path, &headers, &block, &mut answer);
                    spare.give(block);
                }
            });
        }
    });
    let path = format!("/snapshots/completion/{id}");
    let blocks = format!("x-amz-ChangedBlocksCount: {count}\r\n");
    Connection::open(server).json("POST", &path, &blocks, "");
}

/// Room for blocks, used again.
#[derive(Default)]
struct Spare(Mutex<Vec<Vec<u8>>>);

impl Spare {
    fn take(&self) -> Vec<u8> {
        let spare = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        spare.unwrap_or_else(|| vec![0; BLOCK])
    }

    fn give(&self, block: Vec<u8>) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(block);
    }
}

fn next_of<'a, T>(items: &'a [T], next: &AtomicUsize) -> Option<(usize, &'a T)> {
    let at = next.fetch_add(1, Ordering::Relaxed);
    Some((at, items.get(at)?))
}

fn one_of<T>(taken: &Mutex<Receiver<T>>) -> Option<T> {
    taken.lock().unwrap().recv().ok()
}

/// As many as there are, up to those that are hashed well together.
fn some_of<T>(taken: &Mutex<Receiver<T>>) -> Option<Vec<T>> {
    let taken = taken.lock().unwrap();
    let mut some = vec![taken.recv().ok()?];
    while some.len() < TOGETHER
        && let Ok(more) = taken.recv_timeout(MOMENT)
    {
        some.push(more);
    }
    Some(some)
}

fn digests(blocks: &[(usize, Vec<u8>)]) -> Vec<[u8; 32]> {
    let bytes: Vec<&[u8]> = blocks.iter().map(|(_, block)| &**block).collect();
    let mut digests = vec![[0; 32]; bytes.len()];
    hash_many(&bytes, &mut digests);
    digests
}
