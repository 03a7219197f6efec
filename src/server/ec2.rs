//! The two EC2 actions that the EBS direct APIs need beside them: `DescribeSnapshots` and `DeleteSnapshot`.
//!
//! The query protocol: a form goes in, XML comes out. As with the service, nobody learns here which parent a
//! snapshot had.

use std::sync::Arc;

use axum::extract::{Extension, RawQuery, State};
use axum::response::Response;
use bytes::Bytes;
use http::{Method, StatusCode};
use log::error;
use serde::Serialize;

use super::answers::{Answer, Refusal, typed};
use super::parameters::Parameters;
use super::{RequestId, Service, wire};
use crate::error::{Error, ErrorKind};
use crate::snapshot::{SnapshotId, SnapshotInfo};

mod filters;
mod shapes;

use self::filters::Filter;
use self::shapes::{Deleted, Described, Errors, Snapshot, Xml};

/// The version of the protocol.
const VERSION: &str = "2016-11-15";

fn invalid(message: impl Into<String>) -> Refusal {
    refusal("InvalidParameterValue", message)
}

fn refusal(code: &'static str, message: impl Into<String>) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, code, message)
}

/// `POST /` with a form, or `GET /` with a query.
pub(super) async fn act(
    State(service): State<Arc<Service>>,
    Extension(id): Extension<RequestId>,
    method: Method,
    RawQuery(query): RawQuery,
    body: Bytes,
) -> Response {
    let query = query.unwrap_or_default();
    let form = if method == Method::POST && !body.is_empty() {
        Parameters::parse(&body)
    } else {
        Parameters::parse(query.as_bytes())
    };
    match dispatch(&service, &form, &id).await {
        Ok(response) => response,
        Err(refusal) => refuse(refusal, &id),
    }
}

/// A refusal as this protocol tells it.
pub(super) fn refuse(refusal: Refusal, id: &RequestId) -> Response {
    // What only the other protocol has a name for.
    let code = match refusal.code {
        "ValidationException" => "InvalidParameterValue",
        "InternalServerException" => "InternalError",
        "ThrottlingException" | "RequestThrottledException" => "RequestLimitExceeded",
        "AccessDeniedException" => "UnauthorizedOperation",
        "ServiceUnavailable" => "Unavailable",
        other => other,
    };
    let status = match code {
        "RequestLimitExceeded" => StatusCode::SERVICE_UNAVAILABLE,
        _ => refusal.status,
    };
    xml(status, &Errors::new(code, &refusal.message, &id.0))
}

