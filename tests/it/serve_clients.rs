//! Slow, greedy and hostile clients, and how the server ends: connections as bytes on sockets.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ebsfs::block::BLOCK_SIZE;
use ebsfs::server::{Access, Faults, Limits, Service, Stop, serve};
use ebsfs::source::{INDEX_MEMORY, IndexCache, SnapshotSource};
use ebsfs::store::Store;
use ebsfs::store::memory::MemoryStore;
use rustix::process::Signal;
use tokio::net::TcpListener;

use crate::common::{Snap, block_on, snap};
use crate::server::{Call, Reply, Server, connect, wait_until_closed};

/// The server in this process, with limits of its own, for everyone.
struct Local {
    address: SocketAddr,
    stop: Stop,
    thread: Option<JoinHandle<()>>,
    /// The snapshot that it serves.
    id: String,
}

impl Local {
    fn start(limits: Limits) -> Self {
        Self::serving(snap(1).block(0, 1), limits)
    }

    fn serving(snapshot: Snap, limits: Limits) -> Self {
        let stop = Stop::default();
        let (tell, told) = std::sync::mpsc::channel();
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            block_on(async {
                let store: Arc<dyn Store> = Arc::new(MemoryStore::new().unwrap());
                let id = snapshot.build(&*store).await;
                let kept = Arc::clone(&store);
                let opener = Box::new(move |info: &_| -> Arc<dyn ebsfs::source::BlockSource> {
                    let windows = Arc::new(IndexCache::new(INDEX_MEMORY));
                    Arc::new(SnapshotSource::new(Arc::clone(&kept), info, windows))
                });
                let service =
                    Service::new(store, opener, Access::Anyone, Faults::default(), limits);
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                tell.send((listener.local_addr().unwrap(), id.to_string()))
                    .unwrap();
                serve(Arc::new(service.unwrap()), listener, stopped).await;
            });
        });
        let (address, id) = told.recv().unwrap();
        Self {
            address,
            stop,
            thread: Some(thread),
            id,
        }
    }

    fn connect(&self) -> TcpStream {
        connect(self.address)
    }

    fn list(&self) -> Vec<u8> {
        Call::get(&format!("/snapshots/{}/blocks", self.id)).plain(self.address)
    }

    fn get(&self) -> Vec<u8> {
        let page = ask(&mut self.connect(), &self.list()).json();
        let token = page["Blocks"][0]["BlockToken"].as_str().unwrap();
        let target = format!("/snapshots/{}/blocks/0?blockToken={token}", self.id);
        Call::get(&target).plain(self.address)
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        self.stop.gently.cancel();
        self.stop.at_once.cancel();
        let ended = self.thread.take().unwrap().join();
        assert!(ended.is_ok() || std::thread::panicking());
    }
}

fn ask(stream: &mut TcpStream, bytes: &[u8]) -> Reply {
    stream.write_all(bytes).unwrap();
    Reply::read(stream).unwrap()
}

/// A connection on which a request that draws no lot has been answered, and another one sent.
fn under_way(server: &Server, call: &Call) -> TcpStream {
    let mut stream = server.connect();
    let refused = ask(&mut stream, &call.plain(server.address));
    assert_eq!(refused.error(), "403 MissingAuthenticationToken");
    stream.write_all(&server.signed(call)).unwrap();
    // It is served already: reading what was sent takes it no time.
    std::thread::sleep(Duration::from_millis(300));
    stream
}

/// Bytes that come until the other end closes, and how long that takes.
fn until_closed(stream: &mut TcpStream) -> (Vec<u8>, Duration) {
    let start = Instant::now();
    let mut got = Vec::new();
    // A reset is an end, too.
    drop(stream.read_to_end(&mut got));
    let took = start.elapsed();
    assert!(took < Duration::from_secs(30), "never closed");
    (got, took)
}

const SHORT: Duration = Duration::from_millis(300);

