//! Whether an overlay still takes writes: after a failed sync it does not, for good.
//!
//! The kernel reports a failed write to disk once. What it answers to the next sync of the same file says nothing of
//! the bytes that were lost, so nothing may be acknowledged ever after.

use std::sync::OnceLock;

use log::error;

use crate::error::{Error, ErrorKind, Result};

#[derive(Default)]
pub(super) struct Health {
    /// The first failure.
    failure: OnceLock<Error>,
}

impl Health {
    /// `ReadOnly` once anything failed, with the reason.
    pub(super) fn check(&self) -> Result<()> {
        match self.failure.get() {
            None => Ok(()),
            Some(reason) => Err(Error::new(
                ErrorKind::ReadOnly,
                format!(
                    "the overlay takes no more writes, as what was written could not be made durable: {reason:#}; \
                     unmount, mend the disk and mount again"
                ),
            )),
        }
    }

    /// Ends writing because of `error`, and returns it.
    pub(super) fn fail(&self, error: Error) -> Error {
        if self.failure.set(error.clone()).is_ok() {
            error!(
                "what was written could not be made durable, the overlay is read-only from here on: {error:#}"
            );
        }
        error
    }
}
