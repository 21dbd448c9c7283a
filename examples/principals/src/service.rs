//! The service: each request brings an API key, and its handler receives the [`User`] of the key.
//!
//! This is the file to copy.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{FromRequestParts, Path, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::routing::{delete, get, post};
use trust_key_cache::{KeyCache, KeyHash};

use crate::database::{Database, STATEMENT_TIMEOUT, User};

/// Covers the time between the read of the clock in `invalidate_key_for` and the statement.
const MARGIN: Duration = Duration::from_secs(1);

/// The values are `Arc`s, because a value is cloned whenever its bucket is copied.
pub(crate) type Users = KeyCache<Arc<User>>;

#[derive(Clone)]
pub(crate) struct App {
    pub(crate) users: Arc<Users>,
    pub(crate) database: Database,
}

pub(crate) fn router(app: App) -> Router {
    Router::new()
        .route("/me", get(me))
        .route("/keys/{id}", delete(delete_key))
        .route("/unprotected/keys/{id}", delete(delete_key_unprotected))
        .route("/users/{id}/disable", post(disable_user))
        .with_state(app)
}

/// The principal of a request: a hit in the cache, or else four reads, which requests that miss the
/// same key share.
struct Caller(Arc<User>);

impl FromRequestParts<App> for Caller {
    type Rejection = StatusCode;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, StatusCode> {
        let key = parts.headers.get("x-api-key").ok_or(StatusCode::UNAUTHORIZED)?;
        let hash = KeyHash::of(key);
        // The cache takes its lease before it calls the closure, so before the first read.
        let load = || app.database.user_of(&hash);
        match app.users.get_or_try_load_async(&hash, load).await {
            Ok(user) => user.map(Caller).ok_or(StatusCode::UNAUTHORIZED),
            Err(_) => Err(StatusCode::SERVICE_UNAVAILABLE),
        }
    }
}

async fn me(Caller(user): Caller) -> String {
    format!("{}, {} of {}", user.name, user.role, user.organization)
}

/// Deletes a key. The key stays deleted even if this future is dropped at any `.await`, and if the
/// database does not report whether it has committed.
async fn delete_key(State(app): State<App>, Path(id): Path<i64>) -> StatusCode {
    let hash = match app.database.hash_of(id).await {
        Ok(Some(hash)) => hash,
        Ok(None) => return StatusCode::NOT_FOUND,
        Err(_) => return StatusCode::SERVICE_UNAVAILABLE,
    };
    // After `STATEMENT_TIMEOUT` the database gives the statement up, so no commit comes later. No
    // request that begins to read within this time stores what it reads.
    app.users.invalidate_key_for(&hash, STATEMENT_TIMEOUT + MARGIN);
    let deleted = app.database.delete_key(id).await;
    // In any case: after an error, the commit may have been made.
    app.users.invalidate_key(&hash);
    status_of(deleted.map(|deleted| deleted.is_some()))
}

/// Deletes a key by its id, where the statement returns the hash. This is enough in a task that is
/// not dropped, while the database answers.
async fn delete_key_unprotected(State(app): State<App>, Path(id): Path<i64>) -> StatusCode {
    // DELETE .. RETURNING key_hash
    let deleted = app.database.delete_key(id).await;
    match &deleted {
        Ok(Some(hash)) => app.users.invalidate_key(hash),
        Ok(None) => {}
        // The commit may have been made, and the hash is not known. The commit may also come after
        // this line, which only `invalidate_key_for` covers.
        Err(_) => app.users.invalidate(),
    }
    status_of(deleted.map(|deleted| deleted.is_some()))
}

/// Disables a user. The change concerns all keys of the user.
///
/// The task is not dropped with the handler: it ends even if the client hangs up.
async fn disable_user(State(app): State<App>, Path(id): Path<i64>) -> StatusCode {
    let task = tokio::spawn(async move {
        let disabled = app.database.disable_user(id).await;
        app.users.invalidate_where(|_, user| user.id == id);
        status_of(disabled)
    });
    task.await.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

fn status_of<E>(changed: Result<bool, E>) -> StatusCode {
    match changed {
        Ok(true) => StatusCode::NO_CONTENT,
        Ok(false) => StatusCode::NOT_FOUND,
        Err(_) => StatusCode::SERVICE_UNAVAILABLE,
    }
}
