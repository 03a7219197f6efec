//! What a snapshot is called.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

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
}