fn xml<T: Serialize>(status: StatusCode, value: &Xml<T>) -> Response {
    match value.to_text() {
        Ok(text) => typed(status, "text/xml;charset=UTF-8", text),
        Err(e) => {
            error!("cannot write XML: {e}");
            typed(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", "")
        }
    }
}

async fn dispatch(service: &Service, form: &Parameters, id: &RequestId) -> Answer {
    let action = form.one("Action")?;
    let action = action.ok_or_else(|| refusal("MissingAction", "the request names no Action"))?;
    match form.one("Version")? {
        Some(VERSION) => {}
        Some(other) => {
            let message = format!("{action} of version {other} is not known here, only {VERSION}");
            return Err(refusal("InvalidAction", message));
        }
        None => return Err(refusal("MissingParameter", "Version is missing")),
    }
    let dry_run = form
        .one("DryRun")?
        .is_some_and(|text| text.eq_ignore_ascii_case("true"));
    let permitted = || {
        let message = "the request would have succeeded, but DryRun is set";
        Refusal::new(StatusCode::PRECONDITION_FAILED, "DryRunOperation", message)
    };
    match action {
        "DescribeSnapshots" => {
            let described = describe(service, form).await?;
            if dry_run {
                return Err(permitted());
            }
            Ok(xml(StatusCode::OK, &described.answer(&id.0)))
        }
        "DeleteSnapshot" => {
            let text = form.one("SnapshotId")?;
            let text = text.ok_or_else(|| refusal("MissingParameter", "SnapshotId is missing"))?;
            let snapshot = snapshot_id(text)?;
            if dry_run {
                service.snapshots.info(&snapshot).await.map_err(refused)?;
                return Err(permitted());
            }
            service.snapshots.delete(&snapshot).await.map_err(refused)?;
            Ok(xml(StatusCode::OK, &Deleted::new(&id.0)))
        }
        other => {
            let message = format!(
                "this server has DescribeSnapshots and DeleteSnapshot of EC2, and not {other}"
            );
            Err(refusal("InvalidAction", message))
        }
    }
}

fn snapshot_id(text: &str) -> Answer<SnapshotId> {
    text.parse()
        .map_err(|e: Error| refusal("InvalidSnapshotID.Malformed", format!("{e}")))
}

/// What a store's error means to a client of EC2.
fn refused(error: Error) -> Refusal {
    match error.kind() {
        ErrorKind::NotFound => refusal("InvalidSnapshot.NotFound", format!("{error:#}")),
        ErrorKind::Invalid => invalid(format!("{error:#}")),
        ErrorKind::Conflict => refusal("IncorrectState", format!("{error:#}")),
        _ => error.into(),
    }
}

/// The snapshots of one page.
struct Page {
    snapshots: Vec<SnapshotInfo>,
    next_token: Option<String>,
}

impl Page {
    fn answer(self, request_id: &str) -> Xml<Described> {
        let snapshots = self.snapshots.into_iter().map(Snapshot::from).collect();
        Described::new(snapshots, self.next_token, request_id)
    }
}

async fn describe(service: &Service, form: &Parameters) -> Answer<Page> {
    let filters = Filter::all(form)?;
    let named = named(form)?;
    let results = max_results(form)?;
    if results.is_some() && !named.is_empty() {
        let message = "MaxResults and SnapshotId cannot be used together";
        return Err(refusal("InvalidParameterCombination", message));
    }
    let mut snapshots = if named.is_empty() {
        service.snapshots.list().await.map_err(refused)?
    } else {
        let mut snapshots = Vec::new();
        for id in &named {
            snapshots.push(service.snapshots.info(id).await.map_err(refused)?);
        }
        snapshots
    };
    let ours = |name: &str| {
        let mut owners = indexed(form, name).peekable();
        owners.peek().is_none() || owners.any(|owner| owner == "self" || owner == wire::OWNER)
    };
    if !ours("Owner.") {
        snapshots.clear();
    }
    snapshots.retain(|info| filters.iter().all(|filter| filter.admits(info)));

    // A page begins after the last snapshot of the one before, which may have been deleted since.
    const BOUND: &[&str] = &["DescribeSnapshots"];
    if let Some(token) = form.one("NextToken")?.filter(|token| !token.is_empty()) {
        let last = service.tokens.cursor(BOUND, token);
        let last = last.ok_or_else(|| invalid("the NextToken is not one of this server's"))?;
        snapshots.retain(|info| info.id.as_str().as_bytes() > last.as_slice());
    }
    let mut next_token = None;
    if let Some(results) = results
        && snapshots.len() > results
    {
        snapshots.truncate(results);
        let last = snapshots.last().map(|info| info.id.as_str());
        next_token = last.map(|id| service.tokens.page(BOUND, id.as_bytes()));
    }
    Ok(Page {
        snapshots,
        next_token,
    })
}

/// The values of `PREFIX1`, `PREFIX2` and so on.
fn indexed<'a>(form: &'a Parameters, prefix: &'a str) -> impl Iterator<Item = &'a str> {
    form.iter().filter_map(move |(name, value)| {
        let number = name.strip_prefix(prefix)?;
        (!number.is_empty() && number.bytes().all(|c| c.is_ascii_digit())).then_some(value)
    })
}

/// The snapshots asked for by id, each once.
fn named(form: &Parameters) -> Answer<Vec<SnapshotId>> {
    let mut ids = Vec::new();
    for text in indexed(form, "SnapshotId.") {
        let id = snapshot_id(text)?;
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    Ok(ids)
}

fn max_results(form: &Parameters) -> Answer<Option<usize>> {
    let Some(text) = form.one("MaxResults")? else {
        return Ok(None);
    };
    match text.parse() {
        Ok(results @ 5..) => Ok(Some(1000.min(results))),
        _ => Err(invalid(format!("MaxResults is 5 to 1000, not {text}"))),
    }
}
