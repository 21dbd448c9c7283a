//! Authenticates API keys against a database of trusts, through a cache that makes a revocation
//! final.
//!
//! A *trust* is a tenant that has an API key. Only the key's digest is stored. Every row must be
//! compared in constant time to find the trust of a key without revealing how nearly right a guess
//! was. This costs O(n) a request. [`trust_key_cache`] remembers the trust of a key, so that the
//! next request costs **one read by primary key and one compare with the live row**. The cache
//! saves work and grants nothing (G9): a revoked key is refused from the moment its revocation
//! returns.
//!
//! The module `guide` has the item to start at for each task: keys with an end, rotation, a pepper,
//! an index, a read lease.
//!
//! # Parts
//!
//! * [`TrustAuth`] holds the following parts, which share one cache.
//! * [`Authenticator`] answers each request.
//! * [`TrustRegistry`] registers, imports, rotates, disables, enables and deletes trusts. It
//!   commits each change, then invalidates exactly the keys concerned.
//! * [`ApiKey`] is a new key, and [`KeyPrefix`] describes its form: scanners find it, and a damaged
//!   key is refused before anything is read.
//! * [`KeyHasher`] turns a key into its digest: by SHA-256, or by HMAC-SHA-256 with a `Pepper`
//!   (feature `pepper`) that is not in the database.
//! * `PostgresStore`, `SqliteStore` and [`MemoryStore`] hold the trusts. [`TrustStore`],
//!   [`TrustLedger`] and [`WatchStore`] are the traits for a store of one's own.
//! * [`TrustKeyCache`] is shared by authenticator and registry, so that a change counts at once.
//! * [`Watcher`] removes from a cache what other processes change, as they change it.
//! * [`HeldTrusts`] lets an authenticator grant without a read, under a read lease, and
//!   [`CacheLease`] does the same for what an application has cached. A revocation is still final
//!   in every process when it returns. [`ChangeFeed`] and
//!   [`FeedSession`] are the traits for a database of one's own.
//! * `AuthLayer` and `Authenticated` (features `http` and `axum`) mount an authenticator in a
//!   service of tower or axum; see `examples/`.
//! * The program `trust-auth serve` answers forward-auth requests of nginx, Caddy, Traefik or
//!   Envoy.
//!
//! A *scan* reads all candidate rows, and the *sweep* compares their digests in constant time.
//!
//! # Example
//!
//! ```
//! use trust_auth::{MemoryStore, NewTrust, TrustAuth};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // Over a database: `TrustAuth::connect("sqlite:trusts.db?mode=rwc").await?`.
//! let auth = TrustAuth::builder(MemoryStore::new()).build();
//!
//! let (trust, key) = auth.registry().register(NewTrust::new("St. Mary")?).await?;
//! let found = auth.authenticate(Some(key.expose())).await?;
//! assert_eq!(found.id, trust.id);
//!
//! let (_, new_key) = auth.registry().rotate(&trust.id.into()).await?;
//! let refused = auth.authenticate(Some(key.expose())).await.unwrap_err();
//! assert_eq!((refused.status(), refused.detail()), (401, "Invalid API Key."));
//! assert!(auth.authenticate(Some(new_key.expose())).await.is_ok());
//! # Ok(()) }
//! ```
//!
//! # What is promised
//!
//! * A key is granted only if a row that was read **during the request** is enabled and has its
//!   digest (G9).
//! * If the store fails or times out, the request is refused as [`AuthError::Unavailable`], and
//!   nothing is remembered (G9).
//! * No log line, error, `Debug` output or JSON contains a key or a digest (G10). [`ApiKey`] wipes
//!   itself when it is dropped.
//! * No input causes a panic, and every error includes the remedy (G10).
//!
//! # What is not promised
//!
//! * Only a [`Watcher`] updates the cache of *another* process, a moment after the change. That
//!   process refuses a revoked key at once all the same, because it reads the live row. On a read
//!   replica, "at once" is as late as the replica.
//! * The duration of an answer reveals whether a key was cached, and how many trusts there are,
//!   unless [`reject_floor`](AuthenticatorBuilder::reject_floor) hides it. It does not reveal how
//!   nearly right a key was.
//! * With [`FindBy::Index`] in place of the default, the duration of a miss reveals how much of a
//!   stored digest matches that of the key. Use a pepper with it.
//! * [`Authenticator`] has no rate limit. Unknown keys share scans, and one scan runs at a time,
//!   but scans run without a pause while unknown keys arrive.

