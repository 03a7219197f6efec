//! ebsfs
pub mod block;
pub mod cache;
pub mod catalog;
pub mod cli;
pub mod download;
pub mod durable;
pub mod error;
pub mod fuse;
pub mod image;
pub mod partition;
pub mod read_at;
pub mod snapshot;
pub mod source;
pub mod stats;
pub mod store;
pub mod upload;
