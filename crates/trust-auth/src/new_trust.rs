//! [`NewTrust`]: a trust before it is registered, and the rules for its name.

use std::borrow::Cow;

use time::OffsetDateTime;
use trust_key_cache::KeyHash;
use uuid::Uuid;

use crate::api_key::ApiKey;
use crate::new_key::NewKey;
use crate::text_flaw::{TextFlaw, nfc};
use crate::trust::{Trust, now};

/// A trust to register: a checked name, and optionally a code, a region and attributes.
///
/// # Examples
///
/// ```
/// use trust_auth::{InvalidName, NewTrust, TextFlaw};
///
/// let new = NewTrust::new("St. Mary")?.with_code("SM1").with_region("north");
/// assert_eq!(new.name(), "St. Mary");
/// assert_eq!((new.code(), new.region()), (Some("SM1"), Some("north")));
///
/// let refused = NewTrust::new(" St. Mary").unwrap_err();
/// assert_eq!(refused, InvalidName::Text(TextFlaw::SurroundingWhiteSpace));
/// # Ok::<(), InvalidName>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTrust {
    name: String,
    code: Option<String>,
    region: Option<String>,
    attributes: Option<serde_json::Value>,
}

impl NewTrust {
    /// Returns a trust with this name, without code and region.
    ///
    /// The name is stored in Unicode's normalization form C. Two spellings of one name, such as
    /// `é` as one character and as two, are therefore one name.
    ///
    /// # Errors
    ///
    /// [`InvalidName`] names the rule that the name breaks.
    pub fn new(name: impl Into<String>) -> Result<Self, InvalidName> {
        let name = normal(name.into());
        InvalidName::check(&name)?;
        Ok(Self { name, code: None, region: None, attributes: None })
    }

    /// Sets the code by which other systems know the trust.
    ///
    /// The code is stored in normalization form C. It is not checked: [`TextFlaw::check`] does
    /// that.
    #[must_use]
    pub fn with_code(mut self, code: impl Into<String>) -> Self {
        self.code = Some(normal(code.into()));
        self
    }

    /// Sets where the trust is.
    ///
    /// The region is stored in normalization form C. It is not checked: [`TextFlaw::check`] does
    /// that.
    #[must_use]
    pub fn with_region(mut self, region: impl Into<String>) -> Self {
        self.region = Some(normal(region.into()));
        self
    }

    /// Sets what the application stores about the trust, such as scopes. Each grant returns it in
    /// [`Trust::attributes`], which has how to change it later.
    #[must_use]
    pub fn with_attributes(mut self, attributes: impl Into<serde_json::Value>) -> Self {
        self.attributes = Some(attributes.into());
        self
    }

    /// Returns the name, in normalization form C.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the code, in normalization form C.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        self.code.as_deref()
    }

    /// Returns the region, in normalization form C.
    #[must_use]
    pub fn region(&self) -> Option<&str> {
        self.region.as_deref()
    }

    /// Returns what the application stores about the trust.
    #[must_use]
    pub fn attributes(&self) -> Option<&serde_json::Value> {
        self.attributes.as_ref()
    }

    /// Returns the row for a [ledger](crate::TrustLedger) to insert: enabled, with a random id,
    /// created now, with this digest.
    #[must_use]
    pub fn into_trust(self, hash: KeyHash) -> Trust {
        Trust {
            code: self.code,
            region: self.region,
            attributes: self.attributes,
            api_key_hash: Some(hash),
            created_at: Some(now()),
            ..Trust::new(Uuid::new_v4(), self.name)
        }
    }

    /// Returns the row for a ledger to insert, with its key, made at this time of the store.
    pub(crate) fn into_trust_with(self, key: NewKey, now: OffsetDateTime) -> Trust {
        let mut trust = Trust { created_at: Some(now), ..self.into_trust(key.hash) };
        if !key.fits_the_column() {
            trust.api_key_hash = None;
            trust.keys.push(key.into_row(trust.id, now));
        }
        trust
    }
}

/// Returns the text in normalization form C, without a copy where the text has that form.
fn normal(text: String) -> String {
    match nfc(&text) {
        Cow::Borrowed(normal) if normal.len() == text.len() => text,
        normal => normal.into_owned(),
    }
}

/// Why a text cannot be the name of a trust. It does not repeat the text, which may be an API key
/// that was pasted by mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidName {
    /// The name is empty.
    #[error("the name is empty; give the trust a name")]
    Empty,
    /// The name is longer than [`MAX_BYTES`](Self::MAX_BYTES).
    #[error("the name has {bytes} bytes; choose one of at most {max}", max = Self::MAX_BYTES)]
    TooLong {
        /// How long it is, in bytes of UTF-8.
        bytes: usize,
    },
    /// The name resembles another name, or disturbs the text around it.
    #[error("the name {0}")]
    Text(#[from] TextFlaw),
    /// The name is `.` or `..`, which clients and proxies remove from the path of a URL.
    #[error(
        "the name is `.` or `..`, which a URL cannot carry as a part of its path; choose another \
         name"
    )]
    DotSegment,
    /// The name is a UUID, and would be taken for an id.
    #[error("the name is a UUID, which would be taken for a trust's id; choose another name")]
    Uuid,
    /// The name holds something of the form of an API key or its digest.
    #[error(
        "the name holds what looks like an API key (43 or more letters, digits, `-` and `_` in a \
         row); choose another name, and rotate the key if it is one"
    )]
    LooksLikeAKey,
}

