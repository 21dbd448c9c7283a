//! [`AuthError`]: why a request is refused, and what a server may answer, which never tells anything about the store.

use std::time::Duration;

use crate::StoreError;

/// Why a request is not authenticated.
///
/// It carries neither the key nor its digest, so that it may be logged with its
/// [source](std::error::Error::source). What the client gets is [`status`](Self::status) and
/// `{"detail": …}` with [`detail`](Self::detail), as in the reference system.
///
/// # Examples
///
/// ```
/// use trust_auth::{AuthError, StoreError};
///
/// let missing = AuthError::Missing;
/// assert_eq!((missing.status(), missing.www_authenticate()), (401, Some("ApiKey")));
///
/// let unavailable = AuthError::Unavailable(StoreError::Busy);
/// assert_eq!((unavailable.status(), unavailable.www_authenticate()), (503, None));
/// ```
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// The request carries no key, or an empty one. 401.
    #[error("Not authenticated: API key is missing.")]
    Missing,
    /// No enabled trust has this key. 401.
    #[error("Invalid API Key.")]
    Invalid,
    /// The store failed or did not answer in time, so that nothing is known of the key. 503.
    #[error("Authentication is unavailable; try again.")]
    Unavailable(#[source] StoreError),
    /// The cache does not know the key, and more requests than are allowed wait for a walk over the
    /// trusts already. Nothing was read. 503.
    #[error("Authentication is overloaded; try again.")]
    Overloaded,
}

impl AuthError {
    /// The HTTP status: 401 or 503.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Self::Missing | Self::Invalid => 401,
            Self::Unavailable(_) | Self::Overloaded => 503,
        }
    }

    /// The text for the client, which tells nothing about the store.
    #[must_use]
    pub fn detail(&self) -> &'static str {
        match self {
            Self::Missing => "Not authenticated: API key is missing.",
            Self::Invalid => "Invalid API Key.",
            Self::Unavailable(_) => "Authentication is unavailable; try again.",
            Self::Overloaded => "Authentication is overloaded; try again.",
        }
    }

    /// The value of the header `WWW-Authenticate`, which a 401 must have.
    #[must_use]
    pub fn www_authenticate(&self) -> Option<&'static str> {
        match self {
            Self::Missing | Self::Invalid => Some("ApiKey"),
            Self::Unavailable(_) | Self::Overloaded => None,
        }
    }

    /// The value of the header `Retry-After`, in whole seconds, which goes with a 503.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Missing | Self::Invalid => None,
            Self::Unavailable(_) | Self::Overloaded => Some(Duration::from_secs(1)),
        }
    }

    /// A short stable word for metrics: `missing`, `invalid`, `unavailable` or `overloaded`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Invalid => "invalid",
            Self::Unavailable(_) => "unavailable",
            Self::Overloaded => "overloaded",
        }
    }
}
