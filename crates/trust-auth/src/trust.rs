//! [`Trust`]: a row of the table, and the check of the live row that every grant rests on.

use std::borrow::{Borrow, Cow};
use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

use serde::Serialize;
use subtle::ConstantTimeEq;
use time::OffsetDateTime;
use trust_key_cache::KeyHash;
use uuid::Uuid;

use crate::text_flaw::nfc;
use crate::{ApiKey, TextFlaw};

/// A tenant that authenticates with an API key: one row of the store.
///
/// Serialised with its times in RFC 3339 and **without** the digest of its key; `Debug` shortens
/// the digest.
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
    /// The digest of the API key; `None` if there is no usable one, in which case no key is
    /// accepted.
    #[serde(skip)]
    pub api_key_hash: Option<KeyHash>,
    /// When the row was made, in UTC; `None` only after a change of a row in which this is
    /// malformed.
    #[serde(with = "time::serde::rfc3339::option")]
    pub created_at: Option<OffsetDateTime>,
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

    /// Whether this row, as it was read, accepts the key with this digest: it is enabled, has a
    /// digest, and the two are equal, compared in constant time. Nothing is granted without
    /// this check of the live row (G9).
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
/// use trust_auth::{InvalidName, NewTrust, TextFlaw};
///
/// let new = NewTrust::new("St. Mary")?.code("SM1").region("north");
/// assert_eq!(new.name(), "St. Mary");
/// let refused = NewTrust::new(" St. Mary").unwrap_err();
/// assert_eq!(refused, InvalidName::Text(TextFlaw::SurroundingWhiteSpace));
/// # Ok::<(), InvalidName>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTrust {
    pub(crate) name: String,
    pub(crate) code: Option<String>,
    pub(crate) region: Option<String>,
}

impl NewTrust {
    /// A trust of this name, without code and region. The name is stored in Unicode's normalization
    /// form C, so that two spellings of one name, such as `é` as one character and as two, are
    /// one name.
    ///
    /// # Errors
    ///
    /// [`InvalidName`] tells which rule the name breaks.
    pub fn new(name: impl Into<String>) -> Result<Self, InvalidName> {
        let name = normal(name.into());
        InvalidName::check(&name)?;
        Ok(Self { name, code: None, region: None })
    }

    /// Gives the code that the outside world knows the trust by. It is stored in normalization form
    /// C, and not checked: [`TextFlaw::check`] does that.
    #[must_use]
    pub fn code(mut self, code: impl Into<String>) -> Self {
        self.code = Some(normal(code.into()));
        self
    }

    /// Tells where the trust is. It is stored in normalization form C, and not checked:
    /// [`TextFlaw::check`] does that.
    #[must_use]
    pub fn region(mut self, region: impl Into<String>) -> Self {
        self.region = Some(normal(region.into()));
        self
    }

    /// The name, in normalization form C.
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
            created_at: Some(now()),
            last_heartbeat: None,
            disabled_at: None,
        }
    }
}

/// In normalization form C, without a copy where the text has that form.
fn normal(text: String) -> String {
    match nfc(&text) {
        Cow::Borrowed(normal) if normal.len() == text.len() => text,
        normal => normal.into_owned(),
    }
}

/// Now in UTC, in whole microseconds, which every database keeps exactly.
pub(crate) fn now() -> OffsetDateTime {
    let now = OffsetDateTime::now_utc();
    now.replace_microsecond(now.microsecond()).unwrap_or(now)
}

/// Why a text is no name of a trust. It does not repeat the text, which may be a key that was
/// pasted by mistake.
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
    /// The name looks like another, or disturbs the text around it.
    #[error("the name {0}")]
    Text(#[from] TextFlaw),
    /// The name is `.` or `..`, which clients and proxies remove from the path of a URL.
    #[error(
        "the name is `.` or `..`, which a URL cannot carry as a part of its path; choose another name"
    )]
    DotSegment,
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

