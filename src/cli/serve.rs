//! `ebsfs serve`: a store as a server of the EBS direct APIs, until a signal.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use log::{info, warn};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::disk_cache::DiskOptions;
use super::reading::parse_cache_size;
use super::stack::Snapshots;
use super::{Common, Outcome, print, stack, tell};
use crate::cache::BlockCache;
use crate::error::{Error, ErrorKind, Result};
use crate::server::{Access, Faults, Key, Keys, Limits, Service, Stop, serve};

#[derive(Args)]
#[command(after_long_help = FAULTS)]
pub(super) struct Serve {
    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8333")]
    listen: SocketAddr,

    /// Memory for blocks
    #[arg(long, value_name = "BYTES", default_value = "256MiB", value_parser = parse_cache_size)]
    cache_size: usize,

    #[command(flatten)]
    disk: DiskOptions,

    /// Let in whoever signs with a key of this AWS credentials file [default: a key pair made for this run]
    #[arg(long, value_name = "FILE", conflicts_with = "no_auth")]
    credentials: Option<PathBuf>,

    /// Let everyone in, and look at no signature; only on a loopback address
    #[arg(long)]
    no_auth: bool,

    /// Misbehave, to rehearse failures: see below, or --help
    #[arg(long, value_name = "LIST")]
    fault: Option<Faults>,
}

const FAULTS: &str = "\
Faults, separated by commas:
  latency=50ms        every answer comes so much later
  error=0.02          this share of requests gets 500 InternalServerException
                      and is not done
  throttle=0.05       this share comes too fast and is not done: 400
                      RequestThrottledException, 400 ThrottlingException or
                      503 ServiceUnavailable; EC2's are 503 as well
  reset=0.01          this share gets no answer and its connection is closed;
                      half of it is done
  truncate=0.01       this share is done, and the answer ends in the middle
  corrupt=0.01        this share, where it reads a block, gets it with one bit
                      flipped
  complete-after=5s   a completed snapshot stays pending so long
  token-ttl=5s        how long block tokens are good (7 days)
  rotate-tokens       each list of a snapshot voids its older block tokens
  seed=N              where the lots begin (0); the same seed gives the same
                      sequence
Faults befall only requests that are properly signed.";

/// How long requests under way may take once the server is asked to end.
const LAST_WAIT: Duration = Duration::from_secs(10);

impl Serve {
    pub(super) fn run(self, common: &Common) -> Outcome {
        if self.no_auth && !self.listen.ip().is_loopback() {
            let what = format!(
                "--no-auth would let everyone who reaches {} read and delete the snapshots: leave it out",
                self.listen
            );
            return Err(Error::new(ErrorKind::Invalid, what).into());
        }
        let (access, key) = self.access()?;
        // A forgotten option must not hand the user's AWS account on.
        if common.store.as_deref().is_none_or(str::is_empty) {
            let what = "name the store to serve with --store DIR";
            return Err(Error::new(ErrorKind::Invalid, what).into());
        }
        let runtime = stack::runtime()?;
        let opened = match stack::open_store(common, &runtime) {
            Err(e) if e.kind() == ErrorKind::NotFound => {
                let made = stack::create_store(common, &runtime)?;
                tell("there was no store: it is made now, and empty");
                made
            }
            opened => opened?,
        };
        let store = &opened.store;
        let cache = Arc::new(BlockCache::new(self.cache_size));
        let disk = self.disk.open(&opened, &runtime)?;
        let snapshots = Snapshots::new(store, &cache).on_disk(disk);
        let opener = snapshots.source_opener();
        let identity = store.identity();
        let limits = Limits::default();
        let faults = self.fault.clone().unwrap_or_default();
        let service = Service::new(Arc::clone(store), opener, access, faults, limits)?;
        runtime.block_on(async {
            let bound = TcpListener::bind(self.listen).await;
            let listener = bound.map_err(|e| self.cannot_listen(e))?;
            let address = listener.local_addr().map_err(|e| self.cannot_listen(e))?;
            let stop = Stop::default();
            watch_signals(&stop)?;
            print(&exports(address, key.as_ref()))?;
            tell(&format!(
                "serving {identity} on http://{address}; ctrl-c ends it"
            ));
            if !address.ip().is_loopback() {
                warn!(
                    "{address} is plain HTTP: who is on the network in between can read the blocks"
                );
            }
            if let Some(faults) = &self.fault {
                warn!("misbehaving as asked for: {faults:?}");
            }
            serve(Arc::new(service), listener, stop).await;
            info!("ended");
            Ok(())
        })
    }

    /// Who is let in, and the key to tell the user.
    fn access(&self) -> Result<(Access, Option<Key>)> {
        if self.no_auth {
            return Ok((Access::Anyone, Some(any_key())));
        }
        if let Some(path) = &self.credentials {
            return Ok((Access::Keys(Keys::read(path)?), None));
        }
        let key = Key::random()?;
        Ok((Access::Keys(key.clone().into()), Some(key)))
    }

    fn cannot_listen(&self, error: std::io::Error) -> Error {
        Error::from(error).context(format!("cannot listen on {}", self.listen))
    }
}

/// Clients sign with something even where nobody looks.
fn any_key() -> Key {
    Key {
        id: "any".into(),
        secret: "any".into(),
        session_token: None,
    }
}

/// What a shell evaluates so that AWS clients find the server.
fn exports(address: SocketAddr, key: Option<&Key>) -> String {
    // Some clients know one name of the region, some the other; any region will do.
    let mut lines = format!(
        "export AWS_ENDPOINT_URL=http://{address}\nexport AWS_REGION=us-east-1\nexport AWS_DEFAULT_REGION=us-east-1\n"
    );
    if let Some(key) = key {
        lines += &format!(
            "export AWS_ACCESS_KEY_ID={}\nexport AWS_SECRET_ACCESS_KEY={}\nunset AWS_SESSION_TOKEN AWS_PROFILE\n",
            key.id, key.secret
        );
    }
    lines
}

/// The first signal asks for a gentle end, which lasts [`LAST_WAIT`] at most; the second for one at once.
fn watch_signals(stop: &Stop) -> Result<()> {
    let watch = |kind| signal(kind).map_err(|e| Error::from(e).context("cannot watch for signals"));
    let signals: [Signal; 3] = [
        watch(SignalKind::terminate())?,
        watch(SignalKind::interrupt())?,
        watch(SignalKind::hangup())?,
    ];
    for mut signal in signals {
        let stop = stop.clone();
        tokio::spawn(async move {
            while signal.recv().await.is_some() {
                if stop.gently.is_cancelled() {
                    stop.at_once.cancel();
                } else {
                    stop.gently.cancel();
                    let at_once = stop.at_once.clone();
                    tokio::spawn(async move {
                        tokio::time::sleep(LAST_WAIT).await;
                        at_once.cancel();
                    });
                }
            }
        });
    }
    Ok(())
}
