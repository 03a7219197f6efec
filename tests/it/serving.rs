//! `ebsfs serve` on the store of a test's directory, and what makes any AWS client use it.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use crate::program::Running;

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
            .env_remove("RUST_LOG")
            .stdout(File::create(printed.path()).unwrap());
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
            ("AWS_SHARED_CREDENTIALS_FILE", credentials.to_str().unwrap()),
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
