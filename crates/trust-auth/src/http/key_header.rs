//! [`KeyHeader`]: the header that carries the key. Reading it depends only on the request.

use http::header::{HeaderName, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Response};

use crate::attempt::Attempt;
use crate::authenticator::Authenticator;
use crate::error::AuthError;
use crate::key_flaw::MAX_KEY_BYTES;
use crate::store::TrustStore;

/// Which header carries the key. Default: `X-Api-Key`, whose value is the key.
///
/// # Examples
///
/// ```
/// use http::header::{AUTHORIZATION, HeaderMap};
/// use trust_auth::{AuthError, KeyHeader};
///
/// let header = KeyHeader::new(AUTHORIZATION).scheme("ApiKey");
/// let mut headers = HeaderMap::new();
/// assert!(matches!(header.read(&headers), Ok(None)));
///
/// headers.insert(AUTHORIZATION, "apikey the-key".parse().unwrap());
/// assert_eq!(header.read(&headers).unwrap(), Some("the-key"));
///
/// // Two keys: the header does not determine which one counts.
/// headers.append(AUTHORIZATION, "ApiKey another-key".parse().unwrap());
/// assert!(matches!(header.read(&headers), Err(AuthError::Invalid)));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyHeader {
    name: HeaderName,
    scheme: Option<Box<str>>,
    /// The value of `WWW-Authenticate` in a 401.
    challenge: HeaderValue,
}

/// The scheme that a 401 names if none is configured, as in the reference system.
const CHALLENGE: HeaderValue = HeaderValue::from_static("ApiKey");

impl KeyHeader {
    /// The longest value that is accepted as a key, in bytes.
    pub const MAX_BYTES: usize = MAX_KEY_BYTES;

    /// Returns the header of this name, whose whole value is the key.
    #[must_use]
    pub fn new(name: HeaderName) -> Self {
        Self { name, scheme: None, challenge: CHALLENGE }
    }

    /// Expects this word before the key, in either case, with spaces between: the scheme of an
    /// `Authorization` header (RFC 9110, section 11.4). A value with another word carries no key.
    /// An empty word expects no scheme. A [refusal](Self::refusal) names the word in
    /// `WWW-Authenticate`.
    #[must_use]
    pub fn scheme(mut self, word: impl AsRef<str>) -> Self {
        let word = word.as_ref().trim();
        self.scheme = (!word.is_empty()).then(|| word.into());
        // A word that cannot be in a header is never the scheme of a request.
        self.challenge =
            self.scheme.as_deref().and_then(|word| word.parse().ok()).unwrap_or(CHALLENGE);
        self
    }

    /// Returns the name of the header.
    #[must_use]
    pub fn name(&self) -> &HeaderName {
        &self.name
    }

    /// Returns the response to a refused request: that of [`AuthError::to_response`], except that
    /// `WWW-Authenticate` names the configured scheme, or `ApiKey` if there is none.
    ///
    /// ```
    /// use http::header::AUTHORIZATION;
    /// use trust_auth::{AuthError, KeyHeader};
    ///
    /// let header = KeyHeader::new(AUTHORIZATION).scheme("Bearer");
    /// let response = header.refusal::<String>(&AuthError::Invalid);
    /// assert_eq!(response.headers()["www-authenticate"], "Bearer");
    /// ```
    #[must_use]
    pub fn refusal<B: From<&'static str>>(&self, refused: &AuthError) -> Response<B> {
        let mut response = refused.to_response();
        if let Some(challenge) = response.headers_mut().get_mut(WWW_AUTHENTICATE) {
            challenge.clone_from(&self.challenge);
        }
        response
    }

    /// Returns the key in these headers, or `None` if there is none or an empty one. The key is not
    /// trimmed.
    ///
    /// # Errors
    ///
    /// [`AuthError::Invalid`] for several headers of the name, even equal ones, for a value over
    /// [`MAX_BYTES`](Self::MAX_BYTES), and for a value that is not UTF-8.
    pub fn read<'a>(&self, headers: &'a HeaderMap) -> Result<Option<&'a str>, AuthError> {
        let mut values = headers.get_all(&self.name).iter();
        let Some(value) = values.next() else { return Ok(None) };
        if values.next().is_some() || value.len() > Self::MAX_BYTES {
            return Err(AuthError::Invalid);
        }
        let value = std::str::from_utf8(value.as_bytes()).map_err(|_| AuthError::Invalid)?;
        let key = match &self.scheme {
            None => value,
            Some(scheme) => after_scheme(value, scheme).unwrap_or_default(),
        };
        Ok(Some(key).filter(|key| !key.is_empty()))
    }
}

impl Default for KeyHeader {
    fn default() -> Self {
        Self::new(HeaderName::from_static("x-api-key"))
    }
}

