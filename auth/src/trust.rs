//! [`Trust`]: a row of the table, and the check of the live row that every grant rests on.

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

use serde::Serialize;
use subtle::ConstantTimeEq;
use time::OffsetDateTime;
use trust_key_cache::KeyHash;
use uuid::Uuid;

use crate::ApiKey;

/// A tenant that authenticates with an API key: one row of the store.
///
/// Serialised with its times in RFC 3339 and **without** the digest of its key; `Debug` shortens the digest.
///
/// # Examples
///
/// ```
/// use trust_auth::{KeyHash, MemoryStore, NewTrust, TrustLedger};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let hash = KeyHash::of("key");
/// let trust = MemoryStore::new().insert(NewTrust::new("St. Mary")?.region("north"), hash).await?;
/// assert_eq!(trust.name, "St. Mary");
/// assert!(trust.accepts(&hash));
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Trust {
    /// The primary key: what the cache remembers.
    pub id: Uuid,
    /// The name, unique among trusts.
    pub name: String,
    /// A code that the outside world knows the trust by, if there is one.
    pub code: Option<String>,
    /// Where the trust is, if it was told.
    pub region: Option<String>,
    /// The digest of the API key; `None` if there is no usable one, in which case no key is accepted.
    #[serde(skip)]
    pub api_key_hash: Option<KeyHash>,
    /// When the row was made, in UTC.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// When the trust was last heard of, in UTC. The application's column: nothing here writes it.
    #[serde(with = "time::serde::rfc3339::option")]
    pub last_heartbeat: Option<OffsetDateTime>,
    /// Since when the trust has been disabled, in UTC; `None` while it is enabled.
    #[serde(with = "time::serde::rfc3339::option")]
    pub disabled_at: Option<OffsetDateTime>,
}

impl Trust {
    /// Whether the trust may authenticate at all.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.disabled_at.is_none()
    }

    /// Whether this row, as it was read, accepts the key with this digest: it is enabled, has a digest, and
    /// the two are equal, compared in constant time. Nothing is granted without this check of the live
    /// row (G9).
    #[must_use]
    pub fn accepts(&self, hash: &KeyHash) -> bool {
        match &self.api_key_hash {
            Some(own) if self.is_enabled() => own.ct_eq(hash).into(),
            _ => false,
        }
    }
}

/// A trust to be registered: a checked name, and what else is known of it.
///
/// # Examples
///
/// ```
/// use trust_auth::{InvalidName, NewTrust};
///
/// let new = NewTrust::new("St. Mary")?.code("SM1").region("north");
/// assert_eq!(new.name(), "St. Mary");
/// assert_eq!(NewTrust::new(" St. Mary").unwrap_err(), InvalidName::SurroundingWhiteSpace);
/// # Ok::<(), InvalidName>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTrust {
    pub(crate) name: String,
    pub(crate) code: Option<String>,
    pub(crate) region: Option<String>,
}

impl NewTrust {
    /// A trust of this name, without code and region.
    ///
    /// # Errors
    ///
    /// [`InvalidName`] tells which rule the name breaks.
    pub fn new(name: impl Into<String>) -> Result<Self, InvalidName> {
        let name = name.into();
        InvalidName::check(&name)?;
        Ok(Self { name, code: None, region: None })
    }

    /// Gives the code that the outside world knows the trust by. It is taken as it is.
    #[must_use]
    pub fn code(mut self, code: impl Into<String>) -> Self {
        self.code = Some(code.into());
        self
    }

    /// Tells where the trust is. It is taken as it is.
    #[must_use]
    pub fn region(mut self, region: impl Into<String>) -> Self {
        self.region = Some(region.into());
        self
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The row that this becomes: a random id, made now.
    pub(crate) fn into_trust(self, hash: KeyHash) -> Trust {
        Trust {
            id: Uuid::new_v4(),
            name: self.name,
            code: self.code,
            region: self.region,
            api_key_hash: Some(hash),
            created_at: now(),
            last_heartbeat: None,
            disabled_at: None,
        }
    }
}

/// Now in UTC, in whole microseconds, which every database keeps exactly.
pub(crate) fn now() -> OffsetDateTime {
    let now = OffsetDateTime::now_utc();
    now.replace_microsecond(now.microsecond()).unwrap_or(now)
}

/// Why a text is no name of a trust. It does not repeat the text, which may be a key that was pasted by
/// mistake.
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
    /// The name begins or ends with white space.
    #[error("the name begins or ends with white space; leave it out")]
    SurroundingWhiteSpace,
    /// The name contains a control character, such as a line break.
    #[error("the name contains a control character, such as a line break; leave it out")]
    ControlCharacter,
    /// The name is a UUID, and would be taken for an id.
    #[error("the name is a UUID, which would be taken for a trust's id; choose another name")]
    Uuid,
    /// The name holds something of the form of an API key or its digest.
    #[error(
        "the name holds what looks like an API key (43 or more letters, digits, `-` and `_` in a row); choose another \
         name, and rotate the key if it is one"
    )]
    LooksLikeAKey,
}

impl InvalidName {
    /// The longest name, in bytes of UTF-8.
    pub const MAX_BYTES: usize = 200;

