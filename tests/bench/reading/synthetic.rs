//! A service with one snapshot that no machine here could hold: the largest volume, three of four blocks present, their
//! contents made when they are asked for.
//!
//! It answers the two actions by which a snapshot is read, without looking at signatures, and denies EC2's. Block
//! tokens are as long as the service's.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::extract::{Path, RawQuery};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use bytes::Bytes;
use ebsfs::block::{Block, Digest, MAX_BLOCKS};
use http::StatusCode;

use crate::http::Served;
use crate::setup::noise;

pub(super) const SNAPSHOT: &str = "snap-0123456789abcdef0";

/// Blocks with data: 100 663 296.
pub(super) fn is_present(index: u32) -> bool {
    index % 4 != 3
}

/// Blocks of a page, the service's most.
const PAGE: usize = 10_000;

/// The server, and what it was asked.
pub(super) struct Synthetic {
    served: Served,
    lists: Arc<AtomicU64>,
}

impl Synthetic {
    pub(crate) fn start() -> Self {
        let lists = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&lists);
        let content = noise(0, Block::MAX_MEMORY);
        let router = Router::new()
            .route(
                "/snapshots/{id}/blocks",
                get(async move |RawQuery(query)| {
                    counted.fetch_add(1, Ordering::Relaxed);
                    page(&query.unwrap_or_default())
                }),
            )
            .route(
                "/snapshots/{id}/blocks/{index}",
                get(async move |Path((_, index)): Path<(String, u32)>| block(&content, index)),
            )
            .route("/", post(async || denied()));
        Self {
            served: Served::start(router),
            lists,
        }
    }

    pub(crate) fn url(&self) -> &str {
        &self.served.url
    }

    /// Pages listed so far.
    pub(crate) fn lists(&self) -> u64 {
        self.lists.load(Ordering::Relaxed)
    }
}

/// The page that a query asks for: from a page token, which is the index, or from the index that is named.
fn page(query: &str) -> impl IntoResponse + use<> {
    let parameter = |name: &str| {
        let mut pairs = form_urlencoded::parse(query.as_bytes());
        pairs.find_map(|(key, value)| (key == name).then(|| value.parse::<u32>().unwrap()))
    };
    let from = parameter("pageToken").or(parameter("startingBlockIndex"));
    let most = parameter("maxResults").map_or(PAGE, |most| most as usize);
    let mut present = (from.unwrap_or(0)..MAX_BLOCKS).filter(|index| is_present(*index));
    let blocks: Vec<String> = present
        .by_ref()
        .take(most)
        .map(|index| format!(r#"{{"BlockIndex":{index},"BlockToken":"{index:064}"}}"#))
        .collect();
    let next = present.next();
    let next = next.map_or(String::new(), |next| format!(r#","NextToken":"{next}""#));
    let body = format!(
        r#"{{"Blocks":[{}],"BlockSize":524288,"ExpiryTime":4102444800.0,"VolumeSize":65536{next}}}"#,
        blocks.join(",")
    );
    ([("Content-Type", "application/json")], body)
}

/// The same bytes for each, but for the first, which tell its index.
fn block(content: &[u8], index: u32) -> impl IntoResponse + use<> {
    let mut bytes = content.to_vec();
    bytes[..4].copy_from_slice(&index.to_le_bytes());
    let checksum = Digest::of(&bytes).to_base64();
    let headers = [
        ("x-amz-Data-Length", bytes.len().to_string()),
        ("x-amz-Checksum", checksum),
        ("x-amz-Checksum-Algorithm", "SHA256".to_owned()),
    ];
    (headers, Bytes::from(bytes))
}

/// What EC2 says to who may only read blocks.
fn denied() -> impl IntoResponse {
    let body = "<Response><Errors><Error><Code>UnauthorizedOperation</Code><Message>You are not authorized to perform \
                this operation.</Message></Error></Errors><RequestID>0</RequestID></Response>";
    (StatusCode::FORBIDDEN, body)
}
