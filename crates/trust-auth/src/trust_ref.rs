//! [`TrustRef`]: an operator's reference to a trust, by id or by name.

use std::borrow::{Borrow, Cow};
use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

use crate::api_key::ApiKey;
use crate::text_flaw::nfc;
use crate::trust::Trust;

/// An operator's reference to a trust: an id or a name.
///
/// Any UUID is an id, and any other text is a name. No trust's name is a UUID. `Display` and
/// `Debug` withhold a name that has the form of an API key, which may have been pasted by mistake.
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
    /// The trust with exactly this name. If there is none, the trust with this name in
    /// normalization form C, which [`NewTrust`](crate::NewTrust) stores.
    Name(String),
}

impl TrustRef {
    /// Returns whether this is exactly the trust's id or name.
    fn is_exactly(&self, trust: &Trust) -> bool {
        match self {
            Self::Id(id) => trust.id == *id,
            Self::Name(name) => trust.name == *name,
        }
    }

    /// Returns the trust that this refers to, among these.
    ///
    /// ```
    /// use trust_auth::{KeyHash, MemoryStore, NewTrust, TrustLedger, TrustRef};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
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

    /// Returns this reference, with its name in normalization form C: what a store looks for that
    /// has not found the exact name. A store that finds rows by a query needs it.
    ///
    /// ```
    /// use trust_auth::TrustRef;
    ///
    /// assert_eq!(TrustRef::from("Zoe\u{308}").normalized(), TrustRef::from("Zo\u{eb}"));
    /// ```
    #[must_use]
    pub fn normalized(&self) -> Self {
        match self {
            Self::Id(id) => Self::Id(*id),
            Self::Name(name) => Self::Name(nfc(name).into_owned()),
        }
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
    use super::*;

    #[test]
    fn an_exact_name_is_found_before_one_in_normalization_form_c() {
        let named = |name| Trust::new(Uuid::new_v4(), name);
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
    fn a_reference_is_shown_as_it_was_given_unless_it_may_be_a_key() {
        let shown =
            |text: &str| (TrustRef::from(text).to_string(), format!("{:?}", TrustRef::from(text)));
        let id = Uuid::from_u128(7).to_string();
        assert_eq!(shown("St. Mary"), ("St. Mary".into(), "Name(\"St. Mary\")".into()));
        assert_eq!(shown(&id), (id.clone(), format!("Id({id})")));
        let withheld = "(withheld: it looks like an API key)";
        assert_eq!(shown(&"k".repeat(43)), (withheld.into(), format!("Name({withheld:?})")));
    }
}
