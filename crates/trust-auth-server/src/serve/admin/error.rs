//! [`AdminError`]: why the admin API refused a request or failed, as a status and the JSON of the
//! command line, `{"error":{"kind":..,"message":..}}`.

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::JsonRejection;
use axum::http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, Response, StatusCode};
use axum::response::IntoResponse;
use trust_auth::{InvalidName, RegistryError, StoreError};

use crate::causes::with_causes;
use crate::failed_wait::FailedWait;
use crate::json::ErrorJson;
use crate::pepper::NO_SHA256;
use crate::revocation_step::RevocationStep;

/// A refusal or a failure. It carries no key, no digest and no address of the database.
#[derive(Debug)]
pub(crate) struct AdminError {
    status: StatusCode,
    kind: &'static str,
    message: String,
}

impl AdminError {
    fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        Self { status, kind, message: message.into() }
    }

    /// Returns the word for programs and metrics.
    pub(crate) fn kind(&self) -> &'static str {
        self.kind
    }

    /// Returns the status.
    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    /// Returns the text for people.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// 403: no key is configured, so no key is accepted.
    pub(crate) fn unconfigured() -> Self {
        let message = "the admin API is not configured; start the service with --admin-key-sha256";
        Self::new(StatusCode::FORBIDDEN, "admin_unconfigured", message)
    }

    /// 401.
    pub(crate) fn unauthorized() -> Self {
        let message =
            "the internal service key is missing or wrong; send it as `Authorization: Bearer KEY`";
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", message)
    }

    /// 404, of a path.
    pub(crate) fn no_such_path() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "no_such_path",
            "there is no such path; the trusts are at /admin/trusts",
        )
    }

    /// 400, of a path.
    pub(crate) fn unreadable_path() -> Self {
        let message =
            "the path is not valid UTF-8 once its `%` are decoded; encode the id or name again";
        Self::new(StatusCode::BAD_REQUEST, "malformed", message)
    }

    /// 400, of the path of a key.
    pub(crate) fn no_key_id() -> Self {
        let message = "the path must have the id of a key, a UUID, and not the key; \
                       `GET /admin/trusts/{trust}/keys` lists the ids";
        Self::new(StatusCode::BAD_REQUEST, "malformed", message)
    }

    /// 413.
    pub(crate) fn too_large() -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", "the body is larger than 16 KiB")
    }

    /// 405.
    pub(crate) fn no_such_method() -> Self {
        let message = "this path has no such method; the header `Allow` lists its methods";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "no_such_method", message)
    }

    /// 503: the service waits for its database.
    pub(crate) fn database_not_open() -> Self {
        let message = "the service has not reached the database yet; try again";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unreachable", message)
    }

    /// 400, of a body.
    pub(crate) fn malformed_json() -> Self {
        Self::new(StatusCode::BAD_REQUEST, "malformed", "the body is not valid JSON")
    }

    /// 400, of a body.
    pub(crate) fn unreadable_body() -> Self {
        let message = "the body could not be read to its end";
        Self::new(StatusCode::BAD_REQUEST, "unreadable", message)
    }

    /// 415.
    pub(crate) fn content_type() -> Self {
        let message = "send `Content-Type: application/json`";
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "content_type", message)
    }

    /// 422, of the fields of a body. `fields` are those that it must and may have.
    pub(crate) fn wrong_fields(fields: &str) -> Self {
        let message = format!(
            "the body must be {fields}; no text may be empty, look like an API key, or contain \
             invisible characters"
        );
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "malformed", message)
    }

    /// Returns why a body with these fields is refused.
    pub(crate) fn of_body(rejection: &JsonRejection, fields: &str) -> Self {
        if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
            return Self::too_large();
        }
        // The text of the rejection is left out, because it may quote the body.
        match rejection {
            JsonRejection::MissingJsonContentType(_) => Self::content_type(),
            JsonRejection::JsonSyntaxError(_) => Self::malformed_json(),
            JsonRejection::JsonDataError(_) => Self::wrong_fields(fields),
            _ => Self::unreadable_body(),
        }
    }

    /// 422, of a digest that no key of this service has.
    pub(crate) fn pepper() -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "pepper", format!("key_sha256: {NO_SHA256}"))
    }

    /// A failure of this kind without a message, for the OpenAPI document.
    pub(crate) fn of_kind(kind: &'static str) -> Self {
        Self::new(status_of(kind), kind, "")
    }

    /// 404, of a trust.
    pub(crate) fn no_such_trust(error: &StoreError) -> Self {
        Self::new(StatusCode::NOT_FOUND, "no_such_trust", with_causes(error))
    }

    /// The status of the error of a revocation's wait. It is 409 if a later rotation took its
    /// place: a client that tries again would revoke the key of that rotation.
    pub(crate) fn failed_wait(
        failed: FailedWait,
        step: &RevocationStep,
        error: RegistryError,
    ) -> Self {
        Self { message: failed.message(step, &error), ..Self::from(error) }
    }

    /// 503: the time of the request is over. Its change may have been made.
    pub(crate) fn too_slow() -> Self {
        let message = "the request took too long; the change may have been made: check the list \
                       before you try again";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "timeout", message)
    }

    /// 500: the task of the change panicked. The change may have been made.
    pub(crate) fn panicked() -> Self {
        let message = "the change failed in an unexpected way; check the list before you try again";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
    }
}

/// Returns the status of a [`RegistryError`], by its kind. It is [`RegistryError::status`], except
/// that the program has checked each key before.
pub(crate) fn status_of(kind: &str) -> StatusCode {
    match kind {
        "name_taken" | "key_taken" | "superseded" | "rotation_lost" => StatusCode::CONFLICT,
        "no_such_trust" | "no_such_key" => StatusCode::NOT_FOUND,
        // Another attempt would fail as well.
        "bad_row" | "random" | "invalid_key" | "one_key" => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    }
}

impl From<RegistryError> for AdminError {
    fn from(error: RegistryError) -> Self {
        Self::new(status_of(error.kind()), error.kind(), with_causes(&error))
    }
}

impl From<InvalidName> for AdminError {
    fn from(error: InvalidName) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_name", with_causes(&error))
    }
}

impl IntoResponse for AdminError {
    fn into_response(self) -> Response<Body> {
        let json = ErrorJson::new(self.kind, &self.message);
        let mut response = (self.status, Json(json)).into_response();
        match self.status {
            StatusCode::UNAUTHORIZED => {
                response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            StatusCode::SERVICE_UNAVAILABLE => {
                response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
            }
            _ => {}
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use trust_auth::StoreError;

    use super::*;

    #[test]
    fn each_kind_that_has_a_status_of_its_own_exists() {
        let own = [
            "name_taken",
            "key_taken",
            "superseded",
            "rotation_lost",
            "no_such_trust",
            "no_such_key",
            "one_key",
            "bad_row",
        ];
        let unavailable = StatusCode::SERVICE_UNAVAILABLE;
        for kind in StoreError::KINDS {
            assert_eq!(own.contains(kind), status_of(kind) != unavailable, "{kind}");
        }
        assert!(own.iter().all(|kind| StoreError::KINDS.contains(kind)));
    }
}
