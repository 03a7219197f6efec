//! What every request passes on its way to an action: a bounded body, its signature, and the faults asked for.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::HeaderValue;
use log::debug;

use super::answers::Refusal;
use super::faults::Fate;
use super::sigv4::{self, Service as Protocol};
use super::{Access, RequestId, Service, body, distort, ec2, wire};

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
    let read = |body| body::read(&service.room, service.limits.body_timeout, &parts, body);
    // Held until the answer is there, as the body is.
    let (body, _room) = match &service.access {
        Access::Anyone => read(body).await?,
        Access::Keys(keys) => {
            let now = (service.clock)();
            let doubted = |doubt: sigv4::Doubt| doubt.refusal(protocol);
            let believed = sigv4::check_head(keys, &parts, protocol, now).map_err(doubted)?;
            let (body, room) = read(body).await?;
            believed.check_body(&parts, &body).map_err(doubted)?;
            (body, room)
        }
    };
    parts.extensions.insert(id.clone());
    let request = body.of(parts);

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
