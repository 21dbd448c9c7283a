//! The admin API: trusts registered, listed, changed and deleted over HTTP, as JSON, by whoever has
//! the internal service key.
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

pub(crate) use self::guard::Guard;

use super::meters::Meters;
use crate::store::Store;

/// A name, a code and a region; nobody's are longer.
const BODY_BYTES: usize = 16 * 1024;

/// What the requests need.
pub(crate) struct Admin {
    registry: TrustRegistry<Store>,
    /// For a whole request, its body included.
    limit: Duration,
    meters: Arc<Meters>,
}

impl Admin {
    pub(crate) fn new(
        registry: TrustRegistry<Store>,
        limit: Duration,
        meters: Arc<Meters>,
    ) -> Self {
        Self { registry, limit, meters }
    }
}

/// The whole of the admin listener: the API, and the probes and metrics, which need no key.
pub(crate) fn routes(admin: Admin, guard: &Arc<Guard>, probes: Router) -> Router {
    let api = Router::new()
        .route("/admin/trusts", get(requests::list).post(requests::register))
        .route("/admin/trusts/{trust}", get(requests::show).delete(requests::delete))
        .route("/admin/trusts/{trust}/disable", post(requests::disable))
        .route("/admin/trusts/{trust}/enable", post(requests::enable))
        .route("/admin/trusts/{trust}/rotate", post(requests::rotate))
        .layer(DefaultBodyLimit::max(BODY_BYTES))
        .merge(probes.with_state(()))
        .fallback(requests::no_such_path)
        .method_not_allowed_fallback(requests::no_such_method)
        .with_state(Arc::new(admin));
    guarded(guard, api)
}

/// Puts the guard around everything, also around what does not exist: an unauthenticated client
/// learns no path and no method.
pub(crate) fn guarded(guard: &Arc<Guard>, routes: Router) -> Router {
    // Around the whole: a layer of the routes would leave their 405 the header `Allow`, which names
    // the methods.
    Router::new()
        .fallback_service(from_fn_with_state(Arc::clone(guard), guard::guard).layer(routes))
}
