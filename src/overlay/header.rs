//! The file `overlay`: what the overlay is of, how far its commit has come, and which layers it has.
//!
//! ```text
//! ebsfs-overlay 1 2c26b4...\n    magic, version, SHA-256 of all that follows in hexadecimal
//! {"id":...}                     JSON: the fields of `Header`, and `top` and `sealed`, the layers' numbers
//! ```
//! It is published as a whole. What the magic of a newer version is followed by is that version's to say.

use serde::{Deserialize, Serialize};

use super::directory::{Directory, File};
use super::{Header, names};
use crate::block::Digest;
use crate::error::{Error, ErrorKind, Result};

const MAGIC: &str = "ebsfs-overlay";
const VERSION: u32 = 1;

/// A header and the layers that belong to it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct Named {
    #[serde(flatten)]
    pub(super) header: Header,
    /// The number of the layer that takes writes.
    pub(super) top: u32,
    /// That of the layer below it.
    pub(super) sealed: Option<u32>,
}

impl Named {
    fn encode(&self) -> Result<Vec<u8>> {
        let json = serde_json::to_vec(self).map_err(|e| {
            let what = format!("the header of the overlay cannot be written as JSON: {e}");
            Error::new(ErrorKind::Invalid, what)
        })?;
        let digest = Digest::of(&json);
        let mut bytes = format!("{MAGIC} {VERSION} {digest}\n").into_bytes();
        bytes.extend(json);
        Ok(bytes)
    }

    /// `Unsupported` for a newer version, `Corrupt` for what is none at all; the name of the file is `place`.
    pub(super) fn decode(bytes: &[u8], place: &str) -> Result<Self> {
        let corrupt = |what: &str| Error::new(ErrorKind::Corrupt, format!("{place}: {what}"));
        let is_end = |byte: &u8| *byte == b'\n';
        let end = bytes.iter().position(is_end).unwrap_or(bytes.len());
        let (line, json) = bytes.split_at(end);
        let json = json.get(1..).unwrap_or_default();
        let line = str::from_utf8(line).unwrap_or_default();
        let mut words = line.split(' ');
        if words.next() != Some(MAGIC) {
            return Err(corrupt("this is not the header of an overlay, or damaged"));
        }
        let version = words.next().and_then(|word| word.parse::<u32>().ok());
        match version {
            Some(VERSION) => {}
            Some(version) if version > VERSION => {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    format!("{place}: made by a newer ebsfs, in version {version} of the format"),
                ));
            }
            _ => return Err(corrupt("the version is damaged")),
        }
        let digest = words.next().and_then(|word| word.parse::<Digest>().ok());
        if digest != Some(Digest::of(json)) || words.next().is_some() {
            return Err(corrupt("the header's checksum is wrong"));
        }
        let named: Self = serde_json::from_slice(json).map_err(|e| corrupt(&e.to_string()))?;
        let sound = named.header.commit.is_some() == named.sealed.is_some()
            && named.sealed.is_none_or(|sealed| sealed < named.top)
            && named.header.base_size <= named.header.size;
        if !sound {
            return Err(corrupt("the header contradicts itself"));
        }
        Ok(named)
    }

    /// What the header in `directory` says; none if there is none.
    pub(super) fn load(directory: &dyn Directory) -> Result<Option<Self>> {
        match directory.open(names::HEADER, false)? {
            Some(file) => Self::read(&*file, &directory.display(names::HEADER)).map(Some),
            None => Ok(None),
        }
    }

    /// What the header `file` says, which messages call `place`.
    pub(super) fn read(file: &dyn File, place: &str) -> Result<Self> {
        let len = usize::try_from(file.length()?).unwrap_or(usize::MAX);
        // Descriptions and tags are short, and bounded.
        if len > 1 << 20 {
            let what = format!("{place}: {len} bytes are no header of an overlay");
            return Err(Error::new(ErrorKind::Corrupt, what));
        }
        let mut bytes = vec![0; len];
        file.read_at(0, &mut bytes)?;
        Self::decode(&bytes, place)
    }

    /// Makes it the header of what is in `directory`, durably.
    pub(super) fn publish(&self, directory: &dyn Directory) -> Result<()> {
        directory.publish(names::HEADER, &self.encode()?)
    }

    /// Whether the file `name` is of a layer that the header does not name: what a crash left over.
    pub(super) fn is_left_over(&self, name: &str) -> bool {
        names::layer_of(name).is_some_and(|layer| layer != self.top && self.sealed != Some(layer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::VolumeSize;

    fn named() -> Named {
        let size = VolumeSize::from_gib(3).unwrap();
        Named {
            header: Header {
                id: "0".repeat(32),
                store: "somewhere".into(),
                base: "snap-0a".parse().unwrap(),
                base_size: size,
                size,
                commit: None,
            },
            top: 7,
            sealed: None,
        }
    }

    fn refusal(bytes: &[u8]) -> ErrorKind {
        Named::decode(bytes, "/x/overlay").unwrap_err().kind()
    }

    #[test]
    fn a_header_survives_and_no_flipped_bit_does() {
        let bytes = named().encode().unwrap();
        assert_eq!(Named::decode(&bytes, "").unwrap(), named());
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            let kind = refusal(&flipped);
            // "1" with a bit flipped is a version that may come to be.
            let newer = at == MAGIC.len() + 1;
            assert!(kind == ErrorKind::Corrupt || newer, "byte {at}");
            assert_eq!(refusal(&bytes[..at]), ErrorKind::Corrupt);
        }
    }

    #[test]
    fn a_newer_version_is_told_from_damage() {
        assert_eq!(
            refusal(b"ebsfs-overlay 2 whatever it has\n"),
            ErrorKind::Unsupported
        );
        for damage in ["ebsfs-overlay 0 ", "ebsfs-overlay x ", "ebsfs-store 2 ", ""] {
            assert_eq!(refusal(damage.as_bytes()), ErrorKind::Corrupt);
        }
    }

    #[test]
    fn a_header_that_contradicts_itself_is_damaged() {
        let mut alone = named();
        alone.sealed = Some(6);
        let mut smaller = named();
        smaller.header.base_size = VolumeSize::from_gib(4).unwrap();
        for wrong in [alone, smaller] {
            assert_eq!(refusal(&wrong.encode().unwrap()), ErrorKind::Corrupt);
        }
    }
}
