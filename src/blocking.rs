//! Work that waits for a file, away from the threads that poll tasks.

use crate::error::{Error, ErrorKind, Result};

/// The result of `work`, done on a thread that may wait. `what` names it, should it panic.
pub async fn blocking<T: Send + 'static>(
    what: &str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| {
        Err(Error::new(
            ErrorKind::Io,
            format!("{what} ended early: {e}"),
        ))
    })
}
