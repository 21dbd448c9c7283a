//! Which item to start at, for each task of a service that uses this crate.
//!
//! `operating.md` explains the same things for the program `trust-auth`. Both work on the same
//! tables, so a service may use the library, and an operator the program.
//!
//! * **Make the tables**: [`create_if_missing`](crate::SqliteOptions::create_if_missing), also of
//!   [PostgreSQL](crate::PostgresOptions::create_if_missing). `plan_migration` of the options shows
//!   the SQL of a migration, and `run_migration` runs it.
//! * **Use the application's own pool**: [`SqliteStore::over`](crate::SqliteStore::over),
//!   [`PostgresStore::over`](crate::PostgresStore::over).
//! * **Use a table of the application's own**: [`TableNames`](crate::TableNames) names it, its
//!   columns and the table of further keys, in
//!   [`SqliteOptions::names`](crate::SqliteOptions::names) or
//!   [`PostgresOptions::names`](crate::PostgresOptions::names). A table of another shape, such as
//!   one whose ids are integers, needs a [`TrustStore`](crate::TrustStore): see `examples/users`
//!   and `examples/other-stack`.
//! * **Mount a layer**: [`AuthLayer`](crate::AuthLayer), with public, optional and required routes.
//!   A handler takes [`Authenticated`](crate::Authenticated), the trust of its request, and
//!   [`KeyId`](crate::KeyId), which key that had.
//! * **Refuse in the application's form**: [`refuse_with`](crate::AuthLayer::refuse_with) of the
//!   layer, and [`RegistryError::status`](crate::RegistryError::status) for an API of changes.
//! * **Give a trust scopes**: [`NewTrust::with_attributes`](crate::NewTrust::with_attributes). The
//!   handler reads [`Trust::attributes`](crate::Trust::attributes), and
//!   [`set_attributes`](crate::TrustRegistry::set_attributes) changes them.
//! * **Give a key a label or an end**: [`KeyTerms`](crate::KeyTerms), with
//!   [`register_with`](crate::TrustRegistry::register_with) or
//!   [`add_key`](crate::TrustRegistry::add_key).
//! * **Revoke one of several keys**: [`revoke_key`](crate::TrustRegistry::revoke_key), with an id
//!   of [`keys`](crate::TrustRegistry::keys). Only a key in a row of its own has an id.
//! * **Rotate without an outage**: [`begin_rotate_with`](crate::TrustRegistry::begin_rotate_with)
//!   with an overlap, then [`Revocation::settle`](crate::Revocation::settle).
//! * **Use a pepper**: [`KeyHasher`](crate::KeyHasher) with [`Pepper::read`](crate::Pepper::read),
//!   from the first key on.
//! * **Find keys by an index**: a pepper first, then `make_index` of the options,
//!   [`AnyStore::check_index`](crate::AnyStore::check_index) and
//!   [`FindBy::Index`](crate::FindBy::Index).
//! * **Grant without a read**: [`AnyStore::hold`](crate::AnyStore::hold), as in
//!   `examples/axum_read_lease.rs`. [`CacheLease`](crate::CacheLease) is for the application's own
//!   tables.
//!
//! # A pepper and an index
//!
//! ```no_run
//! use trust_auth::{AnyStore, FindBy, KeyHasher, Pepper, PostgresStore, TrustAuth};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let options = PostgresStore::options("postgres://app@db.example/app").create_if_missing(true);
//! let store = options.clone().connect().await?;
//! options.make_index().await?; // Once, as the owner of the tables.
//! let store = AnyStore::from(store);
//! store.check_index().await?;
//!
//! let auth = TrustAuth::builder(store)
//!     .watch()
//!     .key_hasher(KeyHasher::peppered(Pepper::read("/run/secrets/pepper")?))
//!     .authenticator(|limits| limits.find_by(FindBy::Index))
//!     .build();
//! # Ok(()) }
//! ```
