//! ebsfs
pub mod block;
pub mod durable;
pub mod error;
pub mod read_at;
pub mod snapshot;
pub mod store;
