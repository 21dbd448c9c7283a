//! [`KeyForm`]: whether a text has the form of new keys. Also their digits and their checksum.
//!
//! The form is public. Nothing here may depend on a stored key.

use crc::{CRC_32_ISO_HDLC, Crc, Table};

use crate::key_prefix::KeyPrefix;

/// How many characters of a key are random: 62^43 is a little more than 2^256.
pub(crate) const SECRET_DIGITS: usize = 43;

/// How many characters the checksum has: 62^6 is more than 2^32.
const CHECKSUM_DIGITS: usize = 6;

/// The length of a key after its prefix.
pub(crate) const LENGTH_AFTER_PREFIX: usize = SECRET_DIGITS + CHECKSUM_DIGITS;

/// The digits of base 62, by their values. A double click selects a text of them, with underscores.
const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// The CRC-32 of zip, gzip and PNG. Every request with a new key computes it, so it takes 16 bytes
/// at a time: 50 ns a key, and 170 ns with the usual table.
static CRC: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISO_HDLC);

/// What a text is to a service whose new keys have a certain prefix; see [`KeyPrefix::form_of`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyForm {
    /// A key with the prefix, the length and the checksum of new keys. Whether a trust has it is
    /// another question.
    Intact,
    /// A text with the prefix and the length of a new key, and without its checksum: a character
    /// was changed, or another program made it.
    Damaged,
    /// A text with another prefix or another length: a key of another form, if it is one.
    Other,
}

impl KeyPrefix {
    /// Returns whether a text is a key with this prefix, only resembles one, or has another form.
    ///
    /// A key with one wrong character is always noticed. Of texts with several wrong characters,
    /// one in four billion passes. The duration depends on the text and the prefix alone.
    ///
    /// ```
    /// use trust_auth::{ApiKey, KeyForm, KeyPrefix};
    ///
    /// # fn main() -> Result<(), trust_auth::RandomError> {
    /// let prefix = KeyPrefix::default();
    /// let key = ApiKey::generate_with(&prefix)?;
    /// assert_eq!(prefix.form_of(key.expose()), KeyForm::Intact);
    ///
    /// let (start, last) = key.expose().split_at(52);
    /// let changed = format!("{start}{}", if last == "x" { "y" } else { "x" });
    /// assert_eq!(prefix.form_of(&changed), KeyForm::Damaged);
    ///
    /// // Of an older version, and cut off: another program may have made either.
    /// assert_eq!(prefix.form_of("zJ2PPPc2cFFPMtH2kGp2ihHkXW2wsvD8haGxckfvsx4"), KeyForm::Other);
    /// assert_eq!(prefix.form_of(start), KeyForm::Other);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn form_of(&self, text: &str) -> KeyForm {
        match text.strip_prefix(self.as_str()) {
            Some(rest) if rest.len() == LENGTH_AFTER_PREFIX => {
                if is_intact(rest.as_bytes()) {
                    KeyForm::Intact
                } else {
                    KeyForm::Damaged
                }
            }
            _ => KeyForm::Other,
        }
    }

    /// Returns the regular expression of the keys with this prefix, for a secret scanner. Between
    /// two `\b`, it finds them in a text.
    ///
    /// ```
    /// use trust_auth::KeyPrefix;
    ///
    /// assert_eq!(KeyPrefix::default().pattern(), "tak_[0-9A-Za-z]{49}");
    /// ```
    #[must_use]
    pub fn pattern(&self) -> String {
        // No character of a prefix has a meaning in a regular expression.
        format!("{self}[0-9A-Za-z]{{{LENGTH_AFTER_PREFIX}}}")
    }
}

/// Returns whether these bytes are digits that end with the checksum of the others.
fn is_intact(after_prefix: &[u8]) -> bool {
    let Some((secret, checksum)) = after_prefix.split_last_chunk() else { return false };
    // With a byte that is no digit, the pattern would not match.
    secret.iter().all(u8::is_ascii_alphanumeric) && checksum_of(secret) == *checksum
}

/// Returns the checksum of the random characters of a key.
pub(crate) fn checksum_of(secret: &[u8]) -> [u8; CHECKSUM_DIGITS] {
    base_62(CRC.checksum(secret))
}

/// Returns the number in base 62, the most significant digit first, with zeros on the left.
fn base_62(mut number: u32) -> [u8; CHECKSUM_DIGITS] {
    let mut digits = [0; CHECKSUM_DIGITS];
    for digit in digits.iter_mut().rev() {
        *digit = DIGITS[(number % 62) as usize];
        number /= 62;
    }
    digits
}

