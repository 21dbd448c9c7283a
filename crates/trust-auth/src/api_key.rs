//! [`ApiKey`]: a new key, on its way from the random source to the person who will use it.
//!
//! It is never stored, logged or cloned. Its [`KeyHash`] is stored in its place.

use std::fmt;

use data_encoding::BASE64URL_NOPAD;
use trust_key_cache::KeyHash;
use zeroize::Zeroizing;

/// How many random bytes make a key: 256 bits, which no attacker guesses, so that one hash is
/// enough.
const ENTROPY_BYTES: usize = 32;

/// The length of a key's text: 32 bytes in base64url without padding.
const TEXT_BYTES: usize = 43;

/// A new API key: 32 bytes from the operating system's random source, as 43 characters of base64url
/// without padding.
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
/// assert_eq!(key.expose().len(), 43);
/// assert_eq!(key.hash(), KeyHash::of(key.expose()));
/// assert_eq!(format!("{key:?}"), "ApiKey(redacted)");
/// # Ok(()) }
/// ```
pub struct ApiKey {
    text: Zeroizing<String>,
}

impl ApiKey {
    /// Makes a key.
    ///
    /// # Errors
    ///
    /// [`RandomError`] if the operating system returns no random bytes. No weaker source replaces
    /// them.
    pub fn generate() -> Result<Self, RandomError> {
        let mut entropy = Zeroizing::new([0; ENTROPY_BYTES]);
        getrandom::fill(entropy.as_mut_slice()).map_err(RandomError)?;
        // Has room for the whole text: a `String` that grows would leave copies of the key behind.
        let mut text = Zeroizing::new(String::with_capacity(TEXT_BYTES));
        BASE64URL_NOPAD.encode_append(entropy.as_slice(), &mut text);
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
    /// characters of base64url in a row, with any text around them.
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
        text.split(|character| !is_of_a_key(character)).any(|run| run.len() >= TEXT_BYTES)
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

    #[test]
    fn a_key_is_32_bytes_in_43_characters_of_base64url() {
        for _ in 0..100 {
            let key = ApiKey::generate().unwrap();
            assert_eq!(key.expose().len(), TEXT_BYTES);
            assert_eq!(
                BASE64URL_NOPAD.decode(key.expose().as_bytes()).unwrap().len(),
                ENTROPY_BYTES
            );
            let text = key.expose();
            let digest = key.hash();
            for shown in [
                text.to_owned(),
                format!("X-Api-Key: {text}"),
                format!("\"{text}\""),
                digest.to_hex(),
            ] {
                assert!(ApiKey::may_be_in(&shown));
            }
            assert!(!ApiKey::may_be_in(&text[1..]));
            assert_eq!(key.hash(), KeyHash::of(key.expose()));
        }
    }

    #[test]
    fn no_two_keys_are_alike_and_every_character_varies() {
        let keys: Vec<ApiKey> = (0..1_000).map(|_| ApiKey::generate().unwrap()).collect();
        let texts: HashSet<&str> = keys.iter().map(ApiKey::expose).collect();
        assert_eq!(texts.len(), keys.len());
        for at in 0..TEXT_BYTES {
            let characters: HashSet<u8> =
                keys.iter().map(|key| key.expose().as_bytes()[at]).collect();
            // The last character carries four bits, so that it has 16 values.
            assert!(characters.len() >= 12, "character {at}");
        }
    }

    #[test]
    fn the_text_is_never_reallocated_while_it_is_made() {
        let key = ApiKey::generate().unwrap();
        assert_eq!(key.text.capacity(), TEXT_BYTES);
    }
}
