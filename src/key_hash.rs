//! [`KeyHash`]: the SHA-256 digest of an API key. The digest replaces the key once the header was
//! read.
//!
//! No compare of digests stops early, and no format string writes a whole digest.

use core::array::TryFromSliceError;
use core::fmt;
use core::hash::{Hash, Hasher};
use core::str::FromStr;

use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

/// Holds the SHA-256 digest of an API key: the key of the cache. A trust's row stores the digest
/// instead of the API key.
///
/// Any other uniform digest of 32 bytes may be used, such as an HMAC or BLAKE3: make the `KeyHash`
/// by [`from_bytes`](Self::from_bytes). The cache relies on uniform digests. Never make a `KeyHash`
/// from the bytes of a raw key. argon2 and bcrypt do not fit: each row has its own salt, so the
/// digest cannot be computed before the row is found. Keys must be random, because SHA-256 without
/// a salt does not protect passwords.
///
/// Equality is constant-time ([`ConstantTimeEq`] over four 64-bit words): the duration of a compare
/// does not depend on where two digests first differ. `Debug` writes the first four bytes only, so
/// that no log contains a whole digest. There is no `Display`, for the same reason.
/// [`to_hex`](Self::to_hex) returns all 64 digits, for the database.
///
/// # Serde
///
/// With the feature `serde`, a `KeyHash` is serialized as the text that `to_hex` returns, and
/// deserialized as [`FromStr`] parses. Binary formats get the same text, of 64 bytes instead of 32.
/// serde buffers the fields of flattened and tagged types, and a buffer always claims to be
/// human-readable. A binary form could not be read back from such a buffer. No error that `KeyHash`
/// returns repeats the input. An error of the format itself may repeat the input: `toml` prints the
/// line, and `serde_json` prints a number in place of the text. Do not log such an error.
///
/// # Examples
///
/// ```
/// use trust_key_cache::KeyHash;
///
/// let hash = KeyHash::of("abc");
/// let column = hash.to_hex();
/// assert_eq!(column, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
/// assert_eq!(column.parse::<KeyHash>(), Ok(hash));
/// assert_eq!(format!("{hash:?}"), "KeyHash(ba7816bf…)");
/// ```
#[derive(Clone, Copy)]
pub struct KeyHash {
    /// The digest as little-endian words, the units of a compare.
    words: [u64; 4],
}

impl KeyHash {
    /// Hashes an API key by SHA-256.
    ///
    /// The bytes are hashed unchanged: nothing is trimmed, and no case is folded. The empty key has
    /// a hash like any other. Never fails; O(length of `api_key`).
    ///
    /// ```
    /// # use trust_key_cache::KeyHash;
    /// assert_eq!(KeyHash::of("k"), KeyHash::of(b"k"));
    /// assert_ne!(KeyHash::of("k"), KeyHash::of(" k"));
    /// ```
    #[must_use]
    pub fn of(api_key: impl AsRef<[u8]>) -> Self {
        Self::from_bytes(Sha256::digest(api_key.as_ref()).into())
    }

    /// Wraps a digest that was computed elsewhere: the 32 bytes that SHA-256 returns.
    ///
    /// The bytes must be a digest, never a raw key: see [`KeyHash`].
    ///
    /// ```
    /// # use trust_key_cache::KeyHash;
    /// const ZERO: KeyHash = KeyHash::from_bytes([0; 32]);
    /// assert_eq!(ZERO.to_bytes(), [0; 32]);
    /// ```
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        let mut words = [0; 4];
        let mut word = 0;
        while word < 4 {
            let mut byte = 0;
            while byte < 8 {
                words[word] |= (bytes[word * 8 + byte] as u64) << (byte * 8);
                byte += 1;
            }
            word += 1;
        }
        Self { words }
    }

    /// Returns the digest's 32 bytes, in SHA-256's order.
    ///
    /// ```
    /// # use trust_key_cache::KeyHash;
    /// assert_eq!(KeyHash::of("abc").to_bytes()[..4], [0xba, 0x78, 0x16, 0xbf]);
    /// ```
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        let mut at = 0;
        while at < 32 {
            bytes[at] = (self.words[at / 8] >> (at % 8 * 8)) as u8;
            at += 1;
        }
        bytes
    }

    /// Returns the digest as 64 hexadecimal digits in lower case, as a database column stores it.
    ///
    /// The digits identify the key: keep them out of logs. Allocates the text. [`FromStr`] parses
    /// the text.
    ///
    /// ```
    /// # use trust_key_cache::KeyHash;
    /// assert!(KeyHash::of("abc").to_hex().starts_with("ba7816bf"));
    /// ```
    ///
    /// `KeyHash` has no `Display`, so no format string writes a whole digest:
    ///
    /// ```compile_fail,E0277
    /// # use trust_key_cache::KeyHash;
    /// println!("{}", KeyHash::of("abc"));
    /// ```
    #[must_use]
    pub fn to_hex(self) -> String {
        let mut hex = String::with_capacity(64);
        let digits = self.to_bytes().into_iter().flat_map(|byte| [byte >> 4, byte & 15]);
        hex.extend(digits.map(|digit| char::from(hex_digit(digit))));
        hex
    }

    /// Returns the first eight bytes of the digest as a little-endian word, for placement.
    #[inline]
    pub(crate) const fn first_word(&self) -> u64 {
        self.words[0]
    }
}

