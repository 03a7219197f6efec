//! No answer is read past a bound: the SDK collects bodies of listings and errors, whatever a server sends.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use aws_sdk_ebs::config::interceptors::BeforeDeserializationInterceptorContextMut;
use aws_sdk_ebs::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_ebs::error::BoxError;
use aws_sdk_ebs::primitives::SdkBody;
use aws_smithy_runtime_api::client::interceptors::dyn_dispatch_hint;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// More than a page of 10000 blocks with the longest tokens takes.
pub(super) const LIMIT: usize = 8 << 20;

/// Bounds all answers to [`LIMIT`].
#[derive(Debug)]
pub(super) struct BoundBodies;

#[dyn_dispatch_hint]
impl Intercept for BoundBodies {
    fn name(&self) -> &'static str {
        "BoundBodies"
    }

    fn modify_before_deserialization(
        &self,
        context: &mut BeforeDeserializationInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let body = context.response_mut().body_mut();
        *body = bounded(std::mem::replace(body, SdkBody::taken()));
        Ok(())
    }
}

/// `body`, which fails where it is longer than [`LIMIT`].
pub(super) fn bounded(body: SdkBody) -> SdkBody {
    SdkBody::from_body_1_x(Bounded { body, left: LIMIT })
}

struct Bounded {
    body: SdkBody,
    left: usize,
}

/// The answer is too long.
#[derive(Debug)]
struct TooLong;

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the answer is longer than {LIMIT} bytes")
    }
}

impl std::error::Error for TooLong {}

impl Body for Bounded {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if let Some(Ok(frame)) = &frame {
            let len = frame.data_ref().map_or(0, Bytes::len);
            match self.left.checked_sub(len) {
                Some(left) => self.left = left,
                None => return Poll::Ready(Some(Err(TooLong.into()))),
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        Body::size_hint(&self.body)
    }
}
