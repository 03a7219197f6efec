//! The daemon's socket: who may ask a mounted daemon for something, and in which form.
//!
//! A Unix socket of mode 0600 in a directory of mode 0700, with a name that no other daemon has; it goes with the
//! daemon, and one that a killed daemon left behind answers nobody. Only the daemon's own user and root are heard.
//!
//! ```text
//! client  {"version":1,"command":"commit","options":{...}}           one line, at most 64 KiB
//! daemon  {"event":"progress","index":4711}                          any number of lines
//! daemon  {"event":"done","answer":...}                              the last, or
//! daemon  {"event":"error","kind":"conflict","text":["why","cause"]} the last
//! ```
//! A client that goes away cancels what it asked for. One that says nothing, or takes nothing of what it is told, loses
//! its connection after a while; there are at most sixteen. What the commands are is decided by [`Commands`].

use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{fs, process};

use async_trait::async_trait;
use log::{debug, warn};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::error::{Error, ErrorKind, Result};
use crate::snapshot::random_hex;

mod client;
mod connection;
mod failure;

pub use self::client::{Canceller, Client};
pub use self::connection::Events;
pub use self::failure::Failure;

/// The form that this page describes. A daemon refuses any other.
pub const VERSION: u32 = 1;

/// Bytes in a line, either way.
const MAX_LINE: usize = 64 << 10;

/// Clients at one time.
const CONNECTIONS: usize = 16;

/// How long a client may take to say what it wants, or to take a line that it is told.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a client asks for.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Request {
    /// [`VERSION`].
    pub version: u32,
    /// What to do.
    pub command: String,
    /// How; the command's own.
    #[serde(default)]
    pub options: Value,
}

/// What a daemon does for its user.
#[async_trait]
pub trait Commands: Send + Sync {
    /// Does what is asked, tells `events` of it, and answers with what the last line shall say. Dropped when the client
    /// goes away. `Unsupported` for a command that it does not know.
    async fn run(&self, request: Request, events: &Events) -> Result<Value>;
}

/// A socket that is listened on. It ends, with all that was asked through it, when this is dropped.
pub struct Socket {
    path: PathBuf,
    listening: JoinHandle<()>,
}

impl Socket {
    /// A new socket in `directory`, which is made if there is none, for `commands`.
    ///
    /// `Denied` if others than its user may enter that directory.
    pub fn open(directory: &Path, runtime: &Handle, commands: Arc<dyn Commands>) -> Result<Self> {
        private(directory)?;
        remove_dead(directory);
        let name = format!("{}-{}.sock", process::id(), random_hex::<4>()?);
        let path = directory.join(name);
        let cannot = |e| Error::io(e, "listen on", &path);
        let listener = {
            let _context = runtime.enter();
            UnixListener::bind(&path).map_err(cannot)?
        };
        // Until this is done the directory keeps others out.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).map_err(cannot)?;
        let listening = runtime.spawn(listen(listener, commands));
        Ok(Self { path, listening })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.listening.abort();
        if let Err(e) = fs::remove_file(&self.path) {
            debug!("{}: left behind: {e}", self.path.display());
        }
    }
}

/// Makes `directory` unless it is there, and checks that it is its user's alone.
fn private(directory: &Path) -> Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(directory) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
            return Err(Error::io(e, "create", directory));
        }
        _ => {}
    }
    // Not through a link: in a directory of all users it may be another's.
    let meta = fs::symlink_metadata(directory).map_err(|e| Error::io(e, "look at", directory))?;
    let own = meta.is_dir() && meta.uid() == own_uid() && meta.mode() & 0o077 == 0;
    match own {
        true => Ok(()),
        false => Err(Error::new(
            ErrorKind::Denied,
            format!(
                "{} must be a directory of user {} with mode 0700: remove it, or say otherwise by XDG_RUNTIME_DIR",
                directory.display(),
                own_uid()
            ),
        )),
    }
}

fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Sockets younger than this may be those of a daemon that is just about to listen.
const YOUNG: Duration = Duration::from_secs(60);

/// Removes the sockets of daemons that were killed: nobody listens there, and nobody ever will.
fn remove_dead(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        let modified = entry.metadata().and_then(|meta| meta.modified());
        let old = modified.is_ok_and(|time| time.elapsed().is_ok_and(|age| age > YOUNG));
        let is_socket = path.extension().is_some_and(|end| end == "sock");
        let refused = || match std::os::unix::net::UnixStream::connect(&path) {
            Err(e) => e.kind() == io::ErrorKind::ConnectionRefused,
            Ok(_) => false,
        };
        if old && is_socket && refused() {
            drop(fs::remove_file(&path));
        }
    }
}

async fn listen(listener: UnixListener, commands: Arc<dyn Commands>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    // Ends them all when the listener's task is ended.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(e) => {
                // Descriptors may have run out; others give theirs back.
                warn!("the control socket takes no connection: {e}");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        if let Err(e) = check_peer(&stream) {
            warn!("{e}");
            connections.spawn(connection::refuse(stream, e));
            continue;
        }
        match Arc::clone(&places).try_acquire_owned() {
            Ok(place) => {
                let commands = Arc::clone(&commands);
                connections.spawn(async move {
                    connection::serve(stream, &*commands).await;
                    drop(place);
                });
            }
            Err(_) => {
                let what = "too many ask this daemon for something at once: try again";
                let e = Error::new(ErrorKind::Unavailable, what);
                connections.spawn(connection::refuse(stream, e));
            }
        }
    }
}

/// The mode of the socket keeps others out already, but it is not looked at on every system.
fn check_peer(stream: &UnixStream) -> Result<()> {
    let peer = stream
        .peer_cred()
        .map_err(|e| Error::from(e).context("cannot tell who asks"))?;
    if peer.uid() == own_uid() || peer.uid() == 0 {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Denied,
        format!(
            "user {} asked, and only user {} and root are heard",
            peer.uid(),
            own_uid()
        ),
    ))
}
