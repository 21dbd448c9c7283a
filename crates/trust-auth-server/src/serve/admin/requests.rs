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
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer};
use tokio::sync::oneshot;
use trust_auth::{
    ApiKey, KeyHash, KeyTerms, Listing, MalformedRow, NewKey, RegistryError, StoreError, Trust,
    TrustKey, TrustRef, TrustRegistry,
};
use utoipa::ToSchema;
use uuid::Uuid;

use super::error::AdminError;
use super::pending_waits::PendingWaits;
use super::refusals::{
    OfAttributes, OfChange, OfKeyRevocation, OfKeys, OfList, OfNewKey, OfRegistration,
    OfRevocation, OfRotation, OfShow,
};
use super::revocation::{Revoked, Revoker};
use super::schemas::{
    KeyAnswer, KeyParameter, ListingAnswer, PreferParameter, TrustParameter, example,
};
use crate::json::{KeyJson, KeysJson, TrustJson};
use crate::key_digest::KeyDigest;
use crate::key_terms::{RotationTerms, key_terms};
use crate::lifetime::Lifetime;
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
    /// What the application stores about the trust, such as `{"scopes":["read"]}`. It has no text
    /// that looks like an API key.
    #[schema(value_type = Option<Object>)]
    #[serde(default, deserialize_with = "attributes")]
    attributes: Option<serde_json::Map<String, serde_json::Value>>,
    /// The SHA-256 of a key that exists. Otherwise a key is made. A service with a pepper refuses
    /// it, unless it accepts keys that have no pepper.
    #[schema(value_type = Option<String>, pattern = "^[0-9A-Fa-f]{64}$")]
    #[serde(default, deserialize_with = "digest")]
    key_sha256: Option<KeyHash>,
    /// What people call the key.
    #[schema(
        min_length = 1,
        example = "laboratory",
        pattern = r"^[^\x00-\x20\x7F-\xA0]+( [^\x00-\x20\x7F-\xA0]+)*$"
    )]
    #[serde(default, deserialize_with = "code_or_region")]
    label: Option<String>,
    /// How long the key lasts, from `1s` to `100years`. Without it, the key has no end.
    #[schema(value_type = Option<String>, example = "90d", pattern = "^[1-9][0-9]{0,3}(s|m|h|d)$")]
    expires: Option<Lifetime>,
}

impl Fields for RegistrationBody {
    const FIELDS: &str = "{\"name\": TEXT}, and may have the texts \"code\", \"region\" and \
        \"label\", the object \"attributes\", the time \"expires\", such as \"90d\", and the \
        64 hexadecimal digits \"key_sha256\"";
}

/// The body of a new key.
#[derive(Deserialize, ToSchema)]
#[schema(as = NewKey, description = "A key to add to a trust.")]
#[serde(deny_unknown_fields)]
pub(crate) struct KeyBody {
    /// The SHA-256 of a key that exists. Otherwise a key is made. A service with a pepper refuses
    /// it, unless it accepts keys that have no pepper.
    #[schema(value_type = Option<String>, pattern = "^[0-9A-Fa-f]{64}$")]
    #[serde(default, deserialize_with = "digest")]
    key_sha256: Option<KeyHash>,
    /// What people call the key.
    #[schema(
        min_length = 1,
        example = "laboratory",
        pattern = r"^[^\x00-\x20\x7F-\xA0]+( [^\x00-\x20\x7F-\xA0]+)*$"
    )]
    #[serde(default, deserialize_with = "code_or_region")]
    label: Option<String>,
    /// How long the key lasts, from `1s` to `100years`. Without it, the key has no end.
    #[schema(value_type = Option<String>, example = "90d", pattern = "^[1-9][0-9]{0,3}(s|m|h|d)$")]
    expires: Option<Lifetime>,
}

impl Fields for KeyBody {
    const FIELDS: &str = "an object, and may have the text \"label\", the time \"expires\", such \
        as \"90d\", and the 64 hexadecimal digits \"key_sha256\"";
}

