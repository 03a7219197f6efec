//! What every request passes on its way to an action: a bounded body, its signature, and the faults asked for.

use std::sync::Arc;

use axum::body::{Body, BodyDataStream};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use futures_util::TryStreamExt as _;
use http::request::Parts;
use http::{HeaderValue, Method, StatusCode, header};
use log::debug;
use tokio::sync::SemaphorePermit;

use super::answers::Refusal;
use super::faults::Fate;
use super::sigv4::{self, Service as Protocol};
use super::{Access, RequestId, Service, distort, ec2, wire};
use crate::block::BLOCK_SIZE;

/// Bytes of a body that is no block. The largest StartSnapshot request is some 20 KiB in plain ASCII.
const SMALL_BODY: usize = 256 << 10;

/// Tells the connection not to answer.
#[derive(Clone, Copy)]
pub(super) struct Silence;

/// The way to an action, and back.
pub(super) async fn guard(
    State(service): State<Arc<Service>>,
    request: Request,
    next: Next,
) -> Response {
    let id = RequestId::random();
    let protocol = match request.uri().path() {
        "/" => Protocol::Ec2,
        _ => Protocol::Ebs,
    };
    // Tokens and signatures are in queries, which are therefore not logged.
    let what = format!("{} {}", request.method(), request.uri().path());
    let answered = pass(&service, protocol, &id, request, next).await;
    let mut response = answered.unwrap_or_else(|refusal| match protocol {
        Protocol::Ebs => refusal.into_json(),
        Protocol::Ec2 => ec2::refuse(refusal, &id),
    });
    if let Ok(value) = HeaderValue::from_str(&id.0) {
        response.headers_mut().insert(wire::REQUEST_ID, value);
    }
    debug!("{}: {what}: {}", id.0, response.status().as_u16());
    response
}

async fn pass(
    service: &Service,
    protocol: Protocol,
    id: &RequestId,
    request: Request,
    next: Next,
) -> Result<Response, Refusal> {
    let (mut parts, body) = request.into_parts();
    // Held until the answer is there, as the body is.
    let (body, _room) = match &service.access {
        Access::Anyone => read(service, &parts, body).await?,
        Access::Keys(keys) => {
            let now = (service.clock)();
            let doubted = |doubt: sigv4::Doubt| doubt.refusal(protocol);
            let believed = sigv4::check_head(keys, &parts, protocol, now).map_err(doubted)?;
            let (body, room) = read(service, &parts, body).await?;
            believed.check_body(&parts, &body).map_err(doubted)?;
            (body, room)
        }
    };
    parts.extensions.insert(id.clone());
    let request = Request::from_parts(parts, Body::from(body));

    let fate = service.lots.draw();
    let latency = service.lots.latency();
    if !latency.is_zero() {
        tokio::time::sleep(latency).await;
    }
    match fate {
        Fate::Spared => Ok(next.run(request).await),
        Fate::Error => Err(Refusal::internal()),
        Fate::Throttle(way) => Err(distort::throttled(way)),
        Fate::ResetBefore => Ok(silent(Response::default())),
        Fate::ResetAfter => Ok(silent(next.run(request).await)),
        Fate::Truncate => Ok(distort::truncated(next.run(request).await).await),
        Fate::Corrupt(bit) => Ok(distort::corrupted(next.run(request).await, bit).await),
    }
}

fn silent(mut response: Response) -> Response {
    response.extensions_mut().insert(Silence);
    response
}

/// The whole body, no larger than its request may have, and in good time.
async fn read<'a>(
    service: &'a Service,
    parts: &Parts,
    body: Body,
) -> Result<(Bytes, Option<SemaphorePermit<'a>>), Refusal> {
    let limit = if parts.method == Method::PUT {
        BLOCK_SIZE
    } else {
        SMALL_BODY
    };
    let too_large = || {
        let message = format!("the body is larger than {limit} bytes");
        Refusal::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "RequestEntityTooLarge",
            message,
        )
    };
    let announced = parts.headers.get(header::CONTENT_LENGTH);
    let announced = announced.and_then(|value| value.to_str().ok()?.parse().ok());
    if announced.is_some_and(|length: usize| length > limit) {
        return Err(too_large());
    }
    let collected = async {
        // Blocks wait here for room; small bodies do not wait behind them.
        let room = match announced {
            Some(length) if length <= SMALL_BODY => None,
            _ => service.room.acquire().await.ok(),
        };
        let mut stream: BodyDataStream = body.into_data_stream();
        let mut collected = Vec::new();
        while let Some(piece) = stream.try_next().await.map_err(|_| cut_short())? {
            if collected.is_empty() {
                collected.reserve_exact(announced.unwrap_or(0));
            }
            if piece.len() > limit - collected.len() {
                return Err(too_large());
            }
            collected.extend_from_slice(&piece);
        }
        Ok((Bytes::from(collected), room))
    };
    let in_time = tokio::time::timeout(service.limits.body_timeout, collected).await;
    in_time.unwrap_or_else(|_| {
        let message = "the body did not come in time";
        Err(Refusal::new(
            StatusCode::REQUEST_TIMEOUT,
            "RequestTimeout",
            message,
        ))
    })
}

fn cut_short() -> Refusal {
    let message = "the body is cut short";
    Refusal::new(StatusCode::BAD_REQUEST, "IncompleteBody", message)
}
