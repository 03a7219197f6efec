//! Any [`Store`] as a server of the EBS direct APIs: the six actions, and the two of EC2 that clients need beside
//! them.
//!
//! ```text
//! listener      connections: how many, how slow, until when
//! guard         one request: its body (body), its signature (sigv4), the faults asked for (faults, distort)
//! actions, ec2  what is asked for (parameters), and what is answered (answers, wire)
//! snapshots     the store as it is shown, what can be read already open
//! tokens        of blocks and pages: sealed, not remembered
//! ```
//! It promises what the documents do, down to names, limits and status codes; that nobody without a key gets in
//! (unless [`Access::Anyone`] is asked for); and that a slow or hostile client takes a bounded amount of memory
//! and time. Blocks are sent as they are kept, and those in the cache are not hashed again. It speaks plain HTTP,
//! has one account, and does not encrypt.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::{any, get, post, put};
use http::StatusCode;
use tokio::sync::Semaphore;

use self::answers::Refusal;
use self::faults::Lots;
use self::snapshots::Snapshots;
use self::tokens::Tokens;
use crate::error::Result;
use crate::snapshot::SnapshotInfo;
use crate::source::BlockSource;
use crate::store::{Clock, Store, system_clock};

mod actions;
mod answers;
mod body;
mod credentials;
mod distort;
mod ec2;
mod faults;
mod guard;
mod listener;
mod parameters;
mod sigv4;
mod snapshots;
mod tokens;
mod wire;

pub use self::credentials::{Key, Keys};
pub use self::faults::Faults;
pub use self::listener::{Stop, serve};

/// How a completed snapshot becomes a source of blocks.
pub type Opener = Box<dyn Fn(&SnapshotInfo) -> Arc<dyn BlockSource> + Send + Sync>;

/// Who may do what they like.
pub enum Access {
    /// Whoever signs with one of these keys.
    Keys(Keys),
    /// Everyone who reaches the server; signatures are not looked at.
    Anyone,
}

/// How much of everything a server gives to its clients.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections at a time; more wait to be accepted. Each takes a head, a small body and a block on its way
    /// out at most.
    pub connections: usize,
    /// Bytes of a request's line and headers. The longest that means anything has some 3 KiB.
    pub head: usize,
    /// Bodies with a block in them at a time; more are not read yet.
    pub blocks: usize,
    /// How long a connection may be idle, or take for the head of a request.
    pub head_timeout: Duration,
    /// How long a body may take.
    pub body_timeout: Duration,
    /// How long a client may take none of an answer.
    pub send_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // Twice what a client keeps in flight over a long distance.
            connections: 512,
            head: 32 << 10,
            blocks: 128,
            head_timeout: Duration::from_secs(60),
            body_timeout: Duration::from_secs(60),
            send_timeout: Duration::from_secs(60),
        }
    }
}

/// What answers requests; [`serve`] carries them to it.
pub struct Service {
    snapshots: Snapshots,
    tokens: Tokens,
    access: Access,
    lots: Lots,
    limits: Limits,
    clock: Clock,
    /// For bodies with a block in them.
    room: Semaphore,
}

impl Service {
    /// A service of what is in `store`.
    pub fn new(
        store: Arc<dyn Store>,
        opener: Opener,
        access: Access,
        faults: Faults,
        limits: Limits,
    ) -> Result<Self> {
        let clock = system_clock();
        let life = faults.token_ttl.unwrap_or(tokens::BLOCK_LIFE);
        Ok(Self {
            snapshots: Snapshots::new(store, opener, faults.complete_after),
            tokens: Tokens::new(life, faults.rotate_tokens, Arc::clone(&clock))?,
            access,
            room: Semaphore::new(limits.blocks),
            limits,
            clock,
            lots: Lots::new(faults),
        })
    }

    fn router(self: &Arc<Self>) -> Router {
        let unknown = async || {
            let message = "no action of the EBS direct APIs has this method and path";
            Refusal::new(StatusCode::NOT_FOUND, "UnknownOperationException", message)
        };
        let wrong_method = async || {
            let message = "no action of the EBS direct APIs has this method with this path";
            let status = StatusCode::METHOD_NOT_ALLOWED;
            Refusal::new(status, "UnknownOperationException", message)
        };
        Router::new()
            .route("/", any(ec2::act))
            .route("/snapshots", post(actions::start_snapshot))
            .route(
                "/snapshots/completion/{id}",
                post(actions::complete_snapshot),
            )
            .route("/snapshots/{id}/blocks", get(actions::list_snapshot_blocks))
            .route(
                "/snapshots/{id}/changedblocks",
                get(actions::list_changed_blocks),
            )
            .route(
                "/snapshots/{id}/blocks/{index}",
                put(actions::put_snapshot_block).get(actions::get_snapshot_block),
            )
            .fallback(unknown)
            .method_not_allowed_fallback(wrong_method)
            .layer(axum::middleware::from_fn_with_state(
                Arc::clone(self),
                guard::guard,
            ))
            .with_state(Arc::clone(self))
    }
}

/// A name for one request, in its answer and in the log.
#[derive(Clone)]
struct RequestId(String);

impl RequestId {
    /// In the form of a UUID, as the service gives it.
    fn random() -> Self {
        let (a, b) = (fastrand::u64(..), fastrand::u64(..));
        Self(format!(
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            a >> 32,
            (a >> 16) & 0xffff,
            a & 0xffff,
            b >> 48,
            b & 0xffff_ffff_ffff
        ))
    }
}
