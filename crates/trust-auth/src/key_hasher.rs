//! [`KeyHasher`]: turns a presented key into the digests by which its row may be found.
//!
//! New keys get the current digest alone. No output shows a pepper.

use std::fmt;
use std::iter;
#[cfg(feature = "pepper")]
use std::sync::Arc;

use trust_key_cache::KeyHash;

#[cfg(feature = "pepper")]
use crate::pepper::{Pepper, PepperError};

/// How keys are turned into digests: by SHA-256, or by HMAC-SHA-256 with a `Pepper` (feature
/// `pepper`).
///
/// New and imported keys are hashed in the current way. During a rotation of the pepper, keys of
/// the former one are accepted, too. The authenticator and the registry of a
/// store need the same hasher; [`TrustAuthBuilder`](crate::TrustAuthBuilder::key_hasher) sets both.
/// A clone shares the peppers.
///
/// # What the duration of an answer reveals
///
/// The authenticator tries the current digest first. A known key of a former pepper costs one more
/// HMAC and one more lookup in the cache. So the holder of a *valid* key can measure which pepper
/// its digest has. A key that is not cached is compared by all its digests in one scan, whose work
/// is the same for each key (G8). So the duration shows nothing about a key that no trust has, and
/// nothing about a pepper.
///
/// # Examples
///
#[cfg_attr(feature = "pepper", doc = "```")]
#[cfg_attr(not(feature = "pepper"), doc = "```ignore")]
/// use trust_auth::{KeyHasher, MemoryStore, NewTrust, Pepper, TrustAuth};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let (new, former) = ([1; 32], [2; 32]);
/// // As a rule by `Pepper::read("/run/secrets/pepper")`.
/// let hasher = KeyHasher::peppered(Pepper::new(new)?).accepting(Pepper::new(former)?)?;
/// // Over a database, with `.watch()` before `.build()`.
/// let auth = TrustAuth::builder(MemoryStore::new()).key_hasher(hasher).build();
/// let (trust, key) = auth.registry().register(NewTrust::new("St. Mary")?).await?;
/// assert_eq!(auth.authenticate(Some(key.expose())).await?.id, trust.id);
/// assert!(!trust.accepts(&key.hash()), "the database has no SHA-256");
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct KeyHasher {
    current: Way,
    former: Vec<Way>,
}

/// One way to make a digest.
#[derive(Clone)]
enum Way {
    Sha256,
    #[cfg(feature = "pepper")]
    Hmac(Arc<Pepper>),
}

impl Way {
    fn hash(&self, api_key: &[u8]) -> KeyHash {
        match self {
            Self::Sha256 => KeyHash::of(api_key),
            #[cfg(feature = "pepper")]
            Self::Hmac(pepper) => pepper.hash(api_key),
        }
    }

    #[cfg(feature = "pepper")]
    fn is_of(&self, pepper: &Pepper) -> bool {
        matches!(self, Self::Hmac(own) if **own == *pepper)
    }

    fn is_unpeppered(&self) -> bool {
        matches!(self, Self::Sha256)
    }
}

impl KeyHasher {
    /// Returns a hasher by HMAC-SHA-256 with this pepper. No key that was made without it is
    /// accepted.
    #[cfg(feature = "pepper")]
    #[must_use]
    pub fn peppered(pepper: Pepper) -> Self {
        Self { current: Way::Hmac(Arc::new(pepper)), former: Vec::new() }
    }

    /// Also accepts keys that were made with a former pepper, while it is rotated.
    ///
    /// Each rotation of a key replaces its digest. Leave the former pepper out once no trust needs
    /// it: a database does not show which pepper a digest has.
    ///
    /// # Errors
    ///
    /// [`PepperError::NoCurrent`] if this hasher has no pepper. [`PepperError::Repeated`] if it has
    /// this one.
    #[cfg(feature = "pepper")]
    pub fn accepting(mut self, former: Pepper) -> Result<Self, PepperError> {
        if self.current.is_unpeppered() {
            return Err(PepperError::NoCurrent);
        }
        if self.ways().any(|way| way.is_of(&former)) {
            return Err(PepperError::Repeated);
        }
        self.former.push(Way::Hmac(Arc::new(former)));
        Ok(self)
    }

    /// Also accepts keys that were made without a pepper, while a table adopts one.
    ///
    /// Meanwhile a reader of the database can check guesses of those keys, and a writer to the
    /// database can register a key without the pepper.
    #[must_use]
    pub fn accepting_unpeppered(mut self) -> Self {
        if !self.accepts_unpeppered() {
            self.former.push(Way::Sha256);
        }
        self
    }

