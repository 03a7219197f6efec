//! Over HTTP, beside coldsnap: what `export` and `import` do with `ebsfs serve` on the same machine.
//!
//! The server's blocks are in its cache, and so are the files that are read; what is written goes to memory. Latency
//! is the server's: `--fault latency=50ms`. Client and server share the machine's cores.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::Plan;
use crate::measure::{cpu_time, in_turn, time, warm_memory};
use crate::server::Server;
use crate::setup::{MIB, Scratch, write_image};
use crate::table::Row;

/// All rows of this part.
pub(crate) fn rows(plan: &Plan) -> Vec<Row> {
    // In memory: a disk would be measured instead.
    let scratch = Scratch::in_memory();
    let image = scratch.path("disk.img");
    write_image(&image, plan.remote_mib);
    let store = scratch.path("store");
    let (_, id) = time(scratch.ebsfs(&store).arg("import").arg(&image));
    let mut rows = vec![];
    for latency in ["0ms", "50ms"] {
        let server = Server::start(
            &scratch,
            &store,
            &["--fault", &format!("latency={latency}")],
        );
        let case = Case {
            plan,
            scratch: &scratch,
            image: &image,
            id: id.trim(),
            server: &server,
        };
        if latency == "0ms" {
            rows.push(case.client_cpu());
        }
        let (export, import) = match latency {
            "0ms" => (1.6, 1.3),
            _ => (3.5, 2.0),
        };
        rows.push(case.export(latency, export));
        rows.push(case.import(latency, import));
    }
    rows.push(cached_blocks(plan, &scratch, &store, id.trim()));
    rows
}

struct Case<'a> {
    plan: &'a Plan,
    scratch: &'a Scratch,
    image: &'a Path,
    id: &'a str,
    server: &'a Server,
}

impl Case<'_> {
    /// A run that writes to a file which is not there before, and not after.
    fn to_file(&self, command: &mut Command) -> Duration {
        let target = self.scratch.path("out.img");
        warm_memory(self.plan.remote_mib + 512);
        let taken = time(command.arg(&target)).0;
        fs::remove_file(target).unwrap();
        taken
    }

    fn export(&self, latency: &str, bar: f64) -> Row {
        let ours = |_| self.to_file(self.server.ebsfs(self.scratch).args(["export", self.id]));
        let peer = |_| {
            self.to_file(self.server.coldsnap(self.scratch).args([
                "download",
                "--no-progress",
                self.id,
            ]))
        };
        let [ours, peer] = in_turn(self.plan.remote_rounds, [&ours, &peer]);
        let name = format!("export beside coldsnap, {latency}");
        Row::rates(&name, self.plan.remote_mib, &ours, &peer, bar)
    }

    fn import(&self, latency: &str, bar: f64) -> Row {
        let ours = |_| {
            time(
                self.server
                    .ebsfs(self.scratch)
                    .arg("import")
                    .arg(self.image),
            )
            .0
        };
        let upload = ["upload", "--no-progress", "--omit-zero-blocks"];
        let peer = |_| {
            time(
                self.server
                    .coldsnap(self.scratch)
                    .args(upload)
                    .arg(self.image),
            )
            .0
        };
        let [ours, peer] = in_turn(self.plan.remote_rounds, [&ours, &peer]);
        let name = format!("import beside coldsnap, {latency}");
        Row::rates(&name, self.plan.remote_mib, &ours, &peer, bar)
    }

    /// Milliseconds of processor time for each GiB that is fetched, checked and thrown away.
    fn client_cpu(&self) -> Row {
        let fetch = || {
            cpu_time(
                self.server
                    .ebsfs(self.scratch)
                    .args(["export", self.id, "-"]),
            )
        };
        fetch();
        let gib = self.plan.remote_mib as f64 / 1024.0;
        let taken = (0..self.plan.remote_rounds).map(|_| fetch().as_secs_f64() * 1000.0 / gib);
        let taken: Vec<f64> = taken.collect();
        let name = "client's processor time of a fetch, ms/GiB";
        Row::wanted(name, &taken, 1200.0, true)
    }
}

/// What the server gives of blocks in its cache to four connections that look at nothing, beside 2 GiB/s.
fn cached_blocks(plan: &Plan, scratch: &Scratch, store: &Path, id: &str) -> Row {
    let server = Server::start(scratch, store, &["--no-auth"]);
    let paths = block_paths(&server, id);
    let fetch_all = || {
        let begin = Instant::now();
        thread::scope(|scope| {
            for part in 0..4 {
                let (paths, server) = (&paths, &server);
                scope.spawn(move || {
                    let mine = paths.iter().skip(part).step_by(4);
                    let mut connection = Connection::open(server);
                    mine.for_each(|path| connection.get(path, &mut |_| ()));
                });
            }
        });
        paths.len() as f64 / 2.0 / begin.elapsed().as_secs_f64()
    };
    fetch_all();
    let rates: Vec<f64> = (0..plan.remote_rounds.max(3))
        .map(|_| fetch_all())
        .collect();
    let name = "cached blocks to four connections, MiB/s";
    Row::wanted(name, &rates, 2048.0, false)
}

/// The paths of all blocks of a snapshot, with their tokens.
fn block_paths(server: &Server, id: &str) -> Vec<String> {
    let mut connection = Connection::open(server);
    let mut body = vec![];
    let list = format!("/snapshots/{id}/blocks?maxResults=10000");
    connection.get(&list, &mut |bytes| body.extend_from_slice(bytes));
    let listing: serde_json::Value = serde_json::from_slice(&body).unwrap();
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
    listing["Blocks"]
        .as_array()
        .unwrap()
        .iter()
        .map(path)
        .collect()
}

/// The least that an HTTP client can be.
struct Connection {
    stream: BufReader<TcpStream>,
    buffer: Vec<u8>,
}

impl Connection {
    fn open(server: &Server) -> Self {
        let stream = TcpStream::connect(&server.address).unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream: BufReader::with_capacity(64 << 10, stream),
            buffer: vec![0; MIB as usize],
        }
    }

    fn get(&mut self, path: &str, sink: &mut dyn FnMut(&[u8])) {
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        self.stream.get_mut().write_all(request.as_bytes()).unwrap();
        let (mut line, mut left) = (String::new(), 0);
        self.stream.read_line(&mut line).unwrap();
        assert!(line.starts_with("HTTP/1.1 200"), "{path}: {line}");
        while line != "\r\n" {
            line.clear();
            self.stream.read_line(&mut line).unwrap();
            if let Some(length) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                left = length.trim().parse().unwrap();
            }
        }
        while left > 0 {
            let want = left.min(self.buffer.len());
            let read = self.stream.read(&mut self.buffer[..want]).unwrap();
            assert_ne!(read, 0, "{path}: cut short");
            sink(&self.buffer[..read]);
            left -= read;
        }
    }
}
