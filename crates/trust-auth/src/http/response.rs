//! A refusal as an HTTP response, as in the reference system. It reveals nothing about the store.

use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};

use crate::error::AuthError;

impl AuthError {
    /// Returns the response: status, headers, and the body `{"detail": ...}`. The body has any type
    /// that can be made from a text, such as `String`, `http_body_util::Full<Bytes>` or
    /// `axum::body::Body`.
    ///
    /// A 401 has `WWW-Authenticate: ApiKey`, and a 503 has `Retry-After`. For a key in a header of
    /// another scheme, [`KeyHeader::refusal`](crate::KeyHeader::refusal) names that scheme. Each
    /// response has `Content-Type: application/json`. Each has `Cache-Control: no-store`, because a
    /// proxy that cached a refusal would refuse a trust that was registered since.
    ///
    /// ```
    /// use trust_auth::AuthError;
    ///
    /// let response = AuthError::Invalid.to_response::<String>();
    /// assert_eq!(response.status(), 401);
    /// assert_eq!(response.headers()["www-authenticate"], "ApiKey");
    /// assert_eq!(response.body(), r#"{"detail":"Invalid API Key."}"#);
    /// ```
    #[must_use]
    pub fn to_response<B: From<&'static str>>(&self) -> Response<B> {
        let mut headers = HeaderMap::with_capacity(3);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(scheme) = self.www_authenticate() {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(scheme));
        }
        if let Some(after) = self.retry_after() {
            headers.insert(RETRY_AFTER, after.as_secs().into());
        }
        let mut response = Response::new(self.json().into());
        *response.status_mut() =
            StatusCode::from_u16(self.status()).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
        *response.headers_mut() = headers;
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::StoreError;

    #[test]
    fn each_refusal_has_its_status_its_headers_and_its_detail() {
        let cases = [
            AuthError::Missing,
            AuthError::Invalid,
            AuthError::Unavailable(StoreError::Busy),
            AuthError::Overloaded,
        ];
        for refused in cases {
            let response = refused.to_response::<String>();
            let header = |name| {
                response.headers().get(name).map(|value: &HeaderValue| value.to_str().unwrap())
            };
            assert_eq!(response.status().as_u16(), refused.status());
            assert_eq!(header(CONTENT_TYPE), Some("application/json"));
            assert_eq!(header(CACHE_CONTROL), Some("no-store"));
            assert_eq!(header(WWW_AUTHENTICATE), refused.www_authenticate());
            assert_eq!(header(RETRY_AFTER), refused.retry_after().map(|_| "1"));
            let body: serde_json::Value = serde_json::from_str(response.body()).unwrap();
            assert_eq!(body, serde_json::json!({ "detail": refused.detail() }));
        }
    }
}
