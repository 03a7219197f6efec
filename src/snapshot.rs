//! What a snapshot is called, how large it is, and what is known about it; the words of the `Store` trait.
//!
//! Parsing validates once, here, by the service's own patterns: a value of these types is well-formed.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::block::{BLOCKS_PER_GIB, BlockIndex, Digest, bytes_of};
use crate::error::{Error, ErrorKind, Result};

/// A snapshot's id: `snap-` and lower-case hexadecimal digits, 64 characters at most.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct SnapshotId(String);

impl SnapshotId {
    const MAX_LEN: usize = 64;

    /// An id that no snapshot has yet: 17 random digits, as the service makes them.
    pub fn random() -> Result<Self> {
        let hex = random_hex::<9>()?;
        Ok(Self(format!("snap-{}", hex.get(..17).unwrap_or(&hex))))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// `N` random bytes from the kernel, in hexadecimal.
pub fn random_hex<const N: usize>() -> Result<String> {
    let mut bytes = [0; N];
    // Requests of up to 256 bytes are never cut short.
    rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty())?;
    Ok(hex::encode(bytes))
}

impl FromStr for SnapshotId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let hex = text.strip_prefix("snap-").unwrap_or_default();
        if hex.is_empty()
            || text.len() > Self::MAX_LEN
            || !hex.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'))
        {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "{text:?} is not a snapshot id: it must be snap- and lower-case hexadecimal digits, at most 64 characters"
                ),
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for SnapshotId {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<SnapshotId> for String {
    fn from(id: SnapshotId) -> Self {
        id.0
    }
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A volume's size: 1 to 65536 whole GiB.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct VolumeSize(u32);

impl VolumeSize {
    const MAX_GIB: u32 = 65536;

    /// `gib` GiB; `Invalid` unless the service has volumes of that size.
    pub fn from_gib(gib: u32) -> Result<Self> {
        match gib {
            1..=Self::MAX_GIB => Ok(Self(gib)),
            _ => Err(Error::new(
                ErrorKind::Invalid,
                format!("a volume has 1 to {} GiB, not {gib}", Self::MAX_GIB),
            )),
        }
    }

    /// The smallest volume that holds `bytes` bytes; `Invalid` for none at all and for more than 64 TiB.
    pub fn holding(bytes: u64) -> Result<Self> {
        let gib = bytes.div_ceil(Self(1).bytes());
        if gib == 0 {
            return Err(Error::new(
                ErrorKind::Invalid,
                "it is empty: there is no disk in it",
            ));
        }
        u32::try_from(gib)
            .ok()
            .and_then(|gib| Self::from_gib(gib).ok())
            .ok_or_else(|| {
                Error::new(
                    ErrorKind::Invalid,
                    format!("{bytes} bytes are more than the largest volume, 64 TiB"),
                )
            })
    }

    /// In GiB.
    pub const fn gib(self) -> u32 {
        self.0
    }

    /// In blocks.
    pub const fn blocks(self) -> u32 {
        self.0 * BLOCKS_PER_GIB
    }

    /// In bytes.
    pub fn bytes(self) -> u64 {
        bytes_of(u64::from(self.blocks()))
    }

    /// `Invalid` unless the volume has a block `index`.
    pub fn check(self, index: BlockIndex) -> Result<()> {
        if index.get() < self.blocks() {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Invalid,
            format!(
                "block {index} is outside the volume, which has {} blocks",
                self.blocks()
            ),
        ))
    }
}

impl TryFrom<u32> for VolumeSize {
    type Error = Error;

    fn try_from(gib: u32) -> Result<Self> {
        Self::from_gib(gib)
    }
}

impl From<VolumeSize> for u32 {
    fn from(size: VolumeSize) -> Self {
        size.0
    }
}

impl fmt::Display for VolumeSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} GiB", self.0)
    }
}

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

    #[test]
    fn ids_follow_the_services_pattern() {
        let longest = format!("snap-{}", "a".repeat(59));
        for good in ["snap-0", "snap-0123456789abcdef0", &longest] {
            assert_eq!(good.parse::<SnapshotId>().unwrap().as_str(), good);
        }
        for bad in [
            "",
            "snap-",
            "snap-0A",
            "snap-g",
            "vol-0",
            "snap-0/..",
            "Snap-0",
            " snap-0",
            &format!("{longest}a"),
        ] {
            assert_eq!(
                bad.parse::<SnapshotId>().unwrap_err().kind(),
                ErrorKind::Invalid,
                "{bad}"
            );
        }
        let random = SnapshotId::random().unwrap();
        assert_eq!(random.as_str().len(), "snap-".len() + 17);
        assert_eq!(random.as_str().parse::<SnapshotId>().unwrap(), random);
    }

    #[test]
    fn a_volume_is_whole_gib() {
        const GIB: u64 = 1 << 30;
        assert_eq!(VolumeSize::holding(1).unwrap().gib(), 1);
        assert_eq!(VolumeSize::holding(GIB).unwrap().gib(), 1);
        assert_eq!(VolumeSize::holding(GIB + 1).unwrap().gib(), 2);
        assert_eq!(VolumeSize::holding(65536 * GIB).unwrap().blocks(), 1 << 27);
        assert!(VolumeSize::holding(65536 * GIB + 1).is_err());
        assert!(VolumeSize::holding(0).is_err());
        assert!(VolumeSize::from_gib(0).is_err());
        let one = VolumeSize::from_gib(1).unwrap();
        assert!(one.check(BlockIndex::new(2047)).is_ok());
        assert!(one.check(BlockIndex::new(2048)).is_err());
    }

    #[test]
    fn a_start_request_keeps_the_services_limits() {
        let good = || NewSnapshot::new(VolumeSize::from_gib(1).unwrap()).unwrap();
        assert!(good().check().is_ok());
        let minutes = |n: u64| Duration::from_secs(60 * n);
        let tags = |n: usize| {
            (0..n)
                .map(|i| (i.to_string(), String::new()))
                .collect::<Tags>()
        };
        let with_key = |arn: &str| NewSnapshot {
            encryption: Some(Encryption {
                kms_key_arn: Some(arn.to_owned()),
            }),
            ..good()
        };
        let tag = |k: usize, v: usize| Tags::from([("k".repeat(k), "v".repeat(v))]);
        for (ok, new) in [
            (
                true,
                NewSnapshot {
                    timeout: minutes(10),
                    ..good()
                },
            ),
            (
                false,
                NewSnapshot {
                    timeout: minutes(9),
                    ..good()
                },
            ),
            (
                false,
                NewSnapshot {
                    timeout: minutes(61),
                    ..good()
                },
            ),
            (
                true,
                NewSnapshot {
                    tags: tags(50),
                    ..good()
                },
            ),
            (
                false,
                NewSnapshot {
                    tags: tags(51),
                    ..good()
                },
            ),
            (
                true,
                NewSnapshot {
                    tags: tag(127, 255),
                    ..good()
                },
            ),
            (
                false,
                NewSnapshot {
                    tags: tag(0, 1),
                    ..good()
                },
            ),
            (
                false,
                NewSnapshot {
                    tags: tag(128, 1),
                    ..good()
                },
            ),
            (
                false,
                NewSnapshot {
                    tags: tag(1, 256),
                    ..good()
                },
            ),
            (
                false,
                NewSnapshot {
                    description: "d".repeat(256),
                    ..good()
                },
            ),
            (
                false,
                NewSnapshot {
                    client_token: String::new(),
                    ..good()
                },
            ),
            (
                false,
                NewSnapshot {
                    client_token: "t".repeat(65),
                    ..good()
                },
            ),
            (
                false,
                NewSnapshot {
                    client_token: "a b".into(),
                    ..good()
                },
            ),
            (
                true,
                NewSnapshot {
                    encryption: Some(Encryption::default()),
                    ..good()
                },
            ),
            (
                false,
                NewSnapshot {
                    encryption: Some(Encryption::default()),
                    parent: Some("snap-0".parse().unwrap()),
                    ..good()
                },
            ),
            (
                true,
                with_key("arn:aws-us-gov:kms:us-gov-east-1:012345678901:key/a-b"),
            ),
            (false, with_key("arn:aws:kms:us-east-1:01234567890:key/a-b")),
            (false, with_key("arn:aws:s3:us-east-1:012345678901:key/a-b")),
            (false, with_key("alias/mine")),
        ] {
            assert_eq!(new.check().is_ok(), ok, "{new:?}");
        }
    }
}