/// The body of a rotation, which may be left out.
#[derive(Default, Deserialize, ToSchema)]
#[schema(as = Rotation, description = "The terms of the new key, and those of the old keys.")]
#[serde(deny_unknown_fields)]
pub(crate) struct RotationBody {
    /// How long the old keys are still accepted, from `1s` to `100years`. A key with an earlier end
    /// keeps it. Without it, they are refused at once.
    #[schema(value_type = Option<String>, example = "24h", pattern = "^[1-9][0-9]{0,3}(s|m|h|d)$")]
    overlap: Option<Lifetime>,
    /// What people call the new key.
    #[schema(
        min_length = 1,
        example = "laboratory",
        pattern = r"^[^\x00-\x20\x7F-\xA0]+( [^\x00-\x20\x7F-\xA0]+)*$"
    )]
    #[serde(default, deserialize_with = "code_or_region")]
    label: Option<String>,
    /// How long the new key lasts, from `1s` to `100years`. Without it, the key has no end.
    #[schema(value_type = Option<String>, example = "90d", pattern = "^[1-9][0-9]{0,3}(s|m|h|d)$")]
    expires: Option<Lifetime>,
}

impl Fields for RotationBody {
    const FIELDS: &str = "an object, and may have the text \"label\" and the times \"overlap\", \
        such as \"24h\", and \"expires\", such as \"90d\"";
}

/// The body of a change of attributes.
#[derive(Deserialize, ToSchema)]
#[schema(as = Attributes, description = "The attributes of a trust, as a whole.")]
#[serde(deny_unknown_fields)]
pub(crate) struct AttributesBody {
    /// What the application stores about the trust from now on, such as `{"scopes":["read"]}`. Null
    /// removes it. It has no text that looks like an API key.
    #[schema(value_type = Option<Object>, required)]
    #[serde(deserialize_with = "attributes")]
    attributes: Option<serde_json::Map<String, serde_json::Value>>,
}

impl Fields for AttributesBody {
    const FIELDS: &str = "{\"attributes\": OBJECT}, or null in the place of the object";
}

