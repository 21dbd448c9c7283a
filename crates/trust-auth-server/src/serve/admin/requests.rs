//! The requests of the admin API, one function each.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::body::HttpBody;
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequest, Path, Request, State};
use axum::http::header::LOCATION;
use axum::http::{Response, StatusCode};
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use trust_auth::{
    ApiKey, Listing, MalformedRow, NewTrust, RegistryError, StoreError, TextFlaw, Trust, TrustRef,
    TrustRegistry,
};

use super::failure::Failure;
use super::{Admin, BODY_BYTES};
use crate::serve::meters::Meters;
use crate::store::Store;

/// The body of a registration.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Registration {
    name: String,
    #[serde(default, deserialize_with = "short_text")]
    code: Option<String>,
    #[serde(default, deserialize_with = "short_text")]
    region: Option<String>,
}

/// A trust.
#[derive(Serialize)]
struct One<'a> {
    trust: &'a Trust,
}

/// A trust and its new key, which is nowhere else.
#[derive(Serialize)]
struct Issued<'a> {
    trust: &'a Trust,
    api_key: &'a str,
}

/// `POST /admin/trusts`.
pub(crate) async fn register(State(admin): State<Arc<Admin>>, request: Request) -> Response<Body> {
    let registered = async {
        let asked = asked(request).await?;
        let mut new = NewTrust::new(asked.name)?;
        if let Some(code) = asked.code {
            new = new.with_code(code);
        }
        if let Some(region) = asked.region {
            new = new.with_region(region);
        }
        admin
            .change("register", async |registry: TrustRegistry<Store>| registry.register(new).await)
            .await
    };
    admin
        .answer("register", registered, |(trust, key): &(Trust, ApiKey)| {
            let location = format!("/admin/trusts/{}", trust.id);
            (StatusCode::CREATED, [(LOCATION, location)], issued(trust, key)).into_response()
        })
        .await
}

/// `GET /admin/trusts`.
pub(crate) async fn list(State(admin): State<Arc<Admin>>) -> Response<Body> {
    let listed = async { admin.registry.listing().await.map_err(Failure::from) };
    admin.answer("list", listed, |listing: &Listing| Json(listing).into_response()).await
}

/// `GET /admin/trusts/{trust}`.
pub(crate) async fn show(State(admin): State<Arc<Admin>>, named: Named) -> Response<Body> {
    let found = async {
        let which = which(named)?;
        // Of the list, because a store has no way to find a name, and needs none: this is not the
        // hot path.
        let listing = admin.registry.listing().await?;
        if let Some(trust) = which.find_in(&listing.trusts) {
            return Ok(trust.clone());
        }
        let is_meant = |row: &&MalformedRow| match &which {
            TrustRef::Id(id) => row.id == Some(*id),
            TrustRef::Name(name) => row.name.as_ref() == Some(name),
        };
        Err(match listing.malformed.iter().find(is_meant) {
            Some(row) => {
                RegistryError::from(StoreError::BadRow { id: row.id, column: row.column }).into()
            }
            None => Failure::no_such_trust(&StoreError::NoSuchTrust { which }),
        })
    };
    admin.answer("show", found, one).await
}

/// `DELETE /admin/trusts/{trust}`.
pub(crate) async fn delete(State(admin): State<Arc<Admin>>, named: Named) -> Response<Body> {
    let deleted =
        admin.change_named("delete", named, async |registry, which| registry.delete(&which).await);
    admin.answer("delete", deleted, one).await
}

/// `POST /admin/trusts/{trust}/disable`.
pub(crate) async fn disable(State(admin): State<Arc<Admin>>, named: Named) -> Response<Body> {
    let disabled = admin
        .change_named("disable", named, async |registry, which| registry.disable(&which).await);
    admin.answer("disable", disabled, one).await
}

/// `POST /admin/trusts/{trust}/enable`.
pub(crate) async fn enable(State(admin): State<Arc<Admin>>, named: Named) -> Response<Body> {
    let enabled =
        admin.change_named("enable", named, async |registry, which| registry.enable(&which).await);
    admin.answer("enable", enabled, one).await
}

/// `POST /admin/trusts/{trust}/rotate`.
pub(crate) async fn rotate(State(admin): State<Arc<Admin>>, named: Named) -> Response<Body> {
    let rotated =
        admin.change_named("rotate", named, async |registry, which| registry.rotate(&which).await);
    admin.answer("rotate", rotated, |(trust, key): &(Trust, ApiKey)| issued(trust, key)).await
}

