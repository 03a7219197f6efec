//! One client: its request, what it is told, and how it ends.

use std::time::Duration;

use futures_util::future::{Either, select};
use futures_util::pin_mut;
use log::debug;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::time::timeout;

use super::{Commands, Failure, MAX_LINE, PATIENCE, Request, VERSION};
use crate::error::{Error, ErrorKind, Result};

/// How long a client that was told everything may take to close. Whoever closes a socket with bytes in it that were not
/// read takes away what was said, too.
const LINGER: Duration = Duration::from_secs(2);

/// Where a command tells what happens. Never waits: a client that takes nothing loses its connection soon, and
/// with it what waits to be told.
pub struct Events {
    lines: UnboundedSender<String>,
}

impl Events {
    /// Tells `event`, which says its name in a field `event`.
    pub fn tell(&self, event: &impl Serialize) {
        match serde_json::to_string(event) {
            // It fails when the client is gone, which ends the command anyway.
            Ok(line) => drop(self.lines.send(line)),
            Err(e) => debug!("an event that cannot be written: {e}"),
        }
    }
}

/// Does what the client asks for, until it is done or the client is gone.
pub(super) async fn serve(stream: UnixStream, commands: &dyn Commands) {
    let (reader, writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    let request = match timeout(PATIENCE, read_request(&mut reader)).await {
        Ok(request) => request,
        Err(_) => Err(Error::new(ErrorKind::Invalid, "nothing was asked for")),
    };
    let (lines, told) = mpsc::unbounded_channel();
    let events = Events { lines };
    let work = async {
        let done = match request {
            Ok(request) => commands.run(request, &events).await,
            Err(e) => Err(e),
        };
        events.tell(&last(done));
        // No more is told, so the writer ends.
        drop(events);
    };
    let (writing, leaving) = (write(writer, told), until_gone(&mut reader));
    pin_mut!(work, writing, leaving);
    let gone = select(writing.as_mut(), leaving.as_mut());
    let done = matches!(select(work, gone).await, Either::Left(_));
    if !done {
        debug!("who asked is gone");
        return;
    }
    writing.await;
    drop(timeout(LINGER, leaving).await);
}

/// Tells a client why it is not heard.
pub(super) async fn refuse(stream: UnixStream, why: Error) {
    let (reader, writer) = stream.into_split();
    let (lines, told) = mpsc::unbounded_channel();
    Events { lines }.tell(&last(Err(why)));
    write(writer, told).await;
    drop(timeout(LINGER, until_gone(&mut BufReader::new(reader))).await);
}

/// The last line.
fn last(done: Result<Value>) -> Value {
    match done {
        Ok(answer) => json!({ "event": "done", "answer": answer }),
        Err(e) => {
            let mut line = json!(Failure::from(&e));
            line["event"] = json!("error");
            line
        }
    }
}

async fn read_request(reader: &mut BufReader<OwnedReadHalf>) -> Result<Request> {
    let mut line = Vec::new();
    let limit = u64::try_from(MAX_LINE).unwrap_or(u64::MAX);
    reader
        .take(limit)
        .read_until(b'\n', &mut line)
        .await
        .map_err(|e| Error::from(e).context("cannot read what is asked for"))?;
    let invalid = |what: String| Error::new(ErrorKind::Invalid, what);
    if !line.ends_with(b"\n") {
        return Err(invalid(format!(
            "a request is one line of at most {MAX_LINE} bytes"
        )));
    }
    // The version goes first: what else a newer one says need not be understood.
    let value: Value = serde_json::from_slice(&line)
        .map_err(|e| invalid(format!("the request is not JSON: {e}")))?;
    let version = &value["version"];
    if *version != json!(VERSION) {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "this daemon speaks version {VERSION}, not {version}: mount again with the new program"
            ),
        ));
    }
    serde_json::from_value(value).map_err(|e| invalid(format!("the request is malformed: {e}")))
}

/// Writes lines until no more come, or one of them is not taken.
async fn write(mut writer: OwnedWriteHalf, mut lines: UnboundedReceiver<String>) {
    while let Some(mut line) = lines.recv().await {
        line.push('\n');
        match timeout(PATIENCE, writer.write_all(line.as_bytes())).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
}

/// Waits for the client's end. What it says after its request is not looked at.
async fn until_gone(reader: &mut BufReader<OwnedReadHalf>) {
    let mut nothing = [0; 256];
    while reader.read(&mut nothing).await.is_ok_and(|len| len > 0) {}
}
