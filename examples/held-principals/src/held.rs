//! The cache of principals under a read lease: all that it takes next to the service's own SQL.
//!
//! This is the file to copy.

use std::sync::Arc;
use std::time::Duration;

use trust_auth::{CacheLease, PgChanges, PgFeed, PostgresStore, Settled};
use trust_key_cache::{KeyCache, KeyHash};

use crate::database::{Barrier, Found, Principal};
use crate::{Done, Failure};

pub(crate) struct HeldPrincipals {
    cache: Arc<KeyCache<Arc<Principal>>>,
    lease: CacheLease<PgFeed, Arc<Principal>>,
}

/// The tables that decide what a key grants. A deployment runs the migration of these changes.
pub(crate) fn changes(url: &str) -> PgChanges {
    PgChanges::new(PostgresStore::options(url))
        .table("api_keys", |table| table.key("key_hash").ignore(["last_used_at"]))
        .table("users", |table| table.value("id"))
        .table("memberships", |table| table.value("user_id"))
        .table("organizations", |table| table.everything())
}

impl HeldPrincipals {
    pub(crate) async fn start(url: &str) -> Result<Self, Failure> {
        let (cache, feed) = (Arc::new(KeyCache::new()), changes(url).connect().await?);
        let lease = CacheLease::builder(feed, Arc::clone(&cache))
            .length(Duration::from_secs(5))
            .values(|_, value, held: &Arc<Principal>| held.user_id.to_string() == value)
            .start();
        Ok(Self { lease: lease.await?, cache })
    }

    /// Returns the principal that the cache holds, or else that of `load`. This future reads the
    /// primary, and begins to read when it is polled.
    pub(crate) async fn find(&self, hash: &KeyHash, load: impl Future<Output = Found>) -> Found {
        if let Some(principal) = self.lease.lookup(hash) {
            return Ok(Some(principal));
        }
        // Before the read. A principal that is revoked meanwhile is not remembered.
        let lease = self.cache.lease(hash);
        let Some(principal) = load.await? else { return Ok(None) };
        lease.remember(Arc::clone(&principal));
        Ok(Some(principal))
    }

    /// Calls `change`, which commits, and returns when no process grants what that has revoked.
    /// Calls `change` again if a failover may have lost it.
    pub(crate) async fn settle<F: Future<Output = Barrier>>(&self, change: impl Fn() -> F) -> Done {
        while self.lease.settle(&change().await?).await? == Settled::Repeat {}
        Ok(())
    }
}
