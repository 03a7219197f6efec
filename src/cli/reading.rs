//! The options that all verbs take who read a snapshot piece by piece.

use clap::Args;

use super::disk_cache::DiskOptions;
use super::parse_bytes;

#[derive(Args)]
pub(super) struct Reading {
    /// Memory for blocks
    #[arg(long, value_name = "BYTES", default_value = "256MiB", value_parser = parse_cache_size)]
    pub(super) cache_size: usize,

    /// Fetch no block before it is read: fewer requests, and one round trip for each block
    #[arg(long)]
    pub(super) no_read_ahead: bool,

    #[command(flatten)]
    pub(super) disk: DiskOptions,
}

/// Below this a single reader would fetch blocks twice.
const MIN_CACHE: usize = 1 << 20;

pub(super) fn parse_cache_size(text: &str) -> Result<usize, String> {
    match parse_bytes(text)? {
        bytes if bytes < MIN_CACHE => {
            Err("at least 1MiB; a number without unit is in bytes".into())
        }
        bytes => Ok(bytes),
    }
}
