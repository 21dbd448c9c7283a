//! The JSON that the command line and the admin API have in common.

use serde::Serialize;
use trust_auth::{ApiKey, Trust, TrustKey};
use utoipa::ToSchema;

use crate::revocation_end::RevocationEnd;
use crate::serve::admin::schemas::{KeySchema, TrustSchema};

/// `{"trust":{..}}`, with `"api_key":".."` if the trust has got a new key, which is stored nowhere,
/// and with `"revocation":{..}` if a change had to wait for processes with a read lease. With the
/// `"error":{..}` of an [`ErrorJson`] if the wait failed and there is a new key.
#[derive(Serialize, ToSchema)]
#[schema(as = TrustAnswer, description = "A trust, and what its change has brought about.")]
pub(crate) struct TrustJson<'a> {
    #[schema(value_type = TrustSchema)]
    trust: &'a Trust,
    /// The new API key of the trust, which is stored nowhere.
    #[schema(value_type = Option<String>, nullable = false, pattern = "^[0-9A-Za-z_]{49,}$")]
    #[serde(skip_serializing_if = "Option::is_none")]
    api_key: Option<&'a str>,
    /// How the revocation ended, if it had to wait for processes with a read lease.
    #[schema(value_type = Option<RevocationEnd>, nullable = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    revocation: Option<&'a RevocationEnd>,
    /// Why the wait of the revocation failed, although the change was committed.
    #[schema(value_type = Option<KindAndMessage>, nullable = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<KindAndMessage<'a>>,
}

impl<'a> TrustJson<'a> {
    pub(crate) fn new(trust: &'a Trust) -> Self {
        Self { trust, api_key: None, revocation: None, error: None }
    }

    /// Adds the trust's new key, if it has one.
    pub(crate) fn with_key(self, key: Option<&'a ApiKey>) -> Self {
        Self { api_key: key.map(ApiKey::expose), ..self }
    }

    /// Adds how a revocation ended, if it had to wait.
    pub(crate) fn with_revocation(self, revocation: Option<&'a RevocationEnd>) -> Self {
        Self { revocation, ..self }
    }

    /// Adds why the wait of a revocation failed, if it did.
    pub(crate) fn with_error(self, error: Option<(&'a str, &'a str)>) -> Self {
        let error = error.map(|(kind, message)| KindAndMessage { kind, message });
        Self { error, ..self }
    }
}

/// `{"error":{"kind":..,"message":..}}`.
#[derive(Serialize, ToSchema)]
#[schema(as = Error, description = "Why a request was refused or failed.")]
pub(crate) struct ErrorJson<'a> {
    #[schema(value_type = KindAndMessage)]
    error: KindAndMessage<'a>,
}

/// A word for programs, and a text for people.
#[derive(Serialize, ToSchema)]
struct KindAndMessage<'a> {
    /// A short stable word. `x-error-kinds` of the response lists the words.
    kind: &'a str,
    /// What happened, and what to do.
    message: &'a str,
}

impl<'a> ErrorJson<'a> {
    pub(crate) fn new(kind: &'a str, message: &'a str) -> Self {
        Self { error: KindAndMessage { kind, message } }
    }
}

/// `{"key":{..}}`, with `"api_key":".."` if the key is new.
#[derive(Serialize, ToSchema)]
#[schema(as = KeyAdded, description = "A key of a trust, and its text if it is new.")]
pub(crate) struct KeyJson<'a> {
    #[schema(value_type = KeySchema)]
    key: &'a TrustKey,
    /// The new API key, which is stored nowhere.
    #[schema(value_type = Option<String>, nullable = false, pattern = "^[0-9A-Za-z_]{49,}$")]
    #[serde(skip_serializing_if = "Option::is_none")]
    api_key: Option<&'a str>,
}

impl<'a> KeyJson<'a> {
    pub(crate) fn new(key: &'a TrustKey) -> Self {
        Self { key, api_key: None }
    }

    /// Adds the text of the key, if it is new.
    pub(crate) fn with_key(self, key: Option<&'a ApiKey>) -> Self {
        Self { api_key: key.map(ApiKey::expose), ..self }
    }
}

/// The keys of a trust.
#[derive(Serialize, ToSchema)]
#[schema(as = Keys, description = "The keys of a trust.")]
pub(crate) struct KeysJson<'a> {
    /// Whether the trust has a key in its own row, too. That key has no id, no label and no end.
    pub(crate) has_key_in_trust: bool,
    /// The keys in rows of their own, also those that are revoked or at their end, in the order of
    /// their creation.
    #[schema(value_type = Vec<KeySchema>)]
    pub(crate) keys: &'a [TrustKey],
}