/// Returns the text after the scheme and one or more spaces.
fn after_scheme<'a>(value: &'a str, scheme: &str) -> Option<&'a str> {
    let (word, rest) = value.split_at_checked(scheme.len())?;
    let key = rest.trim_start_matches(' ');
    (word.eq_ignore_ascii_case(scheme) && key.len() < rest.len()).then_some(key)
}

impl<S: TrustStore> Authenticator<S> {
    /// Does as [`attempt`](Self::attempt), for the key that these headers carry. A header that
    /// [`KeyHeader::read`] refuses is counted, and takes its time, as any other refusal.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use http::HeaderMap;
    /// # use trust_auth::{AuthError, Authenticator, KeyHeader, MemoryStore, TrustKeyCache};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// # let (store, cache) = (Arc::new(MemoryStore::new()), Arc::new(TrustKeyCache::new()));
    /// # let authenticator = Authenticator::new(store, cache);
    /// let mut headers = HeaderMap::new();
    /// headers.insert("x-api-key", "k".repeat(5_000).parse().unwrap());
    /// let attempt = authenticator.attempt_headers(&headers, &KeyHeader::default()).await;
    /// assert!(matches!(attempt.result, Err(AuthError::Invalid)));
    /// assert_eq!(authenticator.stats().invalid, 1);
    /// # }
    /// ```
    pub async fn attempt_headers(&self, headers: &HeaderMap, header: &KeyHeader) -> Attempt {
        self.attempt_presented(header.read(headers)).await
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use http::header::AUTHORIZATION;

    use super::*;

    fn read(header: &KeyHeader, values: &[&[u8]]) -> Result<Option<String>, &'static str> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header.name(), HeaderValue::from_bytes(value).unwrap());
        }
        header.read(&headers).map(|key| key.map(str::to_owned)).map_err(|error| error.kind())
    }

    #[test]
    fn one_header_is_the_key_as_it_is() {
        let header = KeyHeader::default();
        for key in ["key", "ключ 🔑", "ApiKey key", "a\tb", &"k".repeat(KeyHeader::MAX_BYTES)]
        {
            assert_eq!(read(&header, &[key.as_bytes()]), Ok(Some(key.to_owned())));
        }
    }

    #[test]
    fn no_header_or_an_empty_one_is_a_missing_key() {
        let header = KeyHeader::default();
        assert_eq!(read(&header, &[]), Ok(None));
        assert_eq!(read(&header, &[b""]), Ok(None));
    }

    #[test]
    fn a_header_that_cannot_be_a_key_is_invalid_g10() {
        for header in [KeyHeader::default(), KeyHeader::new(AUTHORIZATION).scheme("ApiKey")] {
            let long = vec![b'k'; KeyHeader::MAX_BYTES + 1];
            for values in [
                &[b"key" as &[u8], b"key"] as &[&[u8]],
                &[b"", b"key"],
                &[b"", b""],
                &[&long],
                &[b"\xff"],
            ] {
                assert_eq!(read(&header, values), Err("invalid"), "{values:?}");
            }
        }
    }

    #[test]
    fn a_refusal_names_the_scheme_that_is_configured() {
        let challenge = |header: KeyHeader, refused: AuthError| {
            let response = header.refusal::<String>(&refused);
            response.headers().get(WWW_AUTHENTICATE).map(|value| value.to_str().unwrap().to_owned())
        };
        let bearer = KeyHeader::new(AUTHORIZATION).scheme("Bearer");
        assert_eq!(challenge(bearer.clone(), AuthError::Missing).as_deref(), Some("Bearer"));
        assert_eq!(challenge(bearer.clone(), AuthError::Overloaded), None);
        for none in
            [KeyHeader::default(), bearer.scheme(""), KeyHeader::default().scheme("no\nheader")]
        {
            assert_eq!(challenge(none, AuthError::Invalid).as_deref(), Some("ApiKey"));
        }
    }

    #[test]
    fn a_scheme_is_a_word_of_its_own_in_either_case() {
        let header = KeyHeader::new(AUTHORIZATION).scheme("ApiKey");
        for value in ["ApiKey key", "apikey key", "APIKEY   key"] {
            assert_eq!(read(&header, &[value.as_bytes()]), Ok(Some("key".into())), "{value}");
        }
        assert_eq!(read(&header, &["ApiKey two words ".as_bytes()]), Ok(Some("two words ".into())));
        for value in
            ["", "ApiKey", "ApiKey ", "ApiKeykey", "Basic key", "key", "ApiKé key", "ApiKey\tkey"]
        {
            assert_eq!(read(&header, &[value.as_bytes()]), Ok(None), "{value}");
        }
        assert_eq!(KeyHeader::default().scheme(" "), KeyHeader::default());
    }
}
