//! G10: bad input of any kind gives a typed error that names the fault. No output contains a key or
//! a whole digest.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use proptest::prelude::*;
use trust_key_cache::{
    BuildError, Clock, KeyCache, KeyHash, ManualClock, ParseKeyHashError, TrustKeyCache,
};

fn build(ttl: Duration, capacity: usize) -> Result<TrustKeyCache, BuildError> {
    TrustKeyCache::builder().ttl(ttl).capacity(capacity).build()
}

#[test]
fn g10_a_time_to_live_of_zero_or_of_ages_is_refused() {
    assert_eq!(build(Duration::ZERO, 1).unwrap_err(), BuildError::ZeroTtl);
    assert_eq!(BuildError::MAX_TTL, Duration::from_secs(31_536_000));
    assert!(build(BuildError::MAX_TTL, 1).is_ok());
    for ttl in [BuildError::MAX_TTL + Duration::from_nanos(1), Duration::MAX] {
        assert_eq!(build(ttl, 1).unwrap_err(), BuildError::TtlTooLong { ttl });
    }
}

#[test]
fn g10_a_time_to_live_that_the_clock_cannot_count_is_refused() {
    struct Coarse;
    impl Clock for Coarse {
        fn now(&self) -> Duration {
            Duration::ZERO
        }
        fn resolution(&self) -> Duration {
            Duration::from_millis(4)
        }
    }
    let build = |ttl| KeyCache::<u32>::builder().ttl(ttl).clock(Coarse).build().map(drop);
    let resolution = Duration::from_millis(4);
    assert_eq!(
        build(resolution),
        Err(BuildError::TtlBelowResolution { ttl: resolution, resolution })
    );
    assert_eq!(build(resolution + Duration::from_nanos(1)), Ok(()));
}

#[test]
fn g10_a_capacity_of_zero_or_beyond_reason_is_refused() {
    let ttl = Duration::from_secs(1);
    assert_eq!(build(ttl, 0).unwrap_err(), BuildError::ZeroCapacity);
    for capacity in [BuildError::MAX_CAPACITY + 1, usize::MAX] {
        assert_eq!(build(ttl, capacity).unwrap_err(), BuildError::CapacityTooLarge { capacity });
    }
    assert!(build(ttl, 1).is_ok());
}

#[test]
fn g10_build_errors_say_what_to_do() {
    let errors = [
        build(Duration::ZERO, 1).unwrap_err(),
        build(Duration::MAX, 1).unwrap_err(),
        build(Duration::from_secs(1), 0).unwrap_err(),
        build(Duration::from_secs(1), usize::MAX).unwrap_err(),
        KeyCache::<u32>::builder().ttl(Duration::from_nanos(1)).build().unwrap_err(),
        BuildError::OutOfMemory { capacity: 5 },
    ];
    assert!(errors.iter().all(|error| error.to_string().contains("; choose a")), "{errors:?}");
}

#[test]
fn g10_malformed_hashes_tell_where_and_never_what() {
    let good = KeyHash::of("k").to_hex();
    for (text, error) in [
        (String::new(), ParseKeyHashError::Length { found: 0 }),
        (good[1..].to_owned(), ParseKeyHashError::Length { found: 63 }),
        (format!("{good}0"), ParseKeyHashError::Length { found: 65 }),
        (format!("{good}\n"), ParseKeyHashError::Length { found: 65 }),
        (format!("0x{}", &good[2..]), ParseKeyHashError::Digit { position: 1 }),
        (format!("{}g", &good[1..]), ParseKeyHashError::Digit { position: 63 }),
        ("é".repeat(32), ParseKeyHashError::Digit { position: 0 }),
        ("secret-key-that-a-person-pasted-here".into(), ParseKeyHashError::Length { found: 36 }),
    ] {
        let found = text.parse::<KeyHash>().unwrap_err();
        assert_eq!(found, error);
        assert!(text.is_empty() || !found.to_string().contains(&text));
    }
    let said = |error: ParseKeyHashError| error.to_string();
    assert!(said(ParseKeyHashError::Length { found: 63 }).contains("63"));
    assert!(said(ParseKeyHashError::Digit { position: 17 }).contains("17"));
}

