//! An error on its way through a socket: its kind and its chain of texts.

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind};

/// What went wrong, as it is written down.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Failure {
    kind: ErrorKind,
    /// The outermost first; never empty where it was made of an error.
    text: Vec<String>,
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Self {
        let mut text = vec![error.to_string()];
        let mut next = std::error::Error::source(error);
        while let Some(cause) = next {
            text.push(cause.to_string());
            next = cause.source();
        }
        let kind = error.kind();
        Self { kind, text }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        let mut texts = failure.text.into_iter().rev();
        let innermost = texts.next().unwrap_or_else(|| "it failed".to_owned());
        texts.fold(Error::new(failure.kind, innermost), Error::context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_comes_out_as_it_went_in() {
        for kind in [
            ErrorKind::NotFound,
            ErrorKind::Corrupt,
            ErrorKind::Unavailable,
            ErrorKind::Denied,
            ErrorKind::ReadOnly,
            ErrorKind::NoSpace,
            ErrorKind::Invalid,
            ErrorKind::Conflict,
            ErrorKind::Unsupported,
            ErrorKind::Io,
        ] {
            let error = Error::new(kind, "checksum is 9f").context("block 7");
            let text = serde_json::to_string(&Failure::from(&error)).unwrap();
            let failure: Failure = serde_json::from_str(&text).unwrap();
            let back = Error::from(failure);
            assert_eq!(back.kind(), kind);
            assert_eq!(format!("{back:#}"), "block 7: checksum is 9f");
            assert_eq!(back.to_string(), "block 7");
        }
    }
}
