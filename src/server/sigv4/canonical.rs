//! The canonical form of a request, which is what Signature Version 4 signs.
//!
//! It is computed from what arrived on the wire. `sigv4.rs` pins it with AWS's own test vectors.

use std::borrow::Cow;
use std::fmt::Write as _;

use http::request::Parts;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// What is written as it is; everything else becomes `%XX`.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// The same for a path, whose slashes stay.
const RESERVED_IN_PATH: &AsciiSet = &RESERVED.remove(b'/');

/// Query parameter that holds the signature itself.
pub(super) const SIGNATURE: &str = "X-Amz-Signature";

/// The canonical request, of the headers named in `signed` (lower case, sorted).
pub(super) fn request(parts: &Parts, signed: &[&str], payload_hash: &str) -> String {
    let mut text = format!(
        "{}\n{}\n{}\n",
        parts.method,
        path(parts.uri.path()),
        query(parts.uri.query().unwrap_or_default())
    );
    for name in signed {
        // A string takes everything.
        let _ = writeln!(text, "{name}:{}", header(parts, name));
    }
    let _ = write!(text, "\n{}\n{payload_hash}", signed.join(";"));
    text
}

/// Without empty and dotted segments, and encoded once more than it came.
fn path(path: &str) -> String {
    let mut segments = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            other => segments.push(other),
        }
    }
    let mut normal = format!("/{}", segments.join("/"));
    let ends_in_slash = ["/", "/.", "/.."].iter().any(|end| path.ends_with(end));
    if ends_in_slash && !normal.ends_with('/') {
        normal.push('/');
    }
    utf8_percent_encode(&normal, RESERVED_IN_PATH).to_string()
}

/// Sorted, encoded anew, and without the signature.
fn query(query: &str) -> String {
    let encode = |part: &str| -> String {
        // A plus is itself here; only forms read it as a blank.
        let plain: Cow<'_, [u8]> = percent_decode_str(part).into();
        percent_encoding::percent_encode(&plain, RESERVED).to_string()
    };
    let mut pairs: Vec<(String, String)> = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (encode(name), encode(value)))
        .filter(|(name, _)| name != SIGNATURE)
        .collect();
    pairs.sort();
    let pairs: Vec<_> = pairs
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    pairs.join("&")
}

/// All values of a header, each trimmed and with runs of blanks made one.
fn header(parts: &Parts, name: &str) -> String {
    let values: Vec<_> = parts
        .headers
        .get_all(name)
        .iter()
        .map(|value| {
            let text = String::from_utf8_lossy(value.as_bytes());
            text.split_whitespace().collect::<Vec<_>>().join(" ")
        })
        .collect();
    values.join(",")
}
