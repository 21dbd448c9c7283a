//! [`KeyDigest`]: the SHA-256 of a key, as an operator gives it.

use std::fmt;

use serde::{Deserialize, Deserializer};
use trust_key_cache::KeyHash;

/// A digest, or `None` for any other text. The text may be the key itself by mistake, and an error
/// of clap would repeat it.
#[derive(Clone, Copy)]
pub(crate) struct KeyDigest(Option<KeyHash>);

impl KeyDigest {
    /// Returns the digest.
    ///
    /// # Errors
    ///
    /// What the text must be, if it is no digest.
    pub(crate) fn hash(self) -> Result<KeyHash, &'static str> {
        self.0.ok_or("must be 64 hexadecimal digits: the SHA-256 of the key, not the key")
    }
}

impl From<&str> for KeyDigest {
    fn from(text: &str) -> Self {
        Self(text.parse().ok())
    }
}

impl<'de> Deserialize<'de> for KeyDigest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Ok(text.as_str().into())
    }
}

/// Not even the digest.
impl fmt::Debug for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyDigest")
    }
}
