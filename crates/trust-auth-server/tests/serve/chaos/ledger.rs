//! [`Ledger`]: which requests were granted, and when each revocation returned.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Instant;

/// The grants and the revocations of one run. Each key is revoked once, and never enabled again.
#[derive(Default)]
pub(crate) struct Ledger {
    books: Mutex<Books>,
}

#[derive(Default)]
struct Books {
    keys: Vec<Key>,
    granted: u64,
    refused: u64,
    failed: u64,
}

/// A key as clients know it.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    pub(crate) text: String,
    /// When the first revocation of this key returned.
    revoked: Option<Instant>,
    /// When the last request began that was granted, by the service's number.
    granted: HashMap<usize, Instant>,
    /// What was going on when the key was revoked.
    during: String,
}

impl Ledger {
    /// Adds a key, and returns its number.
    pub(crate) fn add(&self, text: &str) -> usize {
        let mut books = self.books.lock().unwrap();
        books.keys.push(Key {
            text: text.to_owned(),
            revoked: None,
            granted: HashMap::new(),
            during: String::new(),
        });
        books.keys.len() - 1
    }

    /// Returns the text of a key of the last `window` ones, chosen by `random`.
    pub(crate) fn some_key(&self, random: usize, window: usize) -> Option<(usize, String)> {
        let books = self.books.lock().unwrap();
        let first = books.keys.len().saturating_sub(window);
        let number = first + random % (books.keys.len() - first).max(1);
        Some((number, books.keys.get(number)?.text.clone()))
    }

    /// Returns the text of a key.
    pub(crate) fn text(&self, key: usize) -> String {
        self.books.lock().unwrap().keys[key].text.clone()
    }

    /// Records an answer to a request that began at this time.
    pub(crate) fn answered(&self, key: usize, service: usize, begun: Instant, status: u16) {
        let mut books = self.books.lock().unwrap();
        match status {
            200 => {
                books.granted += 1;
                let last = books.keys[key].granted.entry(service).or_insert(begun);
                *last = (*last).max(begun);
            }
            401 => books.refused += 1,
            _ => books.failed += 1,
        }
    }

    /// Returns whether this service has granted the key.
    pub(crate) fn was_granted(&self, key: usize, service: usize) -> bool {
        self.books.lock().unwrap().keys[key].granted.contains_key(&service)
    }

    /// Records that a revocation of the key has returned now.
    pub(crate) fn revoked(&self, key: usize, during: &str) {
        let now = Instant::now();
        let mut books = self.books.lock().unwrap();
        let key = &mut books.keys[key];
        key.revoked.get_or_insert(now);
        key.during = during.to_owned();
    }

    /// Returns which grants, of those recorded so far, were to requests that began after a
    /// revocation had returned.
    pub(crate) fn false_grants(&self) -> Vec<String> {
        let books = self.books.lock().unwrap();
        let mut found = Vec::new();
        for key in &books.keys {
            let Some(revoked) = key.revoked else { continue };
            for (&service, &begun) in key.granted.iter().filter(|(_, begun)| **begun > revoked) {
                found.push(format!(
                    "service {service} granted a request that began {:?} after a revocation had \
                     returned, during {}",
                    begun - revoked,
                    key.during
                ));
            }
        }
        found
    }

    /// Returns the numbers of revoked keys, grants, refusals and answers that were neither.
    pub(crate) fn counts(&self) -> [u64; 4] {
        let books = self.books.lock().unwrap();
        let revoked = books.keys.iter().filter(|key| key.revoked.is_some()).count();
        [revoked as u64, books.granted, books.refused, books.failed]
    }
}

#[test]
fn the_ledger_finds_a_grant_to_a_request_that_began_after_the_return() {
    let ledger = Ledger::default();
    let (one, other) = (ledger.add("one"), ledger.add("other"));
    let before = Instant::now();
    ledger.answered(one, 0, before, 200);
    ledger.revoked(one, "calm");
    // The answer came after the return, and the request began before it.
    ledger.answered(one, 1, before, 200);
    assert!(ledger.false_grants().is_empty());
    let after = Instant::now() + std::time::Duration::from_millis(1);
    ledger.answered(one, 2, after, 401);
    ledger.answered(other, 2, after, 200);
    assert!(ledger.false_grants().is_empty());
    ledger.answered(one, 2, after, 200);
    let found = ledger.false_grants();
    assert!(found.len() == 1 && found[0].starts_with("service 2 granted"), "{found:?}");
    assert!(found[0].ends_with("during calm"), "{found:?}");
    assert_eq!(ledger.counts(), [1, 4, 1, 0]);
}
