//! [`TrustKey`]: one of the several keys of a trust, a row of the table `trust_key`.

use std::time::Duration;

use serde::Serialize;
use time::OffsetDateTime;
use trust_key_cache::{BootClock, Clock, KeyHash};
use uuid::Uuid;

/// A key of a trust in a row of its own, next to the key of the column `api_key_hash`.
///
/// Its JSON form has times in RFC 3339 and omits the digest. `Debug` shortens the digest.
///
/// # Examples
///
/// ```
/// use trust_auth::{KeyHash, Trust, TrustKey};
/// use uuid::Uuid;
///
/// let mut trust = Trust::new(Uuid::from_u128(7), "St. Mary");
/// trust.keys.push(TrustKey::new(Uuid::from_u128(8), trust.id, KeyHash::of("key")));
/// assert!(trust.accepts(&KeyHash::of("key")));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct TrustKey {
    /// The primary key of the row. Logs and commands name a key by it.
    pub id: Uuid,
    /// The id of the trust.
    pub trust: Uuid,
    /// What people call the key, if they gave it a name.
    pub label: Option<String>,
    /// The digest of the key.
    #[serde(skip)]
    pub hash: KeyHash,
    /// The last four characters of the key, for people, if they are known. They are not known of a
    /// key that was in the trust's own row before a rotation with an overlap.
    pub last_four: Option<String>,
    /// When the row was made, in UTC.
    #[serde(with = "time::serde::rfc3339::option")]
    pub created_at: Option<OffsetDateTime>,
    /// From when on the key is refused, in UTC. `None`: it has no end.
    #[serde(with = "time::serde::rfc3339::option")]
    pub expires_at: Option<OffsetDateTime>,
    /// When the key was revoked, in UTC.
    #[serde(with = "time::serde::rfc3339::option")]
    pub revoked_at: Option<OffsetDateTime>,
    #[serde(skip)]
    pub(crate) term: Term,
}

/// How long a key with an end lasts, without a compare of two machines' clocks.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum Term {
    /// The store did not say. The key's end is compared with this process's wall clock.
    #[default]
    Unknown,
    /// The time that was left by the database's clock, when the row was read.
    // Only the databases have a clock of their own.
    #[cfg_attr(not(any(feature = "postgres", feature = "sqlite")), allow(dead_code))]
    Left(Duration),
    /// From when on a held key is refused, by [`BootClock`].
    Until(Duration),
}

/// Two rows that were read at different times are the same row.
impl PartialEq for Term {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Term {}

impl TrustKey {
    /// Returns a key without a label, times or an end.
    #[must_use]
    pub fn new(id: Uuid, trust: Uuid, hash: KeyHash) -> Self {
        Self {
            id,
            trust,
            label: None,
            hash,
            last_four: None,
            created_at: None,
            expires_at: None,
            revoked_at: None,
            term: Term::default(),
        }
    }

    /// Counts the time that is left from a time of [`BootClock`] before the row was read.
    pub(crate) fn hold(&mut self, noted: Duration) {
        if let Term::Left(left) = self.term {
            self.term = Term::Until(noted.saturating_add(left));
        }
    }

    /// Returns whether the key is neither revoked nor at its end at this time.
    #[must_use]
    pub fn is_active(&self, now: OffsetDateTime) -> bool {
        self.revoked_at.is_none() && self.expires_at.is_none_or(|end| now < end)
    }
}

/// Which key of a trust a request had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct KeyUsed {
    /// `None`: the key of the column `api_key_hash`.
    pub(crate) id: Option<Uuid>,
    pub(crate) expires_at: Option<OffsetDateTime>,
    pub(crate) term: Term,
}

impl KeyUsed {
    /// Returns the one of the two that ends last, and the second one if they end together.
    pub(crate) fn or_longer(self, other: Self) -> Self {
        match (self.expires_at, other.expires_at) {
            (None, Some(_)) => self,
            (Some(end), Some(others)) if others < end => self,
            _ => other,
        }
    }

