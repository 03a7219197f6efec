//! Signature Version 4: who signed a request, and whether they did.
//!
//! Everything of the documents is held: the algorithm, the scope, a clock skew of 15 minutes, `host` and every
//! `x-amz-*` header among those signed, the payload's hash, the session token. Signatures and session tokens are
//! compared in constant time. Where the request states the hash of its payload the signature is checked before
//! the body is read, so that strangers cannot make the server take one in.

use std::time::{Duration, SystemTime};

use aws_sigv4::sign::v4::{calculate_signature, generate_signing_key};
use http::request::Parts;
use http::{HeaderMap, Method, StatusCode, header};
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use subtle::ConstantTimeEq as _;

use super::answers::Refusal;
use super::credentials::{Key, Keys};
use crate::block::Digest;

mod canonical;

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
const UNSIGNED: &str = "UNSIGNED-PAYLOAD";
const CONTENT_HASH: &str = "x-amz-content-sha256";

/// How far a signer's clock may be off.
const SKEW: Duration = Duration::from_secs(15 * 60);

/// Longest life of a signature in a query: seven days.
const MAX_EXPIRES: u64 = 7 * 24 * 60 * 60;

/// The protocol of a request, which its signature must name.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Service {
    /// The EBS direct APIs.
    Ebs,
    /// The query protocol of EC2.
    Ec2,
}

impl Service {
    fn name(self) -> &'static str {
        match self {
            Self::Ebs => "ebs",
            Self::Ec2 => "ec2",
        }
    }
}

/// Why a request is not believed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Doubt {
    /// It is not signed at all.
    Missing,
    /// What it says about its signature makes no sense.
    Malformed(&'static str),
    /// Nobody here has that key, or its session token is another one.
    UnknownKey,
    /// Too old, or from the future.
    Expired,
    /// The signature is another one.
    Mismatch(&'static str),
}

impl Doubt {
    /// As each protocol's clients know it.
    pub(super) fn refusal(self, service: Service) -> Refusal {
        use StatusCode as S;
        let unknown = (S::FORBIDDEN, "InvalidClientTokenId");
        let (status, code) = match (self, service) {
            (Self::Missing, _) => (S::FORBIDDEN, "MissingAuthenticationToken"),
            (Self::Malformed(_), _) => (S::BAD_REQUEST, "IncompleteSignature"),
            (Self::UnknownKey, Service::Ebs) => unknown,
            (Self::UnknownKey, Service::Ec2) => (S::UNAUTHORIZED, "AuthFailure"),
            (Self::Expired, _) => (S::BAD_REQUEST, "RequestExpired"),
            (Self::Mismatch(_), Service::Ebs) => (S::FORBIDDEN, "InvalidSignatureException"),
            (Self::Mismatch(_), Service::Ec2) => (S::FORBIDDEN, "SignatureDoesNotMatch"),
        };
        let message = match self {
            Self::Missing => "the request is not signed: this server asks for Signature Version 4",
            Self::Malformed(what) | Self::Mismatch(what) => what,
            Self::UnknownKey => {
                "the access key, or the security token that belongs to it, is not one of this server's"
            }
            Self::Expired => {
                "the request was signed more than 15 minutes ago, has expired, or is from the future: compare the clocks"
            }
        };
        Refusal::new(status, code, message)
    }
}

/// What a request claims about itself.
struct Claim {
    key_id: String,
    /// `20150830/us-east-1/ebs/aws4_request`
    scope: String,
    region: String,
    signed: Vec<String>,
    signature: String,
    /// `20150830T123600Z`
    stamp: String,
    time: Timestamp,
    session_token: Option<String>,
}

/// How the payload takes part in a signature.
enum Payload {
    /// Not at all: its checksum is in a signed header.
    Unsigned,
    /// By a hash that the request states.
    Stated(String),
    /// By a hash that only the payload itself tells.
    Computed,
}

/// A request whose head is believed, and what is left to check once its body is there.
#[must_use]
pub(super) struct Believed<'a>(Rest<'a>);

