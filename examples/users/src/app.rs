//! All that the service needs to authenticate its users: how trust-auth reads the table, the layer
//! in front of the routes, and the check of a scope.
//!
//! This is the file to copy. `ledger.rs` and `watch.rs` are optional.

use std::time::Duration;

use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};
use sqlx::sqlite::{SqlitePool, SqliteRow};
use sqlx::{Row, query, query_as};
use trust_auth::{
    AuthLayer, Authenticated, Candidates, InvalidKeyPrefix, KeyHash, KeyPrefix, StoreError, Trust,
    TrustAuth, TrustStore,
};
use uuid::Uuid;

use crate::stats::stats;

/// The longest time that a read takes, with its wait for a connection.
pub(crate) const TIME_OUT: Duration = Duration::from_secs(2);

/// The table `users`, through the service's own pool.
pub(crate) struct Users(pub(crate) SqlitePool);

/// Returns the user's id as trust-auth has it: the same number.
fn uuid_of(user: i64) -> Uuid {
    Uuid::from_u128(user.cast_unsigned().into())
}

/// Returns the user's id, which is `None` if no user can have this `Uuid`.
pub(crate) fn user_of(id: Uuid) -> Option<i64> {
    u64::try_from(id.as_u128()).ok().map(u64::cast_signed)
}

/// Returns the row as trust-auth has it. The attributes are what else the handlers need.
pub(crate) fn trust_of(row: SqliteRow) -> sqlx::Result<Trust> {
    let mut trust = Trust::new(uuid_of(row.try_get("id")?), row.try_get::<&str, _>("email")?);
    let digest: Option<&[u8]> = row.try_get("key_digest")?;
    let malformed = |error| sqlx::Error::Decode(Box::new(error));
    trust.api_key_hash = digest.map(KeyHash::try_from).transpose().map_err(malformed)?;
    let (plan, scopes): (&str, Value) = (row.try_get("plan")?, row.try_get("scopes")?);
    trust.attributes = Some(json!({ "plan": plan, "scopes": scopes }));
    trust.created_at = row.try_get("created_at")?;
    trust.disabled_at = row.try_get("deactivated_at")?;
    Ok(trust)
}

impl TrustStore for Users {
    /// Reads one user by the primary key, for each request. The caller compares the digest.
    async fn fetch(&self, id: Uuid) -> Result<Option<Trust>, StoreError> {
        let Some(user) = user_of(id) else { return Ok(None) };
        let read = query(
            "SELECT id, email, plan, scopes, key_digest, created_at, deactivated_at
             FROM users WHERE id = ?",
        );
        in_time(read.bind(user).try_map(trust_of).fetch_optional(&self.0)).await
    }

    /// Reads the digests of all active users, for keys that the cache does not have.
    async fn candidates(&self) -> Result<Candidates, StoreError> {
        let sql = "SELECT id, key_digest FROM users WHERE deactivated_at IS NULL ORDER BY id";
        let rows: Vec<(i64, Option<Vec<u8>>)> = in_time(query_as(sql).fetch_all(&self.0)).await?;
        let digest = |bytes: &Option<Vec<u8>>| KeyHash::try_from(&**bytes.as_ref()?).ok();
        Ok(rows.iter().filter_map(|(user, bytes)| Some((uuid_of(*user), digest(bytes)?))).collect())
    }
}

/// Bounds the time of a read. Every failure is an error, which refuses the request: `Ok(None)` says
/// that there is no such user.
pub(crate) async fn in_time<T>(
    read: impl Future<Output = sqlx::Result<T>>,
) -> Result<T, StoreError> {
    let read = tokio::time::timeout(TIME_OUT, read).await;
    let read = read.map_err(|_| StoreError::Timeout { after: TIME_OUT })?;
    read.map_err(|error| StoreError::Other(error.into()))
}

/// Returns the parts of trust-auth over the table. New keys begin with `acme_`.
pub(crate) fn auth(pool: SqlitePool) -> Result<TrustAuth<Users>, InvalidKeyPrefix> {
    Ok(TrustAuth::builder(Users(pool)).key_prefix(KeyPrefix::new("acme_")?).watch().build())
}

/// The layer is in front of every route.
pub(crate) fn router(auth: TrustAuth<Users>) -> Router {
    let routes = Router::new().route("/orders", get(orders)).route("/stats", get(stats));
    routes.layer(AuthLayer::new(auth.authenticator().clone())).with_state(auth)
}

/// A response of the service's own, for a user who has no right to the route.
pub(crate) type Forbidden = (StatusCode, Json<Value>);

/// Refuses a user without this scope.
pub(crate) fn require(user: &Trust, scope: &str) -> Result<(), Forbidden> {
    let scopes = user.attributes.as_ref().and_then(|attributes| attributes["scopes"].as_array());
    let has_scope = scopes.is_some_and(|scopes| scopes.iter().any(|own| own == scope));
    let refusal = json!({ "error": "missing scope", "scope": scope });
    if has_scope { Ok(()) } else { Err((StatusCode::FORBIDDEN, Json(refusal))) }
}

async fn orders(Authenticated(user): Authenticated) -> Result<Json<Value>, Forbidden> {
    require(&user, "orders:read")?;
    Ok(Json(json!({ "user": user.name, "attributes": user.attributes, "orders": [] })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_user_has_a_uuid_of_its_own_which_leads_back_to_it() {
        for user in [i64::MIN, -1, 0, 1, i64::MAX] {
            assert_eq!(user_of(uuid_of(user)), Some(user));
        }
        assert_eq!(user_of(Uuid::from_u128(1 << 64)), None);
    }

    #[test]
    fn a_user_without_the_scope_is_refused_whatever_the_attributes_are() {
        let user = |attributes| {
            let mut user = Trust::new(Uuid::nil(), "mary@example.org");
            user.attributes = attributes;
            user
        };
        assert!(require(&user(Some(json!({ "scopes": ["b", "a"] }))), "a").is_ok());
        for attributes in [
            None,
            Some(json!("a")),
            Some(json!({})),
            Some(json!({ "scopes": "a" })),
            Some(json!({ "scopes": [] })),
            Some(json!({ "scopes": ["aa", "A", ["a"]] })),
        ] {
            let (status, Json(body)) = require(&user(attributes), "a").unwrap_err();
            assert_eq!((status, &body["scope"]), (StatusCode::FORBIDDEN, &json!("a")));
        }
    }

    /// What the documentation promises of this file. Imports, comments and blank lines are free.
    #[test]
    fn the_service_mounts_the_layer_in_at_most_60_lines() {
        let (mut lines, mut in_import) = (0, false);
        let code = include_str!("app.rs").lines().map(str::trim);
        for line in code.take_while(|line| *line != "#[cfg(test)]") {
            let is_import = in_import || line.starts_with("use ");
            in_import = is_import && !line.ends_with(';');
            lines += u32::from(!is_import && !line.is_empty() && !line.starts_with("//"));
        }
        assert!((50..=60).contains(&lines), "{lines} lines");
    }
}
