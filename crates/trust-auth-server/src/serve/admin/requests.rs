//! The requests of the admin API: one function for each.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::body::HttpBody;
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequest, Path, Request, State};
use axum::http::header::LOCATION;
use axum::http::{HeaderMap, Response, StatusCode};
use axum::response::IntoResponse;
use serde::de::Error;
use serde::{Deserialize, Deserializer};
use tokio::sync::oneshot;
use trust_auth::{
    ApiKey, KeyHash, Listing, MalformedRow, RegistryError, StoreError, Trust, TrustRef,
    TrustRegistry,
};
use utoipa::ToSchema;

use super::error::AdminError;
use super::pending_waits::PendingWaits;
use super::refusals::{OfChange, OfList, OfRegistration, OfRevocation, OfRotation, OfShow};
use super::revocation::{Revoked, Revoker};
use super::schemas::{KeyAnswer, ListingAnswer, PreferParameter, TrustParameter, example};
use crate::json::TrustJson;
use crate::key_digest::KeyDigest;
use crate::new_trust::{check_code_or_region, new_trust};
use crate::revocation_step::RevocationStep;
use crate::revoke::waiting;
use crate::serve::meters::Meters;
use crate::serve::settings::Settings;
use crate::store::Store;

/// The longest body. A name, a code and a region are shorter.
pub(crate) const BODY_BYTES: usize = 16 * 1024;

/// The state that the requests share.
pub(crate) struct Admin {
    registry: TrustRegistry<Store>,
    /// Whether a key is accepted by its SHA-256.
    accepts_sha256: bool,
    /// For a whole request, its body included.
    limit: Duration,
    revoker: Revoker,
    meters: Arc<Meters>,
}

impl Admin {
    pub(crate) fn new(
        registry: TrustRegistry<Store>,
        settings: &Settings,
        accepts_sha256: bool,
        meters: Arc<Meters>,
        waits: PendingWaits,
    ) -> Self {
        let revoker = Revoker {
            registry: registry.clone(),
            waiting: waiting(settings.no_acknowledgements),
            meters: Arc::clone(&meters),
            waits,
        };
        Self { registry, accepts_sha256, limit: settings.request_timeout, revoker, meters }
    }
}

/// The body of a registration.
#[derive(Deserialize, ToSchema)]
#[schema(as = Registration, description = "A trust to register. No text may look like an API key, \
    begin with a combining mark, or contain a control character, an invisible character, a \
    character without a form, or white space other than single spaces between words.")]
#[serde(deny_unknown_fields)]
pub(crate) struct RegistrationBody {
    /// The name, unique among trusts, and neither `.` nor `..`.
    #[schema(
        min_length = 1,
        example = "St. Mary",
        pattern = r"^[^\x00-\x20\x7F-\xA0]+( [^\x00-\x20\x7F-\xA0]+)*$"
    )]
    name: String,
    /// The code of the trust in other systems.
    #[schema(
        min_length = 1,
        example = "RX1",
        pattern = r"^[^\x00-\x20\x7F-\xA0]+( [^\x00-\x20\x7F-\xA0]+)*$"
    )]
    #[serde(default, deserialize_with = "code_or_region")]
    code: Option<String>,
    /// The region.
    #[schema(
        min_length = 1,
        example = "North",
        pattern = r"^[^\x00-\x20\x7F-\xA0]+( [^\x00-\x20\x7F-\xA0]+)*$"
    )]
    #[serde(default, deserialize_with = "code_or_region")]
    region: Option<String>,
    /// The SHA-256 of a key that exists. Otherwise a key is made. A service with a pepper refuses
    /// it, unless it accepts keys that have no pepper.
    #[schema(value_type = Option<String>, pattern = "^[0-9A-Fa-f]{64}$")]
    #[serde(default, deserialize_with = "digest")]
    key_sha256: Option<KeyHash>,
}

