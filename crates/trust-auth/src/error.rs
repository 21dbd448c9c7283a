//! What can go wrong: [`AuthError`] with a request, [`RegistryError`] with a change, [`StoreError`]
//! with the store behind both. No message contains a key, a digest, a password or a row's content.

use std::error::Error;
use std::fmt;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use crate::api_key::RandomError;
use crate::key_flaw::KeyFlaw;
use crate::trust_ref::TrustRef;

/// Why a request is not authenticated.
///
/// The error contains neither the key nor its digest, so it may be logged with its
/// [source](Error::source). The client receives [`status`](Self::status) and `{"detail": …}` with
/// [`detail`](Self::detail). Both are those of the reference system; `Display` is for the log.
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
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthError {
    /// The request carries no key, or an empty one. 401.
    #[error("the request carries no API key")]
    Missing,
    /// No enabled trust has this key, or it is [damaged](crate::KeyForm::Damaged). 401.
    #[error("no enabled trust has this API key")]
    Invalid,
    /// The store failed or did not answer in time, so nothing is known of the key. 503.
    #[error("the trusts cannot be read, so the API key cannot be verified")]
    Unavailable(#[source] StoreError),
    /// The cache does not contain the key, and as many requests as are allowed wait for a scan of
    /// the trusts already. Nothing was read. 503.
    #[error("too many requests wait for a scan of the trusts; try again")]
    Overloaded,
}

/// What a client receives instead of an answer.
struct Refusal {
    kind: &'static str,
    status: u16,
    detail: &'static str,
    json: &'static str,
}

/// Makes a refusal: the one place that has its text.
macro_rules! refusal {
    ($kind:literal, $status:literal, $detail:literal) => {
        &Refusal {
            kind: $kind,
            status: $status,
            detail: $detail,
            json: concat!("{\"detail\":\"", $detail, "\"}"),
        }
    };
}

impl AuthError {
    fn refusal(&self) -> &'static Refusal {
        match self {
            Self::Missing => refusal!("missing", 401, "Not authenticated: API key is missing."),
            Self::Invalid => refusal!("invalid", 401, "Invalid API Key."),
            Self::Unavailable(_) => {
                refusal!("unavailable", 503, "Authentication is unavailable; try again.")
            }
            Self::Overloaded => {
                refusal!("overloaded", 503, "Authentication is overloaded; try again.")
            }
        }
    }

    /// Returns the HTTP status: 401 or 503.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.refusal().status
    }

    /// Returns the text for the client, which reveals nothing about the store.
    #[must_use]
    pub fn detail(&self) -> &'static str {
        self.refusal().detail
    }

    /// Returns the body for the client: `{"detail":"…"}` with [`detail`](Self::detail).
    ///
    /// ```
    /// use trust_auth::AuthError;
    ///
    /// assert_eq!(AuthError::Invalid.json(), r#"{"detail":"Invalid API Key."}"#);
    /// ```
    #[must_use]
    pub fn json(&self) -> &'static str {
        self.refusal().json
    }

    /// Returns the value of the header `WWW-Authenticate`, which a 401 must have.
    #[must_use]
    pub fn www_authenticate(&self) -> Option<&'static str> {
        (self.status() == 401).then_some("ApiKey")
    }

    /// Returns the value of the header `Retry-After`, in whole seconds, for a 503.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        (self.status() == 503).then_some(Duration::from_secs(1))
    }

    /// Returns a short stable word for metrics: `missing`, `invalid`, `unavailable` or
    /// `overloaded`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        self.refusal().kind
    }
}

/// Why a [`TrustRegistry`](crate::TrustRegistry) did not make a change.
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
    /// The operating system returned no random bytes for a key. Nothing was written.
    #[error(transparent)]
    Random(#[from] RandomError),
    /// The key to import is refused. Nothing was written.
    #[error(transparent)]
    Key(#[from] KeyFlaw),
}

impl RegistryError {
    /// Returns a short stable word: that of the [`StoreError`], as the table of
    /// [`StoreError::kind`] has them, `random` or `invalid_key`.
    ///
    /// ```
    /// use trust_auth::{KeyTerms, MemoryStore, TrustAuth};
    /// use uuid::Uuid;
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let auth = TrustAuth::builder(MemoryStore::new()).build();
    /// let error = auth.registry().revoke_key(Uuid::nil()).await.unwrap_err();
    /// assert_eq!((error.kind(), error.status()), ("no_such_key", 404));
    /// let error = auth.registry().existing("", &KeyTerms::new()).await.unwrap_err();
    /// assert_eq!((error.kind(), error.status()), ("invalid_key", 422));
    /// # }
    /// ```
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Store(error) => error.kind(),
            Self::Random(_) => "random",
            Self::Key(_) => "invalid_key",
        }
    }

    /// Returns the HTTP status with which an API of changes answers this error: that of
    /// [`StoreError::status`], 500 for `random`, and 422 for `invalid_key`.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Self::Store(error) => error.status(),
            Self::Random(_) => 500,
            Self::Key(_) => 422,
        }
    }
}

