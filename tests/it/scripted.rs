//! A server that answers what a test tells it to, bytes for bytes: it does not know HTTP from anything else.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

/// Ends when dropped.
pub(crate) struct Scripted {
    address: SocketAddr,
    requests: Arc<AtomicUsize>,
    ended: Arc<AtomicBool>,
    listening: Option<JoinHandle<()>>,
}

impl Scripted {
    /// A server that answers the request line `GET /... HTTP/1.1` with what `answer` makes of it.
    pub(crate) fn start(answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (requests, ended) = (
            Arc::new(AtomicUsize::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let (counted, stop, answer) = (Arc::clone(&requests), Arc::clone(&ended), Arc::new(answer));
        let listening = thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let (counted, answer) = (Arc::clone(&counted), Arc::clone(&answer));
                thread::spawn(move || serve(stream, &counted, &*answer));
            }
        });
        Self {
            address,
            requests,
            ended,
            listening: Some(listening),
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Requests answered so far.
    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(self.address));
        drop(self.listening.take().map(JoinHandle::join));
    }
}

/// One request, one answer: every answer ends its connection.
fn serve(mut stream: TcpStream, requests: &AtomicUsize, answer: &dyn Fn(&str) -> Vec<u8>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut first = String::new();
    let mut line = String::new();
    let mut body = 0;
    while reader.read_line(&mut line).is_ok_and(|read| read > 2) {
        if first.is_empty() {
            first.clone_from(&line);
        }
        let header = line.to_ascii_lowercase();
        if let Some(length) = header.strip_prefix("content-length:") {
            body = length.trim().parse().unwrap();
        }
        line.clear();
    }
    // A connection that is closed with something unread in it loses the answer.
    drop(io::copy(&mut reader.take(body), &mut io::sink()));
    if first.is_empty() {
        return;
    }
    requests.fetch_add(1, Ordering::SeqCst);
    // A client that has seen enough may be gone.
    drop(stream.write_all(&answer(&first)));
}

/// An answer with a body; `headers` end with line ends.
pub(crate) fn answer(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let mut answer = format!(
        "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n",
        body.len()
    );
    let mut answer = std::mem::take(&mut answer).into_bytes();
    answer.extend_from_slice(body);
    answer
}

/// A refusal as the service words it.
pub(crate) fn refusal(status: &str, code: &str, reason: Option<&str>) -> Vec<u8> {
    let reason = reason.map_or(String::new(), |reason| format!(r#","Reason":"{reason}""#));
    let body = format!(r#"{{"Message":"it is so"{reason}}}"#);
    let headers = format!("Content-Type: application/json\r\nx-amzn-ErrorType: {code}\r\n");
    answer(status, &headers, body.as_bytes())
}
