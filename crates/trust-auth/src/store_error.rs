//! [`StoreError`]: what went wrong with a store, and what to do. It must never carry a key, a digest, a password, or a row's content.

use std::error::Error;
use std::fmt;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use crate::TrustRef;

/// Why a store did not do what it was asked.
///
/// The variants are the diagnosis, and the messages say what to do. [`Other`](Self::Other) also has
/// a [source](Error::source). A clone is the same error for somebody else: requests that share a
/// walk share its failure.
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
///     "there is no database at trusts.db; check the path, or register a trust, which makes it"
/// );
/// ```
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// There is no database file, and none was to be made.
    #[error("there is no database at {path}; check the path, or register a trust, which makes it", path = path.display())]
    NotFound {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The file is no SQLite database, or a damaged one.
    #[error(
        "{path} is no SQLite database, or a damaged one; check the path, or restore the file from a backup",
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
    /// It is a database, but its tables are not the ones that are needed.
    #[error("the database {path} cannot be used: {reason}", path = path.display())]
    Schema {
        /// The file, or the URL of the server's database without user and password.
        path: PathBuf,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// The tables are ours, or can be made so, and lack something that each operation needs, such
    /// as a column. Opening changes nothing unless it was told to migrate.
    #[error(
        "the database {path} cannot be used: it lacks {}; run `trust-auth migrate`, which adds that and \
         keeps everything else (`--dry-run` shows its SQL)",
        missing.join(", "),
        path = path.display()
    )]
    NotMigrated {
        /// The file, or the URL of the server's database without user and password.
        path: PathBuf,
        /// What is missing, each in a few words.
        missing: Vec<String>,
    },
    /// The server does not let this role do what it was asked.
    #[error("the database {server} does not let this role do that: it lacks {right}")]
    MissingRight {
        /// The URL without user and password.
        server: String,
        /// Which right, and who can give it.
        right: String,
    },
    /// The database's name is not understood.
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
    /// The server is a replica, or read-only: what it shows may lag behind a revocation, so nothing
    /// is read from it.
    #[error(
        "the database {server} is a replica or takes no writes, and a replica shows revocations late; connect to the primary"
    )]
    ReadOnly {
        /// The URL without user and password.
        server: String,
    },
    /// Notifications of the server do not arrive, or another client's statements do: a pooler
    /// shares its connections.
    #[error(
        "the database {server} delivers no notifications to this connection: a pooler that shares server connections, such as \
         PgBouncer in transaction mode, is in between; connect to PostgreSQL itself, or let the pooler use session mode"
    )]
    Deaf {
        /// The URL without user and password.
        server: String,
    },
    /// The connection was lost, or the time was over, after the server was told to commit. The
    /// change may have been made.
    #[error(
        "the database did not answer whether the change was committed; look whether it was made before making it again"
    )]
    OutcomeUnknown,
    /// The store did not answer in time. A write may yet be committed.
    #[error("the database did not answer within {after:?}; try again, or allow it more time")]
    Timeout {
        /// How long was waited.
        after: Duration,
    },
    /// Another process holds the database's lock.
    #[error("the database is locked by another process; try again when that has finished")]
    Busy,
    /// The store was closed, or the connection to it is lost.
    #[error("the connection to the database is closed; connect again")]
    Unreachable,
    /// The rows changed again and again while they were read, so that nothing can be said of the
    /// key.
    #[error("the trusts changed while they were read; try again")]
    Unsettled,
    /// Another trust has the name. Nothing was written.
    #[error("the name {name:?} is taken; choose another, or delete that trust first")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// There is no such trust. Nothing was written.
    #[error("there is no trust {:?}; list the trusts to see their names and ids", which.to_string())]
    NoSuchTrust {
        /// Which was asked for.
        which: TrustRef,
    },
    /// A row does not hold what its column should: somebody else has written it.
    #[error("the {column} of trust {id} is malformed; repair the row", id = id.map_or("(unknown)".into(), |id| id.to_string()))]
    BadRow {
        /// The row's id, if that can be read.
        id: Option<Uuid>,
        /// The column.
        column: &'static str,
    },
    /// Anything else. The cause, which is in the message, must carry no key, no digest and no
    /// password. The message does not ask for another try: only what is known to pass by itself
    /// does.
    #[error("the store failed: {0}; check the database and its log")]
    Other(#[source] Cause),
}

/// What is behind a [`StoreError::Other`]: any error, or a text, shared by its clones.
///
/// ```
/// use trust_auth::StoreError;
///
/// let error = StoreError::Other("the disk is on fire".into());
/// assert_eq!(error.clone().to_string(), "the store failed: the disk is on fire; check the database and its log");
/// ```
#[derive(Clone)]
pub struct Cause(Arc<dyn Error + Send + Sync>);

impl<E: Into<Box<dyn Error + Send + Sync>>> From<E> for Cause {
    fn from(error: E) -> Self {
        Self(error.into().into())
    }
}

// Not an `Error` itself: then it could not be made from every one.
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

impl StoreError {
    /// A short stable word for the variant, for metrics and output that programs read: `not_found`,
    /// `not_a_database`, `cannot_open`, `schema`, `not_migrated`, `missing_right`,
    /// `unsupported_url`, `cannot_connect`, `exhausted`, `read_only`, `timeout`, `busy`,
    /// `unreachable`, `deaf`, `outcome_unknown`, `unsettled`, `name_taken`, `no_such_trust`,
    /// `bad_row`, `other`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "not_found",
            Self::NotADatabase { .. } => "not_a_database",
            Self::CannotOpen { .. } => "cannot_open",
            Self::Schema { .. } => "schema",
            Self::NotMigrated { .. } => "not_migrated",
            Self::MissingRight { .. } => "missing_right",
            Self::UnsupportedUrl { .. } => "unsupported_url",
            Self::CannotConnect { .. } => "cannot_connect",
            Self::Exhausted { .. } => "exhausted",
            Self::ReadOnly { .. } => "read_only",
            Self::Timeout { .. } => "timeout",
            Self::Busy => "busy",
            Self::Unreachable => "unreachable",
            Self::Deaf { .. } => "deaf",
            Self::OutcomeUnknown => "outcome_unknown",
            Self::Unsettled => "unsettled",
            Self::NameTaken { .. } => "name_taken",
            Self::NoSuchTrust { .. } => "no_such_trust",
            Self::BadRow { .. } => "bad_row",
            Self::Other(_) => "other",
        }
    }
}