/// Why an operation of a store failed.
///
/// The variants are the diagnosis, and the messages contain the remedy. [`Other`](Self::Other) also
/// has a [source](Error::source). Requests that share a scan receive clones of its failure.
///
/// # Examples
///
/// ```
/// use trust_auth::StoreError;
///
/// let error = StoreError::NotFound { path: "trusts.db".into() };
/// assert_eq!(error.kind(), "not_found");
/// assert_eq!(
///     error.to_string(),
///     "there is no database at trusts.db; check the path, or register a trust or set \
///      `create_if_missing(true)`, which make it"
/// );
/// ```
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// There is no database file, and the options do not allow making one.
    #[error(
        "there is no database at {path}; check the path, or register a trust or set \
         `create_if_missing(true)`, which make it",
        path = path.display()
    )]
    NotFound {
        /// The path that was tried.
        path: PathBuf,
    },
    /// The file is no SQLite database, or a damaged one.
    #[error(
        "{path} is no SQLite database, or a damaged one; check the path, or restore the file from \
         a backup",
        path = path.display()
    )]
    NotADatabase {
        /// The file.
        path: PathBuf,
    },
    /// The file or its folder cannot be used.
    #[error("the database {path} cannot be used: {reason}", path = path.display())]
    CannotOpen {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// The database has other tables than those that are needed.
    #[error("the database {path} cannot be used: {reason}", path = path.display())]
    Schema {
        /// The file, or the URL of the server's database without user and password.
        path: PathBuf,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// The tables lack something that each operation needs, such as a column, and that a migration
    /// adds. Opening a database migrates only if the options allow it.
    #[error(
        "the database {path} cannot be used: it lacks {}; run `trust-auth migrate`, which adds \
         that and keeps everything else (`--dry-run` shows its SQL)",
        missing.join(", "),
        path = path.display()
    )]
    NotMigrated {
        /// The file, or the URL of the server's database without user and password.
        path: PathBuf,
        /// What is missing, each in a few words.
        missing: Vec<String>,
    },
    /// Rows are to be found by an index on the digests, and there is none.
    #[error(
        "the database {path} has no index on the digests; run `trust-auth migrate \
         --find-by-index`, or run: {sql}",
        path = path.display()
    )]
    NoIndex {
        /// The file, or the URL of the server's database without user and password.
        path: PathBuf,
        /// The SQL that makes the index.
        sql: String,
    },
    /// The server does not allow this role to do the operation.
    #[error("the database {server} does not let this role do that: it lacks {right}")]
    MissingRight {
        /// The URL without user and password.
        server: String,
        /// The right, and the role that can grant it.
        right: String,
    },
    /// The database's URL or path is not supported.
    #[error("the database cannot be opened: {reason}")]
    UnsupportedUrl {
        /// What is wrong, and what to do. It does not repeat the URL, which may hold a password.
        reason: String,
    },
    /// The server cannot be reached, or refuses the connection.
    #[error("the database {server} cannot be reached: {reason}")]
    CannotConnect {
        /// The URL without user and password.
        server: String,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// The server has no disk, memory or other resource left for the operation. Reads may still
    /// succeed.
    #[error("the database {server} has run out of disk, memory or connections; make room")]
    Exhausted {
        /// The URL without user and password.
        server: String,
    },
    /// The server is a replica, or read-only. A replica shows revocations late, so nothing is read
    /// from it.
    #[error(
        "the database {server} is a replica or takes no writes, and a replica shows revocations \
         late; connect to the primary"
    )]
    ReadOnly {
        /// The URL without user and password.
        server: String,
    },
    /// Notifications of the server do not arrive, or statements of another client do: a pooler
    /// shares its connections.
    #[error(
        "the database {server} delivers no notifications to this connection: a pooler that shares \
         server connections, such as PgBouncer in transaction mode, is in between; connect to \
         PostgreSQL itself, or let the pooler use session mode"
    )]
    Deaf {
        /// The URL without user and password.
        server: String,
    },
    /// The connection was lost, or the time-out passed, after the commit was sent. The change may
    /// have been made.
    #[error(
        "the database did not answer whether the change was committed; look whether it was made \
         before making it again"
    )]
    OutcomeUnknown,
    /// The store did not answer in time. A write may still be committed.
    #[error("the database did not answer within {after:?}; try again, or allow it more time")]
    Timeout {
        /// The time-out.
        after: Duration,
    },
    /// Another process holds the database's lock.
    #[error("the database is locked by another process; try again when that has finished")]
    Busy,
    /// The store was closed, or its connection is lost.
    #[error("the connection to the database is closed; connect again")]
    Unreachable,
    /// The rows changed repeatedly while they were read, so nothing is known of the key.
    #[error("the trusts changed while they were read; try again")]
    Unsettled,
    /// The read lease in the database is of another version, so no process can wait for its
    /// holders. The change is committed.
    #[error(
        "the read lease in the database {server} is of another version; update all processes, then \
         let the owner of the watched tables run `trust-auth migrate --read-lease`, or \
         `PgChanges::run_migration`"
    )]
    LeaseVersion {
        /// The URL without user and password.
        server: String,
    },
    /// The database has restarted before the rotation returned, and the trust has another key since
    /// then. The new key of this rotation is dead. No key that the rotation replaced is accepted
    /// beyond its end, and one without an end is revoked.
    #[error(
        "the trust got another key before this rotation was final, so the new key of this rotation \
         is dead; use the other key, or rotate again"
    )]
    Superseded,
    /// The database has failed over before the rotation returned, and has lost it. It is not made
    /// again, because the trust has another key since then, which it would revoke, or because its
    /// row is malformed. The new key of this rotation is dead, and **a key that it replaced may be
    /// valid**.
    #[error(
        "the database has failed over and has lost this rotation, and the trust has another key \
         since then or a malformed row, so the rotation is not made again: the old keys are still \
         valid; rotate again, or revoke them one by one"
    )]
    RotationLost,
    /// Another trust has the name. Nothing was written.
    #[error("the name {name:?} is taken; choose another, or delete that trust first")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// Another trust, enabled or disabled, has the key. Nothing was written.
    #[error("trust {id} has this API key already; delete that trust first, or rotate its key")]
    KeyTaken {
        /// The id of that trust.
        id: Uuid,
    },
    /// There is no such trust. Nothing was written.
    #[error(
        "there is no trust {:?}; list the trusts to see their names and ids",
        which.to_string()
    )]
    NoSuchTrust {
        /// The requested id or name.
        which: TrustRef,
    },
    /// There is no such key in a row of its own. Nothing was written.
    #[error("there is no key {id}; list the keys of the trust to see their ids")]
    NoSuchKey {
        /// The requested id.
        id: Uuid,
    },
    /// The store has one key a trust, without a label and without an end. Nothing was written.
    #[error(
        "this store keeps one key for a trust, without a label and without an end; implement \
         `TrustLedger::rotate` and the methods of keys for it, or leave these options out"
    )]
    OneKey,
    /// A column of a row is malformed: another program has written it.
    #[error(
        "the {column} of trust {id} is malformed; repair the row",
        id = id.map_or("(unknown)".into(), |id| id.to_string())
    )]
    BadRow {
        /// The row's id, if that can be read.
        id: Option<Uuid>,
        /// The column.
        column: &'static str,
    },
    /// Any other failure. The message includes the cause, which must contain no key, digest or
    /// password. The message does not suggest another try, because the failure may be permanent.
    #[error("the store failed: {0}; check the database and its log")]
    Other(#[source] Cause),
}