#![forbid(unsafe_code)]

#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod any_store;
mod api_key;
mod attempt;
mod authenticator;
mod authenticator_builder;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod columns;
mod error;
mod find_by;
mod finds;
#[cfg(all(
    any(doc, doctest),
    feature = "axum",
    feature = "pepper",
    feature = "postgres",
    feature = "sqlite"
))]
pub mod guide;
#[cfg(feature = "http")]
mod http;
mod key_flaw;
mod key_form;
mod key_hasher;
mod key_prefix;
mod log_limit;
mod memory;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod migration;
mod new_key;
mod new_trust;
#[cfg(feature = "pepper")]
mod pepper;
#[cfg(feature = "postgres")]
mod postgres;
mod read_lease;
mod registry;
mod reject_floor;
mod revocation;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod row_warnings;
mod scans;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod sql_ledger;
#[cfg(feature = "sqlite")]
mod sqlite;
mod stats;
mod store;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod table_names;
mod text_flaw;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod time_limit;
mod trust;
mod trust_auth;
mod trust_key;
mod trust_ref;
mod watcher;

#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub use any_store::AnyStore;
pub use api_key::{ApiKey, RandomError};
pub use attempt::{Attempt, Route};
pub use authenticator::Authenticator;
pub use authenticator_builder::AuthenticatorBuilder;
pub use error::{AuthError, Cause, RegistryError, StoreError};
pub use find_by::FindBy;
#[cfg(feature = "http")]
pub use http::{AuthBody, AuthLayer, AuthService, KeyHeader, KeyId};
#[cfg(feature = "axum")]
pub use http::{Authenticated, NotAuthenticated};
pub use key_flaw::KeyFlaw;
pub use key_form::KeyForm;
pub use key_hasher::KeyHasher;
pub use key_prefix::{InvalidKeyPrefix, KeyPrefix};
pub use log_limit::LogLimit;
pub use memory::MemoryStore;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub use migration::MigrationPlan;
pub use new_key::{KeyTerms, NewKey, Rotation};
pub use new_trust::{InvalidName, NewTrust};
#[cfg(feature = "pepper")]
pub use pepper::{Pepper, PepperError};
#[cfg(feature = "postgres")]
pub use postgres::{PgChanges, PgFeed, PgSession, PostgresOptions, PostgresStore, WatchedTable};
pub use read_lease::{
    Answer, CacheLease, CacheLeaseBuilder, ChangeFeed, Difference, Ended, FeedSession, HeldTrusts,
    HolderStatus, Reload, Settled, Waiting,
};
pub use registry::TrustRegistry;
pub use revocation::{Awaited, Revocation};
#[cfg(feature = "sqlite")]
pub use sqlite::{SqliteFeed, SqliteOptions, SqliteSession, SqliteStore};
pub use stats::{Failures, Stats};
pub use store::{Candidates, Change, Listing, MalformedRow, TrustLedger, TrustStore};
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub use table_names::{InvalidTableName, TableNames, TrustColumn};
pub use text_flaw::TextFlaw;
pub use trust::Trust;
pub use trust_auth::{TrustAuth, TrustAuthBuilder};
pub use trust_key::TrustKey;
pub use trust_ref::TrustRef;
pub use watcher::{ChangeSink, WatchStatus, WatchStore, Watcher};

pub use trust_key_cache::{KeyHash, TrustKeyCache};

/// The README's examples, as doctests.
#[cfg(all(doctest, feature = "sqlite"))]
#[doc = include_str!("../README.md")]
struct Readme;
