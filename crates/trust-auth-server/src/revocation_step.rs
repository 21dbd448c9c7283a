//! [`RevocationStep`]: the three changes that revoke a key.

use trust_auth::{ApiKey, RegistryError, Revocation, TrustRef, TrustRegistry};

use crate::store::Store;

/// What a revocation does to its trust.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RevocationStep {
    Disable,
    Delete,
    Rotate,
}

impl RevocationStep {
    /// Returns the word for metrics and logs.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Delete => "delete",
            Self::Rotate => "rotate",
        }
    }

    /// Commits the change, and returns it before the wait, with the new key of a rotation.
    pub(crate) async fn begin<'a>(
        self,
        registry: &'a TrustRegistry<Store>,
        which: &TrustRef,
    ) -> Result<(Revocation<'a, Store>, Option<ApiKey>), RegistryError> {
        Ok(match self {
            Self::Disable => (registry.begin_disable(which).await?, None),
            Self::Delete => (registry.begin_delete(which).await?, None),
            Self::Rotate => {
                let (revocation, key) = registry.begin_rotate(which).await?;
                (revocation, Some(key))
            }
        })
    }
}
