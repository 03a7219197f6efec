//! Any EBS snapshot as a file: verified to the last byte, fetched when it is read.
//!
//! Four address spaces, one trait each, and one module for each crossing:
//!
//! ```text
//!  snapshot id   Store             what snapshots exist, and their blocks     store
//!       |   SnapshotSource         (store + id -> blocks, fetched lazily)     source
//!  block index   BlockSource       one snapshot: immutable, verified blocks   source, cache, prefetch, profile
//!       |   Image                  (blocks, and an overlay -> bytes)          image, overlay
//!  byte offset   ReadAt, WriteAt   one disk as bytes                          read_at, partition
//!       |   ext4, xfs              (bytes -> names)                           filesystem
//!  path          FileTree          one file system, read-only                 recover, compare
//! ```
//! The level of bytes is also shown as files: [`catalog`] names disks and partitions, and [`fuse`] makes them a directory of
//! images, which the kernel may mount. The level of paths does without the kernel: [`recover`] brings files out of it, and
//! [`compare`] tells two trees apart.
//!
//! [`server`] carries the level of stores over HTTP, as the EBS direct APIs do. Back up go [`upload`], which makes
//! blocks a snapshot, and [`commit`], which makes an overlay one. A mounted daemon is a [`session`] for its user,
//! asked through [`control`]; [`warm`] is what it fetches on request.
//!
//! The two lower levels are asynchronous, as many fetches are under way at once; the upper ones are
//! synchronous, as partition tables and the kernel's requests are. [`image`] is the only seam. Errors are one
//! type with a closed set of kinds ([`error`]), mapped to errno and exit codes at the edges only.
//!
//! A [`block::Block`] cannot exist unhashed, so whatever reaches a reader was verified on its way. [`durable`]
//! alone syncs and renames. [`cli`] alone reads arguments and prints; `cli/stack` alone names the concrete
//! types that stand on each other. [`server`] alone speaks HTTP.
//!
//! # Where to add
//! - *A store*: implement [`store::Store`] in `store/`, give it a world in `tests/it/conformance.rs` and a name in
//!   `cli/stack.rs`.
//! - *A command of a mounted daemon*: a file in `session/`, and its name in `session.rs`.
//! - *A verb*: a file in `cli/`, a variant of `Command`, a line in the README.
//! - *A counter*: a field of [`stats::Stats`]; the statistics file shows it under its name.
//! - *A partition table*: a module in `partition/`, tried by `read_table`.
//! - *A file system*: a module in `filesystem/` that implements [`filesystem::FileTree`], a row in `filesystem/probe.rs`, and an
//!   image in `scripts/fixtures.sh` that `tests/it/trees.rs` compares with the kernel's view.
//! - *A fault to rehearse*: a field of [`server::Faults`] and a line in `cli/serve.rs`, which `--help` shows.
//! - *A parameter or an error of the EBS direct APIs*: `server/wire.rs` names it, `tests/it/serve_limits.rs` holds it.
//! - *An edge between modules*: a line in `tests/it/layering.rs`, to be argued for.

pub mod block;
pub mod blocking;
pub mod cache;
pub mod catalog;
pub mod cli;
pub mod commit;
pub mod compare;
pub mod control;
pub mod download;
pub mod durable;
pub mod error;
pub mod filesystem;
pub mod fuse;
pub mod image;
pub mod lock;
pub mod overlay;
pub mod partition;
pub mod prefetch;
pub mod profile;
pub mod read_at;
pub mod record;
pub mod recover;
pub mod server;
pub mod session;
pub mod snapshot;
pub mod source;
pub mod stats;
pub mod store;
pub mod upload;
pub mod warm;
