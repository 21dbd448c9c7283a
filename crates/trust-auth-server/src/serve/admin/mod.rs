//! The admin API: registers, lists, changes and deletes trusts over HTTP, as JSON.
//!
//! It serves only clients that have the internal service key. A change that was begun is finished,
//! also if its client disconnects.

pub(crate) mod error;
pub(crate) mod guard;
pub(crate) mod pending_waits;
pub(crate) mod requests;
mod revocation;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};
use tower_layer::Layer;

use self::guard::KeyGuard;
use self::requests::{Admin, BODY_BYTES};

/// Returns the routes of the admin listener: the API, and the probes and metrics, which need no
/// key.
pub(crate) fn routes(admin: Admin, guard: &Arc<KeyGuard>, probes: Router) -> Router {
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

/// Puts the guard around all routes, and around paths that do not exist: an unauthenticated client
/// learns no path and no method.
pub(crate) fn guarded(guard: &Arc<KeyGuard>, routes: Router) -> Router {
    // A layer on the routes would leave the header `Allow`, which lists the methods, on a 405.
    Router::new()
        .fallback_service(from_fn_with_state(Arc::clone(guard), guard::guard).layer(routes))
}