/// Handles `POST /admin/trusts`.
#[utoipa::path(
    post,
    path = "/admin/trusts",
    operation_id = "register_trust",
    tag = "trusts",
    summary = "Register a trust",
    description = "Registers a trust, and returns its new API key unless the request has \
                   `key_sha256`. The key is stored nowhere and is shown this once.",
    request_body(content = RegistrationBody, description = "The trust, in at most 16 KiB"),
    responses(
        (status = 201, description = "The trust is registered. `api_key` is its new key, and is \
                                      missing if the request had `key_sha256`",
            body = TrustJson,
            headers(("Location" = String, description = "The path of the trust")),
            example = json!(example::key())),
        OfRegistration,
    ),
)]
pub(crate) async fn register(State(admin): State<Arc<Admin>>, request: Request) -> Response<Body> {
    let registered = async {
        let body = body(request).await?;
        let new = new_trust(body.name, body.code, body.region)?;
        if body.key_sha256.is_some() && !admin.accepts_sha256 {
            return Err(AdminError::pepper());
        }
        let register = async move |registry: TrustRegistry<Store>| match body.key_sha256 {
            None => registry.register(new).await.map(|(trust, key)| (trust, Some(key))),
            Some(hash) => registry.import_hash(new, hash).await.map(|trust| (trust, None)),
        };
        admin.change("register", register).await
    };
    admin
        .answer("register", registered, |(trust, key): &(Trust, Option<ApiKey>)| {
            let location = format!("/admin/trusts/{}", trust.id);
            let json = Json(TrustJson::new(trust).with_key(key.as_ref()));
            (StatusCode::CREATED, [(LOCATION, location)], json).into_response()
        })
        .await
}

/// Handles `GET /admin/trusts`.
#[utoipa::path(
    get,
    path = "/admin/trusts",
    operation_id = "list_trusts",
    tag = "trusts",
    summary = "List the trusts",
    description = "Lists all trusts, sorted by name. Rows that cannot be read are listed apart.",
    responses(
        (status = 200, description = "All trusts", body = ListingAnswer,
            example = json!(example::listing())),
        OfList,
    ),
)]
pub(crate) async fn list(State(admin): State<Arc<Admin>>) -> Response<Body> {
    let listed = async { admin.registry.listing().await.map_err(AdminError::from) };
    admin.answer("list", listed, |listing: &Listing| Json(listing).into_response()).await
}

/// Handles `GET /admin/trusts/{trust}`.
#[utoipa::path(
    get,
    path = "/admin/trusts/{trust}",
    operation_id = "show_trust",
    tag = "trusts",
    summary = "Show a trust",
    description = "Returns one trust.",
    params(TrustParameter),
    responses(
        (status = 200, description = "The trust", body = TrustJson,
            example = json!(example::trust())),
        OfShow,
    ),
)]
pub(crate) async fn show(State(admin): State<Arc<Admin>>, named: NamedTrust) -> Response<Body> {
    let found = async {
        let which = which(named)?;
        // Searches the list: a store cannot find a name, and this is not the hot path.
        let listing = admin.registry.listing().await?;
        if let Some(trust) = which.find_in(&listing.trusts) {
            return Ok(trust.clone());
        }
        let matches = |row: &&MalformedRow| match &which {
            TrustRef::Id(id) => row.id == Some(*id),
            TrustRef::Name(name) => row.name.as_ref() == Some(name),
        };
        Err(match listing.malformed.iter().find(matches) {
            Some(row) => {
                RegistryError::from(StoreError::BadRow { id: row.id, column: row.column }).into()
            }
            None => AdminError::no_such_trust(&StoreError::NoSuchTrust { which }),
        })
    };
    admin.answer("show", found, trust_json).await
}

/// Handles `DELETE /admin/trusts/{trust}`.
#[utoipa::path(
    delete,
    path = "/admin/trusts/{trust}",
    operation_id = "delete_trust",
    tag = "trusts",
    summary = "Delete a trust",
    description = "Deletes a trust. Returns when no process grants its key.",
    params(TrustParameter, PreferParameter),
    responses(
        (status = 200, description = "The trust as it was. No process grants its key",
            body = TrustJson, example = json!(example::trust())),
        (status = 202, description = "The trust is deleted. A process with a read lease may grant \
                                      its key, for the length of the lease at most",
            body = TrustJson, example = json!(example::committed())),
        OfRevocation,
    ),
)]
pub(crate) async fn delete(
    State(admin): State<Arc<Admin>>,
    named: NamedTrust,
    headers: HeaderMap,
) -> Response<Body> {
    admin.revoke(RevocationStep::Delete, named, &headers).await
}

