//! What a snapshot is called, how large it is, and what is known about it; the words of the `Store` trait.
//!
//! Parsing validates once, here, by the service's own patterns: a value of these types is well-formed.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::block::Digest;
use crate::error::{Error, ErrorKind, Result};

mod id;
mod size;

pub use self::id::{SnapshotId, random_hex};
pub use self::size::VolumeSize;

/// Where a snapshot is in its life.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Started, not completed; takes puts, cannot be read.
    Pending,
    /// Sealed; can be read, never changes.
    Completed,
    /// Its timeout passed before it was completed; good for nothing.
    Error,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Pending => "pending",
            Self::Completed => "completed",
            Self::Error => "error",
        })
    }
}

/// Tags by key.
pub type Tags = BTreeMap<String, String>;

/// What a store tells of a snapshot.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct SnapshotInfo {
    /// Its id.
    pub id: SnapshotId,
    /// The snapshot it was started from, where the store knows it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub parent: Option<SnapshotId>,
    /// Size of its volume, in GiB where it is serialised.
    pub volume_size: VolumeSize,
    /// Where it is in its life.
    pub status: Status,
    /// When it was started, where the store knows it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub start_time: Option<Timestamp>,
    /// Free text.
    #[serde(default)]
    pub description: String,
    /// Tags by key.
    #[serde(default)]
    pub tags: Tags,
    /// Its own encryption, or its parent's.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub encryption: Option<Encryption>,
}

/// That a snapshot is encrypted, and how. Only the service encrypts; other stores note it and keep plain blocks.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Encryption {
    /// The KMS key; none: the account's default.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub kms_key_arn: Option<String>,
}

impl Encryption {
    /// The service's limit and pattern: `arn:aws*:kms:REGION:ACCOUNT:key/ID`.
    fn check(&self) -> Result<()> {
        let Some(arn) = &self.kms_key_arn else {
            return Ok(());
        };
        let parts: Vec<_> = arn.splitn(6, ':').collect();
        let good = match parts.as_slice() {
            ["arn", partition, "kms", _, account, key] => {
                let letters = |c: u8| c.is_ascii_lowercase() || c == b'-';
                partition
                    .strip_prefix("aws")
                    .is_some_and(|rest| rest.bytes().all(letters))
                    && account.len() == 12
                    && account.bytes().all(|c| c.is_ascii_digit())
                    && key.starts_with("key/")
            }
            _ => false,
        };
        if good && arn.len() <= 2048 {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Invalid,
            format!("{arn:?} is not the ARN of a KMS key: arn:aws:kms:REGION:ACCOUNT:key/ID"),
        ))
    }
}

/// What [`Store::start`](crate::store::Store::start) is asked for.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct NewSnapshot {
    /// Size of its volume; not below the parent's.
    pub volume_size: VolumeSize,
    /// A completed snapshot whose blocks it inherits where none are put.
    pub parent: Option<SnapshotId>,
    /// Free text, at most 255 characters.
    pub description: String,
    /// At most 50, keys of 1 to 127 characters, values of up to 255.
    pub tags: Tags,
    /// The same token with the same parameters starts one snapshot, however often it is sent.
    pub client_token: String,
    /// How long it stays pending after its last put: 10 to 60 minutes.
    pub timeout: Duration,
    /// How it is to be encrypted. A child is encrypted as its parent is, and must not say anything here.
    #[serde(default)]
    pub encryption: Option<Encryption>,
}

