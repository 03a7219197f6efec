//! The `ebsfs` program: runs what was asked for, prints the chain of errors, chooses the exit code.
#![allow(clippy::print_stderr)]

use std::process::ExitCode;

use clap::Parser as _;
use ebsfs::cli::{Cli, Stop};

fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(stop) => {
            match &stop {
                Stop::Failed(error) => eprintln!("ebsfs: {error:#}"),
                Stop::Interrupted(how_to_go_on) => eprintln!("ebsfs: interrupted: {how_to_go_on}"),
                // Nobody is reading any more; there is nobody to tell.
                Stop::BrokenPipe | Stop::Told(_) => {}
            }
            ExitCode::from(stop.exit_code())
        }
    }
}
