//! What the service said, as an error that tells what to do, and a verdict on trying again.
//!
//! Every error names the call, what it was about, and the service's own words. The table of codes is here and only
//! here; the EBS and EC2 protocols share it.

use std::error::Error as StdError;
use std::io;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_ebs::error::{ConnectorError, ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use serde::Deserialize;

use super::retry::{Failure, Verdict};
use crate::error::{Error, ErrorKind};

/// A call and what it is about, for the words of an error.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    /// `ebs:GetSnapshotBlock`: the action as IAM names it.
    pub(super) action: &'static str,
    /// The snapshot, or nothing in particular.
    pub(super) what: &'a str,
}

/// An answer that says no.
#[derive(Debug, Default)]
pub(super) struct Refusal<'a> {
    pub(super) status: u16,
    pub(super) code: &'a str,
    pub(super) message: &'a str,
    pub(super) reason: Option<&'a str>,
}

const GET_BLOCK: &str = "ebs:GetSnapshotBlock";

impl Asked<'_> {
    fn context(self, error: Error) -> Error {
        let call = self.action.split(':').next_back().unwrap_or_default();
        match self.what {
            "" => error.context(call),
            what => error.context(format!("{call} of {what}")),
        }
    }

    /// A failure of this call that begins here.
    pub(super) fn failed(
        self,
        verdict: Verdict,
        kind: ErrorKind,
        what: impl Into<String>,
    ) -> Failure {
        Failure {
            error: self.context(Error::new(kind, what)),
            verdict,
        }
    }

    /// An answer that is not what its checksum or format says.
    pub(super) fn corrupt(self, what: impl Into<String>) -> Failure {
        self.failed(Verdict::Corrupt, ErrorKind::Corrupt, what)
    }

    /// An answer that ended before it was whole.
    pub(super) fn cut_short(self, error: &dyn StdError) -> Failure {
        let what = format!("the answer was cut short: {}", told(error));
        self.failed(Verdict::Fault, ErrorKind::Unavailable, what)
    }

    /// What the SDK reports.
    pub(super) fn sdk<E>(self, error: &SdkError<E, HttpResponse>) -> Failure
    where
        E: ProvideErrorMetadata + StdError + 'static,
    {
        match error {
            SdkError::ServiceError(service) => {
                let raw = service.raw();
                self.refused(&Refusal {
                    status: raw.status().as_u16(),
                    code: service.err().code().unwrap_or_default(),
                    message: service.err().message().unwrap_or_default(),
                    reason: reason(raw.body().bytes().unwrap_or_default()).as_deref(),
                })
            }
            // Also where it says no: what it says is not known then.
            SdkError::ResponseError(_) if find::<hyper::Error>(error).is_some() => {
                self.cut_short(error)
            }
            SdkError::ResponseError(response) => match response.raw().status().as_u16() {
                200..300 => {
                    self.corrupt(format!("the answer cannot be understood: {}", told(error)))
                }
                status => self.refused(&Refusal {
                    status,
                    ..Refusal::default()
                }),
            },
            SdkError::TimeoutError(_) => self.slow(),
            SdkError::DispatchFailure(failure) => match failure.as_connector_error() {
                Some(connector) => self.connector(connector),
                None => self.unsent(error),
            },
            _ => self.unsent(error),
        }
    }

    fn slow(self) -> Failure {
        self.failed(
            Verdict::TimedOut,
            ErrorKind::Unavailable,
            "no answer in time",
        )
    }

    fn unsent(self, error: &(dyn StdError + 'static)) -> Failure {
        match find::<CredentialsError>(error) {
            Some(credentials) => credentials_failed(credentials),
            None => self.failed(
                Verdict::Final,
                ErrorKind::Invalid,
                format!("the request cannot be sent: {}", told(error)),
            ),
        }
    }

    /// What the way to the service reports.
    pub(super) fn connector(self, error: &ConnectorError) -> Failure {
        if find::<CredentialsError>(error).is_some() || error.is_user() {
            return self.unsent(error);
        }
        if error.is_timeout() {
            return self.slow();
        }
        let told = told(error);
        let verdict = match find::<io::Error>(error).map(io::Error::kind) {
            // A certificate does not become valid while one waits.
            Some(io::ErrorKind::InvalidData) => Verdict::Final,
            Some(
                io::ErrorKind::ConnectionRefused
                | io::ErrorKind::HostUnreachable
                | io::ErrorKind::NetworkUnreachable,
            ) => Verdict::Unreachable,
            _ if told.contains("dns error") => Verdict::Unreachable,
            _ => Verdict::Fault,
        };
        self.failed(verdict, ErrorKind::Unavailable, told)
    }

    /// What the service says instead of an answer.
    pub(super) fn refused(self, refusal: &Refusal<'_>) -> Failure {
        let (verdict, kind) = self.judge(refusal);
        let mut what = match (refusal.code, refusal.message) {
            ("", "") => format!("the service answered with HTTP status {}", refusal.status),
            ("", message) => format!("HTTP status {}: {message}", refusal.status),
            (code, "") => code.to_owned(),
            (code, message) => format!("{message} ({code})"),
        };
        if let Some(reason) = refusal.reason {
            what.push_str(&format!(" [{reason}]"));
        }
        if let Some(remedy) = self.remedy(kind, refusal) {
            what.push_str(": ");
            what.push_str(&remedy);
        }
        self.failed(verdict, kind, what)
    }

    fn judge(self, refusal: &Refusal<'_>) -> (Verdict, ErrorKind) {
        match refusal.code {
            "RequestThrottledException"
            | "ThrottlingException"
            | "ConcurrentLimitExceededException"
            | "Throttling"
            | "RequestLimitExceeded"
            | "TooManyRequestsException" => (Verdict::Throttled, ErrorKind::Unavailable),
            // The service answers it with status 503, which otherwise means something else.
            "ConflictException" | "InvalidSnapshot.InUse" => (Verdict::Final, ErrorKind::Conflict),
            "ServiceQuotaExceededException" => (Verdict::Final, ErrorKind::Unavailable),
            "ResourceNotFoundException" | "InvalidSnapshot.NotFound" => {
                (Verdict::Final, ErrorKind::NotFound)
            }
            "ValidationException" => {
                // The block is one that was listed, so with no reason given it is the token.
                let token = matches!(refusal.reason, None | Some("INVALID_BLOCK_TOKEN"));
                if self.action == GET_BLOCK && token {
                    (Verdict::TokenRefused, ErrorKind::Invalid)
                } else {
                    (Verdict::Final, ErrorKind::Invalid)
                }
            }
            code if is_about_identity(code) => (Verdict::Final, ErrorKind::Denied),
            _ => match refusal.status {
                300..=399 => (Verdict::Final, ErrorKind::Unsupported),
                402 => (Verdict::Final, ErrorKind::Unavailable),
                401 | 403 => (Verdict::Final, ErrorKind::Denied),
                404 => (Verdict::Final, ErrorKind::NotFound),
                429 | 503 => (Verdict::Throttled, ErrorKind::Unavailable),
                // No server of these APIs.
                501 | 505 => (Verdict::Final, ErrorKind::Unsupported),
                408 | 500.. => (Verdict::Fault, ErrorKind::Unavailable),
                _ => (Verdict::Final, ErrorKind::Invalid),
            },
        }
    }

    /// What a person can do about it.
    fn remedy(self, kind: ErrorKind, refusal: &Refusal<'_>) -> Option<String> {
        let action = self.action;
        Some(match (kind, refusal.code) {
            (_, code) if is_about_identity(code) => RENEW.to_owned(),
            (_, "RequestExpired" | "RequestTimeTooSkewed") => "set this machine's clock".to_owned(),
            (ErrorKind::Denied, _) if refusal.reason == Some("DEPENDENCY_ACCESS_DENIED") => {
                KMS.to_owned()
            }
            (ErrorKind::Denied, _) if action == "ec2:DescribeSnapshots" => format!(
                "{MISSING} {action}; without it snapshots can still be mounted and exported by their ids"
            ),
            (ErrorKind::Denied, _) if action.starts_with("ebs:") => format!(
                "{MISSING} {action} on this snapshot, and for an encrypted one the use of its key; a public one must be copied first"
            ),
            (ErrorKind::Denied, _) => format!("{MISSING} {action}"),
            (ErrorKind::NotFound, _) if !self.what.is_empty() => {
                "it may be of another region or account; `ebsfs list` shows what there is".to_owned()
            }
            (ErrorKind::Invalid, "ValidationException")
                if refusal.reason == Some("UNRELATED_SNAPSHOTS") =>
            {
                "they do not descend from one snapshot".to_owned()
            }
            (ErrorKind::Invalid, "ValidationException") => match action {
                "ebs:StartSnapshot" => PARENT.to_owned(),
                "ebs:ListSnapshotBlocks" | "ebs:ListChangedBlocks" | GET_BLOCK => {
                    READABLE.to_owned()
                }
                _ => return None,
            },
            (ErrorKind::Unavailable, "ServiceQuotaExceededException") => {
                "complete or delete pending snapshots, or have the quota raised".to_owned()
            }
            (ErrorKind::Unsupported, _) if refusal.status >= 500 => {
                "nothing there speaks the EBS direct APIs: correct the endpoint URL".to_owned()
            }
            (ErrorKind::Unsupported, _) => {
                "a redirect is not followed, as it would take the credentials elsewhere: correct the region or the endpoint URL".to_owned()
            }
            _ => return None,
        })
    }
}