impl NewSnapshot {
    /// How long a snapshot stays pending unless told otherwise.
    pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60 * 60);
    const MIN_TIMEOUT: Duration = Duration::from_secs(10 * 60);
    const MAX_TIMEOUT: Duration = Duration::from_secs(60 * 60);

    /// A snapshot of that size with a random client token and nothing else said.
    pub fn new(volume_size: VolumeSize) -> Result<Self> {
        Ok(Self {
            volume_size,
            parent: None,
            description: String::new(),
            tags: Tags::new(),
            client_token: random_hex::<16>()?,
            timeout: Self::DEFAULT_TIMEOUT,
            encryption: None,
        })
    }

    /// The limits of the service; `Invalid` with the one that is broken.
    pub fn check(&self) -> Result<()> {
        let invalid = |what: String| Err(Error::new(ErrorKind::Invalid, what));
        let length = |text: &str| text.chars().count();
        if !(Self::MIN_TIMEOUT..=Self::MAX_TIMEOUT).contains(&self.timeout) {
            return invalid(format!(
                "a timeout is 10 to 60 minutes, not {} seconds",
                self.timeout.as_secs()
            ));
        }
        if length(&self.description) > 255 {
            return invalid("a description has at most 255 characters".into());
        }
        if self.tags.len() > 50 {
            return invalid(format!(
                "a snapshot has at most 50 tags, not {}",
                self.tags.len()
            ));
        }
        for (key, value) in &self.tags {
            if !(1..=127).contains(&length(key)) || length(value) > 255 {
                return invalid(format!(
                    "tag {key:?}: a key has 1 to 127 characters, a value at most 255"
                ));
            }
        }
        let token = &self.client_token;
        if !(1..=64).contains(&token.len()) || !token.bytes().all(|c| c.is_ascii_graphic()) {
            return invalid(format!(
                "client token {token:?}: it must be 1 to 64 printable ASCII characters, none of them blank"
            ));
        }
        if let Some(encryption) = &self.encryption {
            encryption.check()?;
            if self.parent.is_some() {
                return invalid(
                    "a child is encrypted as its parent is: say nothing of encryption".into(),
                );
            }
        }
        Ok(())
    }
}

/// What [`Store::complete`](crate::store::Store::complete) holds the puts against.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Seal {
    /// Number of distinct block indexes put.
    pub count: u64,
    /// SHA-256 over the digests of those blocks in ascending order of index (the service's `LINEAR`).
    pub checksum: Option<Digest>,
}

#[cfg(test)]
mod tests {
    use super::*;

    type Change = fn(&mut NewSnapshot);

    const MINUTE: Duration = Duration::from_secs(60);

    fn tags(count: usize) -> Tags {
        let tag = |i: usize| (i.to_string(), String::new());
        (0..count).map(tag).collect()
    }

    fn tag(key: usize, value: usize) -> Tags {
        Tags::from([("k".repeat(key), "v".repeat(value))])
    }

    fn key(arn: &str) -> Option<Encryption> {
        let kms_key_arn = Some(arn.to_owned());
        Some(Encryption { kms_key_arn })
    }

    fn changed(change: Change) -> NewSnapshot {
        let mut new = NewSnapshot::new(VolumeSize::from_gib(1).unwrap()).unwrap();
        change(&mut new);
        new
    }

    #[test]
    fn a_start_request_keeps_the_services_limits() {
        let within: [Change; 6] = [
            |_| {},
            |new| new.timeout = 10 * MINUTE,
            |new| new.tags = tags(50),
            |new| new.tags = tag(127, 255),
            |new| new.encryption = Some(Encryption::default()),
            |new| new.encryption = key("arn:aws-us-gov:kms:us-gov-east-1:012345678901:key/a-b"),
        ];
        for new in within.map(changed) {
            assert!(new.check().is_ok(), "{new:?}");
        }
        let beyond: [Change; 14] = [
            |new| new.timeout = 9 * MINUTE,
            |new| new.timeout = 61 * MINUTE,
            |new| new.tags = tags(51),
            |new| new.tags = tag(0, 1),
            |new| new.tags = tag(128, 1),
            |new| new.tags = tag(1, 256),
            |new| new.description = "d".repeat(256),
            |new| new.client_token = String::new(),
            |new| new.client_token = "t".repeat(65),
            |new| new.client_token = "a b".into(),
            |new| {
                new.encryption = Some(Encryption::default());
                new.parent = Some("snap-0".parse().unwrap());
            },
            |new| new.encryption = key("arn:aws:kms:us-east-1:01234567890:key/a-b"),
            |new| new.encryption = key("arn:aws:s3:us-east-1:012345678901:key/a-b"),
            |new| new.encryption = key("alias/mine"),
        ];
        for new in beyond.map(changed) {
            assert!(new.check().is_err(), "{new:?}");
        }
    }
}
