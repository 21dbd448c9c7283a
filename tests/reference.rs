//! Checks each promise of the reference system's module on the cache that replaces it.

use std::sync::LazyLock;
use std::time::Duration;

use trust_key_cache::{KeyCache, KeyHash, ManualClock, Sweep, TrustKeyCache, sweep};
use uuid::Uuid;

fn hash(key: &str) -> KeyHash {
    KeyHash::of(key)
}

fn id(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

fn manual() -> (KeyCache<Uuid, ManualClock>, ManualClock) {
    let clock = ManualClock::new();
    (KeyCache::builder().clock(clock.clone()).build().unwrap(), clock)
}

#[test]
fn the_time_to_live_is_sixty_seconds() {
    assert_eq!(TrustKeyCache::new().ttl(), Duration::from_secs(60));
    assert_eq!(TrustKeyCache::DEFAULT_TTL, Duration::from_secs(60));
    assert_eq!(TrustKeyCache::default().capacity(), TrustKeyCache::DEFAULT_CAPACITY);
}

#[test]
fn lookup_returns_the_remembered_id_or_none_if_absent() {
    let cache = TrustKeyCache::new();
    assert_eq!(cache.lookup(&hash("a")), None);
    assert!(cache.lease(&hash("a")).remember(id(1)));
    assert_eq!(cache.lookup(&hash("a")), Some(id(1)));
    assert_eq!(cache.lookup(&hash("b")), None);
    assert_eq!((cache.len(), cache.is_empty()), (1, false));
}

#[test]
fn lookup_finds_no_key_but_the_very_one() {
    // Of ten thousand unknown keys, several hundred have the tag of one of these sixteen keys.
    let cache = TrustKeyCache::builder().capacity(16).build().unwrap();
    for number in 0..16 {
        assert!(cache.lease(&hash(&number.to_string())).remember(id(number)));
    }
    assert!((0..16).all(|number| cache.lookup(&hash(&number.to_string())) == Some(id(number))));
    assert!((16..10_016).all(|number| cache.lookup(&hash(&number.to_string())).is_none()));
}

#[test]
fn lookup_returns_none_once_now_has_reached_the_expiry() {
    let (cache, clock) = manual();
    assert!(cache.lease(&hash("a")).remember(id(1)));
    clock.advance(Duration::from_secs(60) - Duration::from_nanos(1));
    assert_eq!(cache.lookup(&hash("a")), Some(id(1)));
    clock.advance(Duration::from_nanos(1));
    assert_eq!(cache.lookup(&hash("a")), None);
    assert!(cache.is_empty());
}

#[test]
fn remember_overwrites_and_starts_the_time_to_live_again() {
    let (cache, clock) = manual();
    assert!(cache.lease(&hash("a")).remember(id(1)));
    clock.advance(Duration::from_secs(50));
    assert!(cache.lease(&hash("a")).remember(id(2)));
    clock.advance(Duration::from_secs(50));
    assert_eq!(cache.lookup(&hash("a")), Some(id(2)));
    clock.advance(Duration::from_secs(10));
    assert_eq!(cache.lookup(&hash("a")), None);
}

#[test]
fn invalidate_drops_every_entry_and_the_cache_goes_on() {
    let (cache, _) = manual();
    for number in 0..100 {
        assert!(cache.lease(&hash(&number.to_string())).remember(id(number)));
    }
    cache.invalidate();
    assert!(cache.is_empty());
    assert!((0..100).all(|number| cache.lookup(&hash(&number.to_string())).is_none()));
    assert!(cache.lease(&hash("5")).remember(id(5)));
    assert_eq!(cache.lookup(&hash("5")), Some(id(5)));
}

/// The reference's module is one cache for the process. A `static` has the same effect.
#[test]
fn a_cache_in_a_static_is_one_for_the_process() {
    static CACHE: LazyLock<TrustKeyCache> = LazyLock::new(TrustKeyCache::new);

    let (a, b) = (hash("static a"), hash("static b"));
    assert_eq!(CACHE.lookup(&a), None);
    let superseded = CACHE.lease(&a);
    assert!(CACHE.lease(&a).remember(id(1)));
    assert!(std::thread::spawn(move || CACHE.lease(&b).remember(id(2))).join().unwrap());
    assert_eq!((CACHE.lookup(&a), CACHE.lookup(&b)), (Some(id(1)), Some(id(2))));
    CACHE.invalidate_key(&a);
    assert!(!superseded.remember(id(1)));
    assert_eq!((CACHE.lookup(&a), CACHE.lookup(&b)), (None, Some(id(2))));
    CACHE.invalidate();
    assert_eq!(CACHE.lookup(&b), None);
}

#[test]
fn a_key_is_hashed_as_the_bytes_it_is_and_nothing_is_trimmed() {
    assert_eq!(
        hash("abc").to_hex(),
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    );
    assert_eq!(
        hash("").to_hex(),
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    );
    assert_eq!(hash("schlüssel"), KeyHash::of("schlüssel".as_bytes()));
    assert_ne!(hash("abc"), hash("abc "));
    assert_ne!(hash("abc"), hash("ABC"));
}

/// G8: the sweep visits every row, independent of the match, and returns the last match.
#[test]
fn g8_the_sweep_visits_every_row_and_the_last_match_wins() {
    let rows: Vec<_> = (0..50).map(|number| hash(&number.to_string())).collect();
    let with_twins = [&rows[..], &rows[..]].concat();
    for (wanted, expected) in [("0", Some(0)), ("49", Some(49)), ("17", Some(17)), ("50", None)] {
        let mut visited = 0;
        assert_eq!(sweep(&hash(wanted), rows.iter().inspect(|_| visited += 1)), expected);
        assert_eq!(visited, rows.len());
        assert_eq!(sweep(&hash(wanted), &with_twins), expected.map(|index| index + rows.len()));
        // The rows may be values or references.
        assert_eq!(sweep(&hash(wanted), rows.clone()), expected);
    }
    assert_eq!(sweep(&hash("0"), std::iter::empty::<KeyHash>()), None);
}

/// G8: `Sweep` returns for each of many candidates what a single `sweep` returns, both in and
/// beyond the groups of four.
#[test]
fn g8_a_sweep_for_many_candidates_answers_each_as_its_own_sweep() {
    let all_at_once = |candidates: &[KeyHash], rows: &[KeyHash]| {
        let mut sweep = Sweep::new(candidates);
        sweep.extend(rows);
        sweep.finish()
    };
    for count in [0, 1, 2, 3, 4, 6, 257] {
        let mut rows: Vec<_> = (0..count).map(|number| hash(&number.to_string())).collect();
        // Two rows have one digest. The sweep must return the later row.
        rows.extend(rows.first().copied());
        let wanted: Vec<_> = (0..=count).rev().map(|number| hash(&number.to_string())).collect();
        let alone: Vec<_> = wanted.iter().map(|candidate| sweep(candidate, &rows)).collect();
        assert_eq!(all_at_once(&wanted, &rows), alone);
        assert_eq!(alone[0], None);
        assert_eq!(alone[count], (count > 0).then_some(count));
        let twice = [wanted[wanted.len() - 1]; 2];
        assert_eq!(all_at_once(&twice, &rows), [alone[alone.len() - 1]; 2]);
    }
    assert!(all_at_once(&[], &[hash("0")]).is_empty());
}