impl KeyHash {
    /// Returns a word with a bit set wherever two words at the same place differ.
    #[inline]
    fn difference(&self, other: &Self) -> u64 {
        (self.words[0] ^ other.words[0])
            | (self.words[1] ^ other.words[1])
            | (self.words[2] ^ other.words[2])
            | (self.words[3] ^ other.words[3])
    }

    /// Returns 1 if the two differ and 0 if they are equal, by arithmetic alone.
    #[inline]
    pub(crate) fn differs_from(&self, other: &Self) -> u8 {
        #[cfg(test)]
        tests::COMPARED.set(tests::COMPARED.get() + 1);
        let difference = self.difference(other);
        // The sign bit of a number or of its negative is set, unless the number is zero.
        ((difference | difference.wrapping_neg()) >> 63) as u8
    }
}

impl ConstantTimeEq for KeyHash {
    /// Compares four words, and joins the four results before the answer depends on any of them.
    #[inline]
    fn ct_eq(&self, other: &Self) -> Choice {
        // One `Choice` for the four words: subtle puts an optimisation barrier behind each
        // `Choice`, and one barrier is enough.
        Choice::from(1 - self.differs_from(other))
    }
}

impl PartialEq for KeyHash {
    /// Compares in constant time, by [`ConstantTimeEq`].
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        self.ct_eq(other).into()
    }
}

impl Eq for KeyHash {}

impl Hash for KeyHash {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.words.hash(state);
    }
}

impl fmt::Debug for KeyHash {
    /// Writes the first four bytes and an ellipsis. Four bytes distinguish digests in a log, and do
    /// not suffice to find a row by its digest.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, ..] = self.to_bytes();
        write!(f, "KeyHash({a:02x}{b:02x}{c:02x}{d:02x}…)")
    }
}

impl From<[u8; 32]> for KeyHash {
    /// Wraps a digest, as [`from_bytes`](Self::from_bytes) does. Never pass the bytes of a raw key.
    fn from(digest: [u8; 32]) -> Self {
        Self::from_bytes(digest)
    }
}

impl TryFrom<&[u8]> for KeyHash {
    type Error = TryFromSliceError;

    /// Wraps a digest, such as a binary column of a database.
    ///
    /// The bytes must be a digest, never a raw key. A key of 32 bytes is accepted here, and is then
    /// stored and compared unhashed. [`KeyHash::of`] hashes a key.
    ///
    /// # Errors
    ///
    /// If `digest` does not have 32 bytes. The error does not contain the bytes.
    ///
    /// ```
    /// # use trust_key_cache::KeyHash;
    /// let column: &[u8] = &KeyHash::of("abc").to_bytes();
    /// assert_eq!(KeyHash::try_from(column)?, KeyHash::of("abc"));
    /// assert!(KeyHash::try_from(&column[1..]).is_err());
    /// # Ok::<(), std::array::TryFromSliceError>(())
    /// ```
    fn try_from(digest: &[u8]) -> Result<Self, Self::Error> {
        <[u8; 32]>::try_from(digest).map(Self::from_bytes)
    }
}

impl FromStr for KeyHash {
    type Err = ParseKeyHashError;

