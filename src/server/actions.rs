//! The six actions of the EBS direct APIs: from a request that was believed to an answer.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode};

use super::Service;
use super::answers::{Answer, Refusal, json, typed};
use super::body::Uploaded;
use super::parameters::{self, Parameters, block_index, snapshot_id};
use super::wire::{self, StartSnapshot, Started, Tag, reason};
use crate::block::{BLOCK_SIZE, Block, Digest};
use crate::error::ErrorKind;
use crate::snapshot::{Encryption, NewSnapshot, Seal, SnapshotInfo, Tags, VolumeSize};

mod lists;

pub(super) use self::lists::{list_changed_blocks, list_snapshot_blocks};

/// `GET /snapshots/{id}/blocks/{index}`
pub(super) async fn get_snapshot_block(
    State(service): State<Arc<Service>>,
    Path((id, index)): Path<(String, String)>,
    RawQuery(query): RawQuery,
) -> Answer {
    let (id, index) = (snapshot_id(&id)?, block_index("BlockIndex", &index)?);
    let query = Parameters::parse(query.unwrap_or_default().as_bytes());
    let token = query.token("blockToken", reason::INVALID_BLOCK_TOKEN)?;
    let token = token
        .ok_or_else(|| Refusal::invalid(reason::INVALID_BLOCK_TOKEN, "blockToken is missing"))?;
    let snapshot = service.snapshots.readable(&id).await?;
    if !service.tokens.opens_block(&id, index, token) {
        let message = format!("the token is not good for block {index} of {id}: list it again");
        return Err(Refusal::invalid(reason::INVALID_BLOCK_TOKEN, message));
    }
    let block = match snapshot.source.ready(index) {
        Some(block) => block,
        None => snapshot.source.block(index).await?,
    };
    let digest = block.digest();
    let mut response = typed(
        StatusCode::OK,
        "application/octet-stream",
        Body::from(Bytes::from_owner(block)),
    );
    let headers = response.headers_mut();
    headers.insert(wire::DATA_LENGTH, HeaderValue::from(BLOCK_SIZE));
    insert_checksum(headers, &digest);
    Ok(response)
}

fn insert_checksum(headers: &mut HeaderMap, digest: &Digest) {
    // Base64 is always a value.
    if let Ok(value) = HeaderValue::from_str(&digest.to_base64()) {
        headers.insert(wire::CHECKSUM, value);
    }
    let algorithm = HeaderValue::from_static(wire::SHA256);
    headers.insert(wire::CHECKSUM_ALGORITHM, algorithm);
}

/// `PUT /snapshots/{id}/blocks/{index}`
pub(super) async fn put_snapshot_block(
    State(service): State<Arc<Service>>,
    Path((id, index)): Path<(String, String)>,
    headers: HeaderMap,
    uploaded: Uploaded,
) -> Answer {
    let (id, index) = (snapshot_id(&id)?, block_index("BlockIndex", &index)?);
    parameters::needed_value(&headers, &wire::DATA_LENGTH, &BLOCK_SIZE.to_string())?;
    parameters::needed_value(&headers, &wire::CHECKSUM_ALGORITHM, wire::SHA256)?;
    parameters::check_progress(&headers)?;
    let digest = parameters::checksum(&headers)?.ok_or_else(|| {
        let message = format!("{} is missing", wire::CHECKSUM);
        Refusal::invalid(reason::INVALID_PARAMETER_VALUE, message)
    })?;
    let verified = Block::verify_together(uploaded.into_buffer(), &digest);
    let block = verified.await.map_err(|e| match e.kind() {
        ErrorKind::Corrupt => Refusal::invalid(reason::INVALID_BLOCK, format!("{e:#}")),
        _ => e.into(),
    })?;
    service.snapshots.store.put(&id, index, &block).await?;
    let mut response = typed(StatusCode::CREATED, "application/json", "{}");
    insert_checksum(response.headers_mut(), &digest);
    Ok(response)
}