#[test]
fn g10_a_key_hash_is_made_of_32_bytes_and_of_no_other_number() {
    let bytes: Vec<u8> = (0..64).collect();
    for length in 0..=64 {
        let made = KeyHash::try_from(&bytes[..length]).map(KeyHash::to_bytes).ok();
        assert_eq!(made.as_ref().map(|made| &made[..]), (length == 32).then(|| &bytes[..32]));
    }
    assert_eq!(KeyHash::from([7; 32]), KeyHash::from_bytes([7; 32]));
}

#[test]
fn hashes_that_differ_are_hashed_differently() {
    let state = RandomState::new();
    let hashed: HashSet<u64> =
        (0..100_u8).map(|number| state.hash_one(KeyHash::of([number]))).collect();
    assert_eq!(hashed.len(), 100);
}

#[test]
fn g10_debug_output_carries_no_whole_digest() {
    let hash = KeyHash::of("key");
    let cache = KeyCache::<u32, _>::builder().clock(ManualClock::new()).build().unwrap();
    assert!(cache.lease(&hash).remember(1));
    let digest = hash.to_hex();
    let lease = format!("{:?}", cache.lease(&hash));
    assert!(lease.starts_with(&format!("Lease {{ hash: {hash:?}, stamp: ")), "{lease}");
    for shown in [format!("{hash:?}"), format!("{:?}", cache.lease(&hash)), format!("{cache:?}")] {
        assert!(!shown.contains(&digest[8..16]), "{shown}");
    }
    assert_eq!(format!("{hash:?}"), format!("KeyHash({}…)", &digest[..8]));
    assert_eq!(
        format!("{cache:?}"),
        "KeyCache { ttl: 60s, capacity: 16384, loads_under_way: 0, .. }"
    );
    assert_eq!(
        format!("{:?}", KeyCache::<u32>::builder()),
        "Builder { ttl: 60s, capacity: 16384, .. }"
    );
}

proptest! {
    #[test]
    fn a_hash_survives_bytes_and_text_in_either_case(bytes: [u8; 32]) {
        let hash = KeyHash::from_bytes(bytes);
        prop_assert_eq!(hash.to_bytes(), bytes);
        let text = hash.to_hex();
        prop_assert_eq!(text.len(), 64);
        prop_assert_eq!(text.parse(), Ok(hash));
        prop_assert_eq!(text.to_uppercase().parse(), Ok(hash));
        prop_assert_eq!(text.to_lowercase(), text);
    }

    #[test]
    fn g8_hashes_are_equal_just_when_their_bytes_are(
        bytes: [u8; 32],
        byte in 0..32_usize,
        flip in 1..=255_u8,
    ) {
        let mut other = bytes;
        other[byte] ^= flip;
        prop_assert!(KeyHash::from_bytes(bytes) != KeyHash::from_bytes(other));
        prop_assert!(KeyHash::from_bytes(bytes) == KeyHash::from_bytes(bytes));
    }

    /// The same difference in two words must not cancel out.
    #[test]
    fn g8_hashes_that_differ_alike_in_two_words_are_not_equal(
        bytes: [u8; 32],
        places in (0..4_usize, 1..4_usize),
        byte in 0..8_usize,
        flip in 1..=255_u8,
    ) {
        let mut other = bytes;
        let (word, another) = (places.0, (places.0 + places.1) % 4);
        other[8 * word + byte] ^= flip;
        other[8 * another + byte] ^= flip;
        prop_assert!(KeyHash::from_bytes(bytes) != KeyHash::from_bytes(other));
    }

    #[test]
    fn g10_any_text_parses_or_is_refused_without_a_panic(text in "\\PC*") {
        let hexadecimal = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        prop_assert_eq!(text.parse::<KeyHash>().is_ok(), hexadecimal);
    }
}