    /// Parses 64 hexadecimal digits, in either case, with nothing around them.
    ///
    /// # Errors
    ///
    /// [`ParseKeyHashError::Length`] if the text does not have 64 bytes.
    /// [`ParseKeyHashError::Digit`] for the first byte that is not a hexadecimal digit.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.as_bytes();
        if text.len() != 64 {
            return Err(ParseKeyHashError::Length { found: text.len() });
        }
        let mut bytes = [0; 32];
        for (at, &digit) in text.iter().enumerate() {
            let value = match digit {
                b'0'..=b'9' => digit - b'0',
                b'a'..=b'f' => digit - b'a' + 10,
                b'A'..=b'F' => digit - b'A' + 10,
                _ => return Err(ParseKeyHashError::Digit { position: at }),
            };
            bytes[at / 2] = bytes[at / 2] << 4 | value;
        }
        Ok(Self::from_bytes(bytes))
    }
}

const fn hex_digit(value: u8) -> u8 {
    if value < 10 { b'0' + value } else { b'a' + value - 10 }
}

/// Reports why a text is not a [`KeyHash`].
///
/// The error names the place and never repeats the text: a text that failed to parse may be a key.
///
/// ```
/// use trust_key_cache::{KeyHash, ParseKeyHashError};
///
/// let short = "ba7816bf".parse::<KeyHash>();
/// assert_eq!(short, Err(ParseKeyHashError::Length { found: 8 }));
/// assert_eq!(
///     short.unwrap_err().to_string(),
///     "a key hash has 64 hexadecimal digits, but this text has 8 bytes"
/// );
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ParseKeyHashError {
    /// The text is not 64 bytes long.
    Length {
        /// The length of the text, in bytes.
        found: usize,
    },
    /// A byte is not one of `0-9`, `a-f`, `A-F`.
    Digit {
        /// The place of the first such byte, counted in bytes from zero.
        position: usize,
    },
}

impl fmt::Display for ParseKeyHashError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length { found } => {
                write!(f, "a key hash has 64 hexadecimal digits, but this text has {found} bytes")
            }
            Self::Digit { position } => {
                write!(f, "a key hash has 64 hexadecimal digits, but byte {position} is not one")
            }
        }
    }
}

impl core::error::Error for ParseKeyHashError {}

#[cfg(feature = "serde")]
mod serde_impls {
    use core::fmt;

    use serde::de::{Error, Unexpected, Visitor};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::KeyHash;

    impl Serialize for KeyHash {
        /// Serializes the 64 hexadecimal digits in lower case, in every format.
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.serialize_str(&self.to_hex())
        }
    }

    impl<'de> Deserialize<'de> for KeyHash {
        /// Deserializes 64 hexadecimal digits, in either case, in every format.
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            deserializer.deserialize_str(Digits)
        }
    }

    struct Digits;

    /// The default methods for numbers would repeat the number in their errors.
    impl Visitor<'_> for Digits {
        type Value = KeyHash;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("64 hexadecimal digits")
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<KeyHash, E> {
            text.parse().map_err(E::custom)
        }

        /// Some formats store a text as bytes.
        fn visit_bytes<E: Error>(self, text: &[u8]) -> Result<KeyHash, E> {
            let text = str::from_utf8(text).map_err(|_| {
                E::invalid_value(Unexpected::Other("bytes that are no text"), &self)
            })?;
            self.visit_str(text)
        }

        fn visit_i64<E: Error>(self, _: i64) -> Result<KeyHash, E> {
            self.refuse_number()
        }

        fn visit_i128<E: Error>(self, _: i128) -> Result<KeyHash, E> {
            self.refuse_number()
        }

        fn visit_u64<E: Error>(self, _: u64) -> Result<KeyHash, E> {
            self.refuse_number()
        }

        fn visit_u128<E: Error>(self, _: u128) -> Result<KeyHash, E> {
            self.refuse_number()
        }

        fn visit_f64<E: Error>(self, _: f64) -> Result<KeyHash, E> {
            self.refuse_number()
        }
    }

    impl Digits {
        fn refuse_number<E: Error>(self) -> Result<KeyHash, E> {
            Err(E::invalid_type(Unexpected::Other("a number"), &self))
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::cell::Cell;

    std::thread_local! {
        /// The number of pairs of digests that this thread has compared.
        pub(crate) static COMPARED: Cell<usize> = const { Cell::new(0) };
    }
}