enum Rest<'a> {
    Nothing,
    Hash(String),
    Signature(Claim, &'a Key),
}

/// Checks everything that can be checked before the body is there.
pub(super) fn check_head<'a>(
    keys: &'a Keys,
    parts: &Parts,
    service: Service,
    now: Timestamp,
) -> Result<Believed<'a>, Doubt> {
    check_head_for(keys, parts, service.name(), now)
}

fn check_head_for<'a>(
    keys: &'a Keys,
    parts: &Parts,
    service: &str,
    now: Timestamp,
) -> Result<Believed<'a>, Doubt> {
    let claim = Claim::of(parts, service, now)?;
    check_signed_headers(&parts.headers, &claim.signed)?;
    let key = keys.get(&claim.key_id).ok_or(Doubt::UnknownKey)?;
    check_session_token(key, claim.session_token.as_deref())?;
    Ok(Believed(match Payload::of(parts)? {
        Payload::Unsigned => {
            claim.check(key, parts, UNSIGNED)?;
            Rest::Nothing
        }
        Payload::Stated(hash) => {
            claim.check(key, parts, &hash)?;
            Rest::Hash(hash)
        }
        Payload::Computed => Rest::Signature(claim, key),
    }))
}

impl Believed<'_> {
    /// Checks the rest.
    pub(super) fn check_body(self, parts: &Parts, body: &[u8]) -> Result<(), Doubt> {
        match self.0 {
            Rest::Nothing => Ok(()),
            Rest::Hash(stated) => {
                if same(&stated, &Digest::of(body).to_string()) {
                    return Ok(());
                }
                Err(Doubt::Mismatch(
                    "the payload does not have the hash that x-amz-content-sha256 states",
                ))
            }
            Rest::Signature(claim, key) => claim.check(key, parts, &Digest::of(body).to_string()),
        }
    }
}

impl Payload {
    fn of(parts: &Parts) -> Result<Self, Doubt> {
        let mut stated = parts.headers.get_all(CONTENT_HASH).iter();
        match (stated.next(), stated.next()) {
            (None, _) => Ok(Self::Computed),
            (Some(hash), None) if hash == UNSIGNED => {
                if parts.method == Method::PUT {
                    return Ok(Self::Unsigned);
                }
                Err(Doubt::Malformed(
                    "only PutSnapshotBlock may leave its payload unsigned",
                ))
            }
            (Some(hash), None) => match hash.to_str() {
                Ok(hash) if hash.parse::<Digest>().is_ok() => Ok(Self::Stated(hash.to_owned())),
                _ => Err(Doubt::Malformed("x-amz-content-sha256 is no SHA-256")),
            },
            (Some(_), Some(_)) => Err(Doubt::Malformed("x-amz-content-sha256 is there twice")),
        }
    }
}

