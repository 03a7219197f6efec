//! Small records as text: one line that says what it is, of which version, and with which checksum; then JSON.
//!
//! ```text
//! ebsfs-snapshot 1 3c0f...64 hexadecimal digits...\n
//! {"id":"snap-0123...", ...}\n
//! ```
//! The checksum is the SHA-256 of everything after the first line. A newer version is refused, not guessed at.

use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::block::Digest;
use crate::durable;
use crate::error::{Error, ErrorKind, Result};

/// The version that this program writes, and the newest that it reads.
const VERSION: u32 = 1;

/// The record's bytes.
pub fn encode(kind: &str, value: &impl Serialize) -> Result<Vec<u8>> {
    let mut body = serde_json::to_vec(value).map_err(|e| {
        Error::new(ErrorKind::Invalid, e.to_string())
            .context(format!("cannot write an {kind} record"))
    })?;
    body.push(b'\n');
    let mut bytes = format!("{kind} {VERSION} {}\n", Digest::of(&body)).into_bytes();
    bytes.append(&mut body);
    Ok(bytes)
}

/// Reads the record at `path`: `NotFound`, `Corrupt`, or `Unsupported` if a newer program wrote it.
pub fn read<T: DeserializeOwned>(kind: &str, path: &Path) -> Result<T> {
    decode(kind, &durable::read(path)?).map_err(|e| e.context(path.display().to_string()))
}

/// Reads the record that `bytes` are, likewise.
pub fn decode<T: DeserializeOwned>(kind: &str, bytes: &[u8]) -> Result<T> {
    let corrupt = |what: &str| {
        Error::new(
            ErrorKind::Corrupt,
            format!("not a whole {kind} record: {what}"),
        )
    };
    let line = bytes
        .iter()
        .position(|byte| *byte == b'\n')
        .ok_or_else(|| corrupt("no first line"))?;
    let (first, body) = bytes
        .split_at_checked(line + 1)
        .ok_or_else(|| corrupt("no body"))?;
    let first = std::str::from_utf8(first).map_err(|_| corrupt("first line is not text"))?;
    let mut words = first.split_whitespace();
    if words.next() != Some(kind) {
        return Err(corrupt("it says it is something else"));
    }
    let version: u32 = words
        .next()
        .and_then(|word| word.parse().ok())
        .ok_or_else(|| corrupt("no version"))?;
    if version != VERSION {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "{kind} version {version}, and this program knows {VERSION}: use one that knows it"
            ),
        ));
    }
    let checksum: Digest = words
        .next()
        .and_then(|word| word.parse().ok())
        .ok_or_else(|| corrupt("no checksum"))?;
    if Digest::of(body) != checksum {
        return Err(corrupt("its checksum does not match"));
    }
    serde_json::from_slice(body).map_err(|e| corrupt(&e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_byte_of_a_record_is_found() {
        let bytes = encode("ebsfs-test", &("text", 7)).unwrap();
        assert_eq!(
            decode::<(String, u32)>("ebsfs-test", &bytes).unwrap(),
            ("text".into(), 7)
        );
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x20;
            // White space for white space in the first line is the one change that changes nothing.
            if flipped[at].is_ascii_whitespace() && bytes[at].is_ascii_whitespace() {
                continue;
            }
            assert!(
                decode::<(String, u32)>("ebsfs-test", &flipped).is_err(),
                "byte {at}"
            );
        }
        for len in 0..bytes.len() {
            assert!(
                decode::<(String, u32)>("ebsfs-test", &bytes[..len]).is_err(),
                "cut at {len}"
            );
        }
    }

    #[test]
    fn a_newer_version_is_unsupported_rather_than_corrupt() {
        let text = String::from_utf8(encode("ebsfs-test", &1).unwrap())
            .unwrap()
            .replacen(" 1 ", " 2 ", 1);
        assert_eq!(
            decode::<u32>("ebsfs-test", text.as_bytes())
                .unwrap_err()
                .kind(),
            ErrorKind::Unsupported
        );
    }
}