/// The cause of a [`StoreError::Other`]: any error, or a text, shared by its clones.
///
/// ```
/// use trust_auth::StoreError;
///
/// let error = StoreError::Other("the disk is on fire".into());
/// assert_eq!(
///     error.clone().to_string(),
///     "the store failed: the disk is on fire; check the database and its log"
/// );
/// ```
#[derive(Clone)]
pub struct Cause(Arc<dyn Error + Send + Sync>);

impl<E: Into<Box<dyn Error + Send + Sync>>> From<E> for Cause {
    fn from(error: E) -> Self {
        Self(error.into().into())
    }
}

// Not an `Error` itself: the conversion from every error would then overlap with `From<T> for T`.
impl Deref for Cause {
    type Target = dyn Error + Send + Sync;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Defines the word and the status of each variant, in one place.
macro_rules! kinds {
    ($($variant:ident => $word:literal, $status:literal;)*) => {
        impl StoreError {
            /// The words that [`kind`](Self::kind) returns.
            pub const KINDS: &'static [&'static str] = &[$($word),*];

            /// Returns a short stable word for the variant, for metrics and output that programs
            /// read. It is one of [`KINDS`](Self::KINDS).
            ///
            /// | variant | word | [status](Self::status) |
            /// |---|---|---|
            $(#[doc = concat!(
                "| `", stringify!($variant), "` | `", $word, "` | ", stringify!($status), " |"
            )])*
            #[must_use]
            pub fn kind(&self) -> &'static str {
                match self {
                    $(Self::$variant { .. } => $word,)*
                }
            }

            /// Returns the HTTP status with which an API of changes answers this error, as in the
            /// table of [`kind`](Self::kind). A 503 may pass, or an operator must act. The message
            /// of a 5xx is for the log: it may have the address of the database.
            #[must_use]
            pub fn status(&self) -> u16 {
                match self {
                    $(Self::$variant { .. } => $status,)*
                }
            }
        }
    };
}

