//! `ebsfs serve` on the store of a test's directory, and what makes any AWS client use it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use crate::program::Running;

/// Any key pair does: server and clients are given the same file.
const CREDENTIALS: &str = "[default]\naws_access_key_id = AKIAIOSFODNN7EXAMPLE\n\
    aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY\n";

/// Starts a server, and waits until it listens; what it prints for a shell goes to the file `out`.
pub(crate) fn listening(mut command: Command, out: &Path) -> (Running, BTreeMap<String, String>) {
    command.stdout(File::create(out).unwrap());
    let mut running = Running::start_with_stdout(command);
    let printed = || fs::read_to_string(out).unwrap();
    if !running.until(|| printed().ends_with('\n')) {
        panic!("the server ended: {:?}", running.finish());
    }
    let export = |line: &str| {
        let (name, value) = line.strip_prefix("export ")?.split_once('=')?;
        Some((name.to_owned(), value.to_owned()))
    };
    (running, printed().lines().filter_map(export).collect())
}

/// A server, killed when dropped.
pub(crate) struct Server {
    running: Running,
    /// `127.0.0.1:PORT`
    pub(crate) address: String,
    environment: Vec<(String, String)>,
}

impl Server {
    /// Serves `dir/store` on a free port, with these options of `ebsfs serve`.
    pub(crate) fn start(dir: &Path, options: &[&str]) -> Self {
        Self::start_at("127.0.0.1:0", dir, options)
    }

    /// Serves it where another server has been, say.
    pub(crate) fn start_at(address: &str, dir: &Path, options: &[&str]) -> Self {
        let credentials = dir.join("credentials");
        fs::write(&credentials, CREDENTIALS).unwrap();
        let printed = tempfile::NamedTempFile::new_in(dir).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_ebsfs"));
        command
            .args(["serve", "--listen", address, "--store", "store"])
            .arg("--credentials")
            .arg(&credentials)
            .args(options)
            .current_dir(dir)
            .env_remove("RUST_LOG");
        let (running, exports) = listening(command, printed.path());
        let url = exports["AWS_ENDPOINT_URL"].clone();
        let address = url.strip_prefix("http://").unwrap().to_owned();
        let environment = [
            ("AWS_SHARED_CREDENTIALS_FILE", credentials.to_str().unwrap()),
            ("AWS_CONFIG_FILE", "/dev/null"),
            ("AWS_REGION", "us-east-1"),
            ("AWS_DEFAULT_REGION", "us-east-1"),
            ("AWS_EC2_METADATA_DISABLED", "true"),
            ("AWS_ENDPOINT_URL", &url),
        ];
        let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        Self {
            running,
            address,
            environment: environment.map(owned).into(),
        }
    }

    /// Sets what an AWS client finds the server by; the program takes it for AWS.
    pub(crate) fn environment(&self, command: &mut Command) {
        for inherited in ["AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID"] {
            command.env_remove(inherited);
        }
        command
            .envs(self.environment.iter().cloned())
            .env("EBSFS_STORE", "aws");
    }

    /// Ends it at once, as a power failure would; its address is free then.
    pub(crate) fn kill(self) -> String {
        self.running.kill();
        self.address
    }
}
