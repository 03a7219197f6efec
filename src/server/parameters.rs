//! What a request asks for, checked against the documents' limits: path, query, headers.

use std::str::FromStr;

use http::{HeaderMap, HeaderName};

use super::answers::{Answer, Refusal};
use super::wire::{self, reason};
use crate::block::{BlockIndex, Digest};
use crate::snapshot::SnapshotId;

fn wrong(message: String) -> Refusal {
    Refusal::invalid(reason::INVALID_PARAMETER_VALUE, message)
}

/// A snapshot's id.
pub(super) fn snapshot_id(text: &str) -> Answer<SnapshotId> {
    text.parse()
        .map_err(|e| Refusal::invalid(reason::INVALID_SNAPSHOT_ID, format!("{e}")))
}

/// A block's index. Whether the volume has it is another question.
pub(super) fn block_index(name: &str, text: &str) -> Answer<BlockIndex> {
    let index: i32 = number(name, text)?;
    u32::try_from(index)
        .map(BlockIndex::new)
        .map_err(|_| wrong(format!("{name} must be at least 0, not {text}")))
}

fn number<T: FromStr>(name: &str, text: &str) -> Answer<T> {
    text.parse()
        .map_err(|_| wrong(format!("{name} must be a number, not {text:?}")))
}

/// The parameters of a query or a form, decoded.
pub(super) struct Parameters(Vec<(String, String)>);

impl Parameters {
    pub(super) fn parse(encoded: &[u8]) -> Self {
        Self(form_urlencoded::parse(encoded).into_owned().collect())
    }

    /// The value of `name`, which may be there once.
    pub(super) fn one(&self, name: &str) -> Answer<Option<&str>> {
        let mut found = self.0.iter().filter(|(given, _)| given == name);
        match (found.next(), found.next()) {
            (found, None) => Ok(found.map(|(_, value)| value.as_str())),
            _ => Err(wrong(format!("{name} is there twice"))),
        }
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// A token: by the documents' pattern and not too long. What else it must be, who made it knows.
    pub(super) fn token(&self, name: &str, reason: &'static str) -> Answer<Option<&str>> {
        let Some(token) = self.one(name)? else {
            return Ok(None);
        };
        let in_pattern = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'+' | b'/' | b'=');
        if !(1..=wire::MAX_TOKEN).contains(&token.len()) || !token.bytes().all(in_pattern) {
            let message = format!("{name} must be 1 to 256 of the characters of base64");
            return Err(Refusal::invalid(reason, message));
        }
        Ok(Some(token))
    }

    /// How many results a page is to have.
    pub(super) fn max_results(&self) -> Answer<usize> {
        let Some(text) = self.one("maxResults")? else {
            return Ok(wire::MIN_RESULTS);
        };
        let results: usize = number("maxResults", text)?;
        if results > wire::MAX_RESULTS {
            return Err(wrong(format!("maxResults is 100 to 10000, not {text}")));
        }
        Ok(results.max(wire::MIN_RESULTS))
    }

    /// Where a listing is to start.
    pub(super) fn starting_block(&self) -> Answer<BlockIndex> {
        let text = self.one("startingBlockIndex")?;
        text.map_or(Ok(BlockIndex::ZERO), |text| {
            block_index("startingBlockIndex", text)
        })
    }
}

/// The text of a header that may be there once.
pub(super) fn header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Answer<Option<&'a str>> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => match value.to_str() {
            Ok(text) => Ok(Some(text)),
            Err(_) => Err(wrong(format!("{name} is not ASCII"))),
        },
        (Some(_), Some(_)) => Err(wrong(format!("{name} is there twice"))),
    }
}

/// The text of a header that must be there.
pub(super) fn needed<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Answer<&'a str> {
    header(headers, name)?.ok_or_else(|| wrong(format!("{name} is missing")))
}

/// The number in a header that must be there.
pub(super) fn needed_number<T: FromStr>(headers: &HeaderMap, name: &HeaderName) -> Answer<T> {
    number(name.as_str(), needed(headers, name)?)
}

/// A header that must have one value: `wanted`.
pub(super) fn needed_value(headers: &HeaderMap, name: &HeaderName, wanted: &str) -> Answer<()> {
    match needed(headers, name)? {
        value if value == wanted => Ok(()),
        other => Err(wrong(format!("{name} must be {wanted}, not {other:?}"))),
    }
}

/// A checksum in a header, if it is there.
pub(super) fn checksum(headers: &HeaderMap) -> Answer<Option<Digest>> {
    let text = header(headers, &wire::CHECKSUM)?;
    let digest = text.map(Digest::from_base64).transpose();
    digest.map_err(|_| wrong(format!("{} is no base64 SHA-256", wire::CHECKSUM)))
}

/// The progress of an upload, if it is told, in percent.
pub(super) fn check_progress(headers: &HeaderMap) -> Answer<()> {
    let Some(text) = header(headers, &wire::PROGRESS)? else {
        return Ok(());
    };
    match number::<u8>(wire::PROGRESS.as_str(), text)? {
        0..=100 => Ok(()),
        _ => Err(wrong(format!("{} is 0 to 100, not {text}", wire::PROGRESS))),
    }
}
