//! [`TrustAuth`]: store, cache, authenticator, registry and watcher as one value, so that no two of
//! them are given different caches.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use trust_key_cache::TrustKeyCache;

#[cfg(any(feature = "postgres", feature = "sqlite"))]
use crate::any_store::AnyStore;
use crate::authenticator::Authenticator;
use crate::authenticator_builder::AuthenticatorBuilder;
use crate::error::AuthError;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
use crate::error::StoreError;
use crate::key_hasher::KeyHasher;
use crate::key_prefix::KeyPrefix;
use crate::registry::TrustRegistry;
use crate::store::TrustStore;
use crate::trust::Trust;
use crate::watcher::{WatchStore, Watcher};

/// A store of trusts with its cache, and with the parts that share this cache: the authenticator,
/// the registry and the watcher. A clone shares all of them.
///
/// A change through the [`registry`](Self::registry) is seen by the
/// [`authenticator`](Self::authenticator) at once, because both have one cache. The
/// [`watcher`](Self::watcher) removes what other processes change. It stops when the last clone is
/// dropped.
///
/// # Which of these watch
///
/// `TrustAuth::connect` and [`TrustAuth::new`] watch the store. [`TrustAuth::builder`] does so only
/// with [`watch`](TrustAuthBuilder::watch): `TrustAuth::builder(store).watch().build()`. Without a
/// watcher a revoked key is refused all the same, because its live row is read. The cache keeps the
/// entry until it expires, and each request with the key costs a read and a scan.
///
/// # Examples
///
/// Over a database, with the feature `sqlite` or `postgres`:
///
#[cfg_attr(feature = "sqlite", doc = "```")]
#[cfg_attr(not(feature = "sqlite"), doc = "```ignore")]
/// use trust_auth::{NewTrust, TrustAuth};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let url = format!("sqlite:{}?mode=rwc", folder.path().join("trusts.db").display());
/// let auth = TrustAuth::connect(&url).await?; // such as "sqlite:trusts.db?mode=rwc"
/// let (trust, key) = auth.registry().register(NewTrust::new("St. Mary")?).await?;
/// assert_eq!(auth.authenticate(Some(key.expose())).await?.id, trust.id);
/// # auth.store().close().await;
/// # Ok(()) }
/// ```
///
/// Over another store, with other limits than the usual ones:
///
/// ```
/// use std::time::Duration;
/// use trust_auth::{MemoryStore, TrustAuth, TrustKeyCache};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let cache = TrustKeyCache::builder().ttl(Duration::from_secs(30)).build()?;
/// let auth = TrustAuth::builder(MemoryStore::new())
///     .cache(cache)
///     .authenticator(|limits| limits.deadline(Duration::from_secs(2)))
///     .build();
/// assert!(auth.authenticate(Some("no trust has this")).await.is_err());
/// # Ok(()) }
/// ```
pub struct TrustAuth<S> {
    store: Arc<S>,
    cache: Arc<TrustKeyCache>,
    authenticator: Authenticator<S>,
    registry: TrustRegistry<S>,
    watcher: Option<Arc<Watcher>>,
}

#[cfg(any(feature = "postgres", feature = "sqlite"))]
impl TrustAuth<AnyStore> {
    /// Connects to the database with this URL, and watches it. [`AnyStore::connect`] lists the
    /// URLs.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`] of [`AnyStore::connect`].
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime with time and IO enabled.
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        Ok(Self::new(AnyStore::connect(url).await?))
    }
}

impl<S: WatchStore> TrustAuth<S> {
    /// Returns the parts over this store, with the usual limits, and watches the store.
    ///
    /// For a store that cannot be watched, use [`builder`](Self::builder).
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime, as [`WatchStore::watch`].
    #[must_use]
    pub fn new(store: S) -> Self {
        Self::builder(store).watch().build()
    }
}

impl<S: TrustStore> TrustAuth<S> {
    /// Returns a builder over this store, which chooses the cache and the limits. It watches the
    /// store only with [`watch`](TrustAuthBuilder::watch); [`new`](Self::new) always does.
    pub fn builder(store: S) -> TrustAuthBuilder<S> {
        let limits = AuthenticatorBuilder::new(Arc::new(store), Arc::default());
        TrustAuthBuilder { limits, watch: None }
    }

    /// Returns the trust whose key this is, as [`Authenticator::authenticate`].
    ///
    /// # Errors
    ///
    /// The [`AuthError`] of [`Authenticator::authenticate`].
    pub async fn authenticate(&self, api_key: Option<&str>) -> Result<Trust, AuthError> {
        self.authenticator.authenticate(api_key).await
    }
}

impl<S> TrustAuth<S> {
    /// Returns the store.
    #[must_use]
    pub fn store(&self) -> &Arc<S> {
        &self.store
    }

    /// Returns the cache that all parts share.
    #[must_use]
    pub fn cache(&self) -> &Arc<TrustKeyCache> {
        &self.cache
    }

    /// Returns the authenticator, which answers requests.
    #[must_use]
    pub fn authenticator(&self) -> &Authenticator<S> {
        &self.authenticator
    }

