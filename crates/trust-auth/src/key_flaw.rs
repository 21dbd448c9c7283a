//! [`KeyFlaw`]: why a key that exists is not imported.
//!
//! It repeats no part of the key. It names the prefix at most, which is public.

use crate::key_form::KeyForm;
use crate::key_prefix::KeyPrefix;

/// The longest key that a request can carry, in bytes: that of `KeyHeader::MAX_BYTES`.
pub(crate) const MAX_KEY_BYTES: usize = 4_096;

/// Why a key that exists cannot be the key of a trust: no request with it would be granted.
///
/// # Examples
///
/// ```
/// use trust_auth::{ApiKey, KeyFlaw, KeyPrefix};
///
/// # fn main() -> Result<(), trust_auth::RandomError> {
/// let prefix = KeyPrefix::default();
/// assert_eq!(KeyFlaw::check(ApiKey::generate()?.expose(), &prefix), Ok(()));
/// assert_eq!(KeyFlaw::check("a key of another program", &prefix), Ok(()));
/// assert_eq!(KeyFlaw::check("two\nlines", &prefix), Err(KeyFlaw::Unsendable));
///
/// let looks_like_one = format!("tak_{}", "0".repeat(49));
/// let damaged = KeyFlaw::Damaged { prefix: prefix.clone() };
/// assert_eq!(KeyFlaw::check(&looks_like_one, &prefix), Err(damaged));
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFlaw {
    /// The key is empty.
    #[error("the API key is empty; give the key itself")]
    Empty,
    /// No HTTP header carries this key unchanged.
    #[error(
        "no header can carry the API key: it begins or ends with white space, contains a control \
         character or a byte order mark, or is longer than {MAX_KEY_BYTES} bytes; give the key \
         alone"
    )]
    Unsendable,
    /// The key has the prefix and the length of the service's own keys, and is none of them; see
    /// [`KeyForm::Damaged`](crate::KeyForm::Damaged).
    #[error(
        "the API key has the prefix `{prefix}` and the length of a key with a checksum, and the \
         checksum is wrong: a character was changed; copy the key again. If another program made \
         it, choose another prefix for new keys"
    )]
    Damaged {
        /// The prefix of the service's own keys.
        prefix: KeyPrefix,
    },
}

impl KeyFlaw {
    /// Checks a key that exists, for a service whose new keys have this prefix.
    ///
    /// # Errors
    ///
    /// Returns the flaw. A key that is weak is not refused.
    pub fn check(api_key: &str, prefix: &KeyPrefix) -> Result<(), Self> {
        if api_key.is_empty() {
            return Err(Self::Empty);
        }
        let is_blank = |character| matches!(character, ' ' | '\t');
        let is_unsendable = api_key.starts_with(is_blank)
            || api_key.ends_with(is_blank)
            || api_key.starts_with('\u{feff}')
            || api_key.bytes().any(|byte| byte.is_ascii_control() && byte != b'\t')
            || api_key.len() > MAX_KEY_BYTES;
        if is_unsendable {
            return Err(Self::Unsendable);
        }
        if prefix.form_of(api_key) == KeyForm::Damaged {
            return Err(Self::Damaged { prefix: prefix.clone() });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api_key::ApiKey;

    #[test]
    fn a_key_is_imported_only_if_a_request_can_carry_it_undamaged() {
        let prefix = KeyPrefix::default();
        let check = |key: &str| KeyFlaw::check(key, &prefix);
        let own = ApiKey::generate().unwrap();
        let foreign = ApiKey::generate_with(&KeyPrefix::new("foo_").unwrap()).unwrap();
        for key in [
            own.expose(),
            foreign.expose(),
            &own.expose()[..52],
            "k",
            "two words\tof \u{43a}\u{43b}\u{44e}\u{447}",
            "-zJ2PPc2cFFPMtH2kGp2ihHkXW2wsvD8haGxckfvsx4",
            &"k".repeat(MAX_KEY_BYTES),
        ] {
            assert_eq!(check(key), Ok(()), "{key:?}");
        }
        assert_eq!(check(""), Err(KeyFlaw::Empty));
        for key in [" k", "k ", "\tk", "k\t", "k\n", "a\nb", "k\r", "a\0b", "k\x7f", "\u{feff}k"] {
            assert_eq!(check(key), Err(KeyFlaw::Unsendable), "{key:?}");
        }
        assert_eq!(check(&"k".repeat(MAX_KEY_BYTES + 1)), Err(KeyFlaw::Unsendable));

        let damaged = format!("{}-", &own.expose()[..52]);
        let error = check(&damaged).unwrap_err();
        assert_eq!(error, KeyFlaw::Damaged { prefix: prefix.clone() });
        assert!(error.to_string().contains("`tak_`") && !error.to_string().contains(&damaged[4..]));
        // Only the configured prefix decides.
        assert_eq!(KeyFlaw::check(&damaged, &KeyPrefix::new("foo_").unwrap()), Ok(()));
    }
}
