//! The admin API: registers, lists, changes and deletes trusts and their keys over HTTP, as JSON.
//!
//! It serves only clients that have the internal service key. A change that was begun is finished,
//! also if its client disconnects.

pub(crate) mod document;
pub(crate) mod error;
pub(crate) mod guard;
pub(crate) mod pending_waits;
mod refusals;
pub(crate) mod requests;
mod revocation;
pub(crate) mod schemas;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::from_fn_with_state;
use tower_layer::Layer;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::guard::KeyGuard;
use self::requests::{Admin, BODY_BYTES};

/// Returns the routes of the admin listener: the API, and the probes and metrics, which need no
/// key.
pub(crate) fn routes(admin: Admin, guard: &Arc<KeyGuard>, probes: Router) -> Router {
    guarded(guard, unguarded(probes).with_state(Arc::new(admin)))
}

fn unguarded(probes: Router) -> Router<Arc<Admin>> {
    Router::from(api())
        .layer(DefaultBodyLimit::max(BODY_BYTES))
        .merge(probes.with_state(()))
        .fallback(requests::no_such_path)
        .method_not_allowed_fallback(requests::no_such_method)
}

/// Returns the routes of the API, each with its part of the OpenAPI document.
fn api() -> OpenApiRouter<Arc<Admin>> {
    OpenApiRouter::new()
        .routes(routes!(requests::list, requests::register))
        .routes(routes!(requests::show, requests::set_attributes, requests::delete))
        .routes(routes!(requests::disable))
        .routes(routes!(requests::enable))
        .routes(routes!(requests::rotate))
        .routes(routes!(requests::list_keys, requests::add_key))
        .routes(routes!(requests::revoke_key))
}

/// Puts the guard around all routes, and around paths that do not exist: an unauthenticated client
/// learns no path and no method.
pub(crate) fn guarded(guard: &Arc<KeyGuard>, routes: Router) -> Router {
    // A layer on the routes would leave the header `Allow`, which lists the methods, on a 405.
    Router::new()
        .fallback_service(from_fn_with_state(Arc::clone(guard), guard::guard).layer(routes))
}