impl Claim {
    /// What the request claims, in its header or its query, and that it claims it for this service and now.
    fn of(parts: &Parts, service: &str, now: Timestamp) -> Result<Self, Doubt> {
        let query: Vec<(String, String)> =
            form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes())
                .into_owned()
                .collect();
        let mut headers = parts.headers.get_all(header::AUTHORIZATION).iter();
        let (claim, expires) = match (headers.next(), headers.next()) {
            (Some(_), Some(_)) => {
                return Err(Doubt::Malformed("there are two Authorization headers"));
            }
            (Some(value), None) => {
                let text = value
                    .to_str()
                    .map_err(|_| Doubt::Malformed("the Authorization header is not ASCII"))?;
                (Self::of_header(&parts.headers, text)?, None)
            }
            (None, _) => Self::of_query(&query)?,
        };
        claim.check_scope(service)?;
        claim.check_time(now, expires)?;
        Ok(claim)
    }

    fn of_header(headers: &HeaderMap, text: &str) -> Result<Self, Doubt> {
        let (algorithm, fields) = text
            .split_once(' ')
            .ok_or(Doubt::Malformed("the Authorization header is cut short"))?;
        if algorithm != ALGORITHM {
            return Err(Doubt::Malformed("the algorithm must be AWS4-HMAC-SHA256"));
        }
        let field = |name: &str| {
            let mut found = fields
                .split(',')
                .filter_map(|field| field.trim().split_once('='))
                .filter(|(given, _)| *given == name)
                .map(|(_, value)| value);
            match (found.next(), found.next()) {
                (Some(value), None) => Ok(value),
                _ => Err(Doubt::Malformed(
                    "the Authorization header needs Credential, SignedHeaders and Signature, each once",
                )),
            }
        };
        let one = |name: &str| {
            let mut values = headers.get_all(name).iter();
            match (values.next(), values.next()) {
                (Some(value), None) => value.to_str().ok(),
                _ => None,
            }
        };
        // The first of them that is there counts.
        let stamp = one("x-amz-date").or_else(|| one("date"));
        let stamp = stamp.ok_or(Doubt::Malformed("there is no X-Amz-Date"))?;
        Self::new(
            field("Credential")?,
            field("SignedHeaders")?,
            field("Signature")?,
            stamp,
            one("x-amz-security-token"),
        )
    }

    /// Also how long the signature is good, in seconds.
    fn of_query(query: &[(String, String)]) -> Result<(Self, Option<u64>), Doubt> {
        let one = |name: &str| {
            let mut found = query.iter().filter(|(given, _)| given == name);
            match (found.next(), found.next()) {
                (Some((_, value)), None) => Ok(Some(value.as_str())),
                (None, _) => Ok(None),
                _ => Err(Doubt::Malformed(
                    "a parameter of the signature is there twice",
                )),
            }
        };
        let needed = |name: &str| {
            one(name)?.ok_or(Doubt::Malformed(
                "the query needs X-Amz-Credential, X-Amz-Date, X-Amz-SignedHeaders and X-Amz-Signature",
            ))
        };
        match one("X-Amz-Algorithm")? {
            Some(ALGORITHM) => {}
            Some(_) => return Err(Doubt::Malformed("the algorithm must be AWS4-HMAC-SHA256")),
            None => return Err(Doubt::Missing),
        }
        let expires = match one("X-Amz-Expires")? {
            None => 0,
            Some(text) => text
                .parse()
                .ok()
                .filter(|seconds| (1..=MAX_EXPIRES).contains(seconds))
                .ok_or(Doubt::Malformed(
                    "X-Amz-Expires must be 1 to 604800 seconds",
                ))?,
        };
        let claim = Self::new(
            needed("X-Amz-Credential")?,
            needed("X-Amz-SignedHeaders")?,
            needed(canonical::SIGNATURE)?,
            needed("X-Amz-Date")?,
            one("X-Amz-Security-Token")?,
        )?;
        Ok((claim, Some(expires)))
    }

    fn new(
        credential: &str,
        signed: &str,
        signature: &str,
        stamp: &str,
        session_token: Option<&str>,
    ) -> Result<Self, Doubt> {
        let malformed =
            Doubt::Malformed("the credential must be KEY/DATE/REGION/SERVICE/aws4_request");
        let (key_id, scope) = credential.split_once('/').ok_or(malformed)?;
        let region = scope.split('/').nth(1).ok_or(malformed)?;
        let signed: Vec<_> = signed.split(';').map(str::to_owned).collect();
        if !signed.is_sorted_by(|a, b| a < b) || signed.iter().any(|name| name.is_empty()) {
            return Err(Doubt::Malformed("SignedHeaders must be sorted, each once"));
        }
        Ok(Self {
            key_id: key_id.to_owned(),
            scope: scope.to_owned(),
            region: region.to_owned(),
            signed,
            signature: signature.to_owned(),
            stamp: stamp.to_owned(),
            time: parse_stamp(stamp)
                .ok_or(Doubt::Malformed("X-Amz-Date must be like 20150830T123600Z"))?,
            session_token: session_token.map(str::to_owned),
        })
    }

    fn check_scope(&self, service: &str) -> Result<(), Doubt> {
        let day = self.stamp.get(..8).unwrap_or_default();
        let parts: Vec<_> = self.scope.split('/').collect();
        match parts.as_slice() {
            [_, "", _, _] => Err(Doubt::Malformed("the credential names no region")),
            [date, _, name, "aws4_request"] if *name == service => {
                if *date == day {
                    return Ok(());
                }
                Err(Doubt::Mismatch(
                    "the credential's date is not that of X-Amz-Date",
                ))
            }
            [_, _, _, "aws4_request"] => Err(Doubt::Mismatch(
                "the credential is for another service than this request",
            )),
            _ => Err(Doubt::Malformed(
                "the credential must be KEY/DATE/REGION/SERVICE/aws4_request",
            )),
        }
    }

    fn check_time(&self, now: Timestamp, expires: Option<u64>) -> Result<(), Doubt> {
        let life = Duration::from_secs(expires.unwrap_or(0)) + SKEW;
        let latest = self.time.checked_add(life).map_err(|_| Doubt::Expired)?;
        let earliest = self.time.checked_sub(SKEW).map_err(|_| Doubt::Expired)?;
        if (earliest..=latest).contains(&now) {
            return Ok(());
        }
        Err(Doubt::Expired)
    }

    fn check(&self, key: &Key, parts: &Parts, payload_hash: &str) -> Result<(), Doubt> {
        let signed: Vec<_> = self.signed.iter().map(String::as_str).collect();
        let request = canonical::request(parts, &signed, payload_hash);
        let hash = Digest::of(request.as_bytes());
        let text = format!("{ALGORITHM}\n{}\n{}\n{hash}", self.stamp, self.scope);
        let time = SystemTime::from(self.time);
        let service = self.scope.split('/').nth(2).unwrap_or_default();
        let signing_key = generate_signing_key(&key.secret, time, &self.region, service);
        if same(
            &self.signature,
            &calculate_signature(signing_key, text.as_bytes()),
        ) {
            return Ok(());
        }
        Err(Doubt::Mismatch(
            "the signature is not the one that this key gives: check the secret key and what signs the request",
        ))
    }
}