/// A body may be null where it may be left out.
impl<T: Fields> Fields for Option<T> {
    const FIELDS: &str = T::FIELDS;
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
        let body: RegistrationBody = body(request).await?;
        let mut new = new_trust(body.name, body.code, body.region)?;
        if let Some(attributes) = body.attributes {
            new = new.with_attributes(attributes);
        }
        admin.check_sha256(body.key_sha256)?;
        let terms = key_terms(body.label, body.expires);
        let register = async move |registry: TrustRegistry<Store>| match body.key_sha256 {
            None => {
                let (trust, key) = registry.register_with(new, &terms).await?;
                Ok((trust, Some(key)))
            }
            Some(hash) => {
                let key = existing_key(hash, terms);
                registry.import(new, key).await.map(|trust| (trust, None))
            }
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

/// Handles `PATCH /admin/trusts/{trust}`.
#[utoipa::path(
    patch,
    path = "/admin/trusts/{trust}",
    operation_id = "set_attributes",
    tag = "trusts",
    summary = "Change the attributes of a trust",
    description = "Replaces the attributes of a trust as a whole, or removes them. Returns when no \
                   process shows the former ones.",
    params(TrustParameter, PreferParameter),
    request_body(content = AttributesBody, description = "The attributes, in at most 16 KiB"),
    responses(
        (status = 200, description = "The trust. No process shows its former attributes",
            body = TrustJson, example = json!(example::attributes())),
        (status = 202, description = "The attributes are changed. A process with a read lease may \
                                      show the former ones, for the length of the lease at most",
            body = TrustJson, example = json!(example::committed_attributes())),
        OfAttributes,
    ),
)]
pub(crate) async fn set_attributes(
    State(admin): State<Arc<Admin>>,
    named: NamedTrust,
    request: Request,
) -> Response<Body> {
    let headers = request.headers().clone();
    let read = async {
        let which = which(named)?;
        let body: AttributesBody = body(request).await?;
        Ok((which, body.attributes.map(serde_json::Value::Object)))
    };
    let read = tokio::time::timeout(admin.limit, read).await;
    let (which, attributes) = match read.unwrap_or_else(|_| Err(AdminError::too_slow())) {
        Ok((which, attributes)) => (Ok(which), attributes),
        Err(refused) => (Err(refused), None),
    };
    admin.revoke(RevocationStep::SetAttributes(attributes), which, &headers).await
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
    admin.revoke(RevocationStep::Delete, which(named), &headers).await
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
    admin.revoke(RevocationStep::Disable, which(named), &headers).await
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
    summary = "Replace all keys of a trust",
    description = "Gives a trust a new API key in place of all others, and shows it this once. \
                   With `overlap`, the others are accepted for so long. Returns when no process \
                   grants them, or when each process knows their end. A second rotation revokes \
                   the key of the first one: do not repeat a rotation whose answer has a key.",
    params(TrustParameter, PreferParameter),
    request_body(content = Option<RotationBody>, description = "The terms, which may be left out"),
    responses(
        (status = 200, description = "The new key. No process grants the old key beyond its end",
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
    request: Request,
) -> Response<Body> {
    let headers = request.headers().clone();
    let terms = async {
        let which = which(named)?;
        let body: RotationBody =
            if request.body().is_end_stream() { None } else { body(request).await? }
                .unwrap_or_default();
        let key = key_terms(body.label, body.expires);
        let overlap = body.overlap.map(|Lifetime(overlap)| overlap);
        Ok((which, RotationTerms { key, overlap }))
    };
    let terms = tokio::time::timeout(admin.limit, terms).await;
    let (which, terms) = match terms.unwrap_or_else(|_| Err(AdminError::too_slow())) {
        Ok((which, terms)) => (Ok(which), terms),
        Err(refused) => (Err(refused), RotationTerms::default()),
    };
    admin.revoke(RevocationStep::Rotate(terms), which, &headers).await
}

/// Handles `GET /admin/trusts/{trust}/keys`.
#[utoipa::path(
    get,
    path = "/admin/trusts/{trust}/keys",
    operation_id = "list_keys",
    tag = "keys",
    summary = "List the keys of a trust",
    description = "Lists the keys of a trust, also those that are revoked or at their end.",
    params(TrustParameter),
    responses((status = 200, description = "The keys", body = KeysJson,
        example = json!(example::keys())), OfKeys),
)]
pub(crate) async fn list_keys(
    State(admin): State<Arc<Admin>>,
    named: NamedTrust,
) -> Response<Body> {
    let listed = async {
        let which = which(named)?;
        let keys = admin.registry.keys(&which).await?;
        let trusts = admin.registry.list().await?;
        let trust = which.find_in(&trusts);
        Ok((trust.is_some_and(|trust| trust.api_key_hash.is_some()), keys))
    };
    admin
        .answer("list_keys", listed, |(has_key_in_trust, keys)| {
            let has_key_in_trust = *has_key_in_trust;
            Json(KeysJson { has_key_in_trust, keys }).into_response()
        })
        .await
}

/// Handles `POST /admin/trusts/{trust}/keys`.
#[utoipa::path(
    post,
    path = "/admin/trusts/{trust}/keys",
    operation_id = "add_key",
    tag = "keys",
    summary = "Give a trust one more key",
    description = "Gives a trust one more API key, and returns it unless the request has \
                   `key_sha256`. The key is stored nowhere and is shown this once. The trust's \
                   other keys stay.",
    params(TrustParameter),
    request_body(content = KeyBody, description = "The key, in at most 16 KiB"),
    responses(
        (status = 201, description = "The trust has the key. `api_key` is the new key, and is \
                                      missing if the request had `key_sha256`",
            body = KeyJson, example = json!(example::added_key())),
        OfNewKey,
    ),
)]
pub(crate) async fn add_key(
    State(admin): State<Arc<Admin>>,
    named: NamedTrust,
    request: Request,
) -> Response<Body> {
    let added = async {
        let which = which(named)?;
        let body: KeyBody = body(request).await?;
        admin.check_sha256(body.key_sha256)?;
        let terms = key_terms(body.label, body.expires);
        let add = async move |registry: TrustRegistry<Store>| match body.key_sha256 {
            None => {
                let (row, key) = registry.add_key(&which, &terms).await?;
                Ok((row, Some(key)))
            }
            Some(hash) => {
                let key = existing_key(hash, terms);
                registry.import_one_more(&which, key).await.map(|row| (row, None))
            }
        };
        admin.change("add_key", add).await
    };
    admin
        .answer("add_key", added, |(row, key): &(TrustKey, Option<ApiKey>)| {
            (StatusCode::CREATED, Json(KeyJson::new(row).with_key(key.as_ref()))).into_response()
        })
        .await
}

