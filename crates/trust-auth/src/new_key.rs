//! [`KeyTerms`], [`NewKey`] and [`Rotation`]: a key before it is stored, and how it replaces
//! others.

use std::time::Duration;

use time::OffsetDateTime;
use trust_key_cache::KeyHash;
use uuid::Uuid;

use crate::api_key::ApiKey;
use crate::text_flaw::nfc;
use crate::trust::Trust;
use crate::trust_key::TrustKey;

/// A key shorter than this keeps its last characters to itself.
const SHORTEST_SHOWN: usize = 32;

/// The label of a new key, and how long it lasts.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use trust_auth::{KeyTerms, MemoryStore, NewTrust, TrustAuth};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let auth = TrustAuth::builder(MemoryStore::new()).build();
/// let (trust, _) = auth.registry().register(NewTrust::new("St. Mary")?).await?;
///
/// let terms = KeyTerms::new().with_label("laboratory").lasting(Duration::from_secs(90 * 86_400));
/// let (row, key) = auth.registry().add_key(&trust.id.into(), &terms).await?;
/// assert_eq!(row.label.as_deref(), Some("laboratory"));
/// assert_eq!(auth.authenticate(Some(key.expose())).await?.id, trust.id);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyTerms {
    label: Option<String>,
    lasts: Option<Duration>,
}

impl KeyTerms {
    /// Returns terms without a label and without an end.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets what people call the key.
    ///
    /// The label is stored in normalization form C. It is not checked:
    /// [`TextFlaw::check`](crate::TextFlaw::check) does that.
    #[must_use]
    pub fn with_label(mut self, label: impl Into<String>) -> Self {
        let label = label.into();
        self.label = Some(nfc(&label).into_owned());
        self
    }

    /// Sets how long the key lasts, counted from its commit by the store's clock. An end beyond the
    /// year 9999 is no end.
    #[must_use]
    pub fn lasting(mut self, duration: Duration) -> Self {
        self.lasts = Some(duration);
        self
    }

    /// Returns the label, in normalization form C.
    #[must_use]
    pub fn label(&self) -> Option<&str> {
        self.label.as_deref()
    }

    /// Returns how long the key lasts.
    #[must_use]
    pub fn lasts(&self) -> Option<Duration> {
        self.lasts
    }
}

/// A key for a [ledger](crate::TrustLedger) to store.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NewKey {
    /// The digest.
    pub hash: KeyHash,
    /// The label, and how long the key lasts.
    pub terms: KeyTerms,
    /// The last four characters of the key, if they are known.
    pub last_four: Option<String>,
    /// Whether the key existed before. Then no other row may have its digest.
    pub is_imported: bool,
    /// The digests that the key has by former peppers. If it is imported, no row may have them.
    pub former_hashes: Vec<KeyHash>,
}

impl NewKey {
    /// Returns a key with this digest, without a label and without an end, that did not exist
    /// before.
    #[must_use]
    pub fn new(hash: KeyHash) -> Self {
        Self {
            hash,
            terms: KeyTerms::new(),
            last_four: None,
            is_imported: false,
            former_hashes: Vec::new(),
        }
    }

    /// Returns a key of this text.
    pub(crate) fn of_text(text: &str, hash: KeyHash, terms: &KeyTerms) -> Self {
        let last_four = (text.len() >= SHORTEST_SHOWN && text.is_ascii())
            .then(|| text[text.len() - 4..].to_owned());
        Self { terms: terms.clone(), last_four, ..Self::new(hash) }
    }

    pub(crate) fn generated(key: &ApiKey, hash: KeyHash, terms: &KeyTerms) -> Self {
        Self::of_text(key.expose(), hash, terms)
    }

    /// Returns the digest, and those by former peppers.
    pub(crate) fn hashes(&self) -> impl Iterator<Item = &KeyHash> {
        std::iter::once(&self.hash).chain(&self.former_hashes)
    }

    pub(crate) fn imported(mut self) -> Self {
        self.is_imported = true;
        self
    }

    /// Returns whether the column `api_key_hash` is enough for the key: it has neither a label nor
    /// an end. Tools that know only this column then find it there.
    #[must_use]
    pub fn fits_the_column(&self) -> bool {
        self.terms == KeyTerms::new()
    }

    /// Returns the row for a ledger to insert: with a random id, made at this time of the store.
    #[must_use]
    pub fn into_row(self, trust: Uuid, now: OffsetDateTime) -> TrustKey {
        TrustKey {
            label: self.terms.label,
            last_four: self.last_four,
            created_at: Some(now),
            expires_at: self.terms.lasts.and_then(|lasts| end_after(now, lasts)),
            ..TrustKey::new(Uuid::new_v4(), trust, self.hash)
        }
    }
}

impl From<KeyHash> for NewKey {
    fn from(hash: KeyHash) -> Self {
        Self::new(hash)
    }
}

