//! [`Trust`]: a row of the table, and the check of the live row that every grant needs.

use serde::Serialize;
use subtle::ConstantTimeEq;
use time::OffsetDateTime;
use trust_key_cache::KeyHash;
use uuid::Uuid;

use crate::trust_key::{KeyUsed, TrustKey};

/// A tenant that authenticates with an API key: one row of the store, with its further keys.
///
/// Its JSON form has times in RFC 3339 and omits the digests of keys. `Debug` shortens them.
///
/// Build one with [`Trust::new`] and set the fields that it leaves empty.
///
/// # Examples
///
/// ```
/// use trust_auth::{KeyHash, MemoryStore, NewTrust, TrustLedger};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let hash = KeyHash::of("key");
/// let new = NewTrust::new("St. Mary")?.with_region("north");
/// let trust = MemoryStore::new().insert(new, hash).await?;
/// assert_eq!(trust.name, "St. Mary");
/// assert!(trust.accepts(&hash));
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Trust {
    /// The primary key. The cache remembers it.
    pub id: Uuid,
    /// The name, unique among trusts.
    pub name: String,
    /// The code of the trust in other systems, if it has one.
    pub code: Option<String>,
    /// Where the trust is, if that was given.
    pub region: Option<String>,
    /// The digest of the API key in the trust's own row, which has no end. `None`: the row has no
    /// digest, or a malformed one.
    #[serde(skip)]
    pub api_key_hash: Option<KeyHash>,
    /// The other keys that were active, neither revoked nor at their end, by the store's clock when
    /// the row was read. After an authentication, only the key that was used is sure to be among
    /// them ([`TrustStore::fetch_for`](crate::TrustStore::fetch_for)).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<TrustKey>,
    /// What the application stores about the trust, such as scopes.
    ///
    /// [`TrustRegistry::set_attributes`](crate::TrustRegistry::set_attributes) changes them, and
    /// waits until no process shows the former ones. Nothing waits for a change by SQL: a process
    /// with a read lease may show the former ones for the length of its lease.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attributes: Option<serde_json::Value>,
    /// When the row was made, in UTC. `None` only after a change of a row whose time is malformed.
    #[serde(with = "time::serde::rfc3339::option")]
    pub created_at: Option<OffsetDateTime>,
    /// The time of the trust's last heartbeat, in UTC. Only the application writes this column.
    #[serde(with = "time::serde::rfc3339::option")]
    pub last_heartbeat: Option<OffsetDateTime>,
    /// When the trust was disabled, in UTC; `None` while it is enabled.
    #[serde(with = "time::serde::rfc3339::option")]
    pub disabled_at: Option<OffsetDateTime>,
}

impl Trust {
    /// Returns an enabled trust without a key, code, region or times: what a store of one's own
    /// fills from its row.
    ///
    /// ```
    /// use trust_auth::{KeyHash, Trust};
    /// use uuid::Uuid;
    ///
    /// let mut trust = Trust::new(Uuid::from_u128(7), "St. Mary");
    /// trust.api_key_hash = Some(KeyHash::of("key"));
    /// assert!(trust.accepts(&KeyHash::of("key")));
    /// ```
    #[must_use]
    pub fn new(id: Uuid, name: impl Into<String>) -> Self {
        Self {
            id,
            name: name.into(),
            code: None,
            region: None,
            api_key_hash: None,
            keys: Vec::new(),
            attributes: None,
            created_at: None,
            last_heartbeat: None,
            disabled_at: None,
        }
    }

    /// Returns whether the trust may authenticate at all.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.disabled_at.is_none()
    }

    /// Returns whether this row, as it was read, accepts the key with this digest. The trust must
    /// be enabled and have an equal digest, by a compare of all its digests in constant time. The
    /// clock is not read: the store has left out the keys that were at their end.
    ///
    /// Every grant needs this check of the live row (G9).
    #[must_use]
    pub fn accepts(&self, hash: &KeyHash) -> bool {
        self.key_used(hash).is_some()
    }

    /// Returns which key the digest is of, if the row [accepts](Self::accepts) it. Of several equal
    /// digests, that of the column, and otherwise that of the key that ends last.
    pub(crate) fn key_used(&self, hash: &KeyHash) -> Option<KeyUsed> {
        let mut used = None;
        // Compares each digest, whichever is equal.
        for key in self.keys.iter().rev() {
            if key.hash.ct_eq(hash).into() {
                let key = KeyUsed::from(key);
                used = Some(used.map_or(key, |other: KeyUsed| other.or_longer(key)));
            }
        }
        if let Some(own) = &self.api_key_hash
            && own.ct_eq(hash).into()
        {
            used = Some(KeyUsed::default());
        }
        used.filter(|_| self.is_enabled())
    }

    /// Returns the row to hold, whose keys end by this process's clock: the times that are left are
    /// counted from a time of [`BootClock`](trust_key_cache::BootClock) before the read.
    pub(crate) fn held_from(mut self, noted: std::time::Duration) -> Self {
        for key in &mut self.keys {
            key.hold(noted);
        }
        self
    }

    /// Returns the digests of all keys: that of the column, then those of the other keys.
    pub fn hashes(&self) -> impl Iterator<Item = KeyHash> + '_ {
        self.api_key_hash.into_iter().chain(self.keys.iter().map(|key| key.hash))
    }
}

/// Returns the time now in UTC, in whole microseconds, which every database keeps exactly.
pub(crate) fn now() -> OffsetDateTime {
    let now = OffsetDateTime::now_utc();
    now.replace_microsecond(now.microsecond()).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_accepts_its_own_key_while_it_is_enabled_and_nothing_else() {
        let trust = |hash: Option<&str>, enabled: bool| Trust {
            api_key_hash: hash.map(KeyHash::of),
            disabled_at: (!enabled).then(now),
            ..Trust::new(Uuid::from_u128(7), "a")
        };
        let key = KeyHash::of("key");
        assert!(trust(Some("key"), true).accepts(&key));
        assert!(!trust(Some("key"), false).accepts(&key));
        assert!(!trust(Some("other"), true).accepts(&key));
        assert!(!trust(None, true).accepts(&key));
        assert!(!trust(None, false).accepts(&KeyHash::from_bytes([0; 32])));
    }

    #[test]
    fn each_key_of_a_trust_is_accepted_and_named() {
        let key =
            |id, text| TrustKey::new(Uuid::from_u128(id), Uuid::from_u128(7), KeyHash::of(text));
        let mut trust = Trust {
            keys: vec![key(1, "one"), key(2, "two"), key(3, "own")],
            api_key_hash: Some(KeyHash::of("own")),
            ..Trust::new(Uuid::from_u128(7), "a")
        };
        let used = |trust: &Trust, text| trust.key_used(&KeyHash::of(text)).map(|used| used.id);
        assert_eq!(used(&trust, "one"), Some(Some(Uuid::from_u128(1))));
        assert_eq!(used(&trust, "two"), Some(Some(Uuid::from_u128(2))));
        assert_eq!(used(&trust, "own"), Some(None));
        assert_eq!(used(&trust, "unknown"), None);
        assert_eq!(trust.hashes().count(), 4);
        trust.api_key_hash = None;
        assert_eq!(used(&trust, "own"), Some(Some(Uuid::from_u128(3))));
        trust.disabled_at = Some(now());
        assert_eq!(used(&trust, "one"), None);
    }
}
