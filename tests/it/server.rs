//! The real server on a free port, and requests to it as bytes on a socket: what is tested is the wire, so no
//! client library stands in between. Requests are signed by AWS's own signer, not by ours.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{
    PayloadChecksumKind, SignableBody, SignableRequest, SignatureLocation, SigningSettings, sign,
};
use aws_sigv4::sign::v4::SigningParams;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use ebsfs::block::{BLOCK_SIZE, Digest};
use rustix::process::Signal;
use serde_json::Value;

use crate::program::{Ran, Running, Sandbox, wait_until};
use crate::serving::listening;

/// `ebsfs serve` in a sandbox of its own. Killed when dropped.
pub(crate) struct Server {
    pub(crate) sandbox: Sandbox,
    running: Running,
    pub(crate) address: SocketAddr,
    /// What it printed for a shell.
    pub(crate) exports: BTreeMap<String, String>,
}

impl Server {
    /// With the store `store` of a new sandbox, and these options.
    pub(crate) fn start(options: &[&str]) -> Self {
        Self::start_in(Sandbox::new(), options)
    }

    pub(crate) fn start_in(sandbox: Sandbox, options: &[&str]) -> Self {
        let out = sandbox.path("exports");
        let listen: &[&str] = match options.contains(&"--listen") {
            true => &[],
            false => &["--listen", "127.0.0.1:0"],
        };
        // Everything is logged, so that what must not be there can be looked for.
        let command = sandbox.command(&[&["-vv", "serve"], listen, options].concat());
        let (running, exports) = listening(command, &out);
        let address = exports["AWS_ENDPOINT_URL"].strip_prefix("http://");
        let address = address.unwrap().parse().unwrap();
        Self {
            sandbox,
            running,
            address,
            exports,
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.running.signal(signal);
    }

    pub(crate) fn runs(&mut self) -> bool {
        self.running.runs()
    }

    /// Asks it to end and waits until it has.
    pub(crate) fn stop(self) -> (Sandbox, Ran) {
        self.signal(Signal::TERM);
        self.end()
    }

    /// Waits for its end.
    pub(crate) fn end(self) -> (Sandbox, Ran) {
        (self.sandbox, self.running.finish())
    }

    /// The key that it made.
    pub(crate) fn key(&self) -> Credentials {
        let part = |name| self.exports.get(name).cloned().unwrap_or_default();
        Credentials::new(
            part("AWS_ACCESS_KEY_ID"),
            part("AWS_SECRET_ACCESS_KEY"),
            None,
            None,
            "test",
        )
    }

    /// The answer to a request signed with the server's key.
    pub(crate) fn send(&self, call: &Call) -> Reply {
        self.send_raw(&self.signed(call))
    }

    /// A request signed with the server's key, as bytes.
    pub(crate) fn signed(&self, call: &Call) -> Vec<u8> {
        call.signed(self.address, &self.key(), SystemTime::now())
    }

    /// The answer to these bytes.
    pub(crate) fn send_raw(&self, bytes: &[u8]) -> Reply {
        self.exchange(bytes)
            .unwrap_or_else(|e| panic!("no answer: {e}"))
    }

    /// The answer, or what came of the attempt.
    pub(crate) fn exchange(&self, bytes: &[u8]) -> Result<Reply, Broken> {
        let mut stream = self.connect();
        // It may have answered, and closed, before it was told everything.
        drop(stream.write_all(bytes));
        Reply::read(&mut stream)
    }

    pub(crate) fn connect(&self) -> TcpStream {
        connect(self.address)
    }

    /// Starts a snapshot of that many GiB.
    pub(crate) fn started(&self, gib: u32) -> String {
        self.started_as(&format!(r#"{{"VolumeSize":{gib}}}"#))
    }

    pub(crate) fn started_as(&self, body: &str) -> String {
        let reply = self.send(&Call::post("/snapshots", body.as_bytes()));
        assert_eq!(reply.status, 201, "{reply:?}");
        reply.json()["SnapshotId"].as_str().unwrap().to_owned()
    }

    /// Completes `id` after puts of blocks of one byte each, at these indexes.
    pub(crate) fn filled(&self, id: &str, blocks: &[(u32, u8)]) {
        for (index, byte) in blocks {
            let reply = self.send(&Call::put(id, *index, &[*byte; BLOCK_SIZE]));
            assert_eq!(reply.status, 201, "{reply:?}");
        }
        let reply = self.send(&Call::complete(id, blocks.len()));
        assert_eq!(reply.status, 202, "{reply:?}");
    }

    /// A completed snapshot of one GiB with these blocks.
    pub(crate) fn snapshot(&self, blocks: &[(u32, u8)]) -> String {
        let id = self.started(1);
        self.filled(&id, blocks);
        id
    }

    /// A child of it with these blocks of its own.
    pub(crate) fn child(&self, parent: &str, blocks: &[(u32, u8)]) -> String {
        let body = format!(r#"{{"VolumeSize":1,"ParentSnapshotId":"{parent}"}}"#);
        let id = self.started_as(&body);
        self.filled(&id, blocks);
        id
    }

    /// The token of a block, from a list of its snapshot.
    pub(crate) fn token(&self, id: &str, index: u32) -> String {
        let target = format!("/snapshots/{id}/blocks?startingBlockIndex={index}");
        let page = self.send(&Call::get(&target)).json();
        assert_eq!(page["Blocks"][0]["BlockIndex"], index, "{page}");
        let token = page["Blocks"][0]["BlockToken"].as_str();
        token.unwrap().to_owned()
    }
}

pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    let limit = Some(Duration::from_secs(60));
    stream.set_read_timeout(limit).unwrap();
    stream.set_write_timeout(limit).unwrap();
    stream
}

/// Waits until nobody listens there.
pub(crate) fn wait_until_closed(address: SocketAddr) {
    wait_until("the port is closed", || {
        TcpStream::connect(address).is_err()
    });
}

/// A request, not yet signed.
#[derive(Clone)]
pub(crate) struct Call {
    pub(crate) method: &'static str,
    /// Path and query.
    pub(crate) target: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    service: &'static str,
    region: &'static str,
    payload: Payload,
    presigned: Option<Duration>,
}

/// How a signature covers the payload.
#[derive(Clone, Copy)]
enum Payload {
    /// By its hash, which is not stated.
    Hashed,
    /// By its hash, which is stated.
    Stated,
    Unsigned,
}

impl Call {
    pub(crate) fn new(method: &'static str, target: &str, body: &[u8]) -> Self {
        Self {
            method,
            target: target.to_owned(),
            headers: Vec::new(),
            body: body.to_vec(),
            service: "ebs",
            region: "us-east-1",
            payload: Payload::Hashed,
            presigned: None,
        }
    }

    pub(crate) fn get(target: &str) -> Self {
        Self::new("GET", target, b"")
    }

    pub(crate) fn post(target: &str, body: &[u8]) -> Self {
        Self::new("POST", target, body)
    }

    /// A put as the documents have it.
    pub(crate) fn put(id: &str, index: u32, block: &[u8]) -> Self {
        Self::new("PUT", &format!("/snapshots/{id}/blocks/{index}"), block)
            .header("x-amz-Data-Length", &block.len().to_string())
            .header("x-amz-Checksum", &Digest::of(block).to_base64())
            .header("x-amz-Checksum-Algorithm", "SHA256")
            .unsigned_payload()
    }

    pub(crate) fn complete(id: &str, count: usize) -> Self {
        Self::post(&format!("/snapshots/completion/{id}"), b"")
            .header("x-amz-ChangedBlocksCount", &count.to_string())
    }

    /// A form for EC2.
    pub(crate) fn ec2(form: &str) -> Self {
        let mut call = Self::post("/", format!("{form}&Version=2016-11-15").as_bytes());
        call.service = "ec2";
        call.header(
            "content-type",
            "application/x-www-form-urlencoded; charset=utf-8",
        )
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Without that header.
    pub(crate) fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(given, _)| given != name);
        self
    }

    pub(crate) fn unsigned_payload(mut self) -> Self {
        self.payload = Payload::Unsigned;
        self
    }

    pub(crate) fn stated_payload(mut self) -> Self {
        self.payload = Payload::Stated;
        self
    }

    pub(crate) fn for_service(mut self, service: &'static str) -> Self {
        self.service = service;
        self
    }

    pub(crate) fn in_region(mut self, region: &'static str) -> Self {
        self.region = region;
        self
    }

    /// Signed in its query.
    pub(crate) fn presigned(mut self, life: Duration) -> Self {
        self.presigned = Some(life);
        self
    }

    /// As bytes, signed at `time` by AWS's signer.
    pub(crate) fn signed(
        &self,
        address: SocketAddr,
        key: &Credentials,
        time: SystemTime,
    ) -> Vec<u8> {
        let mut call = self.clone();
        call.headers.insert(0, ("host".into(), address.to_string()));
        let identity = key.clone().into();
        let mut settings = SigningSettings::default();
        if let Payload::Unsigned | Payload::Stated = call.payload {
            settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
        }
        if let Some(life) = call.presigned {
            settings.signature_location = SignatureLocation::QueryParams;
            settings.expires_in = Some(life);
        }
        let params = SigningParams::builder()
            .identity(&identity)
            .region(call.region)
            .name(call.service)
            .time(time)
            .settings(settings)
            .build()
            .unwrap()
            .into();
        let body = match call.payload {
            Payload::Unsigned => SignableBody::UnsignedPayload,
            Payload::Hashed | Payload::Stated => SignableBody::Bytes(&call.body),
        };
        let url = format!("http://{address}{}", call.target);
        let headers = call.headers.iter().map(|(name, value)| (&**name, &**value));
        let signable = SignableRequest::new(call.method, &url, headers, body).unwrap();
        let (instructions, _) = sign(signable, &params).unwrap().into_parts();
        let (headers, parameters) = instructions.into_parts();
        for header in headers {
            call.headers
                .push((header.name().to_owned(), header.value().to_owned()));
        }
        for (name, value) in parameters {
            let value: String = form_urlencoded::byte_serialize(value.as_bytes()).collect();
            let mark = if call.target.contains('?') { '&' } else { '?' };
            call.target += &format!("{mark}{name}={value}");
        }
        call.bytes()
    }

    /// As bytes, with nothing added but the length.
    fn bytes(&self) -> Vec<u8> {
        let mut text = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        for (name, value) in &self.headers {
            text += &format!("{name}: {value}\r\n");
        }
        text += &format!("content-length: {}\r\n\r\n", self.body.len());
        [text.as_bytes(), &self.body].concat()
    }

    /// As bytes, not signed.
    pub(crate) fn plain(&self, address: SocketAddr) -> Vec<u8> {
        self.clone().header("host", &address.to_string()).bytes()
    }
}

/// An answer.
pub(crate) struct Reply {
    pub(crate) status: u16,
    /// `HTTP/1.1 200 OK`
    pub(crate) line: String,
    /// By names in lower case.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

/// What came instead of an answer.
#[derive(Debug)]
pub(crate) struct Broken {
    /// The answer as far as it came.
    pub(crate) got: Vec<u8>,
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes and then nothing", self.got.len())
    }
}

impl std::fmt::Debug for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let body = &self.body[..self.body.len().min(500)];
        let body = String::from_utf8_lossy(body);
        write!(f, "{}\n{:?}\n{body}", self.line, self.headers)
    }
}

