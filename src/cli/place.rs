//! A place in a snapshot, as typed: `SNAPSHOT:/path`, or `SNAPSHOT.p2:/path` in one of its partitions.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

use clap::builder::{OsStringValueParser, TypedValueParser};

use crate::error::{Error, ErrorKind, Result};
use crate::snapshot::SnapshotId;

/// Where a file is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Place {
    pub(super) snapshot: SnapshotId,
    /// By its number; none: whichever holds the path.
    pub(super) partition: Option<u32>,
    /// From the root of the file system, with or without a slash before it; bytes, as names are. Never empty.
    pub(super) path: Vec<u8>,
}

impl Place {
    /// Reads a place. Without a colon it is the root.
    pub(super) fn parse(text: &OsStr) -> Result<Self> {
        let bytes = text.as_bytes();
        let (disk, path) = match bytes.iter().position(|byte| *byte == b':') {
            Some(colon) => (&bytes[..colon], &bytes[colon + 1..]),
            None => (bytes, &b"/"[..]),
        };
        let disk = str::from_utf8(disk).map_err(|_| not_a_place(text))?;
        let (id, partition) = match disk.rsplit_once(".p") {
            Some((id, number)) => {
                let parsed = number
                    .parse()
                    .ok()
                    .filter(|n: &u32| n.to_string() == number);
                (id, Some(parsed.ok_or_else(|| not_a_place(text))?))
            }
            None => (disk, None),
        };
        let snapshot = id
            .parse()
            .map_err(|e: Error| e.context(not_a_place(text).to_string()))?;
        Ok(Self {
            snapshot,
            partition,
            path: if path.is_empty() { b"/" } else { path }.to_vec(),
        })
    }

    /// Whether `text` can only be meant as a place, and not as a file on this machine.
    #[allow(dead_code, reason = "for verbs that take both")]
    pub(super) fn is_meant(text: &OsStr) -> bool {
        text.as_bytes().starts_with(b"snap-") && text.as_bytes().contains(&b':')
    }

    /// The disk or partition, as it is typed.
    pub(super) fn disk(&self) -> String {
        match self.partition {
            Some(number) => format!("{}.p{number}", self.snapshot),
            None => self.snapshot.to_string(),
        }
    }

    /// The path as text.
    pub(super) fn shown_path(&self) -> OsString {
        OsString::from_vec(self.path.clone())
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.disk(), self.shown_path().display())
    }
}

fn not_a_place(text: &OsStr) -> Error {
    Error::new(
        ErrorKind::Invalid,
        format!(
            "{:?} is not a place in a snapshot: write SNAPSHOT:/path, or SNAPSHOT.p2:/path for its second partition",
            text.display().to_string()
        ),
    )
}

/// For the command line.
pub(super) fn parser() -> impl TypedValueParser<Value = Place> {
    OsStringValueParser::new().try_map(|text| Place::parse(&text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &[u8]) -> Result<(String, Option<u32>, Vec<u8>)> {
        let place = Place::parse(OsStr::from_bytes(text))?;
        Ok((place.snapshot.to_string(), place.partition, place.path))
    }

    #[test]
    fn a_place_is_a_snapshot_a_partition_and_a_path() {
        let cases: [(&[u8], Option<u32>, &[u8]); 7] = [
            (b"snap-0a:/etc/fstab", None, b"/etc/fstab"),
            (b"snap-0a:etc", None, b"etc"),
            (b"snap-0a:", None, b"/"),
            (b"snap-0a", None, b"/"),
            (b"snap-0a.p2:/a:b", Some(2), b"/a:b"),
            (b"snap-0a.p128:/", Some(128), b"/"),
            (b"snap-0a:/\xff\n", None, b"/\xff\n"),
        ];
        for (text, partition, path) in cases {
            let expected = ("snap-0a".to_owned(), partition, path.to_vec());
            assert_eq!(parse(text).unwrap(), expected, "{text:?}");
        }
    }

    #[test]
    fn what_is_no_place_says_what_one_is() {
        for bad in [
            &b"/etc/fstab"[..],
            b"disk:/etc",
            b"snap-:/",
            b"snap-0a.p:/",
            b"snap-0a.p01:/",
            b"snap-0a.p+1:/",
            b"snap-0a.px:/",
            b"\xff:/",
        ] {
            let told = format!("{:#}", parse(bad).unwrap_err());
            assert!(told.contains("write SNAPSHOT:/path"), "{told}");
        }
    }
}
