//! The `ebsfs` program: runs what was asked for, prints the chain of errors, chooses the exit code.

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::Parser as _;
use ebsfs::cli::{Cli, Stop};

fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(stop) => {
            // That stderr cannot be written must not change the exit code.
            drop(match &stop {
                Stop::Failed(error) => writeln!(io::stderr(), "ebsfs: {error:#}"),
                Stop::Interrupted(how_to_go_on) => {
                    writeln!(io::stderr(), "ebsfs: interrupted: {how_to_go_on}")
                }
                // Nobody is reading any more; there is nobody to tell.
                Stop::BrokenPipe | Stop::Told(_) => Ok(()),
            });
            ExitCode::from(stop.exit_code())
        }
    }
}
