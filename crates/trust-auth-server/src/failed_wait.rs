//! [`FailedWait`]: what a failed wait means for a revocation that was committed.
//!
//! A new key that may be valid reaches the caller: an error in its place would lose the key.

use trust_auth::{RegistryError, StoreError};

use crate::causes::with_causes;
use crate::revocation_step::RevocationStep;

/// What to answer if the wait of a revocation fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FailedWait {
    /// There is no such trust or key, and the wait has ended.
    NoSuchTrust,
    /// There is no such trust or key, and a process may grant the key that there was.
    Gone,
    /// The trust is changed, and the caller may make the same change again.
    Repeatable,
    /// The new key of the rotation may be valid, so the answer has it.
    NewKey,
    /// A later rotation took the place of this one, whose new key is dead. The answer has no key.
    Replaced,
    /// A failover has lost the rotation, whose new key is dead, and an old key is valid. The answer
    /// has no key.
    Lost,
}

impl FailedWait {
    /// Decides from what was committed, and from the error of
    /// [`Revocation::settle`](trust_auth::Revocation::settle).
    pub(crate) fn of(step: &RevocationStep, found_trust: bool, error: &RegistryError) -> Self {
        match (step, error) {
            (
                _,
                RegistryError::Store(StoreError::NoSuchTrust { .. } | StoreError::NoSuchKey { .. }),
            ) => Self::NoSuchTrust,
            _ if !found_trust => Self::Gone,
            (RevocationStep::Rotate(_), RegistryError::Store(StoreError::Superseded)) => {
                Self::Replaced
            }
            (RevocationStep::Rotate(_), RegistryError::Store(StoreError::RotationLost)) => {
                Self::Lost
            }
            (RevocationStep::Rotate(_), _) => Self::NewKey,
            _ => Self::Repeatable,
        }
    }

    /// Returns what has happened and what to do, for people.
    pub(crate) fn message(self, step: &RevocationStep, error: &RegistryError) -> String {
        let (why, may) = (with_causes(error), step.may());
        match self {
            Self::NoSuchTrust => why,
            Self::Gone => format!(
                "there is no such trust or key, but a process with a read lease may still {may} \
                 that there was: make the same change again. The wait failed: {why}"
            ),
            Self::Repeatable => format!(
                "the change is committed, unless a failover has lost it, but a process with a read \
                 lease may still {may}: make the same change again. The wait failed: {why}"
            ),
            Self::NewKey => format!(
                "the rotation may be committed: only a failover can have lost it. A process with a \
                 read lease may grant the old key, for the length of a lease at most. Keep the new \
                 key, and rotate again only if it is refused. The wait failed: {why}"
            ),
            Self::Replaced => {
                "the trust got another key, as by a later rotation, before the database restarted \
                 or failed over, so the new key of this one is dead and is not shown. `key list` \
                 shows which of the old keys are accepted until their end. A process with a read \
                 lease may grant a revoked one, for the length of a lease at most"
                    .to_owned()
            }
            Self::Lost => {
                format!("the new key is dead and is not shown, and the old keys are valid: {why}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use trust_auth::TrustRef;
    use uuid::Uuid;

    use super::RevocationStep::{Delete, Disable, RevokeKey, Rotate, SetAttributes};
    use super::*;

    fn no_such_trust() -> RegistryError {
        StoreError::NoSuchTrust { which: TrustRef::from("a") }.into()
    }

    #[test]
    fn a_new_key_is_kept_unless_it_is_known_to_be_dead() {
        let failures = [
            StoreError::Unreachable,
            StoreError::Timeout { after: Duration::from_secs(5) },
            StoreError::OutcomeUnknown,
            StoreError::ReadOnly { server: "db".into() },
            StoreError::Other("the disk is on fire".into()),
        ];
        for failure in failures {
            let error = RegistryError::from(failure);
            let failed = FailedWait::of(&Rotate(Default::default()), true, &error);
            assert_eq!(failed, FailedWait::NewKey, "{error}");
            let message = failed.message(&Rotate(Default::default()), &error);
            assert!(message.contains("may be committed"), "{message}");
            assert!(message.contains("may grant the old key"), "{message}");
            assert!(message.ends_with(&error.to_string()), "{message}");
        }
        let superseded = RegistryError::from(StoreError::Superseded);
        let failed = FailedWait::of(&Rotate(Default::default()), true, &superseded);
        assert_eq!(failed, FailedWait::Replaced);
        assert!(!failed.message(&Rotate(Default::default()), &superseded).contains("again"));
        let lost = RegistryError::from(StoreError::RotationLost);
        let failed = FailedWait::of(&Rotate(Default::default()), true, &lost);
        assert_eq!(failed, FailedWait::Lost);
        let message = failed.message(&Rotate(Default::default()), &lost);
        assert!(message.contains("the old keys are valid"), "{message}");
        assert!(message.contains("rotate again"), "{message}");
        // The key was given to no trust.
        assert_eq!(
            FailedWait::of(&Rotate(Default::default()), false, &no_such_trust()),
            FailedWait::NoSuchTrust
        );
        let lost = RegistryError::from(StoreError::Unreachable);
        assert_eq!(FailedWait::of(&Rotate(Default::default()), false, &lost), FailedWait::Gone);
    }

    #[test]
    fn a_change_without_a_key_is_made_again_and_a_missing_trust_is_not() {
        for step in [&Disable, &Delete, &RevokeKey(Uuid::nil()), &SetAttributes(None)] {
            for failure in [StoreError::Unreachable, StoreError::Unsettled] {
                let error = RegistryError::from(failure);
                let failed = FailedWait::of(step, true, &error);
                assert_eq!(failed, FailedWait::Repeatable);
                let message = failed.message(step, &error);
                assert!(message.contains(&format!("may still {}", step.may())), "{message}");
                assert!(message.contains("make the same change again"), "{message}");
                assert!(message.ends_with(&error.to_string()), "{message}");
            }
            let missing = FailedWait::of(step, false, &no_such_trust());
            assert_eq!(missing, FailedWait::NoSuchTrust);
            assert_eq!(missing.message(step, &no_such_trust()), no_such_trust().to_string());
        }
    }
}