impl Reply {
    /// The next answer on a connection, which may go on after it.
    pub(crate) fn read(stream: &mut TcpStream) -> Result<Self, Broken> {
        let mut got = Vec::new();
        let mut piece = vec![0; 1 << 16];
        loop {
            if let Some(reply) = Self::parse(&got) {
                return Ok(reply);
            }
            match stream.read(&mut piece) {
                Ok(0) | Err(_) => return Err(Broken { got }),
                Ok(count) => got.extend_from_slice(&piece[..count]),
            }
        }
    }

    fn parse(got: &[u8]) -> Option<Self> {
        let end = got
            .windows(4)
            .take(1 << 16)
            .position(|at| at == b"\r\n\r\n")?;
        let head = String::from_utf8(got[..end].to_vec()).unwrap();
        let mut lines = head.split("\r\n");
        let line = lines.next().unwrap().to_owned();
        let headers: BTreeMap<_, _> = lines
            .map(|line| line.split_once(':').unwrap())
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let length: usize = headers
            .get("content-length")
            .map_or(0, |n| n.parse().unwrap());
        let body = got.get(end + 4..end + 4 + length)?.to_vec();
        Some(Self {
            status: line.split(' ').nth(1).unwrap().parse().unwrap(),
            line,
            headers,
            body,
        })
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// Status, type and reason of an error of the EBS direct APIs, in one line.
    #[track_caller]
    pub(crate) fn error(&self) -> String {
        let body = self.json();
        let message = body["Message"].as_str().unwrap_or_default();
        assert!(!message.is_empty(), "it does not say why: {self:?}");
        let code = self.headers.get("x-amzn-errortype");
        let code = code.unwrap_or_else(|| panic!("no type: {self:?}"));
        match body["Reason"].as_str() {
            Some(reason) => format!("{} {code} {reason}", self.status),
            None => format!("{} {code}", self.status),
        }
    }

    /// Status and code of an error of EC2.
    #[track_caller]
    pub(crate) fn ec2_error(&self) -> String {
        let text = self.text();
        let code = between(&text, "<Response><Errors><Error><Code>", "</Code><Message>");
        assert!(
            text.contains("</Message></Error></Errors><RequestID>"),
            "{text}"
        );
        format!("{} {code}", self.status)
    }
}

/// What stands between two texts.
#[track_caller]
pub(crate) fn between<'a>(text: &'a str, before: &str, after: &str) -> &'a str {
    let found = text
        .split_once(before)
        .and_then(|(_, rest)| rest.split_once(after));
    found
        .unwrap_or_else(|| panic!("no {before}...{after} in {text}"))
        .0
}

/// The service's checksum of all blocks.
pub(crate) fn linear(blocks: &[Vec<u8>]) -> String {
    let digests: Vec<u8> = blocks
        .iter()
        .flat_map(|block| *Digest::of(block).as_bytes())
        .collect();
    BASE64_STANDARD.encode(Digest::of(&digests).as_bytes())
}
