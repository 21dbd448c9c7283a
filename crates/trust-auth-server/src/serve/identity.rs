//! The identity headers of a grant, which the proxy passes on to the application.

use std::fmt::Write;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use trust_auth::Trust;

/// The id of the trust, as a hyphenated UUID.
pub(crate) const TRUST_ID: HeaderName = HeaderName::from_static("x-trust-id");

/// The name of the trust, percent-encoded.
pub(crate) const TRUST_NAME: HeaderName = HeaderName::from_static("x-trust-name");

/// The attributes of the trust, as JSON of ASCII.
pub(crate) const TRUST_ATTRIBUTES: HeaderName = HeaderName::from_static("x-trust-attributes");

/// Everything but visible ASCII, and `%` itself, so that decoding returns exactly the name.
const NOT_VISIBLE: &AsciiSet = &CONTROLS.add(b' ').add(b'%');

/// Adds all headers. That of the attributes is empty if they are not sent, or if there are none:
/// without the header, the application might trust a header of the client.
pub(crate) fn add_headers(trust: &Trust, sends_attributes: bool, headers: &mut HeaderMap) {
    let mut id = [0; uuid::fmt::Hyphenated::LENGTH];
    headers.insert(TRUST_ID, text(trust.id.hyphenated().encode_lower(&mut id)));
    let name: std::borrow::Cow<'_, str> = utf8_percent_encode(&trust.name, NOT_VISIBLE).into();
    headers.insert(TRUST_NAME, text(&name));
    let attributes = trust.attributes.as_ref().filter(|_| sends_attributes);
    let json = attributes.map(|attributes| ascii(&attributes.to_string()));
    headers.insert(TRUST_ATTRIBUTES, text(&json.unwrap_or_default()));
}

/// Returns the same JSON in ASCII. All other characters are within its strings, where an escape
/// means the same.
fn ascii(json: &str) -> String {
    let mut ascii = String::with_capacity(json.len());
    let mut units = [0; 2];
    for c in json.chars() {
        if c.is_ascii_graphic() || c == ' ' {
            ascii.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut units) {
            // A write to a string does not fail.
            let _ = write!(ascii, "\\u{unit:04x}");
        }
    }
    ascii
}

/// Returns a header value of ASCII, which all texts are. Any other text would become an
/// empty value: without the header, the application might trust a header of the client.
fn text(value: &str) -> HeaderValue {
    HeaderValue::from_str(value).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use percent_encoding::percent_decode_str;
    use proptest::prelude::*;
    use trust_auth::{KeyHash, MemoryStore, NewTrust, TrustLedger};

    use super::*;

    fn header_of(name: &str) -> Option<String> {
        let new = NewTrust::new(name).ok()?;
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let trust = runtime.block_on(MemoryStore::new().insert(new, KeyHash::of("key"))).unwrap();
        let mut headers = HeaderMap::new();
        add_headers(&trust, false, &mut headers);
        assert_eq!(headers[TRUST_ID].to_str().unwrap(), trust.id.to_string());
        Some(headers[TRUST_NAME].to_str().unwrap().to_owned())
    }

    #[test]
    fn visible_ascii_stays_and_the_rest_is_encoded() {
        for (name, header) in [
            ("St.Mary", "St.Mary"),
            ("St. Mary", "St.%20Mary"),
            ("100%", "100%25"),
            ("Zoë", "Zo%C3%AB"),
            ("\"quoted\",=;~", "\"quoted\",=;~"),
        ] {
            assert_eq!(header_of(name).as_deref(), Some(header));
        }
    }

    proptest! {
        #[test]
        fn any_attributes_are_ascii_and_the_same_json(texts in any::<Vec<String>>()) {
            let mut trust = Trust::new(uuid::Uuid::nil(), "a");
            let attributes = serde_json::json!({ "texts": texts, "\u{7f}\u{e9} \"": 1.5 });
            trust.attributes = Some(attributes.clone());
            let mut headers = HeaderMap::new();
            add_headers(&trust, true, &mut headers);
            let header = headers[TRUST_ATTRIBUTES].to_str().unwrap();
            prop_assert!(header.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{header:?}");
            prop_assert_eq!(serde_json::from_str::<serde_json::Value>(header).unwrap(), attributes);
        }

        #[test]
        fn any_name_is_visible_ascii_and_decodes_to_itself(name in any::<String>()) {
            if let Some(header) = header_of(&name) {
                prop_assert!(header.bytes().all(|byte| byte.is_ascii_graphic()), "{header:?}");
                // The name as it is stored.
                let kept = NewTrust::new(name).unwrap();
                prop_assert_eq!(percent_decode_str(&header).decode_utf8().unwrap(), kept.name());
            }
        }
    }
}