/// Handles `POST /admin/trusts/{trust}/disable`.
#[utoipa::path(
    post,
    path = "/admin/trusts/{trust}/disable",
    operation_id = "disable_trust",
    tag = "trusts",
    summary = "Disable a trust",
    description = "Refuses the key of a trust until the trust is enabled again. Returns when no \
                   process grants the key.",
    params(TrustParameter, PreferParameter),
    responses(
        (status = 200, description = "The trust is disabled. No process grants its key",
            body = TrustJson, example = json!(example::everywhere())),
        (status = 202, description = "The trust is disabled. A process with a read lease may grant \
                                      its key, for the length of the lease at most",
            body = TrustJson, example = json!(example::committed())),
        OfRevocation,
    ),
)]
pub(crate) async fn disable(
    State(admin): State<Arc<Admin>>,
    named: NamedTrust,
    headers: HeaderMap,
) -> Response<Body> {
    admin.revoke(RevocationStep::Disable, named, &headers).await
}

/// Handles `POST /admin/trusts/{trust}/enable`.
#[utoipa::path(
    post,
    path = "/admin/trusts/{trust}/enable",
    operation_id = "enable_trust",
    tag = "trusts",
    summary = "Enable a trust",
    description = "Accepts the key of a disabled trust again.",
    params(TrustParameter),
    responses(
        (status = 200, description = "The trust is enabled", body = TrustJson,
            example = json!(example::trust())),
        OfChange,
    ),
)]
pub(crate) async fn enable(State(admin): State<Arc<Admin>>, named: NamedTrust) -> Response<Body> {
    let enabled = async {
        let which = which(named)?;
        let enable = async move |registry: TrustRegistry<Store>| registry.enable(&which).await;
        admin.change("enable", enable).await
    };
    admin.answer("enable", enabled, trust_json).await
}

/// Handles `POST /admin/trusts/{trust}/rotate`.
#[utoipa::path(
    post,
    path = "/admin/trusts/{trust}/rotate",
    operation_id = "rotate_key",
    tag = "trusts",
    summary = "Replace the key of a trust",
    description = "Gives a trust a new API key, which is shown this once. Returns when no process \
                   grants the old key. A second rotation revokes the key of the first one: do not \
                   repeat a rotation whose answer has a key.",
    params(TrustParameter, PreferParameter),
    responses(
        (status = 200, description = "The new key. No process grants the old key",
            body = KeyAnswer, example = json!(example::key())),
        (status = 202, description = "The new key. A process with a read lease may grant the old \
                                      key, for the length of the lease at most. With `error`, the \
                                      wait failed, and only a failover can have lost the rotation",
            body = KeyAnswer, example = json!(example::committed_key())),
        OfRotation,
    ),
)]
pub(crate) async fn rotate(
    State(admin): State<Arc<Admin>>,
    named: NamedTrust,
    headers: HeaderMap,
) -> Response<Body> {
    admin.revoke(RevocationStep::Rotate, named, &headers).await
}

/// Answers 404 to any other path.
pub(crate) async fn no_such_path(State(admin): State<Arc<Admin>>) -> Response<Body> {
    admin.refuse(AdminError::no_such_path())
}

/// Answers 405 to any other method.
pub(crate) async fn no_such_method(State(admin): State<Arc<Admin>>) -> Response<Body> {
    admin.refuse(AdminError::no_such_method())
}

/// The trust that the path names, if it can be read.
type NamedTrust = Result<Path<String>, PathRejection>;

fn which(named: NamedTrust) -> Result<TrustRef, AdminError> {
    let Path(text) = named.map_err(|_| AdminError::unreadable_path())?;
    Ok(TrustRef::from(&*text))
}

async fn body(request: Request) -> Result<RegistrationBody, AdminError> {
    // A body whose announced length is too large is refused before it is received.
    if request.body().size_hint().lower() > BODY_BYTES as u64 {
        return Err(AdminError::too_large());
    }
    let Json(body) = Json::from_request(request, &()).await?;
    Ok(body)
}

impl Admin {
    /// Makes a change to its end, also if the client disconnects meanwhile, and logs it.
    async fn change<
        T: ChangedTrust,
        F: Future<Output = Result<T, RegistryError>> + Send + 'static,
    >(
        &self,
        operation: &'static str,
        change: impl FnOnce(TrustRegistry<Store>) -> F,
    ) -> Result<T, AdminError> {
        let change = change(self.registry.clone());
        let changing = async move {
            let done = change.await?;
            tracing::info!(operation, trust = %done.trust().id, "a trust was changed");
            Ok::<_, RegistryError>(done)
        };
        match tokio::spawn(changing).await {
            Ok(outcome) => outcome.map_err(AdminError::from),
            Err(_) => Err(AdminError::panicked()),
        }
    }

