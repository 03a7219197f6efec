//! The daemon's socket: who is heard, what is answered, and what becomes of a commit whose client goes away.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use ebsfs::commit::Wish;
use ebsfs::control::{Client, Request, Socket, VERSION};
use ebsfs::error::{Error, ErrorKind, Result};
use ebsfs::server::Faults;
use ebsfs::session::{Answer, COMMIT, CommitOptions, Session};
use ebsfs::snapshot::Status;
use ebsfs::store::ebs;
use ebsfs::store::memory::MemoryStore;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::{Case, of, random};
use crate::flaky_store::{Fault, FlakyStore};
use crate::program::{tool, wait_until};
use crate::wire::Wire;
use crate::world::{is_root, run};

/// A daemon in this process.
struct Daemon {
    runtime: Runtime,
    _dir: TempDir,
    socket: Option<Socket>,
    path: PathBuf,
}

impl Daemon {
    fn new(runtime: Runtime, session: Arc<Session>) -> Self {
        let dir = crate::common::scratch();
        let below = dir.path().join("sockets");
        let socket = Socket::open(&below, runtime.handle(), session).unwrap();
        Self {
            path: socket.path().to_owned(),
            socket: Some(socket),
            runtime,
            _dir: dir,
        }
    }

    fn read_only() -> Self {
        Self::new(runtime(), Session::read_only(Arc::default()))
    }

    /// Of a case, whose overlay the test can go on to use.
    fn of(runtime: Runtime, case: &Case) -> Self {
        let session = Session::new(Arc::default(), case.commits(), runtime.handle());
        Self::new(runtime, session)
    }

    fn ask(&self, options: &CommitOptions) -> Client {
        Client::ask(&self.path, &request(options)).unwrap()
    }

    /// Commits; the events before the last line, by name, and the answer.
    fn commit(&self, options: &CommitOptions) -> (Vec<String>, Result<Answer>) {
        let mut told = vec![];
        let answer = self
            .ask(options)
            .wait(|value| told.push(value["event"].as_str().unwrap().to_owned()));
        let answer = answer.map(|value| serde_json::from_value(value).unwrap());
        (told, answer)
    }

    /// The answers to these bytes, until the daemon closes.
    fn say(&self, bytes: &[u8]) -> Vec<Value> {
        let mut stream = UnixStream::connect(&self.path).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        stream.write_all(bytes).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let lines = text.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

fn runtime() -> Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).enable_all().build().unwrap()
}

fn request(options: &CommitOptions) -> Request {
    Request {
        version: VERSION,
        command: COMMIT.to_owned(),
        options: json!(options),
    }
}

fn waiting() -> CommitOptions {
    CommitOptions {
        wait: true,
        ..CommitOptions::default()
    }
}

#[track_caller]
fn id_of(answer: Result<Answer>) -> String {
    match answer.unwrap() {
        Answer::Accepted(accepted) => accepted.id.to_string(),
        Answer::Plan(plan) => panic!("only planned: {plan:?}"),
    }
}

#[test]
fn a_commit_by_the_socket_is_told_step_by_step_and_settled() {
    let runtime = runtime();
    let store = Arc::new(MemoryStore::new().unwrap());
    let mut case = runtime.block_on(Case::new(store, &[(1, 1)]));
    runtime.block_on(case.write(of(5), &random(5)));
    let daemon = Daemon::of(runtime, &case);
    let planned = CommitOptions {
        dry_run: true,
        ..CommitOptions::default()
    };
    let (_, plan) = daemon.commit(&planned);
    assert!(matches!(plan.unwrap(), Answer::Plan(plan) if plan.whole == 1));
    let (told, answer) = daemon.commit(&waiting());
    assert_eq!(told.first().unwrap(), "sealed");
    assert_eq!(told[told.len() - 2..], ["accepted", "settled"]);
    let id = id_of(answer).parse().unwrap();
    assert_eq!(case.overlay().header().base, id);
    daemon.runtime.block_on(case.assert_is(&id, &case.now()));
}

