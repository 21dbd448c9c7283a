//! HTTP: the header that carries the key, the response to a refused request, and a layer that
//! authenticates a request before a service receives it.
//!
//! It never logs a header's value. It passes on only granted requests, unless authentication is
//! optional.

mod body;
#[cfg(feature = "axum")]
mod extractor;
mod key_header;
mod key_id;
mod layer;
mod refusals;
mod response;

pub use body::AuthBody;
#[cfg(feature = "axum")]
pub use extractor::{Authenticated, NotAuthenticated};
pub use key_header::KeyHeader;
pub use key_id::KeyId;
pub use layer::{AuthLayer, AuthService};
