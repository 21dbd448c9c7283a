//! HTTP: which header carries the key, what a refusal looks like, and a layer that asks the
//! authenticator before a service sees a request. It must never log a header's value, and never let
//! a request through that was not granted.

#[cfg(feature = "axum")]
mod extractor;
mod key_header;
mod layer;
mod response;

#[cfg(feature = "axum")]
pub use extractor::{Authenticated, NotAuthenticated};
pub use key_header::KeyHeader;
pub use layer::{AuthLayer, AuthService};