#[test]
fn what_was_accepted_earlier_is_settled_by_the_next_daemon() {
    let runtime = runtime();
    let store = Arc::new(MemoryStore::new().unwrap());
    let mut case = runtime.block_on(Case::new(store, &[]));
    runtime.block_on(case.write(of(5), &random(5)));
    let accepted = runtime.block_on(case.run(&Wish::default())).unwrap();
    runtime.block_on(case.reopen());
    let _daemon = Daemon::of(runtime, &case);
    wait_until("it is settled", || {
        case.overlay().header().base == accepted.id
    });
}

#[test]
fn a_client_that_goes_away_cancels_an_upload_and_the_next_one_goes_on() {
    let runtime = runtime();
    let store = FlakyStore::new();
    let mut case = runtime.block_on(Case::new(Arc::<FlakyStore>::clone(&store), &[]));
    for index in 5..8 {
        runtime.block_on(case.write(of(index), &random(u64::from(index))));
    }
    store.put_fault(6, Fault::Hang);
    let daemon = Daemon::of(runtime, &case);
    let first = daemon.ask(&CommitOptions::default());
    wait_until("a put hangs", || store.puts_begun(6));
    // One at a time.
    let (_, busy) = daemon.commit(&CommitOptions::default());
    let busy = busy.unwrap_err();
    assert_eq!(busy.kind(), ErrorKind::Conflict);
    assert!(busy.to_string().contains("under way"), "{busy}");
    drop(first);
    let pending = daemon.runtime.block_on(case.in_state(Status::Pending));
    let mut answer = None;
    wait_until("the first is cancelled", || {
        let (_, tried) = daemon.commit(&waiting());
        match tried {
            Err(e) if e.kind() == ErrorKind::Conflict => false,
            done => {
                answer = Some(done);
                true
            }
        }
    });
    assert_eq!(id_of(answer.unwrap()), pending[0].to_string());
}

#[test]
fn once_accepted_it_is_settled_whoever_is_there() {
    let faults = Faults {
        complete_after: Duration::from_secs(1),
        ..Faults::default()
    };
    let wire = Wire::serve(Arc::new(MemoryStore::new().unwrap()), faults);
    let runtime = runtime();
    let (store, _) = runtime.block_on(wire.client(ebs::Config::default()));
    let mut case = runtime.block_on(Case::new(store, &[]));
    runtime.block_on(case.write(of(5), &random(5)));
    let daemon = Daemon::of(runtime, &case);
    let (_, answer) = daemon.commit(&CommitOptions::default());
    let id = id_of(answer);
    let (_, second) = daemon.commit(&CommitOptions::default());
    let second = second.unwrap_err();
    assert_eq!(second.kind(), ErrorKind::Conflict);
    assert!(second.to_string().contains(&id), "{second}");
    wait_until("it is settled", || {
        case.overlay().header().base.as_str() == id
    });
}

#[test]
fn errors_keep_their_kind_and_what_is_not_understood_is_refused() {
    let daemon = Daemon::read_only();
    let (_, refused) = daemon.commit(&CommitOptions::default());
    let refused = refused.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ReadOnly);
    assert!(refused.to_string().contains("--overlay"), "{refused}");
    let ask = |request: Request| -> Error {
        let client = Client::ask(&daemon.path, &request).unwrap();
        client.wait(|_| ()).unwrap_err()
    };
    let other = ask(Request {
        command: "dance".into(),
        ..request(&CommitOptions::default())
    });
    assert_eq!(other.kind(), ErrorKind::Unsupported);
    let newer = ask(Request {
        version: 2,
        ..request(&CommitOptions::default())
    });
    assert_eq!(newer.kind(), ErrorKind::Unsupported);
    let nonsense = ask(Request {
        options: json!({ "wait": "perhaps" }),
        ..request(&CommitOptions::default())
    });
    assert_eq!(nonsense.kind(), ErrorKind::Invalid);
    let long = [&b"{\"version\":1,\"command\":\""[..], &[b'x'; 70_000]].concat();
    for bytes in [&b"hello\n"[..], &b"[]\n"[..], &long] {
        let answers = daemon.say(bytes);
        assert_eq!(answers.len(), 1, "{answers:?}");
        assert_eq!(answers[0]["event"], "error");
    }
}

