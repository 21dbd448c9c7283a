//! The parameters, the examples, and the schemas that no type of this crate can derive, of the
//! OpenAPI document.

use std::borrow::Cow;

use utoipa::openapi::RefOr;
use utoipa::openapi::schema::Schema;
use utoipa::{IntoParams, PartialSchema, ToSchema};

use crate::json::TrustJson;

/// The schema of a [`Trust`](trust_auth::Trust), whose crate does not depend on utoipa. A test
/// compares the two.
#[derive(ToSchema)]
#[schema(as = Trust, description = "A tenant that has an API key.")]
#[allow(dead_code)]
pub(crate) struct TrustSchema {
    /// The id, which never changes.
    #[schema(format = "uuid")]
    id: String,
    /// The name, unique among trusts.
    name: String,
    /// The code of the trust in other systems.
    #[schema(required)]
    code: Option<String>,
    /// The region.
    #[schema(required)]
    region: Option<String>,
    /// The keys in rows of their own that are neither revoked nor at their end, left out if there
    /// are none.
    #[schema(nullable = false)]
    keys: Option<Vec<KeySchema>>,
    /// What the application stores about the trust, left out if there is nothing.
    #[schema(value_type = Option<Object>, nullable = false)]
    attributes: Option<String>,
    /// When the trust was registered. Null only if the row's time is malformed.
    #[schema(required, format = "date-time")]
    created_at: Option<String>,
    /// The time of the last heartbeat, which the application writes.
    #[schema(required, format = "date-time")]
    last_heartbeat: Option<String>,
    /// When the trust was disabled. Null while it is enabled.
    #[schema(required, format = "date-time")]
    disabled_at: Option<String>,
}

/// The schema of a [`TrustKey`](trust_auth::TrustKey).
#[derive(ToSchema)]
#[schema(as = Key, description = "A key of a trust, in a row of its own.")]
#[allow(dead_code)]
pub(crate) struct KeySchema {
    /// The id of the key, which never changes.
    #[schema(format = "uuid")]
    id: String,
    /// The id of its trust.
    #[schema(format = "uuid")]
    trust: String,
    /// What people call the key.
    #[schema(required)]
    label: Option<String>,
    /// The last four characters of the key, if they are known.
    #[schema(required)]
    last_four: Option<String>,
    /// When the key was made.
    #[schema(required, format = "date-time")]
    created_at: Option<String>,
    /// From when on the key is refused. Null: it has no end.
    #[schema(required, format = "date-time")]
    expires_at: Option<String>,
    /// When the key was revoked.
    #[schema(required, format = "date-time")]
    revoked_at: Option<String>,
}

/// The schema of a [`Listing`](trust_auth::Listing).
#[derive(ToSchema)]
#[schema(as = Listing, description = "The trusts, sorted by name.")]
#[allow(dead_code)]
pub(crate) struct ListingAnswer {
    /// The rows that can be read.
    trusts: Vec<TrustSchema>,
    /// The rows that cannot be read, left out if there are none.
    #[schema(nullable = false)]
    malformed: Option<Vec<MalformedRowSchema>>,
}

/// The schema of a [`MalformedRow`](trust_auth::MalformedRow).
#[derive(ToSchema)]
#[schema(as = MalformedRow, description = "A row with a malformed column. Its trust is refused.")]
#[allow(dead_code)]
struct MalformedRowSchema {
    /// The row's id, if that can be read.
    #[schema(required, format = "uuid")]
    id: Option<String>,
    /// The row's name, if that can be read.
    #[schema(required)]
    name: Option<String>,
    /// The first column that is malformed.
    column: String,
}

/// The part of a path that names a trust.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[allow(dead_code)]
pub(crate) struct TrustParameter {
    /// The id of a trust, or its name. Encode each byte of a name except letters and digits with
    /// `%`.
    #[param(min_length = 1, example = "58bf5add-57ef-4fce-b840-5a3180360a49")]
    trust: String,
}

/// The part of a path that names a key.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[allow(dead_code)]
pub(crate) struct KeyParameter {
    /// The id of a key.
    #[param(format = "uuid", example = "0a3bb5d3-7a1c-4f7e-9a52-0d1f6c1c9f10")]
    key: String,
}

/// The header by which a client chooses not to wait.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[allow(dead_code)]
pub(crate) struct PreferParameter {
    /// `respond-async` asks for an answer after the commit (RFC 7240). The answer is 202 if a
    /// process with a read lease may still grant the key.
    #[param(rename = "Prefer", nullable = false, example = "respond-async")]
    prefer: Option<String>,
}

/// The schema of a [`TrustJson`] that has a key.
pub(crate) struct KeyAnswer;

impl PartialSchema for KeyAnswer {
    fn schema() -> RefOr<Schema> {
        let mut schema = TrustJson::schema();
        if let RefOr::T(Schema::Object(object)) = &mut schema {
            object.required.push("api_key".to_owned());
            object.description = Some("A trust and its new API key.".to_owned());
        }
        schema
    }
}

impl ToSchema for KeyAnswer {
    fn name() -> Cow<'static, str> {
        "KeyAnswer".into()
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        TrustJson::schemas(schemas);
    }
}

/// The examples of answers, made by the types of the answers. Their trust and key do not exist.
pub(crate) mod example {
    use std::time::Duration;

    use serde::Serialize;
    use serde_json::{Value, json};
    use time::macros::datetime;
    use trust_auth::{KeyHash, Listing, Settled, Trust, TrustKey};
    use uuid::Uuid;

    use crate::json::{KeyJson, KeysJson, TrustJson};
    use crate::revocation_end::RevocationEnd;

