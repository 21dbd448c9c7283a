//! Forces the order: a request misses a key and reads its principal; the key is revoked; the
//! request stores the principal.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use trust_key_cache::KeyHash;

use crate::database::{Database, Found, Principal};
use crate::held::HeldPrincipals;
use crate::{Done, Failure};

pub(crate) const ROUNDS: u32 = 200;

const TTL: Duration = Duration::from_secs(60);

/// A cache, and the code around it.
pub(crate) trait Way {
    /// Returns the principal from the cache, or else from `load`.
    async fn find(&self, hash: &KeyHash, load: impl Future<Output = Found>) -> Found;

    /// Returns when the revocation is final in this process.
    async fn revoke_key(&self, hash: &KeyHash, database: &Database) -> Done;
}

impl Way for HeldPrincipals {
    async fn find(&self, hash: &KeyHash, load: impl Future<Output = Found>) -> Found {
        self.find(hash, load).await
    }

    async fn revoke_key(&self, hash: &KeyHash, database: &Database) -> Done {
        self.settle(|| database.revoke_key(hash)).await
    }
}

/// The usual way: look up, read, insert; and invalidate the key after the commit.
pub(crate) struct Moka(moka::sync::Cache<KeyHash, Arc<Principal>>);

impl Moka {
    pub(crate) fn new() -> Self {
        Self(moka::sync::Cache::builder().max_capacity(16_384).time_to_live(TTL).build())
    }
}

impl Way for Moka {
    async fn find(&self, hash: &KeyHash, load: impl Future<Output = Found>) -> Found {
        if let Some(principal) = self.0.get(hash) {
            return Ok(Some(principal));
        }
        let principal = load.await?;
        if let Some(principal) = &principal {
            // The key may have been revoked since it was read.
            self.0.insert(*hash, principal.clone());
        }
        Ok(principal)
    }

    async fn revoke_key(&self, hash: &KeyHash, database: &Database) -> Done {
        database.revoke_key(hash).await?;
        self.0.invalidate(hash);
        Ok(())
    }
}

/// Revokes each key while a request reads it. Returns how many of the keys a later request was
/// accepted with.
pub(crate) async fn accepted<W: Way>(
    way: &W,
    database: &Database,
    keys: &[String],
) -> Result<u32, Failure> {
    let mut accepted = 0;
    for key in keys {
        let hash = KeyHash::of(key);
        let (has_read, read) = oneshot::channel();
        let (may_store, stores) = oneshot::channel::<()>();
        let request = way.find(&hash, async {
            let principal = database.principal_of(&hash).await;
            let _ = has_read.send(());
            let _ = stores.await;
            principal
        });
        let revoker = async {
            read.await?;
            way.revoke_key(&hash, database).await?;
            let _ = may_store.send(());
            Ok::<_, Failure>(())
        };
        let (first, revoked) = tokio::join!(request, revoker);
        revoked?;
        first?.ok_or("the key was in force when its principal was read")?;
        let second = way.find(&hash, database.principal_of(&hash)).await?;
        accepted += u32::from(second.is_some());
    }
    Ok(accepted)
}
