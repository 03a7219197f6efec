//! The XML of EC2's answers.

use jiff::tz::TimeZone;
use serde::Serialize;

use crate::server::wire;
use crate::snapshot::{SnapshotInfo, Status};

const NAMESPACE: &str = "http://ec2.amazonaws.com/doc/2016-11-15/";

/// What the service says where a snapshot was made from no volume.
pub(super) const NO_VOLUME: &str = "vol-ffffffff";

/// Where snapshots are that are not in an archive.
pub(super) const STORAGE_TIER: &str = "standard";

/// A document: a root element of that name.
pub(super) struct Xml<T> {
    root: &'static str,
    content: T,
}

impl<T: Serialize> Xml<T> {
    /// As text.
    pub(super) fn to_text(&self) -> Result<String, quick_xml::se::SeError> {
        let mut text = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
        text += &quick_xml::se::to_string_with_root(self.root, &self.content)?;
        Ok(text)
    }
}

/// Answer to `DescribeSnapshots`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Described {
    #[serde(rename = "@xmlns")]
    namespace: &'static str,
    request_id: String,
    snapshot_set: Items<Snapshot>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_token: Option<String>,
}

impl Described {
    pub(super) fn new(
        snapshots: Vec<Snapshot>,
        next_token: Option<String>,
        request_id: &str,
    ) -> Xml<Self> {
        Xml {
            root: "DescribeSnapshotsResponse",
            content: Self {
                namespace: NAMESPACE,
                request_id: request_id.to_owned(),
                snapshot_set: Items { item: snapshots },
                next_token,
            },
        }
    }
}

#[derive(Serialize)]
struct Items<T> {
    item: Vec<T>,
}

/// A snapshot as EC2 describes it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Snapshot {
    snapshot_id: String,
    volume_id: &'static str,
    status: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_time: Option<String>,
    progress: &'static str,
    owner_id: &'static str,
    volume_size: u32,
    description: String,
    encrypted: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    kms_key_id: Option<String>,
    storage_tier: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    tag_set: Option<Items<Tag>>,
}

#[derive(Serialize)]
struct Tag {
    key: String,
    value: String,
}

impl From<SnapshotInfo> for Snapshot {
    fn from(info: SnapshotInfo) -> Self {
        let tags: Vec<_> = info
            .tags
            .iter()
            .map(|(key, value)| Tag {
                key: printable(key),
                value: printable(value),
            })
            .collect();
        Self {
            start_time: start_time(&info),
            progress: progress(&info),
            snapshot_id: info.id.into(),
            volume_id: NO_VOLUME,
            status: info.status.to_string(),
            owner_id: wire::OWNER,
            volume_size: info.volume_size.gib(),
            description: printable(&info.description),
            encrypted: info.encryption.is_some(),
            kms_key_id: info
                .encryption
                .and_then(|encryption| encryption.kms_key_arn),
            storage_tier: STORAGE_TIER,
            tag_set: (!tags.is_empty()).then_some(Items { item: tags }),
        }
    }
}

/// Of the making of a snapshot: how far it is between is not known here.
pub(super) fn progress(info: &SnapshotInfo) -> &'static str {
    match info.status {
        Status::Completed => "100%",
        Status::Pending | Status::Error => "0%",
    }
}

/// With milliseconds, as the service gives it.
pub(super) fn start_time(info: &SnapshotInfo) -> Option<String> {
    let time = info.start_time?.to_zoned(TimeZone::UTC);
    Some(time.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string())
}

/// Without the characters that XML cannot carry in any spelling.
fn printable(text: &str) -> String {
    let carried = |c: char| !c.is_control() || matches!(c, '\t' | '\n' | '\r');
    let other = |c: char| matches!(c, '\u{fffe}' | '\u{ffff}');
    text.chars()
        .map(|c| {
            if carried(c) && !other(c) {
                c
            } else {
                '\u{fffd}'
            }
        })
        .collect()
}

/// Answer to `DeleteSnapshot`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Deleted {
    #[serde(rename = "@xmlns")]
    namespace: &'static str,
    request_id: String,
    #[serde(rename = "return")]
    done: bool,
}

impl Deleted {
    pub(super) fn new(request_id: &str) -> Xml<Self> {
        Xml {
            root: "DeleteSnapshotResponse",
            content: Self {
                namespace: NAMESPACE,
                request_id: request_id.to_owned(),
                done: true,
            },
        }
    }
}

/// An error.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Errors {
    errors: OneError,
    #[serde(rename = "RequestID")]
    request_id: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct OneError {
    error: CodeAndMessage,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct CodeAndMessage {
    code: &'static str,
    message: String,
}

impl Errors {
    pub(super) fn new(code: &'static str, message: &str, request_id: &str) -> Xml<Self> {
        Xml {
            root: "Response",
            content: Self {
                errors: OneError {
                    error: CodeAndMessage {
                        code,
                        message: printable(message),
                    },
                },
                request_id: request_id.to_owned(),
            },
        }
    }
}
