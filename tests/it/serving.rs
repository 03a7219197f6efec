//! `ebsfs serve` on the sandbox's store, and what makes any AWS client use it.

use std::fs::{self, File};
use std::process::Command;

use rustix::process::Signal;

use crate::program::{Ran, Running, Sandbox, wait_until};

/// Any key pair does: server and clients are given the same file.
const CREDENTIALS: &str = "[default]\naws_access_key_id = AKIAIOSFODNN7EXAMPLE\n\
    aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY\n";

/// A server, killed when dropped.
pub(crate) struct Server {
    running: Running,
    /// `127.0.0.1:PORT`
    pub(crate) address: String,
    environment: Vec<(String, String)>,
}

impl Server {
    /// Starts one on a free port, with these options of `ebsfs serve`.
    pub(crate) fn start(sandbox: &Sandbox, options: &[&str]) -> Self {
        Self::start_at(sandbox, "127.0.0.1:0", options)
    }

    /// Starts one where another has been, say.
    pub(crate) fn start_at(sandbox: &Sandbox, address: &str, options: &[&str]) -> Self {
        let path = |name| sandbox.path(name).to_str().unwrap().to_owned();
        let credentials = path("credentials");
        fs::write(&credentials, CREDENTIALS).unwrap();
        let serve = ["serve", "--listen", address, "--credentials", &credentials];
        let mut command = sandbox.command(&[&serve[..], options].concat());
        let printed = tempfile::NamedTempFile::new_in(sandbox.path("")).unwrap();
        command.stdout(File::create(printed.path()).unwrap());
        let mut running = Running::start_with_stdout(command);
        let mut address = None;
        let listens = running.until(|| {
            let text = fs::read_to_string(printed.path()).unwrap();
            let after = text.split_once("http://").map(|(_, after)| after);
            // All of the line is there once its end is.
            address = after.and_then(|after| Some(after.split_once('\n')?.0.to_owned()));
            address.is_some()
        });
        assert!(listens, "the server ended: {:?}", running.finish());
        let address = address.unwrap();
        let environment = [
            ("AWS_SHARED_CREDENTIALS_FILE", &*credentials),
            ("AWS_CONFIG_FILE", "/dev/null"),
            ("AWS_REGION", "us-east-1"),
            ("AWS_DEFAULT_REGION", "us-east-1"),
            ("AWS_EC2_METADATA_DISABLED", "true"),
            ("AWS_ENDPOINT_URL", &format!("http://{address}")),
        ];
        let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        Self {
            running,
            address,
            environment: environment.map(owned).into(),
        }
    }

    /// What an AWS client finds the server by, set for `command`.
    pub(crate) fn environment(&self, command: &mut Command) {
        for inherited in ["AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID"] {
            command.env_remove(inherited);
        }
        command.envs(self.environment.iter().cloned());
    }

    /// The program as a client of the server, not yet started.
    pub(crate) fn client(&self, sandbox: &Sandbox, arguments: &[&str]) -> Command {
        let mut command = sandbox.command(arguments);
        self.environment(&mut command);
        command.env("EBSFS_STORE", "aws");
        command
    }

    /// Runs the program as a client.
    pub(crate) fn run(&self, sandbox: &Sandbox, arguments: &[&str]) -> Ran {
        Running::start(self.client(sandbox, arguments)).finish()
    }

    /// Ends it at once, as a power failure would.
    pub(crate) fn kill(self) {
        self.running.signal(Signal::KILL);
    }
}
