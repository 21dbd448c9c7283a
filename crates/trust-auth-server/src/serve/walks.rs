//! [`Walks`]: the database as the authenticator sees it, with each read of all rows timed and counted while it is under way.
//!
//! The authenticator promises never to run two at once. This is where somebody can see that it does
//! not.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use metrics::Histogram;
use trust_auth::{Candidates, StoreError, Trust, TrustStore};
use uuid::Uuid;

use super::scan_record::ScanRecord;
use crate::store::Store;

/// A store, and the walks over it.
pub(crate) struct Walks {
    store: Arc<Store>,
    record: Arc<ScanRecord>,
    seconds: Histogram,
    under_way: AtomicU64,
    most: AtomicU64,
}

impl Walks {
    /// Over this store, with the duration of each recorded there, and its end here.
    pub(crate) fn over(store: Arc<Store>, record: Arc<ScanRecord>, seconds: Histogram) -> Self {
        Self { store, record, seconds, under_way: AtomicU64::new(0), most: AtomicU64::new(0) }
    }

    /// How many are under way now.
    pub(crate) fn under_way(&self) -> u64 {
        // Relaxed, here and below: each number is read for itself, and orders nothing.
        self.under_way.load(Ordering::Relaxed)
    }

    /// Whether the last one failed in a way that the next one will meet again.
    pub(crate) fn cannot_end(&self) -> bool {
        self.record.cannot_end()
    }

    /// How many have ever been under way at a time.
    pub(crate) fn most(&self) -> u64 {
        self.most.load(Ordering::Relaxed)
    }
}

impl TrustStore for Walks {
    async fn fetch(&self, id: Uuid) -> Result<Option<Trust>, StoreError> {
        self.store.fetch(id).await
    }

    async fn candidates(&self) -> Result<Candidates, StoreError> {
        let under_way = UnderWay::begin(self);
        let outcome = self.store.candidates().await;
        self.record.ended(under_way.begun.elapsed(), &outcome);
        outcome
    }
}

/// One walk. Ends when it is dropped, be it by an error or because it was cancelled.
struct UnderWay<'a> {
    walks: &'a Walks,
    begun: Instant,
}

impl<'a> UnderWay<'a> {
    fn begin(walks: &'a Walks) -> Self {
        // Relaxed: counts for whoever looks, which order nothing.
        let now = walks.under_way.fetch_add(1, Ordering::Relaxed) + 1;
        walks.most.fetch_max(now, Ordering::Relaxed);
        Self { walks, begun: Instant::now() }
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        // Relaxed: see `begin`.
        self.walks.under_way.fetch_sub(1, Ordering::Relaxed);
        self.walks.seconds.record(self.begun.elapsed().as_secs_f64());
    }
}
