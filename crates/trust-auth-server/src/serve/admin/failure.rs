//! [`Failure`]: why the admin API did not do what it was asked, as a status and `{"error":{"kind":..,"message":..}}`, the command line's form.

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::JsonRejection;
use axum::http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, Response, StatusCode};
use axum::response::IntoResponse;
use serde::Serialize;
use trust_auth::{InvalidName, RegistryError, StoreError};

use crate::failure::with_causes;

/// A refusal or a failure. It carries no key, no digest and nothing of the database's address.
#[derive(Debug)]
pub(crate) struct Failure {
    status: StatusCode,
    kind: &'static str,
    message: String,
}

impl Failure {
    fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        Self { status, kind, message: message.into() }
    }

    /// The word for programs, and for metrics.
    pub(crate) fn kind(&self) -> &'static str {
        self.kind
    }

    /// 403: no key would help, so that nobody need try one.
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

    /// 413.
    pub(crate) fn too_large() -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", "the body is larger than 16 KiB")
    }

    /// 405.
    pub(crate) fn no_such_method() -> Self {
        let message = "this path has no such method; the header `Allow` tells which it has";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "no_such_method", message)
    }

    /// 404, of a trust.
    pub(crate) fn no_such_trust(error: &StoreError) -> Self {
        Self::new(StatusCode::NOT_FOUND, "no_such_trust", with_causes(error))
    }

    /// 503. A change may have been made or not.
    pub(crate) fn too_slow() -> Self {
        let message = "the request took too long; a change may yet have been made: look at the list before trying again";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "timeout", message)
    }

    /// 500. The task that made the change panicked; what became of it is unknown.
    pub(crate) fn broken() -> Self {
        let message =
            "the change failed in an unexpected way; look at the list before trying again";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
    }
}

impl From<RegistryError> for Failure {
    fn from(error: RegistryError) -> Self {
        let status = match &error {
            RegistryError::Store(StoreError::NameTaken { .. }) => StatusCode::CONFLICT,
            RegistryError::Store(StoreError::NoSuchTrust { .. }) => StatusCode::NOT_FOUND,
            // Another try does not mend it.
            RegistryError::Store(StoreError::BadRow { .. }) => StatusCode::INTERNAL_SERVER_ERROR,
            RegistryError::Store(_) => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error.kind(), with_causes(&error))
    }
}

impl From<InvalidName> for Failure {
    fn from(error: InvalidName) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_name", with_causes(&error))
    }
}

impl From<JsonRejection> for Failure {
    fn from(rejection: JsonRejection) -> Self {
        if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
            return Self::too_large();
        }
        // Its text quotes no value: of what was sent, it names a field at most, and a place.
        let (kind, what) = match &rejection {
            JsonRejection::MissingJsonContentType(_) => {
                ("content_type", "send `Content-Type: application/json`")
            }
            JsonRejection::JsonSyntaxError(_) => ("malformed", "the body is not valid JSON"),
            JsonRejection::JsonDataError(_) => (
                "malformed",
                "the body must be {\"name\": TEXT}, and may have the texts \"code\" and \"region\"; neither may be empty, look like an API key, \
                 or contain what cannot be seen",
            ),
            _ => ("unreadable", "the body could not be read to its end"),
        };
        Self::new(rejection.status(), kind, what)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response<Body> {
        #[derive(Serialize)]
        struct Envelope<'a> {
            error: Error<'a>,
        }
        #[derive(Serialize)]
        struct Error<'a> {
            kind: &'a str,
            message: &'a str,
        }
        let error = Error { kind: self.kind, message: &self.message };
        let mut response = (self.status, Json(Envelope { error })).into_response();
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
