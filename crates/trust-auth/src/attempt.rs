//! [`Attempt`]: the answer to a request, with the [`Route`] that led to it.

use uuid::Uuid;

use crate::error::AuthError;
use crate::trust::Trust;

/// The answer to a request, and how it was found.
#[derive(Debug)]
#[non_exhaustive]
pub struct Attempt {
    /// The answer.
    pub result: Result<Trust, AuthError>,
    /// The route that the request took, up to the answer or to the store's failure.
    pub route: Route,
    /// How many rows the request's key was compared with; zero if no scan and no look answered it.
    pub rows_swept: usize,
    /// The id of the [`TrustKey`](crate::TrustKey) that a granted request had. `None`: it had the
    /// key of the trust's own row, or it was refused.
    pub key_id: Option<Uuid>,
}

impl Attempt {
    /// Returns the answer to a request for which nothing is read.
    pub(crate) fn unread(refused: AuthError) -> Self {
        Self { result: Err(refused), route: Route::Unread, rows_swept: 0, key_id: None }
    }
}

/// The route that a request took to its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Route {
    /// The request had no key, a header that cannot be one, or a
    /// [damaged](crate::KeyForm::Damaged) key. Nothing was read.
    Unread,
    /// The cache had the key. Its row was fetched, and accepted the key, or the store failed.
    Hit,
    /// The cache had the key, but its row no longer accepted it. A scan or a find followed, unless
    /// too many requests waited for it.
    StaleHit,
    /// The cache did not have the key. A scan followed, unless too many requests waited for it.
    Scan,
    /// The cache did not have the key. An index was asked for it, unless too many requests did so;
    /// see [`FindBy::Index`](crate::FindBy::Index).
    Find,
    /// The cache had the key, and a row that is held under a read lease accepted it. Nothing was
    /// read.
    Held,
    /// No held row was known to accept the key. What was committed was read, and the key was
    /// compared with all held rows.
    Look,
}

impl Route {
    /// Returns a short stable word for metrics: `unread`, `hit`, `stale_hit`, `scan`,
    /// `find`, `held` or `look`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unread => "unread",
            Self::Hit => "hit",
            Self::StaleHit => "stale_hit",
            Self::Scan => "scan",
            Self::Find => "find",
            Self::Held => "held",
            Self::Look => "look",
        }
    }
}
