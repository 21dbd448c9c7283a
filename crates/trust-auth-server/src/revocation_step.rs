//! [`RevocationStep`]: the changes for which the processes with a read lease are waited for.

use trust_auth::{ApiKey, RegistryError, Revocation, TrustRef, TrustRegistry};
use uuid::Uuid;

use crate::key_terms::RotationTerms;
use crate::store::Store;

/// What a revocation does: it revokes keys, gives them an end, or takes attributes away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RevocationStep {
    Disable,
    Delete,
    Rotate(RotationTerms),
    /// Revokes one key, whose trust is not named.
    RevokeKey(Uuid),
    /// Replaces the attributes, or removes them.
    SetAttributes(Option<serde_json::Value>),
}

impl RevocationStep {
    /// Returns the word for metrics and logs.
    pub(crate) fn as_str(&self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Delete => "delete",
            Self::Rotate(_) => "rotate",
            Self::RevokeKey(_) => "revoke_key",
            Self::SetAttributes(_) => "set_attributes",
        }
    }

    /// Returns the id of the key that is revoked alone.
    pub(crate) fn key(&self) -> Option<Uuid> {
        match self {
            Self::RevokeKey(key) => Some(*key),
            _ => None,
        }
    }

    /// Returns what a process with a read lease may do until the wait is over.
    pub(crate) fn may(&self) -> &'static str {
        match self {
            Self::SetAttributes(_) => "show the former attributes",
            _ => "grant the key",
        }
    }

    /// Returns what is certain once the wait is over.
    pub(crate) fn certainty(&self) -> &'static str {
        match self {
            Self::SetAttributes(_) => "no process shows the former attributes",
            _ => "no process grants the key",
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
            Self::SetAttributes(attributes) => {
                (registry.begin_set_attributes(which, attributes.clone()).await?, None)
            }
            Self::Rotate(RotationTerms { key, overlap }) => {
                let (revocation, key) = registry.begin_rotate_with(which, key, *overlap).await?;
                (revocation, Some(key))
            }
        })
    }
}
