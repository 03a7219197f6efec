//! Answers gone wrong, as [`Faults`](super::Faults) ask for them.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, to_bytes};
use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use http_body::{Frame, SizeHint};

use super::answers::Refusal;
use super::wire::{self, reason};

/// A throttle; there is one for a snapshot, one for an account, and a server that has too much to do.
pub(super) fn throttled(way: u8) -> Refusal {
    use StatusCode as S;
    let message = "too many requests; try again more slowly";
    match way {
        0 => Refusal::new(S::BAD_REQUEST, "RequestThrottledException", message)
            .because(reason::RESOURCE_LEVEL_THROTTLE),
        1 => Refusal::new(S::BAD_REQUEST, "ThrottlingException", message)
            .because(reason::ACCOUNT_THROTTLED),
        _ => Refusal::new(S::SERVICE_UNAVAILABLE, "ServiceUnavailable", message),
    }
}

/// The same head, announcing all of a body of which half comes.
pub(super) async fn truncated(response: Response) -> Response {
    let (parts, bytes) = taken_apart(response).await;
    let half = Half {
        announced: u64::try_from(bytes.len()).unwrap_or(0),
        rest: Some(bytes.slice(..bytes.len() / 2)),
        flushed: false,
    };
    Response::from_parts(parts, Body::new(half))
}

/// The same with one bit of a block flipped, its checksum left as it was. What is no block stays whole.
pub(super) async fn corrupted(response: Response, bit: u32) -> Response {
    if !response.headers().contains_key(wire::DATA_LENGTH) {
        return response;
    }
    let (parts, bytes) = taken_apart(response).await;
    let mut bytes = Vec::from(bytes);
    let bit = usize::try_from(bit).unwrap_or(0) % (8 * bytes.len()).max(1);
    if let Some(byte) = bytes.get_mut(bit / 8) {
        *byte ^= 1 << (bit % 8);
    }
    Response::from_parts(parts, Body::from(bytes))
}

/// An answer whose body is in memory already, as all of this server's are.
async fn taken_apart(response: Response) -> (http::response::Parts, Bytes) {
    let (parts, body) = response.into_parts();
    let bytes = to_bytes(body, usize::MAX).await;
    (parts, bytes.unwrap_or_default())
}

/// A body that breaks off.
struct Half {
    announced: u64,
    rest: Option<Bytes>,
    flushed: bool,
}

impl http_body::Body for Half {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if let Some(rest) = self.rest.take() {
            return Poll::Ready(Some(Ok(Frame::data(rest))));
        }
        // While nothing more comes the connection sends what it has; only then is it to break.
        if !std::mem::replace(&mut self.flushed, true) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Some(Err(io::Error::other("cut short, as asked for"))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.announced)
    }
}