    fn check(name: &str) -> Result<(), Self> {
        if name.is_empty() {
            return Err(Self::Empty);
        }
        if name.len() > Self::MAX_BYTES {
            return Err(Self::TooLong { bytes: name.len() });
        }
        if name.trim() != name {
            return Err(Self::SurroundingWhiteSpace);
        }
        if name.chars().any(char::is_control) {
            return Err(Self::ControlCharacter);
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

/// How an operator names a trust: by id or by name.
///
/// Any UUID is an id, and everything else a name; no trust's name is a UUID. A name that has the form of an
/// API key is shown by neither `Display` nor `Debug`: it may be a key that was pasted by mistake.
///
/// # Examples
///
/// ```
/// use trust_auth::TrustRef;
/// use uuid::Uuid;
///
/// let Ok(by_id) = "67e55044-10b1-426f-9247-bb680e5fe0c8".parse::<TrustRef>();
/// assert!(matches!(by_id, TrustRef::Id(_)));
/// assert_eq!(TrustRef::from("St. Mary").to_string(), "St. Mary");
/// ```
#[derive(Clone, PartialEq, Eq)]
pub enum TrustRef {
    /// The trust with this id.
    Id(Uuid),
    /// The trust of this name, to the letter.
    Name(String),
}

impl From<&str> for TrustRef {
    fn from(text: &str) -> Self {
        match Uuid::try_parse(text) {
            Ok(id) => Self::Id(id),
            Err(_) => Self::Name(text.to_owned()),
        }
    }
}

impl From<Uuid> for TrustRef {
    fn from(id: Uuid) -> Self {
        Self::Id(id)
    }
}

impl FromStr for TrustRef {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(text.into())
    }
}

impl fmt::Display for TrustRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Name(name) if ApiKey::may_be_in(name) => f.pad("(withheld: it looks like an API key)"),
            Self::Name(name) => f.pad(name),
        }
    }
}

impl fmt::Debug for TrustRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => f.debug_tuple("Id").field(id).finish(),
            Self::Name(_) => f.debug_tuple("Name").field(&self.to_string()).finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn trust(hash: Option<&str>, enabled: bool) -> Trust {
        let mut trust = NewTrust::new("a").unwrap().into_trust(KeyHash::of(""));
        trust.api_key_hash = hash.map(KeyHash::of);
        trust.disabled_at = (!enabled).then(now);
        trust
    }

    #[test]
    fn a_row_accepts_its_own_key_while_it_is_enabled_and_nothing_else() {
        let key = KeyHash::of("key");
        assert!(trust(Some("key"), true).accepts(&key));
        assert!(!trust(Some("key"), false).accepts(&key));
        assert!(!trust(Some("other"), true).accepts(&key));
        assert!(!trust(None, true).accepts(&key));
        assert!(!trust(None, false).accepts(&KeyHash::from_bytes([0; 32])));
    }

    #[test]
    fn a_name_that_breaks_a_rule_is_refused_with_that_rule() {
        let refusal = |name: &str| NewTrust::new(name).unwrap_err();
        assert_eq!(refusal(""), InvalidName::Empty);
        assert_eq!(refusal(&"x".repeat(201)), InvalidName::TooLong { bytes: 201 });
        assert_eq!(refusal(&"é".repeat(101)), InvalidName::TooLong { bytes: 202 });
        for name in [" ", " a", "a ", "a\n", "\u{a0}a"] {
            assert_eq!(refusal(name), InvalidName::SurroundingWhiteSpace, "{name:?}");
        }
        for name in ["a\0b", "a\nb", "a\x1b[31mb", "a\u{85}b"] {
            assert_eq!(refusal(name), InvalidName::ControlCharacter, "{name:?}");
        }
        let id = Uuid::from_u128(7);
        for name in [id.to_string(), id.simple().to_string(), id.urn().to_string(), id.braced().to_string()] {
            assert_eq!(refusal(&name), InvalidName::Uuid, "{name}");
            assert_eq!(TrustRef::from(&*name), TrustRef::Id(id));
        }
        for name in ["k".repeat(43), format!("ApiKey {}", "k".repeat(43)), KeyHash::of("key").to_string()] {
            assert_eq!(refusal(&name), InvalidName::LooksLikeAKey, "{name}");
            assert!(!TrustRef::from(&*name).to_string().contains(&name[10..]), "{name}");
        }
        assert!(NewTrust::new("k".repeat(42)).is_ok());
        assert!(NewTrust::new("name ".repeat(39) + "names").is_ok());
        assert!(NewTrust::new("St. Mary’s — 北 🏥").is_ok());
    }

    #[test]
    fn a_trust_is_shown_as_it_was_named_unless_that_may_be_a_key() {
        let shown = |text: &str| (TrustRef::from(text).to_string(), format!("{:?}", TrustRef::from(text)));
        let id = Uuid::from_u128(7).to_string();
        assert_eq!(shown("St. Mary"), ("St. Mary".into(), "Name(\"St. Mary\")".into()));
        assert_eq!(shown(&id), (id.clone(), format!("Id({id})")));
        let withheld = "(withheld: it looks like an API key)";
        assert_eq!(shown(&"k".repeat(43)), (withheld.into(), format!("Name({withheld:?})")));
    }

    proptest! {
        #[test]
        fn any_text_is_a_name_or_refused_and_a_name_is_never_taken_for_an_id(text in any::<String>()) {
            let which = TrustRef::from(&*text);
            let _ = (which.to_string(), format!("{which:?}"));
            match NewTrust::new(&*text) {
                Ok(new) => {
                    prop_assert_eq!(new.name(), &*text);
                    prop_assert_eq!(which, TrustRef::Name(text));
                }
                Err(error) => prop_assert!(text.len() < 8 || !error.to_string().contains(&*text)),
            }
        }
    }
}
