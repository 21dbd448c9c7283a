//! The JSON that the command line and the admin API have in common.

use serde::Serialize;
use trust_auth::{ApiKey, Trust};

use crate::revocation_end::RevocationEnd;

/// `{"trust":{..}}`, with `"api_key":".."` if the trust has got a new key, which is stored nowhere,
/// and with `"revocation":{..}` if a change had to wait for processes with a read lease. With the
/// `"error":{..}` of an [`ErrorJson`] if the wait failed and there is a new key.
#[derive(Serialize)]
pub(crate) struct TrustJson<'a> {
    trust: &'a Trust,
    #[serde(skip_serializing_if = "Option::is_none")]
    api_key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    revocation: Option<&'a RevocationEnd>,
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
#[derive(Serialize)]
pub(crate) struct ErrorJson<'a> {
    error: KindAndMessage<'a>,
}

#[derive(Serialize)]
struct KindAndMessage<'a> {
    kind: &'a str,
    message: &'a str,
}

impl<'a> ErrorJson<'a> {
    pub(crate) fn new(kind: &'a str, message: &'a str) -> Self {
        Self { error: KindAndMessage { kind, message } }
    }
}
