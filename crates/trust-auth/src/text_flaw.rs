//! [`TextFlaw`]: why a reader cannot distinguish a name, a code or a region from another.
//!
//! It never repeats the text, which may be an API key that was pasted by mistake. It names one
//! character at most, and only a character that no key contains.

use std::borrow::Cow;

use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};
use unicode_properties::{GeneralCategory, GeneralCategoryGroup, UnicodeGeneralCategory};

/// Why a text is refused as a name, a code or a region: the text resembles another one, or disturbs
/// the text around it.
///
/// The rules are about single characters and their positions. Letters of two scripts that look
/// alike, such as the Latin and the Cyrillic `a`, are accepted.
///
/// # Examples
///
/// ```
/// use trust_auth::TextFlaw;
///
/// assert_eq!(TextFlaw::check("St. Märy’s 🏥"), Ok(()));
/// assert_eq!(TextFlaw::check("St.\u{200b}Mary"), Err(TextFlaw::Invisible('\u{200b}')));
/// let reason = TextFlaw::check("St.\u{202e}Mary").unwrap_err().to_string();
/// assert_eq!(reason, "contains U+202E, which cannot be seen; leave it out");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TextFlaw {
    /// The text begins or ends with white space.
    #[error("begins or ends with white space; leave it out")]
    SurroundingWhiteSpace,
    /// The text contains two spaces in a row.
    #[error("contains two spaces in a row; leave one out")]
    DoubledSpace,
    /// The text contains white space other than U+0020, such as a no-break space or a line
    /// separator.
    #[error(
        "contains U+{code:04X}, which looks like a space; use a plain space",
        code = u32::from(*.0)
    )]
    OtherWhiteSpace(char),
    /// The text contains a control character, such as a line break.
    #[error("contains a control character, such as a line break; leave it out")]
    ControlCharacter,
    /// The text contains an invisible character: a bidirectional override or isolate, a zero-width
    /// character, or another that formats or is ignored by default.
    #[error("contains U+{code:04X}, which cannot be seen; leave it out", code = u32::from(*.0))]
    Invisible(char),
    /// The text contains a character whose form Unicode does not define: unassigned, or for private
    /// use.
    #[error(
        "contains U+{code:04X}, to which Unicode gives no form; leave it out",
        code = u32::from(*.0)
    )]
    Undefined(char),
    /// The text begins with a combining mark, which would join the character before the text.
    #[error(
        "begins with U+{code:04X}, which joins the character before it; begin with a letter",
        code = u32::from(*.0)
    )]
    LeadingMark(char),
}

impl TextFlaw {
    /// Checks a text as names, codes and regions are checked, in time linear in its length.
    ///
    /// # Errors
    ///
    /// Returns the first flaw found.
    pub fn check(text: &str) -> Result<(), Self> {
        if text.trim() != text {
            return Err(Self::SurroundingWhiteSpace);
        }
        if let Some(flaw) = text.chars().find_map(Self::of) {
            return Err(flaw);
        }
        if text.contains("  ") {
            return Err(Self::DoubledSpace);
        }
        match text.chars().next() {
            Some(first) if first.general_category_group() == GeneralCategoryGroup::Mark => {
                Err(Self::LeadingMark(first))
            }
            _ => Ok(()),
        }
    }

    /// Returns what is wrong with this character wherever it is, or `None`.
    ///
    /// Write an escape to a terminal for a character that has a flaw.
    #[must_use]
    pub fn of(character: char) -> Option<Self> {
        /// Unicode does not count this character as white space, but it is as empty.
        const BRAILLE_BLANK: char = '\u{2800}';
        // Most characters of most texts need no table.
        if matches!(character, ' '..='~') {
            return None;
        }
        if character.is_control() {
            return Some(Self::ControlCharacter);
        }
        if character.is_whitespace() || character == BRAILLE_BLANK {
            return Some(Self::OtherWhiteSpace(character));
        }
        if is_default_ignorable(character) {
            return Some(Self::Invisible(character));
        }
        match character.general_category() {
            GeneralCategory::Format => Some(Self::Invisible(character)),
            GeneralCategory::Unassigned | GeneralCategory::PrivateUse => {
                Some(Self::Undefined(character))
            }
            _ => None,
        }
    }
}

/// Returns whether a program that cannot show the character should show nothing in its place:
/// Unicode's property `Default_Ignorable_Code_Point`
/// (<https://www.unicode.org/Public/UCD/latest/ucd/DerivedCoreProperties.txt>).
fn is_default_ignorable(character: char) -> bool {
    matches!(
        character,
        '\u{ad}'
            | '\u{34f}'
            | '\u{61c}'
            | '\u{115f}'..='\u{1160}'
            | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}'
            | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}'
            | '\u{ffa0}'
            | '\u{fff0}'..='\u{fff8}'
            | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}'
    )
}