/// Any other path.
pub(crate) async fn no_such_path(State(admin): State<Arc<Admin>>) -> Response<Body> {
    admin.refuse(Failure::no_such_path())
}

/// Any other method.
pub(crate) async fn no_such_method(State(admin): State<Arc<Admin>>) -> Response<Body> {
    admin.refuse(Failure::no_such_method())
}

/// The last part of the path, if it can be read.
type Named = Result<Path<String>, PathRejection>;

fn which(named: Named) -> Result<TrustRef, Failure> {
    let Path(text) = named.map_err(|_| Failure::unreadable_path())?;
    Ok(TrustRef::from(&*text))
}

async fn asked(request: Request) -> Result<Registration, Failure> {
    // What is announced to be too large is refused before it is sent, rather than awaited.
    if request.body().size_hint().lower() > BODY_BYTES as u64 {
        return Err(Failure::too_large());
    }
    let Json(asked) = Json::from_request(request, &()).await?;
    Ok(asked)
}

impl Admin {
    /// Changes the trust that the path names.
    async fn change_named<
        T: Changed,
        F: Future<Output = Result<T, RegistryError>> + Send + 'static,
    >(
        &self,
        operation: &'static str,
        named: Named,
        change: impl FnOnce(TrustRegistry<Store>, TrustRef) -> F,
    ) -> Result<T, Failure> {
        let which = which(named)?;
        self.change(operation, |registry| change(registry, which)).await
    }

    /// Makes a change to its end, even if the client goes meanwhile, and logs it.
    async fn change<T: Changed, F: Future<Output = Result<T, RegistryError>> + Send + 'static>(
        &self,
        operation: &'static str,
        change: impl FnOnce(TrustRegistry<Store>) -> F,
    ) -> Result<T, Failure> {
        let change = change(self.registry.clone());
        let changing = async move {
            let done = change.await?;
            tracing::info!(operation, trust = %done.trust().id, "a trust was changed");
            Ok::<_, RegistryError>(done)
        };
        match tokio::spawn(changing).await {
            Ok(outcome) => outcome.map_err(Failure::from),
            Err(_) => Err(Failure::broken()),
        }
    }

    /// Does what was asked, within the time that a request may take, and counts what came of it.
    async fn answer<T>(
        &self,
        operation: &'static str,
        work: impl Future<Output = Result<T, Failure>>,
        response: impl FnOnce(&T) -> Response<Body>,
    ) -> Response<Body> {
        let mut counted = Counted { meters: &self.meters, operation, outcome: "cancelled" };
        let outcome = tokio::time::timeout(self.limit, work)
            .await
            .unwrap_or_else(|_| Err(Failure::too_slow()));
        counted.outcome = outcome.as_ref().map_or_else(Failure::kind, |_| "ok");
        drop(counted);
        match outcome {
            Ok(done) => response(&done),
            Err(failure) => failure.into_response(),
        }
    }

    /// Refuses what is no operation at all.
    fn refuse(&self, refusal: Failure) -> Response<Body> {
        self.meters.administered("none", refusal.kind());
        refusal.into_response()
    }
}

/// A request that is counted when this is dropped, also because its client has gone.
struct Counted<'a> {
    meters: &'a Meters,
    operation: &'static str,
    outcome: &'static str,
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.meters.administered(self.operation, self.outcome);
    }
}

/// What a change came to: the trust, with its new key if it has one.
trait Changed: Send + 'static {
    fn trust(&self) -> &Trust;
}

impl Changed for Trust {
    fn trust(&self) -> &Trust {
        self
    }
}

impl Changed for (Trust, ApiKey) {
    fn trust(&self) -> &Trust {
        &self.0
    }
}

fn one(trust: &Trust) -> Response<Body> {
    Json(One { trust }).into_response()
}

fn issued(trust: &Trust, key: &ApiKey) -> Response<Body> {
    Json(Issued { trust, api_key: key.expose() }).into_response()
}

/// As on the command line: what is not known is left out, not empty, and no key is stored by
/// mistake.
fn short_text<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<String>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    if text.as_deref() == Some("") {
        return Err(serde::de::Error::custom("it is empty; leave it out"));
    }
    if text.as_deref().is_some_and(ApiKey::may_be_in) {
        return Err(serde::de::Error::custom(
            "it looks like an API key; leave it out, and rotate that key",
        ));
    }
    if let Some(Err(flaw)) = text.as_deref().map(TextFlaw::check) {
        return Err(serde::de::Error::custom(format_args!("it {flaw}")));
    }
    Ok(text)
}
