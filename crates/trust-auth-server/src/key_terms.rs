//! The checks of a key's terms, for the command line and the admin API alike.

use std::time::Duration;

use trust_auth::KeyTerms;

use crate::lifetime::Lifetime;

/// Returns the terms of a new key.
pub(crate) fn key_terms(label: Option<String>, lasts: Option<Lifetime>) -> KeyTerms {
    let mut terms = KeyTerms::new();
    if let Some(label) = label {
        terms = terms.with_label(label);
    }
    if let Some(Lifetime(duration)) = lasts {
        terms = terms.lasting(duration);
    }
    terms
}

/// The new key of a rotation, and how long the others are accepted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RotationTerms {
    pub(crate) key: KeyTerms,
    pub(crate) overlap: Option<Duration>,
}