/// A new key in place of all keys of a trust.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rotation {
    /// The new key.
    pub key: NewKey,
    /// How much longer the other keys are accepted, counted from the commit by the store's clock.
    /// A key with an earlier end keeps it. `None` or zero: they are revoked.
    pub overlap: Option<Duration>,
    /// For a repetition, which a later rotation must prevent: the digests of the keys that were
    /// active before the first attempt.
    pub former: Option<Vec<KeyHash>>,
}

impl Rotation {
    /// Returns the rotation that revokes all other keys.
    #[must_use]
    pub fn new(key: NewKey) -> Self {
        Self { key, overlap: None, former: None }
    }

    /// Returns whether the other keys are revoked at once.
    #[must_use]
    pub fn revokes_others(&self) -> bool {
        self.overlap.is_none_or(|overlap| overlap.is_zero())
    }

    /// Returns whether the trust, with these active digests, got another key since the first
    /// attempt, by a later rotation or an addition: it has a digest that is neither a former one
    /// nor the new one.
    #[must_use]
    pub fn is_superseded(&self, present: &[KeyHash]) -> bool {
        let Some(former) = &self.former else { return false };
        present.iter().any(|hash| *hash != self.key.hash && !former.contains(hash))
    }

    /// Returns when the other keys end that have no earlier end, for a commit at this time of the
    /// store. `None`: they are revoked.
    pub(crate) fn end_of_others(&self, now: OffsetDateTime) -> Option<OffsetDateTime> {
        let overlap = self.overlap.filter(|_| !self.revokes_others());
        overlap.map(|overlap| end_after(now, overlap).unwrap_or(LATEST))
    }

    /// Returns what a commit at this time of the store makes of a trust: the digest of its own row,
    /// and the new rows of keys. A repetition needs the trust with all its keys.
    pub(crate) fn rows_of(
        self,
        trust: &Trust,
        now: OffsetDateTime,
    ) -> (Option<KeyHash>, Vec<TrustKey>) {
        let (new, mut rows) = (self.key.hash, Vec::new());
        let old = trust.api_key_hash.filter(|old| *old != new);
        if let (Some(end), Some(old)) = (self.end_of_others(now), old) {
            let row = NewKey::new(old).into_row(trust.id, now);
            rows.push(TrustKey { expires_at: Some(end), ..row });
        }
        if self.key.fits_the_column() {
            return (Some(new), rows);
        }
        if !trust.keys.iter().any(|key| key.hash == new) {
            rows.push(self.key.into_row(trust.id, now));
        }
        (None, rows)
    }
}

/// The latest time that every database keeps, and that RFC 3339 can write.
const LATEST: OffsetDateTime = time::macros::datetime!(9999-12-31 23:59:59 UTC);

/// Returns the end after this duration, or `None` beyond the latest time.
fn end_after(now: OffsetDateTime, lasts: Duration) -> Option<OffsetDateTime> {
    let end = now.checked_add(lasts.try_into().ok()?)?;
    (end <= LATEST).then_some(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_without_terms_fits_the_column() {
        let key = NewKey::new(KeyHash::of("key"));
        assert!(key.fits_the_column());
        let with = |terms| NewKey { terms, ..key.clone() };
        assert!(!with(KeyTerms::new().with_label("a")).fits_the_column());
        assert!(!with(KeyTerms::new().lasting(Duration::ZERO)).fits_the_column());
    }

    #[test]
    fn a_short_key_keeps_its_last_characters_to_itself() {
        let last =
            |text: &str| NewKey::of_text(text, KeyHash::of(text), &KeyTerms::new()).last_four;
        assert_eq!(last(&"k".repeat(31)), None);
        assert_eq!(last(&format!("{}abcd", "k".repeat(28))).as_deref(), Some("abcd"));
        assert_eq!(last(&"\u{e9}".repeat(40)), None);
    }

    #[test]
    fn an_end_beyond_the_latest_time_is_no_end() {
        let now = OffsetDateTime::UNIX_EPOCH;
        assert_eq!(end_after(now, Duration::from_secs(9)), Some(now + Duration::from_secs(9)));
        assert_eq!(end_after(now, Duration::MAX), None);
        assert_eq!(end_after(now, Duration::from_secs(400_000 * 86_400 * 365)), None);
    }

    #[test]
    fn a_rotation_is_superseded_by_a_digest_that_is_neither_former_nor_its_own() {
        let [old, new, later] = ["old", "new", "later"].map(KeyHash::of);
        let mut rotation = Rotation::new(new.into());
        assert!(!rotation.is_superseded(&[later]));
        rotation.former = Some(vec![old]);
        assert!(!rotation.is_superseded(&[]));
        assert!(!rotation.is_superseded(&[old]));
        assert!(!rotation.is_superseded(&[new, old]));
        assert!(rotation.is_superseded(&[old, later]));
        assert!(rotation.is_superseded(&[later]));
    }
}