    /// Revokes the key, and waits until no process grants it, within the time limit of the request.
    /// The answer is 202 if the limit passes first, or if the client prefers not to wait (RFC 7240,
    /// section 4.1). The revocation goes on either way, also if the client disconnects.
    async fn revoke(
        &self,
        step: RevocationStep,
        named: NamedTrust,
        headers: &HeaderMap,
    ) -> Response<Body> {
        let prefers_commit = prefers_respond_async(headers);
        let revoked = async {
            let which = which(named)?;
            let (committed, mut commit) = oneshot::channel();
            let mut revoking = tokio::spawn(self.revoker.clone().revoke(step, which, committed));
            let answer = async {
                if prefers_commit && let Ok(revoked) = (&mut commit).await {
                    return Ok(revoked);
                }
                (&mut revoking).await.unwrap_or_else(|_| Err(AdminError::panicked()))
            };
            match tokio::time::timeout(self.limit, answer).await {
                Ok(outcome) => outcome,
                Err(_) => commit.try_recv().map_err(|_| AdminError::too_slow()),
            }
        };
        self.counted(step.as_str(), revoked, Revoked::outcome, Revoked::response).await
    }

    /// Runs the request within its time limit, counts its outcome and returns the response.
    async fn answer<T>(
        &self,
        operation: &'static str,
        work: impl Future<Output = Result<T, AdminError>>,
        response: impl FnOnce(&T) -> Response<Body>,
    ) -> Response<Body> {
        let limited = async {
            tokio::time::timeout(self.limit, work)
                .await
                .unwrap_or_else(|_| Err(AdminError::too_slow()))
        };
        self.counted(operation, limited, |_| "ok", response).await
    }

    /// Runs the request, counts its outcome and returns the response.
    async fn counted<T>(
        &self,
        operation: &'static str,
        work: impl Future<Output = Result<T, AdminError>>,
        success: impl FnOnce(&T) -> &'static str,
        response: impl FnOnce(&T) -> Response<Body>,
    ) -> Response<Body> {
        let mut count = RequestCount { meters: &self.meters, operation, outcome: "cancelled" };
        let outcome = work.await;
        count.outcome = outcome.as_ref().map_or_else(AdminError::kind, success);
        drop(count);
        match outcome {
            Ok(done) => response(&done),
            Err(failure) => failure.into_response(),
        }
    }

    /// Refuses a request that is no operation, and counts it.
    fn refuse(&self, refusal: AdminError) -> Response<Body> {
        self.meters.count_admin_request("none", refusal.kind());
        refusal.into_response()
    }
}

/// Returns whether the client prefers an answer after the commit: `Prefer: respond-async`.
fn prefers_respond_async(headers: &HeaderMap) -> bool {
    let values = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    let mut preferences = values.flat_map(|value| value.split(','));
    preferences.any(|preference| preference.trim().eq_ignore_ascii_case("respond-async"))
}

/// Counts a request when it is dropped, also if its client has disconnected.
struct RequestCount<'a> {
    meters: &'a Meters,
    operation: &'static str,
    outcome: &'static str,
}

impl Drop for RequestCount<'_> {
    fn drop(&mut self) {
        self.meters.count_admin_request(self.operation, self.outcome);
    }
}

/// The result of a change: the trust, with its new key if it has one.
trait ChangedTrust: Send + 'static {
    fn trust(&self) -> &Trust;
}

impl ChangedTrust for Trust {
    fn trust(&self) -> &Trust {
        self
    }
}

impl ChangedTrust for (Trust, Option<ApiKey>) {
    fn trust(&self) -> &Trust {
        &self.0
    }
}

fn trust_json(trust: &Trust) -> Response<Body> {
    Json(TrustJson::new(trust)).into_response()
}

fn digest<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<KeyHash>, D::Error> {
    let digest = Option::<KeyDigest>::deserialize(deserializer)?;
    digest.map(|digest| digest.hash().map_err(D::Error::custom)).transpose()
}

fn code_or_region<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    text.as_deref().map_or(Ok(()), check_code_or_region).map_err(D::Error::custom)?;
    Ok(text)
}