/// Returns the digit for a random byte, or `None` for 8 of the 256 bytes, without which the digits
/// are equally likely.
pub(crate) fn digit_of(random: u8) -> Option<char> {
    const FAIR: u8 = 4 * DIGITS.len() as u8;
    (random < FAIR).then(|| char::from(DIGITS[usize::from(random) % DIGITS.len()]))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;
    use regex::Regex;

    use super::*;
    use crate::api_key::ApiKey;

    fn prefix() -> impl Strategy<Value = KeyPrefix> {
        "[a-z0-9_]{0,19}_".prop_map(|text| KeyPrefix::new(text).unwrap())
    }

    fn key_with(prefix: &KeyPrefix) -> String {
        ApiKey::generate_with(prefix).unwrap().expose().to_owned()
    }

    /// Replaces the character at an index.
    fn replaced(text: &str, at: usize, character: char) -> String {
        let mut characters: Vec<char> = text.chars().collect();
        characters[at] = character;
        characters.into_iter().collect()
    }

    /// Two expired tokens that <https://github.com/therootcompany/base62-token.js> publishes. They
    /// have 30 random characters.
    #[test]
    fn the_checksum_is_that_of_githubs_tokens() {
        assert_eq!(&checksum_of(b"zQWBuTSOoRi4A9spHcVY5ncnsDkxkJ"), b"0mLq17");
        assert_eq!(&checksum_of(b"adE7dp8rHP6gUTuPwxLTZjZdtya3sV"), b"0UQzQM");
    }

    #[test]
    fn the_digits_are_equally_likely() {
        let mut bytes_of = HashMap::new();
        for byte in 0..=255 {
            *bytes_of.entry(digit_of(byte)).or_insert(0) += 1;
        }
        assert_eq!(bytes_of.remove(&None), Some(8));
        assert_eq!(bytes_of.len(), 62);
        for (digit, bytes) in bytes_of {
            assert!(digit.is_some_and(|digit| digit.is_ascii_alphanumeric()));
            assert_eq!(bytes, 4, "{digit:?}");
        }
    }

    #[test]
    fn the_least_and_the_greatest_number_have_six_digits() {
        assert_eq!(&base_62(0), b"000000");
        assert_eq!(&base_62(61), b"00000z");
        assert_eq!(&base_62(62), b"000010");
        assert_eq!(&base_62(u32::MAX), b"4gfFC3");
    }

    proptest! {
        #[test]
        fn a_number_in_base_62_is_read_back(number: u32) {
            let value = |digit: &u8| DIGITS.iter().position(|other| other == digit).unwrap() as u64;
            let read = base_62(number).iter().fold(0, |read, digit| read * 62 + value(digit));
            prop_assert_eq!(read, u64::from(number));
        }

        #[test]
        fn a_key_is_intact_and_the_pattern_finds_it_in_a_text(prefix in prefix()) {
            let key = key_with(&prefix);
            prop_assert_eq!(prefix.form_of(&key), KeyForm::Intact);
            let pattern = Regex::new(&format!(r"\b{}\b", prefix.pattern())).unwrap();
            for text in [key.clone(), format!("X-Api-Key: {key}\n"), format!("k={key}&b=-{key}-")] {
                prop_assert!(pattern.find_iter(&text).all(|found| found.as_str() == key));
                prop_assert!(pattern.is_match(&text), "{}", text);
            }
            let whole = Regex::new(&format!("^{}$", prefix.pattern())).unwrap();
            for text in [key[1..].to_owned(), format!("{key}0")] {
                prop_assert!(!whole.is_match(&text), "{}", text);
            }
        }

        #[test]
        fn a_key_with_one_other_character_is_damaged(
            prefix in prefix(),
            at in 0..LENGTH_AFTER_PREFIX,
            other in prop::char::range(' ', '~'),
        ) {
            let key = key_with(&prefix);
            let changed = replaced(&key, prefix.as_str().len() + at, other);
            let expected = if changed == key { KeyForm::Intact } else { KeyForm::Damaged };
            prop_assert_eq!(prefix.form_of(&changed), expected);
        }

        /// A hyphen, for example: a scanner that looks for the pattern would not find such a key.
        #[test]
        fn a_secret_with_another_character_than_a_digit_is_damaged_in_spite_of_its_checksum(
            at in 0..SECRET_DIGITS,
            other in "[^0-9A-Za-z]".prop_filter("one byte", |text| text.len() == 1),
        ) {
            let prefix = KeyPrefix::default();
            let key = replaced(&key_with(&prefix), 4 + at, other.chars().next().unwrap());
            let checksum = checksum_of(&key.as_bytes()[4..47]).map(char::from);
            let key = format!("{}{}", &key[..47], String::from_iter(checksum));
            prop_assert_eq!(prefix.form_of(&key), KeyForm::Damaged);
        }

        #[test]
        fn a_text_with_another_prefix_or_length_has_another_form(
            prefix in prefix(),
            other in prefix(),
            at in 0..=LENGTH_AFTER_PREFIX,
        ) {
            let key = key_with(&prefix);
            let at = prefix.as_str().len() + at;
            prop_assert_eq!(prefix.form_of(&key[..at.min(key.len() - 1)]), KeyForm::Other);
            let longer = format!("{}0{}", &key[..at], &key[at..]);
            prop_assert_eq!(prefix.form_of(&longer), KeyForm::Other);
            prop_assert_eq!(prefix.form_of(&key[1..]), KeyForm::Other);
            let expected = if other == prefix { KeyForm::Intact } else { KeyForm::Other };
            prop_assert_eq!(prefix.form_of(&key_with(&other)), expected);
        }

        #[test]
        fn any_text_has_a_form(text: String, prefix in prefix()) {
            prop_assert_eq!(prefix.form_of(&text), KeyForm::Other);
            let form = prefix.form_of(&format!("{prefix}{text}"));
            prop_assert_eq!(form == KeyForm::Other, text.len() != LENGTH_AFTER_PREFIX);
        }
    }
}
