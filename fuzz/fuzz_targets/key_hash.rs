//! G10: compares the parser of key hashes with the `hex` crate.

#![no_main]

use libfuzzer_sys::fuzz_target;
use trust_key_cache::{KeyHash, ParseKeyHashError};

fuzz_target!(|data: &[u8]| {
    // Any 32 bytes are a hash. Writing and parsing its text returns the same hash.
    if let Ok(bytes) = <[u8; 32]>::try_from(data) {
        let hash = KeyHash::from_bytes(bytes);
        assert_eq!(hash.to_hex(), hex::encode(bytes));
        assert_eq!(hash.to_hex().parse(), Ok(hash));
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut expected = [0; 32];
    match (text.parse::<KeyHash>(), hex::decode_to_slice(text, &mut expected)) {
        (Ok(hash), Ok(())) => assert_eq!(hash.to_bytes(), expected),
        (Err(ParseKeyHashError::Length { found }), Err(_)) => {
            assert_eq!(found, text.len());
            assert_ne!(found, 64);
        }
        (Err(ParseKeyHashError::Digit { position }), Err(_)) => {
            assert_eq!(text.len(), 64);
            assert!(!text.as_bytes()[position].is_ascii_hexdigit());
            assert!(text.as_bytes()[..position].iter().all(u8::is_ascii_hexdigit));
        }
        (ours, reference) => panic!("parsed differently: {ours:?}, {reference:?}"),
    }
});
