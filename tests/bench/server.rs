//! `ebsfs serve` as the other end of a measurement, and the clients that are pointed at it.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::setup::{PROGRAM, Scratch};

/// Where `scripts/bench` puts the peer.
const COLDSNAP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/peers/bin/coldsnap");

/// Any key pair does: client and server are given the same file.
const CREDENTIALS: &str = "[default]\naws_access_key_id = AKIAIOSFODNN7EXAMPLE\naws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY\n";

/// `ebsfs serve`, ended with it.
pub(crate) struct Server {
    child: Child,
    /// `127.0.0.1:PORT`
    pub(crate) address: String,
}

impl Server {
    pub(crate) fn start(scratch: &Scratch, store: &Path, options: &[&str]) -> Self {
        fs::write(scratch.path("credentials"), CREDENTIALS).unwrap();
        let mut command = scratch.ebsfs(store);
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--cache-size", "4G"])
            .args(options);
        if !options.contains(&"--no-auth") {
            command
                .arg("--credentials")
                .arg(scratch.path("credentials"));
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = lines.find_map(|line| {
            let line = line.unwrap();
            let (_, address) = line.split_once("http://")?;
            Some(address.trim_end_matches(['/', '"', '\'']).to_owned())
        });
        let address = address.expect("the server tells where it listens");
        Self { child, address }
    }

    /// The program as a client of the server.
    pub(crate) fn ebsfs(&self, scratch: &Scratch) -> Command {
        self.client(scratch, PROGRAM)
    }

    /// The peer.
    pub(crate) fn coldsnap(&self, scratch: &Scratch) -> Command {
        assert!(
            Path::new(COLDSNAP).exists(),
            "no {COLDSNAP}: run scripts/bench, which installs it"
        );
        self.client(scratch, COLDSNAP)
    }

    /// What makes any AWS client use this server.
    fn client(&self, scratch: &Scratch, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("AWS_SHARED_CREDENTIALS_FILE", scratch.path("credentials"))
            .env("AWS_CONFIG_FILE", "/dev/null")
            .env("AWS_REGION", "us-east-1")
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("AWS_ENDPOINT_URL", format!("http://{}", self.address))
            .env("XDG_STATE_HOME", scratch.path("state"))
            .env("XDG_CACHE_HOME", scratch.path("cache"))
            .env_remove("EBSFS_STORE");
        command
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
