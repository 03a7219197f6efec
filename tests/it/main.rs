//! Everything that is tested from outside, in one binary.
#![allow(clippy::unwrap_used, clippy::as_conversions, missing_docs)]

mod common;
mod conformance;
mod directory;
mod model;