/// `POST /snapshots/completion/{id}`
pub(super) async fn complete_snapshot(
    State(service): State<Arc<Service>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Answer {
    let id = snapshot_id(&id)?;
    let count: i64 = parameters::needed_number(&headers, &wire::CHANGED_BLOCKS_COUNT)?;
    let count = u64::try_from(count).map_err(|_| {
        let message = format!("{} must be at least 0", wire::CHANGED_BLOCKS_COUNT);
        Refusal::invalid(reason::INVALID_PARAMETER_VALUE, message)
    })?;
    let checksum = parameters::checksum(&headers)?;
    // What describes the checksum must be right where it is told, and told where there is one.
    for (name, value) in [
        (&wire::CHECKSUM_ALGORITHM, wire::SHA256),
        (&wire::CHECKSUM_AGGREGATION, wire::LINEAR),
    ] {
        if checksum.is_some() || headers.contains_key(name) {
            parameters::needed_value(&headers, name, value)?;
        }
    }
    let seal = Seal { count, checksum };
    let status = service.snapshots.complete(&id, &seal).await?;
    let completed = wire::Completed {
        status: status.to_string(),
    };
    Ok(json(StatusCode::ACCEPTED, &completed))
}

/// `POST /snapshots`
pub(super) async fn start_snapshot(State(service): State<Arc<Service>>, body: Bytes) -> Answer {
    let request: StartSnapshot = serde_json::from_slice(&body).map_err(|e| {
        let message = format!("the body is not the JSON of a StartSnapshot request: {e}");
        Refusal::invalid(reason::INVALID_PARAMETER_VALUE, message)
    })?;
    let new = new_snapshot(request)?;
    if let Some(parent) = &new.parent {
        service.snapshots.check_not_delayed(parent)?;
    }
    let info = service.snapshots.store.start(&new).await?;
    Ok(json(StatusCode::CREATED, &started(info)))
}

fn new_snapshot(request: StartSnapshot) -> Answer<NewSnapshot> {
    let wrong = |message: &str| Refusal::invalid(reason::INVALID_PARAMETER_VALUE, message);
    let size = request
        .volume_size
        .ok_or_else(|| Refusal::invalid(reason::INVALID_VOLUME_SIZE, "VolumeSize is missing"))?;
    let size = u32::try_from(size)
        .ok()
        .and_then(|gib| VolumeSize::from_gib(gib).ok())
        .ok_or_else(|| {
            let message = format!("VolumeSize is 1 to 65536 GiB, not {size}");
            Refusal::invalid(reason::INVALID_VOLUME_SIZE, message)
        })?;
    let mut new = NewSnapshot::new(size)?;
    new.parent = match request.parent_snapshot_id {
        Some(id) => Some(snapshot_id(&id)?),
        None => None,
    };
    if let Some(token) = request.client_token {
        new.client_token = client_token(token)?;
    }
    new.description = request.description.unwrap_or_default();
    new.tags = tags(request.tags.unwrap_or_default())?;
    if let Some(minutes) = request.timeout {
        let minutes = u64::try_from(minutes)
            .ok()
            .filter(|n| (10..=60).contains(n));
        let minutes = minutes.ok_or_else(|| wrong("Timeout is 10 to 60 minutes"))?;
        new.timeout = Duration::from_secs(60 * minutes);
    }
    if new.parent.is_some() && (request.encrypted.is_some() || request.kms_key_arn.is_some()) {
        let message =
            "Encrypted and KmsKeyArn are the parent's: leave them out with ParentSnapshotId";
        return Err(wrong(message));
    }
    new.encryption = match (request.encrypted, request.kms_key_arn) {
        (Some(false), Some(_)) => {
            return Err(wrong("KmsKeyArn is given, and Encrypted is false"));
        }
        (None | Some(false), None) => None,
        // A key alone means encrypted.
        (_, kms_key_arn) => Some(Encryption { kms_key_arn }),
    };
    new.check()?;
    Ok(new)
}

/// A token as a store takes it: the documents permit longer ones and other characters.
fn client_token(token: String) -> Answer<String> {
    let length = token.chars().count();
    if !(1..=wire::MAX_CLIENT_TOKEN).contains(&length) || token.contains(char::is_whitespace) {
        let message = "ClientToken is 1 to 255 characters, none of them blank";
        return Err(Refusal::invalid(reason::INVALID_PARAMETER_VALUE, message));
    }
    if length <= 64 && token.bytes().all(|c| c.is_ascii_graphic()) {
        return Ok(token);
    }
    Ok(Digest::of(token.as_bytes()).to_string())
}

fn tags(given: Vec<Tag>) -> Answer<Tags> {
    let invalid = |message: String| Refusal::invalid(reason::INVALID_TAG, message);
    if given.len() > 50 {
        return Err(invalid(format!("at most 50 tags, not {}", given.len())));
    }
    let mut tags = Tags::new();
    for Tag { key, value } in given {
        if !(1..=127).contains(&key.chars().count()) || value.chars().count() > 255 {
            let message =
                format!("tag {key:?}: a key has 1 to 127 characters, a value at most 255");
            return Err(invalid(message));
        }
        if tags.contains_key(&key) {
            return Err(invalid(format!("tag {key:?} is there twice")));
        }
        tags.insert(key, value);
    }
    Ok(tags)
}

fn started(info: SnapshotInfo) -> Started {
    let tags = info.tags.into_iter();
    Started {
        block_size: BLOCK_SIZE,
        description: (!info.description.is_empty()).then_some(info.description),
        kms_key_arn: info
            .encryption
            .and_then(|encryption| encryption.kms_key_arn),
        owner_id: wire::OWNER,
        parent_snapshot_id: info.parent.map(String::from),
        snapshot_id: info.id.into(),
        start_time: info.start_time.map(|time| time.as_duration().as_secs_f64()),
        status: info.status.to_string(),
        tags: tags.map(|(key, value)| Tag { key, value }).collect(),
        volume_size: info.volume_size.gib(),
    }
}