    /// Returns whether the key is not at its end now.
    pub(crate) fn lasts(&self) -> bool {
        !self.remaining().is_zero()
    }

    /// Returns how long the key lasts from now on, or from the read of its row.
    pub(crate) fn remaining(&self) -> Duration {
        match (self.expires_at, self.term) {
            (None, _) => Duration::MAX,
            (Some(_), Term::Left(left)) => left,
            (Some(_), Term::Until(end)) => end.saturating_sub(BootClock.now()),
            (Some(end), Term::Unknown) => {
                (end - OffsetDateTime::now_utc()).try_into().unwrap_or_default()
            }
        }
    }
}

impl From<&TrustKey> for KeyUsed {
    fn from(key: &TrustKey) -> Self {
        Self { id: Some(key.id), expires_at: key.expires_at, term: key.term }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_active_until_its_end_and_not_at_it() {
        let end = OffsetDateTime::UNIX_EPOCH + Duration::from_secs(9);
        let mut key = TrustKey::new(Uuid::nil(), Uuid::nil(), KeyHash::of("key"));
        assert!(key.is_active(end));
        key.expires_at = Some(end);
        assert!(key.is_active(end - Duration::from_nanos(1)));
        assert!(!key.is_active(end));
        key.expires_at = None;
        key.revoked_at = Some(end);
        assert!(!key.is_active(OffsetDateTime::UNIX_EPOCH));
    }

    #[test]
    fn of_two_keys_the_one_that_ends_last_counts() {
        let key = |id, end: Option<u64>| KeyUsed {
            id: Some(Uuid::from_u128(id)),
            expires_at: end.map(|end| OffsetDateTime::UNIX_EPOCH + Duration::from_secs(end)),
            term: Term::Unknown,
        };
        let (one, nine, endless) = (key(1, Some(1)), key(9, Some(9)), key(0, None));
        for (longer, shorter) in [(nine, one), (endless, nine)] {
            assert_eq!(longer.or_longer(shorter), longer);
            assert_eq!(shorter.or_longer(longer), longer);
        }
        assert_eq!(endless.or_longer(key(2, None)).id, Some(Uuid::from_u128(2)));
    }

    #[test]
    fn what_remains_of_a_key_ends_with_it() {
        let now = OffsetDateTime::now_utc();
        let used = |expires_at| KeyUsed { expires_at, ..KeyUsed::default() };
        assert!(used(None).lasts());
        assert_eq!(used(None).remaining(), Duration::MAX);
        assert!(!used(Some(now)).lasts());
        assert_eq!(used(Some(now - Duration::from_secs(1))).remaining(), Duration::ZERO);
        let later = used(Some(now + Duration::from_secs(60)));
        assert!(later.lasts());
        assert!(later.remaining() <= Duration::from_secs(60));
        assert!(later.remaining() > Duration::from_secs(30));
    }

    /// The two wall clocks may differ by any time, and the holder's may be set back.
    #[test]
    fn a_held_key_lasts_as_long_as_the_database_said() {
        let wall = OffsetDateTime::now_utc();
        let hour = Duration::from_secs(3_600);
        for (expires_at, left, lasts) in
            [(wall - hour, hour, true), (wall + hour, Duration::ZERO, false)]
        {
            let mut key = TrustKey::new(Uuid::nil(), Uuid::nil(), KeyHash::of("key"));
            (key.expires_at, key.term) = (Some(expires_at), Term::Left(left));
            assert_eq!(KeyUsed::from(&key).remaining(), left);
            key.hold(BootClock.now());
            assert_eq!(KeyUsed::from(&key).lasts(), lasts);
            assert!(KeyUsed::from(&key).remaining() <= left);
            // Counted once.
            key.hold(BootClock.now() + hour);
            assert!(KeyUsed::from(&key).remaining() <= left);
        }
    }
}