/// The chain of an error from deep below arrives whole.
#[test]
fn a_store_that_fails_is_told_as_if_there_were_no_daemon() {
    let runtime = runtime();
    let store = FlakyStore::new();
    let mut case = runtime.block_on(Case::new(Arc::<FlakyStore>::clone(&store), &[]));
    runtime.block_on(case.write(of(5), &random(5)));
    store.put_fault(5, Fault::Fail);
    let here = runtime.block_on(case.run(&Wish::default())).unwrap_err();
    store.put_fault(5, Fault::Fail);
    let daemon = Daemon::of(runtime, &case);
    let (_, there) = daemon.commit(&CommitOptions::default());
    let there = there.unwrap_err();
    assert_eq!(there.kind(), ErrorKind::Unavailable);
    assert_eq!(format!("{there:#}"), format!("{here:#}"));
}

#[test]
fn many_silent_clients_keep_nobody_waiting() {
    let daemon = Daemon::read_only();
    let connect = || UnixStream::connect(&daemon.path).unwrap();
    let silent: Vec<_> = (0..16).map(|_| connect()).collect();
    let (_, refused) = daemon.commit(&CommitOptions::default());
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Unavailable);
    drop(silent);
    wait_until("there is room again", || {
        let (_, refused) = daemon.commit(&CommitOptions::default());
        refused.unwrap_err().kind() == ErrorKind::ReadOnly
    });
}

#[test]
fn a_socket_is_its_users_alone_and_goes_with_the_daemon() {
    let mut daemon = Daemon::read_only();
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
    assert_eq!(mode(&daemon.path), 0o600);
    let below = daemon.path.parent().unwrap().to_owned();
    assert_eq!(mode(&below), 0o700);
    // Another daemon of the same user has another.
    let handle = daemon.runtime.handle().clone();
    let second = Socket::open(&below, &handle, Session::read_only(Arc::default())).unwrap();
    assert_ne!(second.path(), daemon.path);
    drop(second);
    daemon.socket = None;
    assert_eq!(fs::read_dir(&below).unwrap().count(), 0);

    let refused = |path: &Path| {
        let opened = Socket::open(path, &handle, Session::read_only(Arc::default()));
        opened.map(drop).unwrap_err().kind()
    };
    fs::set_permissions(&below, fs::Permissions::from_mode(0o750)).unwrap();
    assert_eq!(refused(&below), ErrorKind::Denied);
    fs::set_permissions(&below, fs::Permissions::from_mode(0o700)).unwrap();
    let link = below.with_file_name("link");
    symlink(&below, &link).unwrap();
    assert_eq!(refused(&link), ErrorKind::Denied);
}

#[test]
fn a_dead_daemons_socket_is_cleaned_away_and_a_living_ones_is_not() {
    let daemon = Daemon::read_only();
    let below = daemon.path.parent().unwrap();
    let dead = below.join("1-dead.sock");
    drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
    for path in [&dead, &daemon.path] {
        tool("touch", &["-d", "1 hour ago", path.to_str().unwrap()]);
    }
    let handle = daemon.runtime.handle();
    let _second = Socket::open(below, handle, Session::read_only(Arc::default())).unwrap();
    assert!(!dead.exists());
    assert!(daemon.path.exists());
    let (_, answered) = daemon.commit(&CommitOptions::default());
    assert_eq!(answered.unwrap_err().kind(), ErrorKind::ReadOnly);
}

#[test]
fn another_user_is_not_heard_even_if_the_modes_let_him_in() {
    if !is_root() {
        eprintln!("SKIPPED: this test needs root");
        return;
    }
    let daemon = Daemon::read_only();
    for path in daemon.path.ancestors().take(3) {
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
    }
    let script = "import socket, sys\n\
         s = socket.socket(socket.AF_UNIX)\n\
         s.connect(sys.argv[1])\n\
         s.sendall(b'{\"version\":1,\"command\":\"commit\"}\\n')\n\
         print(s.recv(4096).decode())";
    let path = daemon.path.to_str().unwrap();
    let as_nobody = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    let python = ["/usr/bin/python3", "-c", script, path];
    let said = run("setpriv", [&as_nobody[..], &python].concat()).ok();
    let answer: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(answer["kind"], "denied", "{answer}");
    thread::yield_now();
    let said = run(python[0], &python[1..]).ok();
    let answer: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(answer["kind"], "readonly", "{answer}");
}