/// Handles `POST /admin/keys/{key}/revoke`.
#[utoipa::path(
    post,
    path = "/admin/keys/{key}/revoke",
    operation_id = "revoke_key",
    tag = "keys",
    summary = "Revoke one key",
    description = "Revokes one key of a trust, whose other keys stay. Returns when no process \
                   grants it. A key that was revoked before stays as it is.",
    params(KeyParameter, PreferParameter),
    responses(
        (status = 200, description = "The trust of the key. No process grants the key",
            body = TrustJson, example = json!(example::trust())),
        (status = 202, description = "The key is revoked. A process with a read lease may grant \
                                      it, for the length of the lease at most",
            body = TrustJson, example = json!(example::committed())),
        OfKeyRevocation,
    ),
)]
pub(crate) async fn revoke_key(
    State(admin): State<Arc<Admin>>,
    named: NamedTrust,
    headers: HeaderMap,
) -> Response<Body> {
    let key = named.ok().and_then(|Path(text)| Uuid::try_parse(&text).ok());
    let (step, which) = match key {
        Some(key) => (RevocationStep::RevokeKey(key), Ok(key.into())),
        None => (RevocationStep::RevokeKey(Uuid::nil()), Err(AdminError::no_key_id())),
    };
    admin.revoke(step, which, &headers).await
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

/// A body whose error names its fields.
pub(crate) trait Fields {
    /// What it must be, and may have.
    const FIELDS: &str;
}

async fn body<T: DeserializeOwned + Fields>(request: Request) -> Result<T, AdminError> {
    // A body whose announced length is too large is refused before it is received.
    if request.body().size_hint().lower() > BODY_BYTES as u64 {
        return Err(AdminError::too_large());
    }
    match Json::from_request(request, &()).await {
        Ok(Json(body)) => Ok(body),
        Err(rejection) => Err(AdminError::of_body(&rejection, T::FIELDS)),
    }
}

/// Returns what the database stores of a key that exists.
fn existing_key(hash: KeyHash, terms: KeyTerms) -> NewKey {
    let mut key = NewKey::new(hash);
    key.terms = terms;
    key
}

impl Admin {
    /// Checks that a key may be given by its SHA-256, if it is.
    fn check_sha256(&self, digest: Option<KeyHash>) -> Result<(), AdminError> {
        if digest.is_some() && !self.accepts_sha256 { Err(AdminError::pepper()) } else { Ok(()) }
    }

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
            let key_id = done.key().map(tracing::field::display);
            tracing::info!(operation, trust = %done.trust(), key_id, "a trust was changed");
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
        which: Result<TrustRef, AdminError>,
        headers: &HeaderMap,
    ) -> Response<Body> {
        let prefers_commit = prefers_respond_async(headers);
        let revoked = async {
            let (step, which) = (step.clone(), which?);
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
                Err(_) => match commit.try_recv() {
                    Ok(revoked) => Ok(revoked.naming_silent(&self.registry).await),
                    Err(_) => Err(AdminError::too_slow()),
                },
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

/// The result of a change: a trust or a key, with the new key if there is one.
trait ChangedTrust: Send + 'static {
    /// Returns the id of the trust.
    fn trust(&self) -> Uuid;

    /// Returns the id of the key.
    fn key(&self) -> Option<Uuid> {
        None
    }
}

impl ChangedTrust for Trust {
    fn trust(&self) -> Uuid {
        self.id
    }
}

impl ChangedTrust for (Trust, Option<ApiKey>) {
    fn trust(&self) -> Uuid {
        self.0.id
    }
}

impl ChangedTrust for (TrustKey, Option<ApiKey>) {
    fn trust(&self) -> Uuid {
        self.0.trust
    }

    fn key(&self) -> Option<Uuid> {
        Some(self.0.id)
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

fn attributes<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<serde_json::Map<String, serde_json::Value>>, D::Error> {
    let attributes = Option::<serde_json::Map<_, _>>::deserialize(deserializer)?;
    let text = serde_json::to_string(&attributes).map_err(D::Error::custom)?;
    if ApiKey::may_be_in(&text) {
        return Err(D::Error::custom(
            "it looks like an API key; leave it out, and rotate that key",
        ));
    }
    Ok(attributes)
}
