//! Answers: what an action has to say, or why it refuses, as HTTP of either protocol.
//!
//! A [`Refusal`] carries the status and the name that SDKs know an error by. What went wrong inside (a disk, a
//! damaged block) is logged here and not told to the client, whose business the server's paths are not.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use log::error;
use serde::Serialize;

use super::wire::{self, ErrorBody, reason};
use crate::error::{Error, ErrorKind};

/// What an action gives.
pub(super) type Answer<T = Response> = Result<T, Refusal>;

/// Why a request is not done.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    /// `ValidationException`, say.
    pub(super) code: &'static str,
    pub(super) reason: Option<&'static str>,
    pub(super) message: String,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            reason: None,
            message: message.into(),
        }
    }

    /// A request that the service's limits do not permit.
    pub(super) fn invalid(reason: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "ValidationException", message).because(reason)
    }

    pub(super) fn because(mut self, reason: &'static str) -> Self {
        self.reason = Some(reason);
        self
    }

    /// As an action of the EBS direct APIs tells it.
    pub(super) fn into_json(self) -> Response {
        let body = ErrorBody {
            message: &self.message,
            reason: self.reason,
        };
        let mut response = json(self.status, &body);
        let code = HeaderValue::from_static(self.code);
        response.headers_mut().insert(wire::ERROR_TYPE, code);
        response
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        self.into_json()
    }
}

/// What a store's error means to a client of the EBS direct APIs.
impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        use StatusCode as S;
        let told = format!("{error:#}");
        match error.kind() {
            ErrorKind::NotFound => Self::new(S::NOT_FOUND, "ResourceNotFoundException", told)
                .because(reason::SNAPSHOT_NOT_FOUND),
            ErrorKind::Invalid | ErrorKind::Unsupported => {
                Self::invalid(reason::INVALID_PARAMETER_VALUE, told)
            }
            // The status is the documents'.
            ErrorKind::Conflict => Self::new(S::SERVICE_UNAVAILABLE, "ConflictException", told),
            ErrorKind::Denied | ErrorKind::ReadOnly => {
                error!("{told}");
                let told = "the server may not do this to its store";
                Self::new(S::FORBIDDEN, "AccessDeniedException", told)
                    .because(reason::DEPENDENCY_ACCESS_DENIED)
            }
            ErrorKind::NoSpace => {
                error!("{told}");
                let told = "the server's store is full";
                Self::new(S::PAYMENT_REQUIRED, "ServiceQuotaExceededException", told)
                    .because(reason::DEPENDENCY_SERVICE_QUOTA_EXCEEDED)
            }
            ErrorKind::Unavailable => {
                error!("{told}");
                let told = "the server's store does not answer; try again";
                Self::new(S::SERVICE_UNAVAILABLE, "ServiceUnavailable", told)
            }
            ErrorKind::Corrupt | ErrorKind::Io => {
                error!("{told}");
                Self::internal()
            }
        }
    }
}

impl Refusal {
    pub(super) fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "InternalServerException",
            "an internal error has occurred; the server's log tells more",
        )
    }
}

/// A JSON document.
pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(text) => typed(status, "application/json", text),
        Err(e) => {
            error!("cannot write JSON: {e}");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// A body of some type.
pub(super) fn typed(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Body>,
) -> Response {
    let content_type = HeaderValue::from_static(content_type);
    (status, [(header::CONTENT_TYPE, content_type)], body.into()).into_response()
}
