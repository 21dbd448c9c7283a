//! [`Refusals`]: the responses to the refused requests of a layer.

use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use http::request::Parts;

use super::KeyHeader;
use crate::error::AuthError;

/// Makes the application's response from the layer's.
pub(super) type Own = dyn Fn(&AuthError, &Parts, Response<Bytes>) -> Response<Bytes> + Send + Sync;

/// Makes the responses to refused requests. The layer uses it, and puts it among the extensions of
/// a refused request that it passes on: there an extractor uses it.
#[derive(Clone, Default)]
pub(super) struct Refusals {
    header: Arc<KeyHeader>,
    own: Option<Arc<Own>>,
}

impl Refusals {
    pub(super) fn header(&self) -> &KeyHeader {
        &self.header
    }

    pub(super) fn set_header(&mut self, header: KeyHeader) {
        self.header = Arc::new(header);
    }

    pub(super) fn set_own(&mut self, own: Arc<Own>) {
        self.own = Some(own);
    }

    pub(super) fn response(&self, refused: &AuthError, request: &Parts) -> Response<Bytes> {
        let usual = self.header.refusal(refused);
        match &self.own {
            Some(own) => own(refused, request, usual),
            None => usual,
        }
    }
}