    /// Of a key's form, and plainly no key.
    const KEY: &str = "tak_EXAMPLEEXAMPLEEXAMPLEEXAMPLEEXAMPLEEXAMPLEEXAMPLE";

    /// Returns an answer with the trust alone.
    pub(crate) fn trust() -> Value {
        json(&TrustJson::new(&st_mary()))
    }

    /// Returns an answer with a key.
    pub(crate) fn key() -> Value {
        with_key(trust())
    }

    /// Returns an answer of a revocation that holds everywhere.
    pub(crate) fn everywhere() -> Value {
        let settled =
            Settled::Everywhere { holders: Some(2), silent: Vec::new(), was_unsettled: false };
        let end = RevocationEnd::new(settled, Duration::from_millis(12));
        json(&TrustJson::new(&disabled()).with_revocation(Some(&end)))
    }

    /// Returns an answer of a revocation that is committed.
    pub(crate) fn committed() -> Value {
        json(&TrustJson::new(&disabled()).with_revocation(Some(&RevocationEnd::COMMITTED)))
    }

    /// Returns an answer of a change of attributes.
    pub(crate) fn attributes() -> Value {
        json(&TrustJson::new(&with_attributes()))
    }

    /// Returns an answer of a change of attributes that is committed.
    pub(crate) fn committed_attributes() -> Value {
        let end = RevocationEnd::COMMITTED;
        json(&TrustJson::new(&with_attributes()).with_revocation(Some(&end)))
    }

    /// Returns an answer of a rotation that is committed.
    pub(crate) fn committed_key() -> Value {
        let end = RevocationEnd::COMMITTED;
        with_key(json(&TrustJson::new(&st_mary()).with_revocation(Some(&end))))
    }

    /// Returns an answer with a key that was added.
    pub(crate) fn added_key() -> Value {
        with_key(json(&KeyJson::new(&laboratory())))
    }

    /// Returns the keys of a trust.
    pub(crate) fn keys() -> Value {
        json(&KeysJson { has_key_in_trust: true, keys: &[laboratory()] })
    }

    fn laboratory() -> TrustKey {
        let id = Uuid::from_u128(0x0a3bb5d3_7a1c_4f7e_9a52_0d1f6c1c9f10);
        let mut key = TrustKey::new(id, st_mary().id, KeyHash::of(KEY));
        key.label = Some("laboratory".to_owned());
        key.last_four = Some("MPLE".to_owned());
        key.created_at = Some(datetime!(2026-11-26 20:15:02 UTC));
        key.expires_at = Some(datetime!(2027-02-24 20:15:02 UTC));
        key
    }

    /// Returns a list of one trust.
    pub(crate) fn listing() -> Value {
        json(&Listing { trusts: vec![st_mary()], malformed: Vec::new() })
    }

    fn st_mary() -> Trust {
        let id = Uuid::from_u128(0x58bf5add_57ef_4fce_b840_5a3180360a49);
        let mut trust = Trust::new(id, "St. Mary");
        trust.code = Some("RX1".to_owned());
        trust.region = Some("North".to_owned());
        trust.created_at = Some(datetime!(2026-11-26 20:15:02 UTC));
        trust
    }

    fn with_attributes() -> Trust {
        let mut trust = st_mary();
        trust.attributes = Some(json!({ "scopes": ["read"] }));
        trust
    }

    fn disabled() -> Trust {
        let mut trust = st_mary();
        trust.disabled_at = Some(datetime!(2026-11-27 08:00:00 UTC));
        trust
    }

    fn with_key(mut answer: Value) -> Value {
        answer["api_key"] = json!(KEY);
        answer
    }

    fn json(answer: &impl Serialize) -> Value {
        // A struct of strings and numbers: its serialization cannot fail.
        serde_json::to_value(answer).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde::Serialize;
    use serde_json::{Value, json};
    use trust_auth::{KeyHash, Listing, MalformedRow, Trust, TrustKey};
    use uuid::Uuid;

    use super::*;

    fn members(value: &Value) -> BTreeSet<&str> {
        value.as_object().unwrap().keys().map(String::as_str).collect()
    }

    /// Asserts that the schema has the members of the JSON, and requires those in `required`.
    fn assert_describes<T: ToSchema>(json: &impl Serialize, required: &impl Serialize) {
        let schema = serde_json::to_value(T::schema()).unwrap();
        let (json, required) =
            (serde_json::to_value(json).unwrap(), serde_json::to_value(required).unwrap());
        assert_eq!(members(&schema["properties"]), members(&json), "{schema:#}");
        let always: BTreeSet<&str> = schema["required"]
            .as_array()
            .unwrap()
            .iter()
            .map(|member| member.as_str().unwrap())
            .collect();
        assert_eq!(always, members(&required), "{schema:#}");
    }

    #[test]
    fn the_schemas_that_are_written_by_hand_have_the_members_of_their_types() {
        let trust = Trust::new(Uuid::nil(), "St. Mary");
        let key = TrustKey::new(Uuid::nil(), trust.id, KeyHash::of("key"));
        assert_describes::<KeySchema>(&key, &key);
        let mut full = trust.clone();
        full.attributes = Some(json!({}));
        full.keys.push(key);
        assert_describes::<TrustSchema>(&full, &trust);
        let row = MalformedRow { id: None, name: None, column: "name" };
        assert_describes::<MalformedRowSchema>(&row, &row);
        let mut listing = Listing { trusts: vec![trust], malformed: Vec::new() };
        let without = json!({ "trusts": [] });
        listing.malformed.push(row);
        assert_describes::<ListingAnswer>(&listing, &without);
    }
}