/// Returns the text in Unicode's normalization form C. Canonically equivalent texts are equal in
/// this form. A text that has this form is borrowed.
pub(crate) fn nfc(text: &str) -> Cow<'_, str> {
    if is_nfc_quick(text.chars()) == IsNormalized::Yes {
        return Cow::Borrowed(text);
    }
    let normal: String = text.nfc().collect();
    if normal == text { Cow::Borrowed(text) } else { Cow::Owned(normal) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_text_that_a_reader_cannot_tell_from_another_is_refused_for_that() {
        use TextFlaw::*;
        for text in [" ", " a", "a ", "a\n", "\u{a0}a", "a\u{2029}", "\u{3000}a"] {
            assert_eq!(TextFlaw::check(text), Err(SurroundingWhiteSpace), "{text:?}");
        }
        for text in ["a\0b", "a\nb", "a\tb", "a\x1b[31mb", "a\u{85}b", "a\u{9b}b", "a\x7fb"] {
            assert_eq!(TextFlaw::check(text), Err(ControlCharacter), "{text:?}");
        }
        assert_eq!(TextFlaw::check("a  b"), Err(DoubledSpace));
        for other in
            "\u{a0}\u{1680}\u{2002}\u{2009}\u{200a}\u{2028}\u{2029}\u{202f}\u{205f}\u{3000}\u{2800}"
                .chars()
        {
            assert_eq!(
                TextFlaw::check(&format!("a{other}b")),
                Err(OtherWhiteSpace(other)),
                "{other:?}"
            );
        }
        let overrides = "\u{202a}\u{202b}\u{202c}\u{202d}\u{202e}\u{2066}\u{2067}\u{2068}\u{2069}\
                         \u{200e}\u{200f}\u{61c}";
        let zero_width =
            "\u{200b}\u{200c}\u{200d}\u{2060}\u{feff}\u{ad}\u{34f}\u{180e}\u{2061}\u{206f}";
        let fillers = "\u{115f}\u{1160}\u{3164}\u{ffa0}\u{17b4}\u{fe00}\u{fe0f}\u{e0001}\u{e0041}\
                       \u{e0100}\u{fff9}\u{1d173}";
        for hidden in overrides.chars().chain(zero_width.chars()).chain(fillers.chars()) {
            for text in [format!("a{hidden}b"), format!("{hidden}a"), format!("a{hidden}")] {
                assert_eq!(TextFlaw::check(&text), Err(Invisible(hidden)), "{text:?}");
            }
        }
        for undefined in "\u{e000}\u{f8ff}\u{378}\u{ffff}\u{fdd0}\u{10ffff}".chars() {
            assert_eq!(TextFlaw::check(&format!("a{undefined}")), Err(Undefined(undefined)));
        }
        for mark in "\u{301}\u{20dd}\u{903}".chars() {
            assert_eq!(TextFlaw::check(&format!("{mark}a")), Err(LeadingMark(mark)));
        }
        for text in [
            "",
            "a b",
            "St. Mary’s — 北 🏥",
            "नमस्ते",
            "שָׁלוֹם",
            "مستشفى",
            "O\u{308}x",
            "🇪🇺",
            "a\\/b%2e",
        ] {
            assert_eq!(TextFlaw::check(text), Ok(()), "{text:?}");
        }
    }

    /// Texts of UAX #15: composition, decomposition, order of marks, exclusions, Hangul.
    #[test]
    fn equivalent_texts_have_one_normal_form_and_a_normal_text_is_borrowed() {
        for (text, normal) in [
            ("a\u{30a}", "\u{e5}"),
            ("\u{212b}", "\u{c5}"),
            ("s\u{307}\u{323}", "\u{1e69}"),
            ("\u{1e0b}\u{323}", "\u{1e0d}\u{307}"),
            ("\u{958}", "\u{915}\u{93c}"),
            ("\u{1112}\u{1161}\u{11ab}", "\u{d55c}"),
            ("\u{fb01}", "\u{fb01}"),
        ] {
            assert_eq!(nfc(text), normal, "{text:?}");
            assert!(matches!(nfc(normal), Cow::Borrowed(_)), "{normal:?}");
        }
    }

    proptest! {
        /// Normalization adds and removes no flaw, except that a composed letter replaces a letter
        /// and a mark.
        #[test]
        fn a_checked_text_in_nfc_stays_as_it_is_and_contains_no_flaw(text in any::<String>()) {
            let normal = nfc(&text);
            prop_assert_eq!(&nfc(&normal), &normal);
            if TextFlaw::check(&normal).is_ok() {
                let is_fine = |c: char| c == ' ' || !(c.is_whitespace() || c.is_control());
                prop_assert!(normal.chars().all(is_fine));
                prop_assert_eq!(normal.split_whitespace().collect::<Vec<_>>().join(" "), &*normal);
            }
        }
    }
}
