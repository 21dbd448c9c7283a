//! Time limits of the SQL stores' operations.

use std::time::Duration;

use crate::error::StoreError;

/// The default of each limit that an operator may set.
pub(crate) const DEFAULT: Duration = Duration::from_secs(5);

/// The longest limit that an operator may set. The drivers and the server count milliseconds in 31
/// bits, and SQLite's driver adds a limit to the time of day. A day is far from either bound.
pub(crate) const LONGEST: Duration = Duration::from_hours(24);

/// Runs an operation for at most `limit`.
///
/// # Errors
///
/// [`StoreError::Timeout`] when the time is over, or the error of the operation.
pub(crate) async fn within<T>(
    limit: Duration,
    operation: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    match tokio::time::timeout(limit, operation).await {
        Ok(outcome) => outcome,
        Err(_) => Err(StoreError::Timeout { after: limit }),
    }
}

/// Runs work that blocks, such as a question to the file system, on a thread that may block. After
/// `limit` the work runs on, and no caller waits for it.
///
/// # Errors
///
/// [`StoreError::Timeout`] when the time is over.
pub(crate) async fn blocking_within<T: Send + 'static>(
    limit: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, StoreError> {
    let work = tokio::task::spawn_blocking(work);
    within(limit, async { work.await.map_err(|error| StoreError::Other(error.into())) }).await
}