    /// Returns the registry, which changes trusts. Its methods need a
    /// [`TrustLedger`](crate::TrustLedger).
    #[must_use]
    pub fn registry(&self) -> &TrustRegistry<S> {
        &self.registry
    }

    /// Returns the watcher, if the store is watched: see [which of these
    /// watch](Self#which-of-these-watch).
    #[must_use]
    pub fn watcher(&self) -> Option<&Watcher> {
        self.watcher.as_deref()
    }
}

impl<S> Clone for TrustAuth<S> {
    fn clone(&self) -> Self {
        Self {
            store: Arc::clone(&self.store),
            cache: Arc::clone(&self.cache),
            authenticator: self.authenticator.clone(),
            registry: self.registry.clone(),
            watcher: self.watcher.clone(),
        }
    }
}

impl<S> fmt::Debug for TrustAuth<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrustAuth")
            .field("authenticator", &self.authenticator)
            .field("watcher", &self.watcher)
            .finish_non_exhaustive()
    }
}

/// Chooses the cache and the limits of a [`TrustAuth`]; see [`TrustAuth::builder`].
#[must_use = "a builder does nothing until `build`"]
pub struct TrustAuthBuilder<S> {
    limits: AuthenticatorBuilder<S>,
    watch: Option<Box<StartWatcher<S>>>,
}

/// Starts the watcher of a store.
type StartWatcher<S> = dyn FnOnce(&S, Arc<TrustKeyCache>) -> Watcher + Send + Sync;

impl<S: TrustStore> TrustAuthBuilder<S> {
    /// Sets the cache, with a TTL and a capacity of its own. Default: [`TrustKeyCache::new`].
    pub fn cache(mut self, cache: impl Into<Arc<TrustKeyCache>>) -> Self {
        self.limits.cache = cache.into();
        self
    }

    /// Sets the prefix of new keys, which is that of the keys whose checksum is checked. Default:
    /// `tak_`. [`KeyPrefix`] describes the form of a key.
    ///
    /// ```
    /// # use trust_auth::{MemoryStore, NewTrust, TrustAuth};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let auth = TrustAuth::builder(MemoryStore::new()).key_prefix("acme_".parse()?).build();
    /// let (_, key) = auth.registry().register(NewTrust::new("St. Mary")?).await?;
    /// assert!(key.expose().starts_with("acme_"));
    /// # Ok(()) }
    /// ```
    pub fn key_prefix(mut self, prefix: KeyPrefix) -> Self {
        self.limits = self.limits.key_prefix(prefix);
        self
    }

    /// Sets how keys are turned into digests, for the authenticator and the registry. Default:
    /// SHA-256. [`KeyHasher`] has an example.
    pub fn key_hasher(mut self, hasher: KeyHasher) -> Self {
        self.limits = self.limits.key_hasher(hasher);
        self
    }

    /// Sets limits of the authenticator: its waiting limit, reject floor and deadline.
    pub fn authenticator(
        mut self,
        set: impl FnOnce(AuthenticatorBuilder<S>) -> AuthenticatorBuilder<S>,
    ) -> Self {
        self.limits = set(self.limits);
        self
    }

    /// Watches the store: changes by other processes are removed from the cache. Default: no watch.
    /// Each store that other processes change needs it.
    pub fn watch(mut self) -> Self
    where
        S: WatchStore,
    {
        self.watch = Some(Box::new(S::watch));
        self
    }

    /// Watches the store as [`watch`](Self::watch) does, and tests the connection for changes at
    /// this interval. On PostgreSQL that is every 5 s without it, and 120 s suit a process with a
    /// [read lease](AuthenticatorBuilder::read_lease), whose cache is a fallback. Other stores
    /// ignore the interval.
    ///
    /// ```no_run
    /// use std::time::Duration;
    /// use trust_auth::TrustAuth;
    ///
    /// # fn watched(store: impl trust_auth::WatchStore) {
    /// let auth = TrustAuth::builder(store).watch_every(Duration::from_secs(120)).build();
    /// # }
    /// ```
    pub fn watch_every(mut self, interval: Duration) -> Self
    where
        S: WatchStore,
    {
        self.watch = Some(Box::new(move |store, cache| store.watch_every(interval, cache)));
        self
    }

    /// Returns the parts, and starts the watcher if there is one.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime, if the store is [watched](Self::watch).
    #[must_use]
    pub fn build(self) -> TrustAuth<S> {
        let (store, cache) = (Arc::clone(&self.limits.store), Arc::clone(&self.limits.cache));
        // Before the first request: a watcher that connects invalidates every key.
        let watcher = self.watch.map(|watch| Arc::new(watch(&store, Arc::clone(&cache))));
        let registry = TrustRegistry::new(Arc::clone(&store), Arc::clone(&cache))
            .with_key_prefix(self.limits.key_prefix.clone())
            .with_key_hasher(self.limits.key_hasher.clone());
        TrustAuth { registry, authenticator: self.limits.build(), store, cache, watcher }
    }
}

impl<S> fmt::Debug for TrustAuthBuilder<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrustAuthBuilder")
            .field("limits", &self.limits)
            .field("watch", &self.watch.is_some())
            .finish()
    }
}
