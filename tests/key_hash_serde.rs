//! `KeyHash` in serde's formats, by the feature `serde`.

#![cfg(feature = "serde")]

use proptest::prelude::*;
use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::{BytesDeserializer, Error};
use trust_key_cache::KeyHash;

proptest! {
    #[test]
    fn key_hash_survives_a_format_for_humans_as_its_64_digits(bytes: [u8; 32]) {
        let hash = KeyHash::from_bytes(bytes);
        let json = serde_json::to_string(&hash).unwrap();
        prop_assert_eq!(&json, &format!("\"{}\"", hash.to_hex()));
        prop_assert_eq!(serde_json::from_str::<KeyHash>(&json).unwrap(), hash);
        let upper = json.to_uppercase();
        prop_assert_eq!(serde_json::from_str::<KeyHash>(&upper).unwrap(), hash);
    }

    #[test]
    fn key_hash_survives_a_binary_format_as_its_64_digits(bytes: [u8; 32]) {
        let hash = KeyHash::from_bytes(bytes);
        let mut cbor = Vec::new();
        ciborium::into_writer(&hash, &mut cbor).unwrap();
        // The first two bytes encode a text of 64 bytes.
        prop_assert_eq!(&cbor[2..], &hash.to_hex().into_bytes()[..]);
        prop_assert_eq!(ciborium::from_reader::<KeyHash, _>(&cbor[..]).unwrap(), hash);
    }
}

#[test]
fn key_hash_is_read_from_a_text_that_a_format_stores_as_bytes() {
    let hash = KeyHash::of("key");
    let digits = hash.to_hex();
    let read = |bytes| KeyHash::deserialize(BytesDeserializer::<Error>::new(bytes));
    assert_eq!(read(digits.as_bytes()), Ok(hash));
    assert!(read(&hash.to_bytes()).is_err(), "the bytes of the digest are not its text");
}

#[test]
fn g10_no_error_of_deserializing_a_key_hash_repeats_a_text_or_what_the_format_hands_over() {
    const PART: &str = "734512";
    let digits = KeyHash::of("key").to_hex();
    let inputs = [
        format!("\"{PART}\""),
        format!("\"{PART}{}\"", "z".repeat(58)),
        format!("\"{PART}{digits}\""),
        format!("[\"{PART}\"]"),
        format!("{{\"{PART}\": 1}}"),
        "true".to_owned(),
        "null".to_owned(),
    ];
    for input in inputs {
        let error = serde_json::from_str::<KeyHash>(&input).unwrap_err().to_string();
        assert!(!error.contains(PART) && !error.contains(&digits), "{error}");
        assert!(error.contains("64 hexadecimal digits"), "{error}");
    }
    let text = |error: Result<KeyHash, Error>| error.unwrap_err().to_string();
    for error in [
        text(KeyHash::deserialize(734_512_u64.into_deserializer())),
        text(KeyHash::deserialize((-734_512_i64).into_deserializer())),
        text(KeyHash::deserialize(734_512.5_f64.into_deserializer())),
        text(KeyHash::deserialize(734_512_u128.into_deserializer())),
        text(KeyHash::deserialize((-734_512_i128).into_deserializer())),
        text(KeyHash::deserialize(BytesDeserializer::new(b"\xff734512"))),
    ] {
        assert!(!error.contains(PART) && error.contains("64 hexadecimal digits"), "{error}");
    }
}