#[test]
fn a_head_that_trickles_and_an_idle_connection_are_closed() {
    let limits = Limits {
        head_timeout: SHORT,
        ..Limits::default()
    };
    let server = Local::start(limits);
    let mut silent = server.connect();
    let mut trickling = server.connect();
    let mut idle = server.connect();
    assert_eq!(ask(&mut idle, &server.list()).status, 200);
    let drip = std::thread::spawn(move || {
        let start = Instant::now();
        let list = b"GET /snapshots/snap-0/blocks HTTP/1.1\r\nx: ";
        drop(trickling.write_all(list));
        while trickling.write_all(b"x").is_ok() {
            assert!(
                start.elapsed() < Duration::from_secs(30),
                "it may go on for ever"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    });
    for stream in [&mut silent, &mut idle] {
        let (got, took) = until_closed(stream);
        assert!(took < Duration::from_secs(10), "{took:?}");
        assert!(
            got.is_empty() || got.starts_with(b"HTTP/1.1 408"),
            "{got:?}"
        );
    }
    drip.join().unwrap();
}

#[test]
fn a_body_that_does_not_come_in_time_is_given_up() {
    let limits = Limits {
        body_timeout: SHORT,
        ..Limits::default()
    };
    let server = Local::start(limits);
    let put = Call::put(&server.id, 0, &[0; BLOCK_SIZE]).plain(server.address);
    let mut stream = server.connect();
    stream.write_all(&put[..put.len() / 2]).unwrap();
    let reply = Reply::read(&mut stream).unwrap();
    assert_eq!(reply.error(), "408 RequestTimeout");
}

#[test]
fn a_client_that_takes_nothing_of_its_answer_makes_room_for_others() {
    let limits = Limits {
        connections: 1,
        send_timeout: SHORT,
        ..Limits::default()
    };
    let server = Local::start(limits);
    let get = server.get();
    let mut greedy = server.connect();
    // More than the kernel keeps for a connection.
    for _ in 0..64 {
        if greedy.write_all(&get).is_err() {
            break;
        }
    }
    let start = Instant::now();
    assert_eq!(ask(&mut server.connect(), &server.list()).status, 200);
    assert!(start.elapsed() < Duration::from_secs(30));
    let (got, _) = until_closed(&mut greedy);
    assert!(got.len() < 64 * BLOCK_SIZE, "it was served to the end");
}

#[test]
fn connections_beyond_the_limit_wait_until_one_is_free() {
    let limits = Limits {
        connections: 2,
        ..Limits::default()
    };
    let server = Local::start(limits);
    let mut first = server.connect();
    let mut second = server.connect();
    for stream in [&mut first, &mut second] {
        assert_eq!(ask(stream, &server.list()).status, 200);
    }
    let mut third = server.connect();
    third.write_all(&server.list()).unwrap();
    third.set_read_timeout(Some(SHORT)).unwrap();
    let mut byte = [0];
    assert!(
        third.read(&mut byte).is_err(),
        "it is served beyond the limit"
    );
    drop(first);
    third
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    assert_eq!(Reply::read(&mut third).unwrap().status, 200);
}

#[test]
fn oversized_heads_and_bodies_are_refused() {
    let server = Server::start(&[]);
    let long = format!("/snapshots/snap-0/blocks?x={}", "x".repeat(100_000));
    let status = |bytes: &[u8]| server.send_raw(bytes).status;
    assert!([414, 431].contains(&status(&Call::get(&long).plain(server.address))));
    let wide = Call::get("/").header("x", &"x".repeat(100_000));
    assert_eq!(status(&wide.plain(server.address)), 431);
    let many = (0..200).fold(Call::get("/"), |call, i| call.header(&format!("x{i}"), "x"));
    assert_eq!(status(&many.plain(server.address)), 431);

    let large = vec![b' '; 1 << 20];
    let start = server.send(&Call::post("/snapshots", &large));
    assert_eq!(start.error(), "413 RequestEntityTooLarge");
    let form = Call::ec2(&"x".repeat(1 << 20));
    assert_eq!(server.send(&form).ec2_error(), "413 RequestEntityTooLarge");
    // One that does not say how large it is.
    let mut chunked =
        b"POST /snapshots HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    for _ in 0..64 {
        chunked.extend(b"4000\r\n");
        chunked.extend([b' '; 0x4000]);
        chunked.extend(b"\r\n");
    }
    let open = Server::start(&["--no-auth"]);
    assert_eq!(open.send_raw(&chunked).error(), "413 RequestEntityTooLarge");
    // A stranger's is not even taken in.
    let stranger = server.send_raw(&chunked);
    assert_eq!(stranger.error(), "403 MissingAuthenticationToken");
    // Bytes that are no HTTP.
    assert_eq!(status(b"\x16\x03\x01 hello\r\n\r\n"), 400);
}

#[test]
fn the_largest_page_is_whole_and_quick() {
    let server = Local::serving(snap(5).zeros(0..10_001), Limits::default());
    let target = format!("/snapshots/{}/blocks?maxResults=10000", server.id);
    let list = Call::get(&target).plain(server.address);
    let mut stream = server.connect();
    let start = Instant::now();
    let reply = ask(&mut stream, &list);
    let took = start.elapsed();
    let page = reply.json();
    assert_eq!(page["Blocks"].as_array().unwrap().len(), 10_000);
    assert_eq!(page["Blocks"][9_999]["BlockIndex"], 9_999);
    assert!(page["NextToken"].is_string());
    // Some 20 ms; a token that cost a lookup would take seconds.
    assert!(took < Duration::from_secs(1), "{took:?}");
}

#[test]
fn requests_under_way_are_answered_before_the_end() {
    let server = Server::start(&["--fault", "latency=1s"]);
    let mut idle = server.connect();
    let mut busy = under_way(&server, &Call::post("/snapshots", br#"{"VolumeSize":1}"#));
    server.signal(Signal::TERM);
    wait_until_closed(server.address);
    assert_eq!(until_closed(&mut idle).0, b"");
    let reply = Reply::read(&mut busy).unwrap();
    assert_eq!(reply.status, 201);
    assert_eq!(reply.headers["connection"], "close");
    let (sandbox, ran) = server.end();
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(sandbox.pending(), 1);
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let mut server = Server::start(&["--fault", "latency=1h"]);
    let mut busy = under_way(&server, &Call::get("/snapshots/snap-0/blocks"));
    server.signal(Signal::INT);
    wait_until_closed(server.address);
    assert!(server.runs(), "it waits for the request");
    let start = Instant::now();
    server.signal(Signal::TERM);
    let (_, ran) = server.end();
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(start.elapsed() < Duration::from_secs(5));
    assert_eq!(until_closed(&mut busy).0, b"");
}

#[test]
fn the_wait_for_requests_under_way_is_bounded() {
    let server = Server::start(&["--fault", "latency=1h"]);
    let _busy = under_way(&server, &Call::get("/snapshots/snap-0/blocks"));
    let start = Instant::now();
    let (_, ran) = server.stop();
    assert_eq!(ran.code, 0, "{ran:?}");
    let took = start.elapsed();
    assert!((9..20).contains(&took.as_secs()), "{took:?}");
}