const MISSING: &str = "the IAM policy must allow";
const RENEW: &str =
    "renew the credentials, for example with `aws sso login`, or name others with --profile";
const KMS: &str = "the key's policy or a grant must let you use the KMS key (kms:Decrypt, to write kms:GenerateDataKeyWithoutPlaintext, kms:CreateGrant and kms:DescribeKey too)";
const READABLE: &str = "only a completed snapshot can be read; one in the archive must be restored first (`aws ec2 restore-snapshot-tier`), one on an Outpost or a public one copied (`aws ec2 copy-snapshot`)";
const PARENT: &str = "a parent must be completed and not larger; where encryption by default is on, it must be encrypted: copy it so first (`aws ec2 copy-snapshot --encrypted`)";

/// Codes that mean: these credentials are none, or no longer.
fn is_about_identity(code: &str) -> bool {
    matches!(
        code,
        "ExpiredToken"
            | "ExpiredTokenException"
            | "UnrecognizedClientException"
            | "InvalidClientTokenId"
            | "InvalidSignatureException"
            | "SignatureDoesNotMatch"
            | "IncompleteSignature"
            | "MissingAuthenticationToken"
            | "MissingAuthenticationTokenException"
            | "AuthFailure"
    )
}

/// There are no credentials, or none now.
pub(super) fn credentials_failed(error: &CredentialsError) -> Failure {
    let (verdict, kind) = match error {
        // There were some when the store was opened; whoever gives them is slow.
        CredentialsError::ProviderTimedOut(_) => (Verdict::Fault, ErrorKind::Unavailable),
        _ => (Verdict::Final, ErrorKind::Denied),
    };
    let what = format!(
        "no AWS credentials: {}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, name a profile with --profile, or log in (`aws sso login`)",
        told(error)
    );
    Failure {
        error: Error::new(kind, what),
        verdict,
    }
}

