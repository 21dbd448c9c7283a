//! What the operators of the service may see: how full the cache is, and what the watcher has done.

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};
use trust_auth::{Authenticated, TrustAuth};

use crate::app::{Forbidden, Users, require};

pub(crate) async fn stats(
    Authenticated(user): Authenticated,
    State(auth): State<TrustAuth<Users>>,
) -> Result<Json<Value>, Forbidden> {
    require(&user, "stats:read")?;
    let watch = auth.watcher().map(|watcher| watcher.status());
    let requests = auth.authenticator().stats();
    Ok(Json(json!({ "cached": auth.cache().len(), "watch": watch, "requests": requests })))
}
