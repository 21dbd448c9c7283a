//! The admin API: trusts registered, listed, changed and deleted over HTTP, as JSON, by whoever has the internal service key.
//!
//! It must never answer anybody else, and never lose a change half-way because the client has gone.

mod failure;
mod guard;
mod requests;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};
use tower_layer::Layer;
use trust_auth::TrustRegistry;
use trust_key_cache::KeyHash;

use super::meters::Meters;
use crate::store::Store;

/// A name, a code and a region; nobody's are longer.
const BODY_BYTES: usize = 16 * 1024;

/// What the requests need.
pub(crate) struct Admin {
    registry: TrustRegistry<Store>,
    /// Without it, everybody is refused.
    key: Option<KeyHash>,
    /// For a whole request, its body included.
    limit: Duration,
    meters: Arc<Meters>,
}

impl Admin {
    pub(crate) fn new(
        registry: TrustRegistry<Store>,
        key: Option<KeyHash>,
        limit: Duration,
        meters: Arc<Meters>,
    ) -> Self {
        Self { registry, key, limit, meters }
    }
}

/// All below `/admin`, guarded: also what does not exist, so that a stranger cannot find out what does.
pub(crate) fn routes(admin: Admin) -> Router {
    let admin = Arc::new(admin);
    let api = Router::new()
        .route("/trusts", get(requests::list).post(requests::register))
        .route("/trusts/{trust}", get(requests::show).delete(requests::delete))
        .route("/trusts/{trust}/disable", post(requests::disable))
        .route("/trusts/{trust}/enable", post(requests::enable))
        .route("/trusts/{trust}/rotate", post(requests::rotate))
        .fallback(requests::no_such_path)
        .method_not_allowed_fallback(requests::no_such_method)
        .layer(DefaultBodyLimit::max(BODY_BYTES))
        .with_state(Arc::clone(&admin));
    // Around the whole: a layer of the routes would let their 405 tell a stranger, by `Allow`, which paths there are.
    Router::new().nest_service("/admin", from_fn_with_state(admin, guard::guard).layer(api))
}
