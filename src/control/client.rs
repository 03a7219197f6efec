//! Who asks a daemon for something.

use std::io::{self, BufRead as _, BufReader, ErrorKind as IoKind, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::Value;

use super::{Failure, MAX_LINE, Request};
use crate::error::{Error, ErrorKind, Result};

/// A request under way. Dropping it cancels what was asked for.
pub struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Asks the daemon that listens at `path`.
    pub fn ask(path: &Path, request: &Request) -> Result<Self> {
        let cannot = |e: io::Error| match e.kind() {
            // A mount whose daemon was killed stays.
            IoKind::ConnectionRefused | IoKind::NotFound | IoKind::BrokenPipe => Error::new(
                ErrorKind::Unavailable,
                format!(
                    "the daemon has ended: nobody listens at {}; `ebsfs umount` takes its mount away",
                    path.display()
                ),
            ),
            _ => Error::io(e, "ask the daemon at", path),
        };
        let mut stream = UnixStream::connect(path).map_err(cannot)?;
        let mut line =
            serde_json::to_vec(request).map_err(|e| Error::new(ErrorKind::Io, e.to_string()))?;
        line.push(b'\n');
        stream.write_all(&line).map_err(cannot)?;
        Ok(Self {
            stream: BufReader::new(stream),
        })
    }

    /// What ends the request from another thread.
    pub fn canceller(&self) -> Result<Canceller> {
        let stream = self.stream.get_ref().try_clone()?;
        Ok(Canceller { stream })
    }

    /// The daemon's answer. `tell` is told all lines before it, in order. The daemon's error is this one's.
    pub fn wait(mut self, mut tell: impl FnMut(Value)) -> Result<Value> {
        loop {
            let mut value = self.next_line()?;
            match value["event"].as_str() {
                Some("done") => return Ok(value["answer"].take()),
                Some("error") => {
                    let failure: Failure = serde_json::from_value(value).map_err(malformed)?;
                    return Err(failure.into());
                }
                _ => tell(value),
            }
        }
    }

    fn next_line(&mut self) -> Result<Value> {
        let mut line = Vec::new();
        let limit = u64::try_from(MAX_LINE).unwrap_or(u64::MAX);
        let read = self
            .stream
            .by_ref()
            .take(limit)
            .read_until(b'\n', &mut line);
        let has_ended = match &read {
            Ok(len) => *len == 0,
            // It was killed with something unread.
            Err(e) => e.kind() == IoKind::ConnectionReset,
        };
        if has_ended {
            let what = "the daemon has ended in the middle; its log tells more";
            return Err(Error::new(ErrorKind::Unavailable, what));
        }
        read.map_err(|e| Error::from(e).context("cannot hear from the daemon"))?;
        serde_json::from_slice(&line).map_err(malformed)
    }
}

/// Ends a request that another thread waits for.
pub struct Canceller {
    stream: UnixStream,
}

impl Canceller {
    /// Cancels what was asked for; whoever waits is told that the daemon has ended.
    pub fn cancel(&self) {
        // It fails when the daemon has closed it already.
        drop(self.stream.shutdown(Shutdown::Both));
    }
}

fn malformed(e: serde_json::Error) -> Error {
    Error::new(ErrorKind::Invalid, e.to_string()).context("the daemon says what makes no sense")
}
