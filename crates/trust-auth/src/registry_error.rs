//! [`RegistryError`]: why a change of the trusts was not made, or may not have been made.

use crate::{RandomError, StoreError};

/// Why a [`TrustRegistry`](crate::TrustRegistry) did not do what it was asked.
///
/// ```
/// use trust_auth::{RegistryError, StoreError};
///
/// let error = RegistryError::from(StoreError::NameTaken { name: "St. Mary".into() });
/// assert_eq!(error.kind(), "name_taken");
/// assert!(error.to_string().starts_with("the name \"St. Mary\" is taken"));
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// The store refused or failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The operating system gave no random bytes for a key. Nothing was written.
    #[error(transparent)]
    Random(#[from] RandomError),
}

impl RegistryError {
    /// A short stable word: that of the [`StoreError`], or `random`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Store(error) => error.kind(),
            Self::Random(_) => "random",
        }
    }
}