fn check_signed_headers(headers: &HeaderMap, signed: &[String]) -> Result<(), Doubt> {
    let is_signed = |name: &str| signed.iter().any(|given| given == name);
    if !is_signed("host") {
        return Err(Doubt::Malformed("the host header must be signed"));
    }
    for name in headers.keys().map(|name| name.as_str()) {
        if name.starts_with("x-amz-") && !is_signed(name) {
            return Err(Doubt::Malformed("every x-amz header must be signed"));
        }
    }
    if !headers.contains_key("x-amz-date") && headers.contains_key("date") && !is_signed("date") {
        let in_query = !headers.contains_key(header::AUTHORIZATION);
        if !in_query {
            return Err(Doubt::Malformed("the date header must be signed"));
        }
    }
    if signed.iter().any(|name| !headers.contains_key(name)) {
        return Err(Doubt::Malformed(
            "a header that is said to be signed is not there",
        ));
    }
    Ok(())
}

fn check_session_token(key: &Key, given: Option<&str>) -> Result<(), Doubt> {
    match (key.session_token.as_deref(), given) {
        (None, None) => Ok(()),
        (Some(token), Some(given)) if same(token, given) => Ok(()),
        _ => Err(Doubt::UnknownKey),
    }
}

/// Whether two texts are the same, in a time that does not tell where they differ.
fn same(a: &str, b: &str) -> bool {
    a.as_bytes().ct_eq(b.as_bytes()).into()
}

/// `20150830T123600Z`
fn parse_stamp(stamp: &str) -> Option<Timestamp> {
    let well_formed = stamp.len() == 16 && stamp.is_ascii();
    let time = DateTime::strptime("%Y%m%dT%H%M%SZ", stamp).ok()?;
    let time = time.to_zoned(TimeZone::UTC).ok()?.timestamp();
    well_formed.then_some(time)
}

#[cfg(test)]
mod tests;