    /// Returns whether a key is accepted by its SHA-256.
    #[must_use]
    pub fn accepts_unpeppered(&self) -> bool {
        self.ways().any(Way::is_unpeppered)
    }

    /// Returns the digest that the database keeps of a new key.
    #[must_use]
    pub fn hash(&self, api_key: impl AsRef<[u8]>) -> KeyHash {
        self.current.hash(api_key.as_ref())
    }

    /// Returns the digests of a key that a request presents. The current one is made now, and the
    /// others as they are needed.
    pub(crate) fn presented<'a>(&'a self, api_key: &'a [u8]) -> PresentedHashes<'a> {
        PresentedHashes { current: self.current.hash(api_key), api_key, former: &self.former }
    }

    /// Returns the digests in the former ways, of which any may be in the database.
    pub(crate) fn former_hashes<'a>(
        &'a self,
        api_key: &'a [u8],
    ) -> impl Iterator<Item = KeyHash> + Send + 'a {
        self.former.iter().map(|way| way.hash(api_key))
    }

    /// Returns how many digests a presented key has.
    pub(crate) fn digests(&self) -> usize {
        1 + self.former.len()
    }

    fn ways(&self) -> impl Iterator<Item = &Way> {
        iter::once(&self.current).chain(&self.former)
    }
}

/// By SHA-256, without a pepper.
impl Default for KeyHasher {
    fn default() -> Self {
        Self { current: Way::Sha256, former: Vec::new() }
    }
}

/// Shows which ways there are.
impl fmt::Debug for KeyHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let peppers = self.ways().filter(|way| !way.is_unpeppered()).count();
        f.debug_struct("KeyHasher")
            .field("peppers", &peppers)
            .field("accepts_unpeppered", &self.accepts_unpeppered())
            .finish()
    }
}

/// The digests of one presented key, the current one first.
pub(crate) struct PresentedHashes<'a> {
    current: KeyHash,
    api_key: &'a [u8],
    former: &'a [Way],
}

impl PresentedHashes<'_> {
    /// Returns the digests. A hit of the current one computes no other.
    pub(crate) fn iter(&self) -> impl Iterator<Item = KeyHash> + Send {
        let former = self.former.iter().map(|way| way.hash(self.api_key));
        iter::once(self.current).chain(former)
    }
}

#[cfg(all(test, feature = "pepper"))]
mod tests {
    use super::*;

    fn pepper(byte: u8) -> Pepper {
        Pepper::new([byte; 32]).unwrap()
    }

    fn hashes(hasher: &KeyHasher) -> Vec<KeyHash> {
        hasher.presented(b"key").iter().collect()
    }

    #[test]
    fn the_current_digest_is_the_first_and_the_one_of_new_keys() {
        let (a, b, plain) = (pepper(1).hash(b"key"), pepper(2).hash(b"key"), KeyHash::of("key"));
        let both = || KeyHasher::peppered(pepper(2)).accepting(pepper(1)).unwrap();
        for (hasher, expected) in [
            (KeyHasher::default(), vec![plain]),
            (KeyHasher::default().accepting_unpeppered(), vec![plain]),
            (KeyHasher::peppered(pepper(1)), vec![a]),
            (both(), vec![b, a]),
            (both().accepting_unpeppered().accepting_unpeppered(), vec![b, a, plain]),
        ] {
            assert_eq!(hashes(&hasher), expected);
            assert_eq!(hasher.hash("key"), expected[0]);
            assert_eq!(hasher.digests(), expected.len());
            assert_eq!(hasher.former_hashes(b"key").collect::<Vec<_>>(), expected[1..]);
            assert_eq!(hasher.accepts_unpeppered(), expected.contains(&plain));
        }
    }

    #[test]
    fn a_rotation_that_would_do_nothing_is_an_error() {
        let repeated = KeyHasher::peppered(pepper(1)).accepting(pepper(1)).unwrap_err();
        assert!(matches!(repeated, PepperError::Repeated), "{repeated:?}");
        let twice = KeyHasher::peppered(pepper(1)).accepting(pepper(2)).unwrap();
        assert!(matches!(twice.accepting(pepper(2)), Err(PepperError::Repeated)));
        let no_current = KeyHasher::default().accepting(pepper(1)).unwrap_err();
        assert!(matches!(no_current, PepperError::NoCurrent), "{no_current:?}");
    }

    #[test]
    fn debug_counts_the_peppers_and_shows_none() {
        let hasher = KeyHasher::peppered(pepper(b'x')).accepting(pepper(b'y')).unwrap();
        assert_eq!(format!("{hasher:?}"), "KeyHasher { peppers: 2, accepts_unpeppered: false }");
    }
}
