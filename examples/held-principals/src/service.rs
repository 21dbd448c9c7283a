//! The service: a request brings an API key, and receives the principal of the key.

use std::sync::Arc;
use std::time::Instant;

use trust_key_cache::KeyHash;

use crate::database::{Database, Found, Principal};
use crate::held::HeldPrincipals;
use crate::{Done, Failure, HELD_WITHIN};

/// The service of one process.
pub(crate) struct Service {
    pub(crate) database: Database,
    pub(crate) principals: HeldPrincipals,
}

/// A way to end a grant.
#[derive(Clone, Copy)]
pub(crate) enum Revocation {
    RevokeKey,
    DisableUser,
    RemoveMember,
}

impl Service {
    pub(crate) async fn start(url: &str) -> Result<Self, Failure> {
        let database = Database::connect(url).await?;
        Ok(Self { database, principals: HeldPrincipals::start(url).await? })
    }

    /// Returns the principal of a key, and writes `last_used_at`.
    ///
    /// The write is no part of the decision. A service may leave it to a task.
    pub(crate) async fn request(&self, key: &str) -> Found {
        let hash = KeyHash::of(key);
        let read = self.database.principal_of(&hash);
        let principal = self.principals.find(&hash, read).await?;
        if principal.is_some() {
            self.database.key_was_used(&hash).await?;
        }
        Ok(principal)
    }

    /// Ends a grant. No process grants the key when this has returned.
    pub(crate) async fn revoke(
        &self,
        revocation: Revocation,
        key: &str,
        principal: &Principal,
    ) -> Done {
        let hash = KeyHash::of(key);
        let change = || async {
            match revocation {
                Revocation::RevokeKey => self.database.revoke_key(&hash).await,
                Revocation::DisableUser => self.database.disable_user(principal.user_id).await,
                Revocation::RemoveMember => self.database.remove_member(principal.user_id).await,
            }
        };
        self.principals.settle(change).await
    }

    /// Adds keys. When this returns, each process has applied the change: its late arrival drops no
    /// principal, and spoils no count.
    pub(crate) async fn add_keys(&self, keys: &[String]) -> Done {
        self.principals.settle(|| self.database.add_keys(keys)).await
    }

    /// Requests a key until this process holds its principal.
    pub(crate) async fn hold(&self, key: &str) -> Result<Arc<Principal>, Failure> {
        let begun = Instant::now();
        while begun.elapsed() < HELD_WITHIN {
            let reads = self.database.reads();
            let principal = self.request(key).await?.ok_or("a key in force was refused")?;
            if self.database.reads() == reads {
                return Ok(principal);
            }
        }
        Err("this process holds no principal".into())
    }
}
