//! One scenario, in each form in which a value is stored: a request reads the row of a key, the key
//! is revoked, and another request arrives. The second request, and each later one, must be refused
//! (G1, G2). `examples/principals` runs the scenario over a database, and
//! `loom-tests/shared_loads.rs` explores its interleavings.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use trust_key_cache::{KeyCache, KeyHash};

type Cache = KeyCache<u64>;
type Invalidate = fn(&Cache, &KeyHash);

const USER: u64 = 7;

/// Each way to invalidate after a revocation, by its name.
const INVALIDATIONS: [(&str, Invalidate); 5] = [
    ("invalidate", |cache, _| cache.invalidate()),
    ("invalidate_key", |cache, hash| cache.invalidate_key(hash)),
    ("invalidate_where", |cache, _| assert_eq!(cache.invalidate_where(|_, user| *user == USER), 0)),
    ("invalidate_for", |cache, _| cache.invalidate_for(Duration::from_secs(60))),
    ("invalidate_key_for", |cache, hash| cache.invalidate_key_for(hash, Duration::from_secs(60))),
];

/// The row of a key, and a read of it.
struct Row(AtomicBool);

impl Row {
    fn valid() -> Self {
        Self(AtomicBool::new(true))
    }

    fn read(&self) -> Result<Option<u64>, Infallible> {
        // SeqCst, like a database.
        Ok(self.0.load(Ordering::SeqCst).then_some(USER))
    }

    fn revoke(&self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

/// Sends the requests after the revocation: one that leads a load, and lookups.
fn assert_refused(cache: &Cache, hash: &KeyHash, row: &Row, case: &str) {
    assert_eq!(cache.lookup(hash), None, "{case}: found");
    assert_eq!(cache.get_or_try_load(hash, || row.read()), Ok(None), "{case}: received");
    assert_eq!(cache.lookup(hash), None, "{case}: stored");
}

/// Shows that the scenario is the one that brings a key back where the insert asks for nothing.
#[test]
fn a_map_without_leases_brings_the_key_back() {
    let (map, hash, row) = (Mutex::new(HashMap::new()), KeyHash::of("key"), Row::valid());
    assert_eq!(map.lock().unwrap().get(&hash), None);
    let read = row.read().unwrap().expect("valid");
    row.revoke();
    map.lock().unwrap().clear();
    map.lock().unwrap().insert(hash, read);
    assert_eq!(map.lock().unwrap().get(&hash), Some(&USER));
}

#[test]
fn g1_a_key_revoked_while_read_under_a_lease_is_refused() {
    for (name, invalidate) in INVALIDATIONS {
        let (cache, hash, row) = (Arc::new(Cache::new()), KeyHash::of("key"), Row::valid());
        let (lease, owned) = (cache.lease(&hash), cache.lease_owned(&hash));
        let read = row.read().unwrap().expect("valid");
        row.revoke();
        invalidate(&cache, &hash);
        assert_refused(&cache, &hash, &row, name);
        assert!(!lease.remember(read), "{name}");
        assert!(!owned.remember(read), "{name}");
        assert_refused(&cache, &hash, &row, name);
    }
}

#[test]
fn g1_a_key_revoked_while_a_thread_reads_is_refused() {
    for (name, invalidate) in INVALIDATIONS {
        let (cache, hash, row) = (Cache::new(), KeyHash::of("key"), Row::valid());
        let (has_read, may_insert) = (Barrier::new(2), Barrier::new(2));
        thread::scope(|scope| {
            let first = scope.spawn(|| {
                cache.get_or_try_load(&hash, || {
                    let read = row.read();
                    has_read.wait();
                    may_insert.wait();
                    read
                })
            });
            has_read.wait();
            row.revoke();
            invalidate(&cache, &hash);
            // The first request still reads. A second request that waits for it shares its load.
            let (answer, answered) = mpsc::channel();
            let (cache, hash, row) = (&cache, &hash, &row);
            scope.spawn(move || answer.send(cache.get_or_try_load(hash, || row.read())));
            let second = answered.recv_timeout(Duration::from_secs(10));
            may_insert.wait();
            assert_eq!(second, Ok(Ok(None)), "{name}: shared the load");
            assert_eq!(first.join().unwrap(), Ok(Some(USER)), "the row was valid when it was read");
        });
        assert_refused(&cache, &hash, &row, name);
    }
}

#[test]
fn g1_a_key_revoked_while_a_task_reads_is_refused() {
    let mut context = Context::from_waker(Waker::noop());
    for (name, invalidate) in INVALIDATIONS {
        let (cache, hash, row) = (Cache::new(), KeyHash::of("key"), Row::valid());
        // Reads at the first poll, and answers at the second.
        let mut first = pin!(cache.get_or_try_load_async(&hash, || {
            let (row, mut read) = (&row, None);
            poll_fn(move |_| match read {
                None => {
                    read = Some(row.read());
                    Poll::Pending
                }
                Some(answer) => Poll::Ready(answer),
            })
        }));
        assert!(first.as_mut().poll(&mut context).is_pending());
        row.revoke();
        invalidate(&cache, &hash);
        let second = pin!(cache.get_or_try_load_async(&hash, || async { row.read() }));
        assert_eq!(second.poll(&mut context), Poll::Ready(Ok(None)), "{name}: shared the load");
        assert_eq!(first.poll(&mut context), Poll::Ready(Ok(Some(USER))), "{name}");
        assert_refused(&cache, &hash, &row, name);
    }
}
