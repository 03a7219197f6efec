//! Over HTTP, beside coldsnap: what `export` and `import` do with `ebsfs serve` on the same machine.
//!
//! The server's blocks are in its cache, and so are the files that are read; what is written goes to memory. Latency
//! is the server's: `--fault latency=50ms`. Client and server share the machine's cores.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::Plan;
use crate::bare::{self, BLOCK, Connection, block_paths};
use crate::measure::{cpu_time, in_turn, time, warm_memory};
use crate::server::Server;
use crate::setup::{Scratch, write_image};
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
        let fault = format!("latency={latency}");
        let server = Server::start(&scratch, &store, &["--fault", &fault]);
        let open = Server::start(&scratch, &store, &["--fault", &fault, "--no-auth"]);
        open.warm(&scratch, id.trim());
        let case = Case {
            plan,
            scratch: &scratch,
            image: &image,
            id: id.trim(),
            server: &server,
            open: &open,
        };
        if latency == "0ms" {
            rows.push(case.client_cpu());
        }
        let (export, import) = match latency {
            "0ms" => (1.6, 1.3),
            _ => (3.5, 2.0),
        };
        rows.extend(case.export(latency, export));
        rows.extend(case.import(latency, import));
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
    /// The same for who does not sign.
    open: &'a Server,
}

/// Of the least client: more gain it nothing, without latency and with.
const CONNECTIONS: usize = 128;

impl Case<'_> {
    /// A run that writes to a file which is not there before, and not after.
    fn to_file(&self, run: impl Fn(&Path) -> Duration) -> Duration {
        let target = self.scratch.path("out.img");
        warm_memory(self.plan.remote_mib + 512);
        let taken = run(&target);
        fs::remove_file(target).unwrap();
        taken
    }

    fn export(&self, latency: &str, bar: f64) -> [Row; 2] {
        let ours = |_| {
            self.to_file(|target| {
                let mut export = self.server.ebsfs(self.scratch);
                time(export.args(["export", self.id]).arg(target)).0
            })
        };
        let peer = |_| {
            self.to_file(|target| {
                let mut download = self.server.coldsnap(self.scratch);
                let download = download.args(["download", "--no-progress", self.id]);
                time(download.arg(target)).0
            })
        };
        let bare = |_| {
            self.to_file(|target| {
                let begin = Instant::now();
                bare::download(self.open, self.id, CONNECTIONS, target);
                begin.elapsed()
            })
        };
        let times = in_turn(self.plan.remote_rounds, [&ours, &peer, &bare]);
        self.rows("export", latency, times, bar)
    }

    fn import(&self, latency: &str, bar: f64) -> [Row; 2] {
        let ours = |_| {
            time(
                self.server
                    .ebsfs(self.scratch)
                    .arg("import")
                    .arg(self.image),
            )
            .0
        };
        let peer = |_| {
            let mut upload = self.server.coldsnap(self.scratch);
            let upload = upload.args(["upload", "--no-progress", "--omit-zero-blocks"]);
            time(upload.arg(self.image)).0
        };
        let bare = |_| {
            let begin = Instant::now();
            bare::upload(self.open, self.image, CONNECTIONS);
            begin.elapsed()
        };
        let times = in_turn(self.plan.remote_rounds, [&ours, &peer, &bare]);
        self.rows("import", latency, times, bar)
    }

    /// Ours and the least client's, both beside coldsnap's.
    fn rows(&self, what: &str, latency: &str, times: [Vec<Duration>; 3], bar: f64) -> [Row; 2] {
        let [ours, peer, bare] = times;
        let mib = self.plan.remote_mib;
        let name = format!("{what} beside coldsnap, {latency}");
        let least = "the same by the least client there can be";
        [
            Row::rates(&name, mib, &ours, &peer, bar),
            Row::rates(least, mib, &bare, &peer, 0.0).reported(),
        ]
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
                    let (mut connection, mut block) = (Connection::open(server), vec![0; BLOCK]);
                    mine.for_each(|path| {
                        connection.get(path, &mut block);
                    });
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
