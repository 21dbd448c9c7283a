//! [`KeyPrefix`]: the text with which the keys of a service begin.
//!
//! It is public: it contains no part of a key's secret.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The text with which the new keys of a service begin, such as `tak_`. A secret scanner finds the
/// keys by it. A clone shares the text.
///
/// # The form of a key
///
/// The prefix is followed by 43 characters of `0`-`9`, `A`-`Z` and `a`-`z`. Each is uniform and
/// independent of the others: 256 random bits. The last 6 characters are a checksum: the CRC-32 of
/// the 43 characters in base 62, as in GitHub's tokens
/// (<https://github.blog/2021-04-05-behind-githubs-new-authentication-token-formats/>).
/// A double click selects the whole key, and a key never begins with a hyphen.
/// [`pattern`](Self::pattern) finds keys in a text.
///
/// # Which keys are checked
///
/// Only a text with the prefix **and** the length of this form is [checked](Self::form_of). If it
/// lacks the checksum, an [`Authenticator`](crate::Authenticator) refuses it before it reads
/// anything. Every other text is a key of another form, and is looked up: a key that another
/// program or an older version has made, a key with another prefix, and a key of which characters
/// are missing.
///
/// # Examples
///
/// ```
/// use trust_auth::{ApiKey, InvalidKeyPrefix, KeyPrefix};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let prefix: KeyPrefix = "acme_live_".parse()?;
/// assert!(ApiKey::generate_with(&prefix)?.expose().starts_with("acme_live_"));
/// assert_eq!(KeyPrefix::default().as_str(), "tak_");
/// assert_eq!(KeyPrefix::new("acme").unwrap_err(), InvalidKeyPrefix::NoUnderscore);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeyPrefix(Arc<str>);

impl KeyPrefix {
    /// The longest prefix, in characters.
    pub const MAX_CHARACTERS: usize = 20;

    /// Returns this prefix: lower-case letters, digits and `_`, at most 20 characters, the last one
    /// `_`.
    ///
    /// # Errors
    ///
    /// [`InvalidKeyPrefix`] names the rule that the text breaks.
    pub fn new(text: impl Into<Arc<str>>) -> Result<Self, InvalidKeyPrefix> {
        let text = text.into();
        let is_allowed =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        if !text.bytes().all(is_allowed) {
            return Err(InvalidKeyPrefix::Character);
        }
        if text.len() > Self::MAX_CHARACTERS {
            return Err(InvalidKeyPrefix::TooLong { characters: text.len() });
        }
        if !text.ends_with('_') {
            return Err(InvalidKeyPrefix::NoUnderscore);
        }
        Ok(Self(text))
    }

    /// Returns the prefix as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// `tak_`: a key of `trust-auth`.
impl Default for KeyPrefix {
    fn default() -> Self {
        Self("tak_".into())
    }
}

impl FromStr for KeyPrefix {
    type Err = InvalidKeyPrefix;

    fn from_str(text: &str) -> Result<Self, InvalidKeyPrefix> {
        Self::new(text)
    }
}

impl fmt::Display for KeyPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Why a text cannot be a [`KeyPrefix`]. It does not repeat the text, which may be an API key that
/// was pasted by mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidKeyPrefix {
    /// The text contains another character than a lower-case letter, a digit and `_`.
    #[error("a prefix of keys has lower-case letters, digits and `_` alone, such as `acme_`")]
    Character,
    /// The text is longer than [`KeyPrefix::MAX_CHARACTERS`].
    #[error(
        "the prefix has {characters} characters; choose one of at most {max}",
        max = KeyPrefix::MAX_CHARACTERS
    )]
    TooLong {
        /// How long it is.
        characters: usize,
    },
    /// The text does not end with `_`, which separates the prefix from the secret.
    #[error("a prefix of keys ends with `_`, such as `acme_`")]
    NoUnderscore,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_lower_case_letters_digits_and_underscores_and_ends_with_one() {
        for text in ["tak_", "a_", "_", "9_", "acme_live_", "0123456789abcdefghi_"] {
            assert_eq!(KeyPrefix::new(text).unwrap().as_str(), text);
            assert_eq!(text.parse::<KeyPrefix>().unwrap().to_string(), text);
        }
        assert_eq!(KeyPrefix::default(), KeyPrefix::new("tak_").unwrap());
        for text in ["Tak_", "a-_", "a _", "a_\n", "ä_", "a.b_", "\u{661}_"] {
            assert_eq!(KeyPrefix::new(text).unwrap_err(), InvalidKeyPrefix::Character, "{text:?}");
        }
        for text in ["", "a", "tak", "_a"] {
            assert_eq!(KeyPrefix::new(text).unwrap_err(), InvalidKeyPrefix::NoUnderscore);
        }
        let refused = KeyPrefix::new("0123456789abcdefghij_").unwrap_err();
        assert_eq!(refused, InvalidKeyPrefix::TooLong { characters: 21 });
    }
}
