//! Authenticates API keys against a database of trusts, through a cache in which a revocation is
//! final.
//!
//! A *trust* is a tenant with an API key, of which only the SHA-256 is stored. To find out whose
//! key a request carries without telling an attacker how nearly right a guess was, every row must
//! be compared in constant time: O(n) a request. [`trust_key_cache`] remembers whose key it was, so
//! that the next request costs **one read by primary key and one compare against the live row**.
//! The cache saves work; it never grants (G9): a revoked key is refused from the moment its
//! revocation returns.
//!
//! # Parts
//!
//! | | |
//! |---|---|
//! | [`Authenticator`] | what a server asks for each request |
//! | [`TrustRegistry`] | registers, rotates, disables, enables, deletes; each commits, then invalidates exactly the keys concerned |
//! | [`PostgresStore`], [`SqliteStore`], [`MemoryStore`] | where the trusts are; [`TrustStore`] and [`TrustLedger`] are the traits for another place |
//! | `AuthLayer`, `Authenticated` (features `http`, `axum`) | a layer for tower and an extractor for axum, so that a service mounts an authenticator in two lines; see `examples/` |
//! | [`TrustKeyCache`] | shared by authenticator and registry, so that a change is seen at once |
//! | [`Watcher`] | tells a cache of changes that other processes make, as they make them |
//! | `trust-auth serve`, a program | the authenticator for any stack: forward-auth over HTTP, beside nginx, Caddy, Traefik or Envoy |
//!
//! # Example
//!
//! ```
//! use std::sync::Arc;
//! use trust_auth::{AuthError, Authenticator, NewTrust, SqliteStore, TrustKeyCache, TrustRegistry};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let file = folder.path().join("trusts.db");
//! let store = Arc::new(SqliteStore::options(&file).create_if_missing(true).connect().await?);
//! let cache = Arc::new(TrustKeyCache::new());
//! let registry = TrustRegistry::new(Arc::clone(&store), Arc::clone(&cache));
//! let authenticator = Authenticator::new(store, cache);
//!
//! let (trust, key) = registry.register(NewTrust::new("St. Mary")?).await?;
//! let found = authenticator.authenticate(Some(key.expose())).await?;
//! assert_eq!(found.id, trust.id);
//!
//! let (_, new_key) = registry.rotate(&trust.id.into()).await?;
//! let refused = authenticator.authenticate(Some(key.expose())).await.unwrap_err();
//! assert_eq!((refused.status(), refused.detail()), (401, "Invalid API Key."));
//! assert!(authenticator.authenticate(Some(new_key.expose())).await.is_ok());
//! # Ok(()) }
//! ```
//!
//! # What is promised
//!
//! * A key is granted only if a row that was read **during the request** is enabled and has its
//!   digest (G9).
//! * If the store fails or times out, the request is refused as [`AuthError::Unavailable`], and
//!   nothing is remembered (G9).
//! * Keys and digests are in no log, no error, no `Debug` and no JSON (G10). [`ApiKey`] wipes
//!   itself when it is dropped.
//! * Nothing panics on input; every error says what to do (G10).
//!
//! # What is not
//!
//! * The cache of *another* process is told of a change by a [`Watcher`] alone, a moment later. It
//!   refuses a revoked key at once all the same, because it reads the live row; on a read replica
//!   "at once" is as late as the replica is.
//! * How long an answer takes tells whether a key was cached, and how many trusts there are, unless
//!   [`reject_floor`](AuthenticatorBuilder::reject_floor) hides it. It does not tell how nearly
//!   right a key was.
//! * [`Authenticator`] has no rate limit. Unknown keys share scans, of which one runs at a time;
//!   but one runs all the time if they keep coming.

// docs.rs shows which feature an item needs.
#![cfg_attr(docsrs, feature(doc_cfg))]
#![forbid(unsafe_code)]

mod api_key;
mod attempt;
mod authenticator;
mod authenticator_builder;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod columns;
mod error;
#[cfg(feature = "http")]
mod http;
mod log_limit;
mod memory;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod migration;
mod new_trust;
#[cfg(feature = "postgres")]
mod postgres;
mod registry;
mod reject_floor;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod row_warnings;
mod scans;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod sql_ledger;
#[cfg(feature = "sqlite")]
mod sqlite;
mod stats;
mod store;
mod text_flaw;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod time_limit;
mod trust;
mod trust_ref;
mod watcher;

pub use api_key::{ApiKey, RandomError};
pub use attempt::{Attempt, Route};
pub use authenticator::Authenticator;
pub use authenticator_builder::AuthenticatorBuilder;
pub use error::{AuthError, Cause, RegistryError, StoreError};
#[cfg(feature = "http")]
pub use http::{AuthLayer, AuthService, KeyHeader};
#[cfg(feature = "axum")]
pub use http::{Authenticated, NotAuthenticated};
pub use log_limit::LogLimit;
pub use memory::MemoryStore;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub use migration::MigrationPlan;
pub use new_trust::{InvalidName, NewTrust};
#[cfg(feature = "postgres")]
pub use postgres::{PostgresOptions, PostgresStore};
pub use registry::TrustRegistry;
#[cfg(feature = "sqlite")]
pub use sqlite::{SqliteOptions, SqliteStore};
pub use stats::{Failures, Stats};
pub use store::{Candidates, Change, Listing, MalformedRow, TrustLedger, TrustStore};
pub use text_flaw::TextFlaw;
pub use trust::Trust;
pub use trust_ref::TrustRef;
pub use watcher::{ChangeSink, WatchStatus, WatchStore, Watcher};

pub use trust_key_cache::{KeyHash, TrustKeyCache};

/// The README's examples, as doctests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
