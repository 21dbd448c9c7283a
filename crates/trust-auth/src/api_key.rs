//! [`ApiKey`]: a new key, on its way from the random source to the person who will use it.
//!
//! It is never stored, logged or cloned. Its [`KeyHash`] is stored in its place.

use std::fmt;

use trust_key_cache::KeyHash;
use zeroize::Zeroizing;

use crate::key_form::{LENGTH_AFTER_PREFIX, SECRET_DIGITS, checksum_of, digit_of};
use crate::key_prefix::KeyPrefix;

/// How many random bytes are requested at a time. Of these, 3 % are rejected, so one request is
/// enough for all keys but one in 10^16.
const RANDOM_BYTES: usize = 64;

/// The length of the shortest key that a service has made: 43 characters of base64url, in older
/// versions.
const SHORTEST: usize = 43;

/// A new API key: a [prefix](KeyPrefix), 43 characters from the operating system's random source,
/// and a checksum of 6 characters. [`KeyPrefix`] describes the form.
///
/// The text is wiped from memory when the key is dropped. There is no `Display` and no `Clone`, and
/// `Debug` is redacted. Only [`expose`](Self::expose) returns the key.
///
/// # Examples
///
/// ```
/// use trust_auth::{ApiKey, KeyHash};
///
/// # fn main() -> Result<(), trust_auth::RandomError> {
/// let key = ApiKey::generate()?;
/// assert!(key.expose().starts_with("tak_") && key.expose().len() == 53);
/// assert_eq!(key.hash(), KeyHash::of(key.expose()));
/// assert_eq!(format!("{key:?}"), "ApiKey(redacted)");
/// # Ok(()) }
/// ```
pub struct ApiKey {
    text: Zeroizing<String>,
}

impl ApiKey {
    /// Makes a key with the default prefix, `tak_`.
    ///
    /// # Errors
    ///
    /// [`RandomError`] if the operating system returns no random bytes. No weaker source replaces
    /// them.
    pub fn generate() -> Result<Self, RandomError> {
        Self::generate_with(&KeyPrefix::default())
    }

    /// Makes a key with this prefix.
    ///
    /// # Errors
    ///
    /// As [`generate`](Self::generate).
    pub fn generate_with(prefix: &KeyPrefix) -> Result<Self, RandomError> {
        let prefix = prefix.as_str();
        // Has room for the whole text: a `String` that grows would leave copies of the key behind.
        let mut text = Zeroizing::new(String::with_capacity(prefix.len() + LENGTH_AFTER_PREFIX));
        text.push_str(prefix);
        let length = prefix.len() + SECRET_DIGITS;
        let mut random = Zeroizing::new([0; RANDOM_BYTES]);
        while text.len() < length {
            getrandom::fill(random.as_mut_slice()).map_err(RandomError)?;
            let missing = length - text.len();
            text.extend(random.iter().copied().filter_map(digit_of).take(missing));
        }
        let checksum = checksum_of(&text.as_bytes()[prefix.len()..]);
        text.extend(checksum.map(char::from));
        Ok(Self { text })
    }

    /// Returns the key itself, which is shown once to the person who requested it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.text
    }

    /// Returns the digest that the database stores in place of the key.
    #[must_use]
    pub fn hash(&self) -> KeyHash {
        KeyHash::of(self.text.as_bytes())
    }

    /// Returns whether `text` contains something of the form of a key or a digest: 43 or more
    /// letters, digits, `-` and `_` in a row, with any text around them.
    ///
    /// A key may be pasted where a name or an option belongs. Check a typed text before storing it
    /// or repeating it in an error. Takes time linear in the length of the text.
    ///
    /// # Examples
    ///
    /// ```
    /// use trust_auth::ApiKey;
    ///
    /// # fn main() -> Result<(), trust_auth::RandomError> {
    /// let typed = format!("--name={}", ApiKey::generate()?.expose());
    /// assert!(ApiKey::may_be_in(&typed));
    /// assert!(!ApiKey::may_be_in("St. Mary's Hospital, 67e55044-10b1-426f-9247-bb680e5fe0c8"));
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn may_be_in(text: &str) -> bool {
        let is_of_a_key =
            |character: char| character.is_ascii_alphanumeric() || matches!(character, '-' | '_');
        text.split(|character| !is_of_a_key(character)).any(|run| run.len() >= SHORTEST)
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(redacted)")
    }
}

/// The operating system returned no random bytes, so no key was made.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the operating system's random source failed, so no key was made; try again")]
pub struct RandomError(#[source] getrandom::Error);

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::key_form::KeyForm;

    /// The length of a key with the default prefix.
    const TEXT_BYTES: usize = 53;

    #[test]
    fn a_key_is_its_prefix_43_digits_and_6_of_a_checksum_and_is_recognized_in_a_text() {
        let prefix = KeyPrefix::default();
        for _ in 0..100 {
            let key = ApiKey::generate().unwrap();
            let text = key.expose();
            assert_eq!(text.len(), TEXT_BYTES);
            assert_eq!(prefix.form_of(text), KeyForm::Intact, "{text}");
            for shown in [
                text.to_owned(),
                format!("X-Api-Key: {text}"),
                format!("\"{text}\""),
                key.hash().to_hex(),
                // Of an older version.
                "-".repeat(SHORTEST),
            ] {
                assert!(ApiKey::may_be_in(&shown));
            }
            assert!(!ApiKey::may_be_in(&text[..SHORTEST - 1]));
            assert_eq!(key.hash(), KeyHash::of(text));
        }
    }

    #[test]
    fn no_two_keys_are_alike_and_every_character_after_the_prefix_varies() {
        let keys: Vec<ApiKey> = (0..1_000).map(|_| ApiKey::generate().unwrap()).collect();
        let texts: HashSet<&str> = keys.iter().map(ApiKey::expose).collect();
        assert_eq!(texts.len(), keys.len());
        let varies = |at: usize| {
            let characters = keys.iter().map(|key| key.expose().as_bytes()[at]);
            characters.collect::<HashSet<u8>>().len()
        };
        for at in 4..47 {
            // 62 are expected; that 50 of them occur in 1,000 keys fails once in 10^80 runs.
            assert!(varies(at) >= 50, "character {at}");
        }
        // 62^6 is 13 times 2^32, so the first digit of the checksum has five values.
        assert_eq!(varies(47), 5);
        for at in 48..TEXT_BYTES {
            assert!(varies(at) >= 50, "character {at}");
        }
    }

    #[test]
    fn the_text_is_never_reallocated_while_it_is_made() {
        for prefix in [KeyPrefix::default(), KeyPrefix::new("0123456789abcdefghi_").unwrap()] {
            let key = ApiKey::generate_with(&prefix).unwrap();
            assert_eq!(key.text.len(), prefix.as_str().len() + LENGTH_AFTER_PREFIX);
            assert_eq!(key.text.capacity(), key.text.len());
        }
    }
}
