//! Everything that is tested from outside, in one binary: the program, and the library through its public names.
#![allow(
    clippy::unwrap_used,
    clippy::as_conversions,
    clippy::print_stderr,
    missing_docs
)]

mod browse;
mod cache;
mod cli_delete;
mod cli_device;
mod cli_diff;
mod cli_diff_files;
mod cli_export;
mod cli_import;
mod cli_map;
mod cli_parent;
mod cli_show;
mod cli_store;
mod cli_trees;
mod commit;
mod common;
mod compare;
mod conformance;
mod cp;
mod crash;
mod devices;
mod directory;
mod disk_cache;
mod ebs_hostile;
mod ebs_outage;
mod ebs_tokens;
mod flaky_store;
mod full_disk;
mod hostile_trees;
mod images;
mod kernel;
mod layering;
mod model;
mod mount_content;
mod mount_directory;
mod mount_faults;
mod mount_holes;
mod mount_lifecycle;
mod mount_loop;
mod mount_reads;
mod mount_refusals;
mod mount_users;
mod mount_views;
mod mount_writes;
mod oracle;
mod overlaid;
mod overlaid_model;
mod overlay;
mod peer_coldsnap;
mod peer_fsx;
mod prefetch;
mod profile;
mod program;
mod ram_disk;
mod readme;
mod recover;
mod remote_faults;
mod remote_mount;
mod resume;
mod scripted;
mod serve_auth;
mod serve_aws;
mod serve_clients;
mod serve_ec2;
mod serve_faults;
mod serve_golden;
mod serve_limits;
mod serve_tokens;
mod server;
mod serving;
mod sharing;
mod together;
mod trees;
mod upload;
mod warm;
mod wire;
mod world;
