//! The JSON that the command line and the admin API have in common.

use serde::Serialize;
use trust_auth::{ApiKey, Trust};

/// `{"trust":{..}}`.
#[derive(Serialize)]
pub(crate) struct TrustJson<'a> {
    pub(crate) trust: &'a Trust,
}

/// `{"trust":{..},"api_key":".."}`: a trust and its new key, which is stored nowhere.
#[derive(Serialize)]
pub(crate) struct IssuedKeyJson<'a> {
    trust: &'a Trust,
    api_key: &'a str,
}

impl<'a> IssuedKeyJson<'a> {
    pub(crate) fn new(trust: &'a Trust, key: &'a ApiKey) -> Self {
        Self { trust, api_key: key.expose() }
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
