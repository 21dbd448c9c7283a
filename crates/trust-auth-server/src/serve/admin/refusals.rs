//! What the OpenAPI document has of refusals and failures. Each response is made from the errors
//! that the requests return, so that its status, headers and kinds are theirs.

use std::collections::BTreeMap;

use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use serde_json::json;
use trust_auth::{NewTrust, RegistryError, StoreError, TrustRef};
use utoipa::openapi::extensions::ExtensionsBuilder;
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::{ContentBuilder, HeaderBuilder, Ref, RefOr, Response};
use utoipa::{IntoResponses, ToSchema};
use uuid::Uuid;

use super::error::{AdminError, status_of};
use super::requests::{AttributesBody, Fields, KeyBody, RegistrationBody, RotationBody};
use crate::json::ErrorJson;

/// The extension of a response that lists the kinds of its errors.
pub(crate) const KINDS: &str = "x-error-kinds";

/// Defines the refusals of one operation: a name, and lists of errors.
macro_rules! refusals {
    ($($(#[$doc:meta])* $name:ident: $($list:ident $(<$body:ty>)?),+;)*) => {$(
        $(#[$doc])*
        pub(crate) struct $name;

        impl IntoResponses for $name {
            fn responses() -> BTreeMap<String, RefOr<Response>> {
                let mut all = of_guard();
                $(all.extend($list$(::<$body>)?());)+
                documented(all)
            }
        }
    )*};
}

refusals! {
    /// Of `GET /admin/trusts`.
    OfList: of_store;
    /// Of `GET /admin/trusts/{trust}`.
    OfShow: of_path, of_row, of_store;
    /// Of `POST /admin/trusts`.
    OfRegistration: of_fields<RegistrationBody>, of_digest, of_name, of_store, of_change;
    /// Of a change that revokes nothing.
    OfChange: of_path, of_row, of_store, of_change;
    /// Of a change that revokes a key.
    OfRevocation: of_path, of_row, of_store, of_change;
    /// Of `PATCH /admin/trusts/{trust}`.
    OfAttributes: of_path, of_fields<AttributesBody>, of_row, of_store, of_change;
    /// Of a change that revokes a key and gives a new one.
    OfRotation: of_path, of_fields<RotationBody>, of_row, of_store, of_change, of_rotation;
    /// Of `GET /admin/trusts/{trust}/keys`.
    OfKeys: of_path, of_row, of_store;
    /// Of `POST /admin/trusts/{trust}/keys`.
    OfNewKey: of_path, of_fields<KeyBody>, of_digest, of_taken_key, of_row, of_store, of_change;
    /// Of `POST /admin/keys/{key}/revoke`.
    OfKeyRevocation: of_key_path, of_row, of_store, of_change;
}

fn of_guard() -> Vec<AdminError> {
    vec![AdminError::unauthorized(), AdminError::unconfigured()]
}

fn of_path() -> Vec<AdminError> {
    let error = StoreError::NoSuchTrust { which: TrustRef::from("St. Mary") };
    vec![AdminError::unreadable_path(), AdminError::no_such_trust(&error)]
}

fn of_key_path() -> Vec<AdminError> {
    let error = RegistryError::from(StoreError::NoSuchKey { id: Uuid::nil() });
    vec![AdminError::no_key_id(), error.into()]
}

fn of_fields<B: Fields>() -> Vec<AdminError> {
    vec![
        AdminError::malformed_json(),
        AdminError::unreadable_body(),
        AdminError::too_large(),
        AdminError::content_type(),
        AdminError::wrong_fields(B::FIELDS),
    ]
}

fn of_digest() -> Vec<AdminError> {
    vec![AdminError::pepper()]
}

fn of_taken_key() -> Vec<AdminError> {
    vec![RegistryError::from(StoreError::KeyTaken { id: Uuid::nil() }).into()]
}

fn of_name() -> Vec<AdminError> {
    let taken = StoreError::NameTaken { name: "St. Mary".into() };
    let invalid = NewTrust::new("..").err().map(AdminError::from);
    let key_taken = StoreError::KeyTaken { id: Uuid::nil() };
    let taken = [taken, key_taken].map(|error| RegistryError::from(error).into());
    invalid.into_iter().chain(taken).collect()
}

fn of_row() -> Vec<AdminError> {
    vec![RegistryError::from(StoreError::BadRow { id: None, column: "name" }).into()]
}

/// The failures of the database. Those with a message come first.
fn of_store() -> Vec<AdminError> {
    let unavailable = status_of(StoreError::Unreachable.kind());
    let others = StoreError::KINDS.iter().filter(|kind| status_of(kind) == unavailable);
    let others = others.map(|kind| AdminError::of_kind(kind));
    [AdminError::too_slow(), AdminError::database_not_open()].into_iter().chain(others).collect()
}

fn of_change() -> Vec<AdminError> {
    vec![AdminError::panicked(), AdminError::of_kind("random")]
}

fn of_rotation() -> Vec<AdminError> {
    let errors = [StoreError::Superseded, StoreError::RotationLost];
    errors.map(|error| RegistryError::from(error).into()).into()
}

/// Returns one response for each status.
fn documented(errors: Vec<AdminError>) -> BTreeMap<String, RefOr<Response>> {
    let mut by_status: BTreeMap<String, Vec<AdminError>> = BTreeMap::new();
    for error in errors {
        let of_status = by_status.entry(error.status().as_str().to_owned()).or_default();
        // The first error of a kind is the one with a message.
        if error.message().is_empty() && of_status.iter().any(|other| other.kind() == error.kind())
        {
            continue;
        }
        of_status.push(error);
    }
    by_status.into_iter().map(|(status, errors)| (status, response(errors).into())).collect()
}

/// Returns the response of errors that have one status.
fn response(errors: Vec<AdminError>) -> Response {
    let mut kinds: Vec<&str> = errors.iter().map(AdminError::kind).collect();
    kinds.dedup();
    let (explained, others): (Vec<_>, Vec<_>) =
        errors.iter().partition(|error| !error.message().is_empty());
    let explained =
        explained.iter().map(|error| format!("`{}`: {}", error.kind(), error.message()));
    let mut description = explained.collect::<Vec<_>>().join(".\n\n");
    if !others.is_empty() {
        let others: Vec<String> =
            others.iter().map(|error| format!("`{}`", error.kind())).collect();
        let separator = if description.is_empty() { "" } else { ".\n\n" };
        description.push_str(&format!("{separator}Other failures: {}", others.join(", ")));
    }
    let mut response = Response::new(description);
    response.extensions = Some(ExtensionsBuilder::new().add(KINDS, kinds).build());
    let mut content =
        ContentBuilder::new().schema(Some(Ref::from_schema_name(ErrorJson::name()))).build();
    if let Some(error) = errors.first() {
        content.example = Some(json!(ErrorJson::new(error.kind(), error.message())));
    }
    response.content.insert("application/json".to_owned(), content.into());
    // The headers of the answer itself.
    if let Some(error) = errors.into_iter().next() {
        for (name, value) in error.into_response().headers() {
            if name != CONTENT_TYPE && name.as_str() != "content-length" {
                let text = ObjectBuilder::new().schema_type(Type::String).build();
                let header = HeaderBuilder::new()
                    .schema(Some(text))
                    .example(value.to_str().ok().map(|value| json!(value)));
                response.headers.insert(title_case(name.as_str()), header.build().into());
            }
        }
    }
    response
}

/// Returns the usual spelling of a header's name: `Retry-After`.
fn title_case(name: &str) -> String {
    if name == "www-authenticate" {
        return "WWW-Authenticate".to_owned();
    }
    let words = name.split('-').map(|word| {
        let (first, rest) = word.split_at(word.len().min(1));
        first.to_ascii_uppercase() + rest
    });
    words.collect::<Vec<_>>().join("-")
}
