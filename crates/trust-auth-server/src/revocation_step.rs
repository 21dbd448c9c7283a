//! [`RevocationStep`]: the changes that revoke keys, or give them an end.

use trust_auth::{ApiKey, RegistryError, Revocation, TrustRef, TrustRegistry};
use uuid::Uuid;

use crate::key_terms::RotationTerms;
use crate::store::Store;

/// What a revocation does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RevocationStep {
    Disable,
    Delete,
    Rotate(RotationTerms),
    /// Revokes one key, whose trust is not named.
    RevokeKey(Uuid),
}

impl RevocationStep {
    /// Returns the word for metrics and logs.
    pub(crate) fn as_str(&self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Delete => "delete",
            Self::Rotate(_) => "rotate",
            Self::RevokeKey(_) => "revoke_key",
        }
    }

    /// Returns the id of the key that is revoked alone.
    pub(crate) fn key(&self) -> Option<Uuid> {
        match self {
            Self::RevokeKey(key) => Some(*key),
            _ => None,
        }
    }

    /// Returns whether the old keys are accepted for a while.
    pub(crate) fn overlaps(&self) -> bool {
        matches!(self, Self::Rotate(RotationTerms { overlap: Some(_), .. }))
    }

    /// Commits the change, and returns it before the wait, with the new key of a rotation.
    pub(crate) async fn begin<'a>(
        &self,
        registry: &'a TrustRegistry<Store>,
        which: &TrustRef,
    ) -> Result<(Revocation<'a, Store>, Option<ApiKey>), RegistryError> {
        Ok(match self {
            Self::Disable => (registry.begin_disable(which).await?, None),
            Self::Delete => (registry.begin_delete(which).await?, None),
            Self::RevokeKey(key) => (registry.begin_revoke_key(*key).await?, None),
            Self::Rotate(RotationTerms { key, overlap }) => {
                let (revocation, key) = registry.begin_rotate_with(which, key, *overlap).await?;
                (revocation, Some(key))
            }
        })
    }
}
