//! The names, shapes and limits of the EBS direct APIs as the documents give them, and the only place of them.
//!
//! Shapes are what serde makes of them; nothing here decides. `tests/it/serve_golden.rs` holds this page against
//! the documents' own examples.

use http::HeaderName;
use serde::{Deserialize, Serialize};

/// Where a put says how many bytes it brings, and a get how many it gives.
pub(super) const DATA_LENGTH: HeaderName = HeaderName::from_static("x-amz-data-length");
/// How far an upload is, in percent.
pub(super) const PROGRESS: HeaderName = HeaderName::from_static("x-amz-progress");
/// A base64 SHA-256: of a block, or of all digests.
pub(super) const CHECKSUM: HeaderName = HeaderName::from_static("x-amz-checksum");
/// Always [`SHA256`].
pub(super) const CHECKSUM_ALGORITHM: HeaderName =
    HeaderName::from_static("x-amz-checksum-algorithm");
/// Always [`LINEAR`].
pub(super) const CHECKSUM_AGGREGATION: HeaderName =
    HeaderName::from_static("x-amz-checksum-aggregation-method");
/// How many distinct blocks were put.
pub(super) const CHANGED_BLOCKS_COUNT: HeaderName =
    HeaderName::from_static("x-amz-changedblockscount");
/// What an error is.
pub(super) const ERROR_TYPE: HeaderName = HeaderName::from_static("x-amzn-errortype");
/// A name for the answer, to be found in the log.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-amzn-requestid");

/// The only checksum algorithm.
pub(super) const SHA256: &str = "SHA256";
/// The only way to make one checksum of many.
pub(super) const LINEAR: &str = "LINEAR";

/// The account that owns every snapshot here.
pub(super) const OWNER: &str = "000000000000";

/// Fewest entries of a page: the service gives that many even when asked for less.
pub(super) const MIN_RESULTS: usize = 100;
/// Most entries of a page.
pub(super) const MAX_RESULTS: usize = 10_000;
/// Longest token that a request may bring.
pub(super) const MAX_TOKEN: usize = 256;
/// Longest client token, in characters.
pub(super) const MAX_CLIENT_TOKEN: usize = 255;

/// The values of `Reason` in errors, as the service's model has them.
pub(super) mod reason {
    pub(in super::super) const INVALID_BLOCK: &str = "INVALID_BLOCK";
    pub(in super::super) const INVALID_BLOCK_TOKEN: &str = "INVALID_BLOCK_TOKEN";
    pub(in super::super) const INVALID_PAGE_TOKEN: &str = "INVALID_PAGE_TOKEN";
    pub(in super::super) const INVALID_PARAMETER_VALUE: &str = "INVALID_PARAMETER_VALUE";
    pub(in super::super) const INVALID_SNAPSHOT_ID: &str = "INVALID_SNAPSHOT_ID";
    pub(in super::super) const INVALID_TAG: &str = "INVALID_TAG";
    pub(in super::super) const INVALID_VOLUME_SIZE: &str = "INVALID_VOLUME_SIZE";
    pub(in super::super) const UNRELATED_SNAPSHOTS: &str = "UNRELATED_SNAPSHOTS";
    pub(in super::super) const SNAPSHOT_NOT_FOUND: &str = "SNAPSHOT_NOT_FOUND";
    pub(in super::super) const DEPENDENCY_ACCESS_DENIED: &str = "DEPENDENCY_ACCESS_DENIED";
    pub(in super::super) const DEPENDENCY_SERVICE_QUOTA_EXCEEDED: &str =
        "DEPENDENCY_SERVICE_QUOTA_EXCEEDED";
    pub(in super::super) const ACCOUNT_THROTTLED: &str = "ACCOUNT_THROTTLED";
    pub(in super::super) const RESOURCE_LEVEL_THROTTLE: &str = "RESOURCE_LEVEL_THROTTLE";
}

/// Body of a `StartSnapshot` request. Fields that the documents do not name are ignored, as the service does.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct StartSnapshot {
    /// In GiB.
    pub(super) volume_size: Option<i64>,
    pub(super) parent_snapshot_id: Option<String>,
    pub(super) client_token: Option<String>,
    pub(super) description: Option<String>,
    pub(super) encrypted: Option<bool>,
    pub(super) kms_key_arn: Option<String>,
    pub(super) tags: Option<Vec<Tag>>,
    /// In minutes.
    pub(super) timeout: Option<i64>,
}

/// A tag, in both directions.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Tag {
    #[serde(default)]
    pub(super) key: String,
    #[serde(default)]
    pub(super) value: String,
}

/// Answer to `StartSnapshot`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Started {
    pub(super) block_size: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) description: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) kms_key_arn: Option<String>,
    pub(super) owner_id: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) parent_snapshot_id: Option<String>,
    pub(super) snapshot_id: String,
    /// Seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) start_time: Option<f64>,
    pub(super) status: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) tags: Vec<Tag>,
    /// In GiB.
    pub(super) volume_size: u32,
}

/// Answer to `CompleteSnapshot`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Completed {
    pub(super) status: String,
}

/// Answer to `ListSnapshotBlocks`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct BlockPage {
    pub(super) blocks: Vec<ListedBlock>,
    #[serde(flatten)]
    pub(super) page: Page,
}

/// Answer to `ListChangedBlocks`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ChangedPage {
    pub(super) changed_blocks: Vec<ChangedBlock>,
    #[serde(flatten)]
    pub(super) page: Page,
}

/// What both lists tell beside the blocks.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Page {
    pub(super) block_size: usize,
    /// Until when the tokens are good, in seconds since 1970.
    pub(super) expiry_time: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) next_token: Option<String>,
    /// In GiB.
    pub(super) volume_size: u32,
}

/// A block of a snapshot.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ListedBlock {
    pub(super) block_index: u32,
    pub(super) block_token: String,
}

/// A block that differs between two snapshots; a token for each of them that has it.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ChangedBlock {
    pub(super) block_index: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) first_block_token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) second_block_token: Option<String>,
}

/// Body of an error.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ErrorBody<'a> {
    pub(super) message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<&'a str>,
}