impl StoreError {
    /// Returns whether the same operation may succeed later, with the same settings: the database
    /// is busy, restarts or fails over.
    ///
    /// ```
    /// use trust_auth::StoreError;
    ///
    /// assert!(StoreError::Busy.is_transient());
    /// assert!(!StoreError::NotADatabase { path: "trusts.db".into() }.is_transient());
    /// ```
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::CannotConnect { .. }
                | Self::Exhausted { .. }
                | Self::ReadOnly { .. }
                | Self::Timeout { .. }
                | Self::Busy
                | Self::Unreachable
                | Self::Unsettled
        )
    }
}

kinds! {
    NotFound => "not_found", 503;
    NotADatabase => "not_a_database", 503;
    CannotOpen => "cannot_open", 503;
    Schema => "schema", 503;
    NotMigrated => "not_migrated", 503;
    NoIndex => "no_index", 503;
    MissingRight => "missing_right", 503;
    UnsupportedUrl => "unsupported_url", 503;
    CannotConnect => "cannot_connect", 503;
    Exhausted => "exhausted", 503;
    ReadOnly => "read_only", 503;
    Timeout => "timeout", 503;
    Busy => "busy", 503;
    Unreachable => "unreachable", 503;
    Deaf => "deaf", 503;
    OutcomeUnknown => "outcome_unknown", 503;
    Unsettled => "unsettled", 503;
    LeaseVersion => "lease_version", 503;
    Superseded => "superseded", 409;
    RotationLost => "rotation_lost", 409;
    NameTaken => "name_taken", 409;
    KeyTaken => "key_taken", 409;
    NoSuchTrust => "no_such_trust", 404;
    NoSuchKey => "no_such_key", 404;
    OneKey => "one_key", 500;
    BadRow => "bad_row", 500;
    Other => "other", 503;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_display_in_lower_case_without_a_full_stop() {
        let after = Duration::from_secs(1);
        let errors: [&dyn Error; 8] = [
            &AuthError::Missing,
            &AuthError::Invalid,
            &AuthError::Unavailable(StoreError::Busy),
            &AuthError::Overloaded,
            &RegistryError::Store(StoreError::Unsettled),
            &StoreError::Timeout { after },
            &StoreError::OutcomeUnknown,
            &StoreError::Other("the disk is on fire".into()),
        ];
        for error in errors {
            let text = error.to_string();
            assert!(text.starts_with(char::is_lowercase) && !text.ends_with('.'), "{text}");
        }
    }

    #[test]
    fn only_a_failure_that_passes_by_itself_is_transient() {
        let server = || "postgres://db.example/trusts".to_owned();
        for error in [
            StoreError::CannotConnect { server: server(), reason: "it refused".into() },
            StoreError::Exhausted { server: server() },
            StoreError::ReadOnly { server: server() },
            StoreError::Timeout { after: Duration::from_secs(1) },
            StoreError::Busy,
            StoreError::Unreachable,
            StoreError::Unsettled,
        ] {
            assert!(error.is_transient(), "{error}");
        }
        for error in [
            StoreError::UnsupportedUrl { reason: "no scheme".into() },
            StoreError::Schema { path: "trusts.db".into(), reason: "no column".into() },
            StoreError::Deaf { server: server() },
            StoreError::NotADatabase { path: "trusts.db".into() },
            StoreError::CannotOpen { path: "trusts.db".into(), reason: "no folder".into() },
            StoreError::OutcomeUnknown,
            StoreError::Superseded,
            StoreError::RotationLost,
            StoreError::LeaseVersion { server: server() },
            StoreError::Other("a bug".into()),
        ] {
            assert!(!error.is_transient(), "{error}");
        }
    }

    #[test]
    fn each_kind_is_one_of_the_kinds_and_no_two_variants_share_one() {
        let kinds: std::collections::HashSet<_> = StoreError::KINDS.iter().collect();
        assert_eq!(kinds.len(), StoreError::KINDS.len());
        assert!(kinds.contains(&StoreError::Busy.kind()));
    }
}
