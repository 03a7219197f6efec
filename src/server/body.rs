//! The body of a request: all of it, no larger than the request may have, and in good time.
//!
//! What is uploaded is read into the room of a block, which is used again and again, and is not copied from there.

use std::convert::Infallible;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequestParts, Request};
use bytes::Bytes;
use futures_util::TryStreamExt as _;
use http::request::Parts;
use http::{Method, StatusCode, header};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use super::answers::Refusal;
use crate::block::{BLOCK_SIZE, Buffer};

/// Bytes of a body that is no block. The largest StartSnapshot request is some 20 KiB in plain ASCII.
const SMALL_BODY: usize = 256 << 10;

/// A whole body.
#[derive(Default)]
pub(super) struct Content {
    /// None if there is no body.
    buffer: Option<Buffer>,
    len: usize,
}

impl Deref for Content {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let buffer = self.buffer.as_ref();
        buffer.map_or(&[], |buffer| &buffer[..self.len])
    }
}

impl Content {
    /// Adds a piece; false if there would be more than `most` bytes.
    fn push(&mut self, piece: &[u8], most: usize) -> bool {
        let end = self.len + piece.len();
        if end > most {
            return false;
        }
        // Not before the first of it: many connections may announce a body.
        let buffer = self.buffer.get_or_insert_with(|| match most {
            BLOCK_SIZE => Buffer::new(),
            _ => vec![0; most].into(),
        });
        buffer[self.len..end].copy_from_slice(piece);
        self.len = end;
        true
    }

    /// The request with this as its body.
    pub(super) fn of(self, mut parts: Parts) -> Request {
        if parts.method != Method::PUT {
            return Request::from_parts(parts, Body::from(Bytes::copy_from_slice(&self)));
        }
        parts.extensions.insert(Uploaded(Arc::new(self)));
        Request::from_parts(parts, Body::empty())
    }
}

/// What a PUT brings.
#[derive(Clone)]
pub(super) struct Uploaded(Arc<Content>);

impl Uploaded {
    /// As the bytes of a block, if it is as long as one.
    pub(super) fn into_buffer(self) -> Buffer {
        match Arc::into_inner(self.0) {
            Some(Content {
                buffer: Some(buffer),
                len: BLOCK_SIZE,
            }) => buffer,
            other => other.map_or(vec![], |content| content.to_vec()).into(),
        }
    }
}

impl<S: Sync> FromRequestParts<S> for Uploaded {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        // Taken, so that nobody else has it.
        let uploaded = parts.extensions.remove();
        Ok(uploaded.unwrap_or_else(|| Self(Arc::default())))
    }
}

/// Reads a body within `time`. A block's takes one of the places in `room`, and has it as long as what is returned beside it is held.
pub(super) async fn read<'a>(
    room: &'a Semaphore,
    time: Duration,
    parts: &Parts,
    body: Body,
) -> Result<(Content, Option<SemaphorePermit<'a>>), Refusal> {
    let limit = match parts.method {
        Method::PUT => BLOCK_SIZE,
        _ => SMALL_BODY,
    };
    let announced = parts.headers.get(header::CONTENT_LENGTH);
    let announced = announced.and_then(|value| value.to_str().ok()?.parse().ok());
    if announced.is_some_and(|length: usize| length > limit) {
        return Err(too_large(limit));
    }
    let most = match limit {
        BLOCK_SIZE => limit,
        _ => announced.unwrap_or(limit),
    };
    let collected = async {
        // Blocks wait here for room; small bodies do not wait behind them.
        let place = match announced {
            Some(length) if length <= SMALL_BODY => None,
            _ => room.acquire().await.ok(),
        };
        let mut stream = body.into_data_stream();
        let mut content = Content::default();
        while let Some(piece) = stream.try_next().await.map_err(|_| cut_short())? {
            if !content.push(&piece, most) {
                return Err(too_large(limit));
            }
        }
        Ok((content, place))
    };
    timeout(time, collected).await.unwrap_or_else(|_| {
        let message = "the body did not come in time";
        Err(Refusal::new(
            StatusCode::REQUEST_TIMEOUT,
            "RequestTimeout",
            message,
        ))
    })
}

fn too_large(limit: usize) -> Refusal {
    let message = format!("the body is larger than {limit} bytes");
    Refusal::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        "RequestEntityTooLarge",
        message,
    )
}

fn cut_short() -> Refusal {
    let message = "the body is cut short";
    Refusal::new(StatusCode::BAD_REQUEST, "IncompleteBody", message)
}