impl InvalidName {
    /// The longest name, in bytes of UTF-8, in normalization form C.
    pub const MAX_BYTES: usize = 200;

    fn check(name: &str) -> Result<(), Self> {
        if name.is_empty() {
            return Err(Self::Empty);
        }
        if name.len() > Self::MAX_BYTES {
            return Err(Self::TooLong { bytes: name.len() });
        }
        TextFlaw::check(name)?;
        if matches!(name, "." | "..") {
            return Err(Self::DotSegment);
        }
        if Uuid::try_parse(name).is_ok() {
            return Err(Self::Uuid);
        }
        if ApiKey::may_be_in(name) {
            return Err(Self::LooksLikeAKey);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::trust_ref::TrustRef;

    #[test]
    fn a_name_that_breaks_a_rule_is_refused_with_that_rule() {
        let refusal = |name: &str| NewTrust::new(name).unwrap_err();
        assert_eq!(refusal(""), InvalidName::Empty);
        assert_eq!(refusal(&"x".repeat(201)), InvalidName::TooLong { bytes: 201 });
        assert_eq!(refusal(&"é".repeat(101)), InvalidName::TooLong { bytes: 202 });
        assert_eq!(refusal(" a"), InvalidName::Text(TextFlaw::SurroundingWhiteSpace));
        assert_eq!(refusal("a\nb"), InvalidName::Text(TextFlaw::ControlCharacter));
        assert_eq!(refusal("a\u{202e}b"), InvalidName::Text(TextFlaw::Invisible('\u{202e}')));
        for name in [".", ".."] {
            assert_eq!(refusal(name), InvalidName::DotSegment);
        }
        assert!(NewTrust::new("...").is_ok());
        let id = Uuid::from_u128(7);
        for name in
            [id.to_string(), id.simple().to_string(), id.urn().to_string(), id.braced().to_string()]
        {
            assert_eq!(refusal(&name), InvalidName::Uuid, "{name}");
            assert_eq!(TrustRef::from(&*name), TrustRef::Id(id));
        }
        for name in
            ["k".repeat(43), format!("ApiKey {}", "k".repeat(43)), KeyHash::of("key").to_hex()]
        {
            assert_eq!(refusal(&name), InvalidName::LooksLikeAKey, "{name}");
            assert!(!TrustRef::from(&*name).to_string().contains(&name[10..]), "{name}");
        }
        assert!(NewTrust::new("k".repeat(42)).is_ok());
        assert!(NewTrust::new("name ".repeat(39) + "names").is_ok());
        assert!(NewTrust::new("St. Mary’s — 北 🏥").is_ok());
    }

    /// Kelvin, the Angstrom sign and the Greek question mark are canonically `K`, `Å` and `;`.
    #[test]
    fn a_name_a_code_and_a_region_are_kept_in_normalization_form_c() {
        for (typed, kept) in
            [("Zoe\u{308}", "Zo\u{eb}"), ("\u{212a}\u{212b}\u{37e}", "K\u{c5};"), ("a", "a")]
        {
            let new = NewTrust::new(typed).unwrap().with_code(typed).with_region(typed);
            assert_eq!((new.name(), new.code(), new.region()), (kept, Some(kept), Some(kept)));
        }
        // Checked in the stored form.
        assert_eq!(NewTrust::new("\u{212a}".repeat(43)).unwrap_err(), InvalidName::LooksLikeAKey);
        assert!(NewTrust::new("e\u{301}".repeat(100)).is_ok());
    }

    proptest! {
        #[test]
        fn any_text_is_a_name_or_refused_and_no_name_is_taken_for_an_id(text in any::<String>()) {
            let which = TrustRef::from(&*text);
            let _ = (which.to_string(), format!("{which:?}"));
            match NewTrust::new(&*text) {
                Ok(new) => {
                    prop_assert_eq!(new.name(), &*nfc(&text));
                    prop_assert_eq!(which, TrustRef::Name(text.clone()));
                    prop_assert!(NewTrust::new(new.name()).is_ok_and(|again| again == new));
                    let row = Trust::new(Uuid::nil(), new.name);
                    prop_assert!(TrustRef::Name(text).find_in(&[row]).is_some());
                }
                Err(error) => prop_assert!(text.len() < 8 || !error.to_string().contains(&*text)),
            }
        }
    }
}