/// How an operator names a trust: by id or by name.
///
/// Any UUID is an id, and everything else a name; no trust's name is a UUID. A name that has the
/// form of an API key is shown by neither `Display` nor `Debug`: it may be a key that was pasted by
/// mistake.
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
    /// The trust of this name: to the letter if there is one, otherwise in normalization form C,
    /// which is what [`NewTrust`] stores.
    Name(String),
}

impl TrustRef {
    /// Whether the trust is meant: by its id, or by its name to the letter.
    fn is_exactly(&self, trust: &Trust) -> bool {
        match self {
            Self::Id(id) => trust.id == *id,
            Self::Name(name) => trust.name == *name,
        }
    }

    /// Finds the trust that is meant among these.
    ///
    /// ```
    /// use trust_auth::{KeyHash, MemoryStore, NewTrust, TrustLedger, TrustRef};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let store = MemoryStore::new();
    /// store.insert(NewTrust::new("Zo\u{eb}")?, KeyHash::of("key")).await?;
    /// let trusts = store.list().await?;
    /// assert_eq!(TrustRef::from("Zoe\u{308}").find_in(&trusts), trusts.first());
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn find_in<'a, T: Borrow<Trust>>(&self, trusts: &'a [T]) -> Option<&'a T> {
        self.position_in(trusts).map(|at| &trusts[at])
    }

    pub(crate) fn position_in<T: Borrow<Trust>>(&self, trusts: &[T]) -> Option<usize> {
        let position =
            |which: &Self| trusts.iter().position(|trust| which.is_exactly(trust.borrow()));
        position(self).or_else(|| match self {
            Self::Id(_) => None,
            Self::Name(name) => match nfc(name) {
                Cow::Owned(normal) => position(&Self::Name(normal)),
                Cow::Borrowed(_) => None,
            },
        })
    }
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
            Self::Name(name) if ApiKey::may_be_in(name) => {
                f.pad("(withheld: it looks like an API key)")
            }
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
            ["k".repeat(43), format!("ApiKey {}", "k".repeat(43)), KeyHash::of("key").to_string()]
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
            let new = NewTrust::new(typed).unwrap().code(typed).region(typed);
            assert_eq!(
                (new.name(), new.code.as_deref(), new.region.as_deref()),
                (kept, Some(kept), Some(kept))
            );
        }
        // Checked in the form in which it is kept.
        assert_eq!(NewTrust::new("\u{212a}".repeat(43)).unwrap_err(), InvalidName::LooksLikeAKey);
        assert!(NewTrust::new("e\u{301}".repeat(100)).is_ok());
    }

    #[test]
    fn a_name_is_found_to_the_letter_first_and_in_normalization_form_c_second() {
        let named = |name: &str| Trust { name: name.into(), ..trust(None, true) };
        let [composed, decomposed] = [named("\u{e9}"), named("e\u{301}")];
        let find =
            |trusts: &[Trust], name| TrustRef::from(name).find_in(trusts).map(|trust| trust.id);
        let both = [composed.clone(), decomposed.clone()];
        assert_eq!(find(&both, "\u{e9}"), Some(composed.id));
        assert_eq!(find(&both, "e\u{301}"), Some(decomposed.id));
        assert_eq!(find(&both[..1], "e\u{301}"), Some(composed.id));
        assert_eq!(find(&both[1..], "\u{e9}"), None, "a row of another program, in another form");
        assert_eq!(find(&both[1..], &decomposed.id.to_string()), Some(decomposed.id));
    }

    #[test]
    fn a_trust_is_shown_as_it_was_named_unless_that_may_be_a_key() {
        let shown =
            |text: &str| (TrustRef::from(text).to_string(), format!("{:?}", TrustRef::from(text)));
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
                    prop_assert_eq!(new.name(), &*nfc(&text));
                    prop_assert_eq!(which, TrustRef::Name(text.clone()));
                    prop_assert!(NewTrust::new(new.name()).is_ok_and(|again| again == new));
                    let row = Trust { name: new.name, ..trust(None, true) };
                    prop_assert!(TrustRef::Name(text).find_in(&[row]).is_some());
                }
                Err(error) => prop_assert!(text.len() < 8 || !error.to_string().contains(&*text)),
            }
        }
    }
}
