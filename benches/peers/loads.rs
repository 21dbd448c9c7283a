//! Calls that return a value or load it, and share one load between the callers that miss a key.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::ours::Id;
use super::{Digest, Entry, Moka, OursInlined, Peer, QuickCache, now};
use trust_key_cache::KeyHash;

/// The error of a load, in a form that callers can share. No load of a benchmark fails.
type Failure = Arc<io::Error>;

/// A cache whose callers wait for a load on their threads.
pub(crate) trait Load: Peer {
    /// The name of the call in the report.
    const CALL: &'static str;

    fn get_or_load(&self, key: &Self::Key, load: impl FnOnce() -> Uuid) -> Option<Uuid>;
}

/// A cache whose callers wait for a load in their tasks.
pub(crate) trait LoadAsync: Peer {
    /// The name of the call in the report.
    const CALL: &'static str;

    fn get_or_load_async(
        &self,
        key: &Self::Key,
        load: impl Future<Output = Uuid>,
    ) -> impl Future<Output = Option<Uuid>>;
}

impl<const USE: u8> Load for OursInlined<USE> {
    const CALL: &'static str = "trust-key-cache";

    #[inline(always)]
    fn get_or_load(&self, key: &KeyHash, load: impl FnOnce() -> Uuid) -> Option<Uuid> {
        let answer = self.0.get_or_try_load(key, || Ok::<_, Failure>(Some(Id(load()))));
        answer.ok().flatten().map(|id| id.0)
    }
}

impl<const USE: u8> LoadAsync for OursInlined<USE> {
    const CALL: &'static str = "trust-key-cache";

    #[inline(always)]
    async fn get_or_load_async(
        &self,
        key: &KeyHash,
        load: impl Future<Output = Uuid>,
    ) -> Option<Uuid> {
        let load = || async { Ok::<_, Failure>(Some(Id(load.await))) };
        self.0.get_or_try_load_async(key, load).await.ok().flatten().map(|id| id.0)
    }
}

/// The expiry is compared as in a lookup. A program would load again where this returns nothing.
impl Load for QuickCache {
    const CALL: &'static str = "quick_cache, get_or_insert_with";

    #[inline(always)]
    fn get_or_load(&self, key: &Digest, load: impl FnOnce() -> Uuid) -> Option<Uuid> {
        let now = now();
        let load = || Ok::<_, Failure>(Entry::new(load(), self.ttl));
        self.cache.get_or_insert_with(key, load).ok()?.id_at(now)
    }
}

impl LoadAsync for QuickCache {
    const CALL: &'static str = "quick_cache, get_or_insert_async";

    #[inline(always)]
    async fn get_or_load_async(
        &self,
        key: &Digest,
        load: impl Future<Output = Uuid>,
    ) -> Option<Uuid> {
        let now = now();
        let load = async { Ok::<_, Failure>(Entry::new(load.await, self.ttl)) };
        self.cache.get_or_insert_async(key, load).await.ok()?.id_at(now)
    }
}

/// By reference, which does not allocate a key for a hit.
impl Load for Moka {
    const CALL: &'static str = "moka, get_with";

    #[inline(always)]
    fn get_or_load(&self, key: &Digest, load: impl FnOnce() -> Uuid) -> Option<Uuid> {
        Some(self.0.get_with_by_ref(key, load))
    }
}

/// [`Moka`] with the call whose load may fail.
pub(crate) struct MokaTry(Moka);

impl Peer for MokaTry {
    const NAME: &'static str = Moka::NAME;
    type Key = Digest;

    fn filled(keys: &[Digest], ttl: Duration) -> Self {
        Self(Moka::filled(keys, ttl))
    }

    #[inline(always)]
    fn get_inlined(&self, key: &Digest) -> Option<Uuid> {
        self.0.get_inlined(key)
    }
}

impl Load for MokaTry {
    const CALL: &'static str = "moka, try_get_with";

    #[inline(always)]
    fn get_or_load(&self, key: &Digest, load: impl FnOnce() -> Uuid) -> Option<Uuid> {
        self.0.0.try_get_with_by_ref(key, || Ok::<_, Failure>(load())).ok()
    }
}
