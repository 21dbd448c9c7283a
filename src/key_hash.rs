//! [`KeyHash`]: the SHA-256 digest of an API key, which stands for the key everywhere after the header was read.
//!
//! A digest is never compared in a way that stops early, and never shown whole by `Debug`.

use core::fmt;
use core::hash::{Hash, Hasher};
use core::str::FromStr;

use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

/// SHA-256 digest of an API key: the cache's key, and what a trust's row stores instead of the key.
///
/// Equality is constant-time ([`ConstantTimeEq`] over four 64-bit words): its duration does not
/// tell where two digests first differ. `Debug` shows the first four bytes only, so that a log
/// never carries a whole digest. There is no `Display`, for the same reason:
/// [`to_hex`](Self::to_hex) returns all 64 digits, for the database.
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
    /// The digest's bytes as little-endian words, which is how they are compared.
    words: [u64; 4],
}

impl KeyHash {
    /// Hashes an API key. The bytes are taken as they are: nothing is trimmed, no case is folded,
    /// and the empty key has a hash like any other.
    ///
    /// Costs one SHA-256 over `api_key`; never fails.
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

    /// Takes a digest that was computed elsewhere, as the 32 bytes that SHA-256 yields.
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

    /// The digest's 32 bytes, in SHA-256's order.
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
    /// The digits identify the key: keep them out of logs. Allocates the text. [`FromStr`] reads it
    /// back.
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

    /// The digest as four little-endian words, for placement and for comparing.
    pub(crate) const fn words(&self) -> [u64; 4] {
        self.words
    }
}

impl KeyHash {
    /// The bits in which a word of one differs from that of the other, of all four words together.
    #[inline]
    fn difference(&self, other: &Self) -> u64 {
        (self.words[0] ^ other.words[0])
            | (self.words[1] ^ other.words[1])
            | (self.words[2] ^ other.words[2])
            | (self.words[3] ^ other.words[3])
    }

    /// 1 if the two differ, 0 if not, by arithmetic alone.
    #[inline]
    pub(crate) fn differs_from(&self, other: &Self) -> u8 {
        #[cfg(test)]
        tests::COMPARED.set(tests::COMPARED.get() + 1);
        let difference = self.difference(other);
        // The sign of a number or of its negative is set, unless it is zero.
        ((difference | difference.wrapping_neg()) >> 63) as u8
    }
}

impl ConstantTimeEq for KeyHash {
    /// Four word compares, whose results are joined before any is looked at.
    #[inline]
    fn ct_eq(&self, other: &Self) -> Choice {
        // One `Choice` for the four words: subtle puts an optimisation barrier behind each, and one
        // is enough.
        Choice::from(1 - self.differs_from(other))
    }
}

impl PartialEq for KeyHash {
    /// Constant-time: see [`ConstantTimeEq`].
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
    /// The first four bytes and an ellipsis: enough to tell digests apart in a log, too little to
    /// look one up.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, ..] = self.to_bytes();
        write!(f, "KeyHash({a:02x}{b:02x}{c:02x}{d:02x}…)")
    }
}

impl FromStr for KeyHash {
    type Err = ParseKeyHashError;

    /// Reads 64 hexadecimal digits, in either case, with nothing around them.
    ///
    /// # Errors
    ///
    /// [`ParseKeyHashError::Length`] when there are not 64 bytes, [`ParseKeyHashError::Digit`] at
    /// the first byte that is no hexadecimal digit.
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

/// Why a text is no [`KeyHash`]. It tells the place, never the text: what failed to parse may be a
/// key.
///
/// ```
/// use trust_key_cache::{KeyHash, ParseKeyHashError};
///
/// let short = "ba7816bf".parse::<KeyHash>();
/// assert_eq!(short, Err(ParseKeyHashError::Length { found: 8 }));
/// assert_eq!(short.unwrap_err().to_string(), "a key hash is 64 hexadecimal digits, but this has 8 bytes");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ParseKeyHashError {
    /// The text is not 64 bytes long.
    Length {
        /// How long it is, in bytes.
        found: usize,
    },
    /// A byte is not one of `0-9`, `a-f`, `A-F`.
    Digit {
        /// Where it stands, counted in bytes from zero.
        position: usize,
    },
}

impl fmt::Display for ParseKeyHashError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length { found } => {
                write!(f, "a key hash is 64 hexadecimal digits, but this has {found} bytes")
            }
            Self::Digit { position } => {
                write!(f, "a key hash is 64 hexadecimal digits, but byte {position} is none")
            }
        }
    }
}

impl core::error::Error for ParseKeyHashError {}

#[cfg(test)]
pub(crate) mod tests {
    use std::cell::Cell;

    std::thread_local! {
        /// How many pairs of digests this thread has compared.
        pub(crate) static COMPARED: Cell<usize> = const { Cell::new(0) };
    }
}
