//! Which keys are asked for, in which order, and for how long: the same for every subject.

#![allow(dead_code, reason = "each benchmark takes what it needs")]

use std::cell::LazyCell;
use std::path::PathBuf;
use std::time::Duration;

use criterion::Criterion;
use fastrand::Rng;
use trust_key_cache::KeyHash;

use crate::peers::Peer;

/// Longer than any benchmark runs, so that hits stay hits.
pub(crate) const LASTING: Duration = Duration::from_secs(24 * 60 * 60);

/// As many lookups at least before the order repeats itself, so that no branch predictor learns it
/// by heart.
const PROBES: usize = 1 << 16;

/// With `--test` everything runs once, to show that it does.
pub(crate) fn is_test() -> bool {
    std::env::args().any(|argument| argument == "--test")
}

/// The numbers of keys to measure at: of those asked for, only the small ones when nothing is
/// measured.
pub(crate) fn sizes(all: &[usize]) -> impl Iterator<Item = usize> {
    let largest = if is_test() { 1_000 } else { usize::MAX };
    all.iter().copied().filter(move |&size| size <= largest)
}

/// Long enough for medians that repeat, and overridden by criterion's own options.
pub(crate) fn settings() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(30)
}

/// The keys of trusts 0 to `count`.
pub(crate) fn keys<K: From<KeyHash>>(count: usize) -> Vec<K> {
    (0..count as u64).map(|number| K::from(KeyHash::of(number.to_le_bytes()))).collect()
}

/// As many keys that no trust has.
pub(crate) fn strangers<K: From<KeyHash>>(count: usize) -> Vec<K> {
    (0..count as u64).map(|number| K::from(KeyHash::of((!number).to_le_bytes()))).collect()
}

/// Keys in random order, for ever. They lie in the order in which they are asked for: a request
/// brings its key along, so fetching it is no part of a lookup.
pub(crate) struct Probes<K> {
    order: Vec<K>,
    at: usize,
}

impl<K: Copy> Probes<K> {
    /// All keys, then all of them in another order, until there are enough.
    pub(crate) fn new(keys: &[K]) -> Self {
        let mut random = Rng::with_seed(0x5eed);
        let mut deck = keys.to_vec();
        let mut order = Vec::with_capacity(PROBES + keys.len());
        while order.len() < PROBES {
            random.shuffle(&mut deck);
            order.extend_from_slice(&deck);
        }
        Self { order, at: 0 }
    }

    /// The same order from this share of it on, for another thread.
    pub(crate) fn starting_at(&self, share: f64) -> Self {
        let at = (self.order.len() as f64 * share) as usize % self.order.len();
        Self { order: self.order.clone(), at }
    }

    #[inline]
    pub(crate) fn next(&mut self) -> &K {
        let key = &self.order[self.at];
        self.at += 1;
        if self.at == self.order.len() {
            self.at = 0;
        }
        key
    }
}

/// A peer that holds all keys, and the order in which to ask for them; made when the first
/// benchmark that needs it runs, so that a filter leaves out the filling too.
pub(crate) type Filled<'a, P> = LazyCell<
    (P, Probes<<P as Peer>::Key>),
    Box<dyn FnOnce() -> (P, Probes<<P as Peer>::Key>) + 'a>,
>;

pub(crate) fn filled<'a, P: Peer + 'a>(count: usize) -> Filled<'a, P> {
    LazyCell::new(Box::new(move || {
        let keys = keys::<P::Key>(count);
        let peer = P::filled(&keys, LASTING);
        let found = keys.iter().filter(|key| peer.get(key).is_some()).count();
        // What a cache may lose to full buckets, and no more: a miss is another measurement.
        assert!(found * 1_000 >= count * 999, "{} holds {found} of {count} keys", P::NAME);
        (peer, Probes::new(&keys))
    }))
}

/// Writes what criterion does not measure to `<name>.json` beside what it does; nothing when
/// nothing is measured.
pub(crate) fn save(name: &str, figures: &serde_json::Value) {
    if is_test() {
        return;
    }
    let folder = folder();
    std::fs::create_dir_all(&folder).expect("criterion's folder can be made");
    let file = folder.join(name).with_extension("json");
    std::fs::write(&file, format!("{figures:#}\n"))
        .unwrap_or_else(|error| panic!("{} cannot be written: {error}", file.display()));
}

/// Where criterion writes, found as criterion finds it.
fn folder() -> PathBuf {
    let variable = |name| std::env::var_os(name).map(PathBuf::from);
    variable("CRITERION_HOME")
        .or_else(|| variable("CARGO_TARGET_DIR").map(|target| target.join("criterion")))
        .unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/criterion"))
}