/// An error with its causes, in one line.
pub(super) fn told(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

fn find<'a, E: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// The reason in the body of an EBS error.
fn reason(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Body {
        #[serde(rename = "Reason")]
        reason: Option<String>,
    }
    serde_json::from_slice::<Body>(body).ok()?.reason
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(
        action: &'static str,
        status: u16,
        code: &str,
        reason: Option<&str>,
    ) -> (Verdict, ErrorKind) {
        let asked = Asked {
            action,
            what: "snap-0",
        };
        let failure = asked.refused(&Refusal {
            status,
            code,
            message: "so it is",
            reason,
        });
        let text = format!("{:#}", failure.error);
        assert!(
            text.contains("snap-0") && text.contains("so it is"),
            "{text}"
        );
        (failure.verdict, failure.error.kind())
    }

    #[test]
    fn each_code_of_the_documents_is_judged_as_the_facts_say() {
        use ErrorKind::{Conflict, Denied, Invalid, NotFound, Unavailable};
        use Verdict::{Fault, Final, Throttled, TokenRefused};
        for (status, code, expected) in [
            (400, "RequestThrottledException", (Throttled, Unavailable)),
            (400, "ThrottlingException", (Throttled, Unavailable)),
            (
                400,
                "ConcurrentLimitExceededException",
                (Throttled, Unavailable),
            ),
            (429, "", (Throttled, Unavailable)),
            (503, "", (Throttled, Unavailable)),
            (500, "InternalServerException", (Fault, Unavailable)),
            (403, "AccessDeniedException", (Final, Denied)),
            (403, "ExpiredTokenException", (Final, Denied)),
            (404, "ResourceNotFoundException", (Final, NotFound)),
            (503, "ConflictException", (Final, Conflict)),
            (402, "ServiceQuotaExceededException", (Final, Unavailable)),
            (400, "ValidationException", (TokenRefused, Invalid)),
        ] {
            assert_eq!(
                judged(GET_BLOCK, status, code, None),
                expected,
                "{code} {status}"
            );
        }
        let other = Some("INVALID_BLOCK");
        let refused = judged(GET_BLOCK, 400, "ValidationException", other);
        assert_eq!(refused, (Final, Invalid));
        let listing = judged("ebs:ListSnapshotBlocks", 400, "ValidationException", None);
        assert_eq!(listing, (Final, Invalid));
    }

    #[test]
    fn a_denial_names_the_action_that_is_missing() {
        for (action, reason, remedy) in [
            (GET_BLOCK, None, "ebs:GetSnapshotBlock"),
            (GET_BLOCK, Some("DEPENDENCY_ACCESS_DENIED"), "kms:Decrypt"),
            ("ec2:DescribeSnapshots", None, "ec2:DescribeSnapshots"),
        ] {
            let asked = Asked {
                action,
                what: "snap-0",
            };
            let failure = asked.refused(&Refusal {
                status: 403,
                code: "AccessDeniedException",
                message: "no",
                reason,
            });
            let text = format!("{:#}", failure.error);
            assert!(text.contains(remedy), "{text}");
        }
    }
}
