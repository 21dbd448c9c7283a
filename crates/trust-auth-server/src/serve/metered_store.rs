//! [`MeteredStore`]: the database as the authenticator reads it, with each scan counted and timed.
//!
//! The authenticator promises never to run two scans at once. The metrics of this store show that
//! it keeps the promise.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use metrics::Histogram;
use trust_auth::{Candidates, KeyHash, StoreError, Trust, TrustStore};
use uuid::Uuid;

use super::scan_record::ScanRecord;
use crate::store::Store;

/// A store and the metrics of its scans.
pub(crate) struct MeteredStore {
    store: Arc<Store>,
    record: Arc<ScanRecord>,
    seconds: Histogram,
    under_way: AtomicU64,
    most: AtomicU64,
}

impl MeteredStore {
    /// Returns a store that records the outcome of each scan in `record`, and its duration in
    /// `seconds`.
    pub(crate) fn new(store: Arc<Store>, record: Arc<ScanRecord>, seconds: Histogram) -> Self {
        Self { store, record, seconds, under_way: AtomicU64::new(0), most: AtomicU64::new(0) }
    }

    /// Returns the number of scans under way.
    pub(crate) fn scans_under_way(&self) -> u64 {
        // Relaxed, here and below: each number is independent, and orders nothing.
        self.under_way.load(Ordering::Relaxed)
    }

    /// Returns the largest number of scans that were under way at once.
    pub(crate) fn most_scans_under_way(&self) -> u64 {
        self.most.load(Ordering::Relaxed)
    }

    /// Returns whether the last scan failed in a way that the next one will repeat.
    pub(crate) fn scans_are_failing(&self) -> bool {
        self.record.is_failing()
    }
}

impl TrustStore for MeteredStore {
    async fn find(&self, hash: &KeyHash) -> Result<Option<Uuid>, StoreError> {
        self.store.find(hash).await
    }

    async fn fetch(&self, id: Uuid) -> Result<Option<Trust>, StoreError> {
        self.store.fetch(id).await
    }

    async fn fetch_for(&self, id: Uuid, hash: &KeyHash) -> Result<Option<Trust>, StoreError> {
        self.store.fetch_for(id, hash).await
    }

    async fn candidates(&self) -> Result<Candidates, StoreError> {
        let scan = MeteredScan::begin(self);
        let outcome = self.store.candidates().await;
        self.record.record_scan(scan.begun.elapsed(), &outcome);
        outcome
    }
}

/// One scan. It ends when the value is dropped, also by an error or a cancellation.
struct MeteredScan<'a> {
    store: &'a MeteredStore,
    begun: Instant,
}

impl<'a> MeteredScan<'a> {
    fn begin(store: &'a MeteredStore) -> Self {
        // Relaxed: counts for the metrics, which order nothing.
        let now = store.under_way.fetch_add(1, Ordering::Relaxed) + 1;
        store.most.fetch_max(now, Ordering::Relaxed);
        Self { store, begun: Instant::now() }
    }
}

impl Drop for MeteredScan<'_> {
    fn drop(&mut self) {
        // Relaxed: as in `begin`.
        self.store.under_way.fetch_sub(1, Ordering::Relaxed);
        self.store.seconds.record(self.begun.elapsed().as_secs_f64());
    }
}
