//! [`Columns`]: a row of the table, each column as far as it can be read. The row becomes a trust,
//! a line of the list, or the row of a change.
//!
//! A malformed column must refuse its own trust and nothing else: the other rows are listed, and
//! this trust can be disabled, rotated and deleted. A malformed row of a key is left out, and its
//! trust keeps its other keys.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
#[cfg(feature = "postgres")]
use subtle::ConstantTimeEq;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use trust_key_cache::KeyHash;
use uuid::Uuid;

use crate::error::StoreError;
use crate::row_warnings::RowWarnings;
use crate::store::{Listing, MalformedRow};
use crate::trust::{Trust, now};
use crate::trust_key::{Term, TrustKey};

/// Marks a column whose value is not of the column's kind.
pub(crate) struct Malformed;

/// The columns of a row whose id can be read.
pub(crate) struct Columns {
    id: Uuid,
    name: Result<String, Malformed>,
    code: Result<Option<String>, Malformed>,
    region: Result<Option<String>, Malformed>,
    /// `Ok(None)` also means a text that is not a digest.
    api_key_hash: Result<Option<KeyHash>, Malformed>,
    created_at: Result<OffsetDateTime, Malformed>,
    /// `None` also means a value that cannot be read: no decision depends on this column.
    last_heartbeat: Option<OffsetDateTime>,
    disabled_at: Result<Option<OffsetDateTime>, Malformed>,
    attributes: Result<Option<Value>, Malformed>,
    keys: Vec<TrustKey>,
}

impl Columns {
    /// Reads a row of `id, name, code, region, api_key_hash, created_at, last_heartbeat,
    /// disabled_at, attributes`. `text` and `time` read one of these columns, counted from zero.
    /// `keys` are the active keys, in the order of their creation.
    pub(crate) fn read(
        id: Uuid,
        text: impl Fn(usize) -> Result<Option<String>, Malformed>,
        time: impl Fn(usize) -> Result<Option<OffsetDateTime>, Malformed>,
        keys: Vec<TrustKey>,
        warnings: &RowWarnings,
    ) -> Self {
        Self {
            id,
            name: text(1).and_then(|name| name.ok_or(Malformed)),
            code: text(2),
            region: text(3),
            api_key_hash: text(4)
                .map(|digits| digits.and_then(|digits| parse_hash(id, &digits, warnings))),
            created_at: time(5).and_then(|time| time.ok_or(Malformed)),
            // The application writes this column.
            last_heartbeat: time(6).unwrap_or_else(|Malformed| {
                warnings.last_heartbeat(id);
                None
            }),
            disabled_at: time(7),
            attributes: text(8).and_then(|json| json.as_deref().map(parse_json).transpose()),
            keys,
        }
    }

    /// Returns whether the row itself has this digest, compared in constant time.
    #[cfg(feature = "postgres")]
    pub(crate) fn has_hash(&self, hash: &KeyHash) -> bool {
        matches!(&self.api_key_hash, Ok(Some(own)) if own.ct_eq(hash).into())
    }

    /// Returns whether the trust has active keys in rows of their own.
    #[cfg(feature = "postgres")]
    pub(crate) fn has_keys(&self) -> bool {
        !self.keys.is_empty()
    }

    /// Returns the trust that a grant may depend on, and warns if a column is malformed.
    ///
    /// # Errors
    ///
    /// [`StoreError::BadRow`] if a column is malformed.
    pub(crate) fn trust(self, warnings: &RowWarnings) -> Result<Trust, StoreError> {
        let id = self.id;
        self.whole().map_err(|row| {
            warnings.column(id, row.column);
            StoreError::BadRow { id: Some(id), column: row.column }
        })
    }

    /// Adds the row to the list.
    pub(crate) fn list(self, listing: &mut Listing) {
        match self.whole() {
            Ok(trust) => listing.trusts.push(trust),
            Err(row) => listing.malformed.push(row),
        }
    }

    /// Returns the row as a change finds it, and warns if a column is malformed. A malformed column
    /// is left out; a malformed `disabled_at` counts as disabled now.
    pub(crate) fn for_change(self, warnings: &RowWarnings) -> Trust {
        if let Some(column) = self.malformed() {
            warnings.column(self.id, column);
        }
        self.filled()
    }

    /// Returns the first column that is malformed.
    fn malformed(&self) -> Option<&'static str> {
        let columns = [
            ("name", self.name.is_err()),
            ("code", self.code.is_err()),
            ("region", self.region.is_err()),
            ("api_key_hash", self.api_key_hash.is_err()),
            ("created_at", self.created_at.is_err()),
            ("disabled_at", self.disabled_at.is_err()),
            ("attributes", self.attributes.is_err()),
        ];
        columns.into_iter().find(|(_, is_malformed)| *is_malformed).map(|(column, _)| column)
    }

    fn whole(self) -> Result<Trust, MalformedRow> {
        match self.malformed() {
            None => Ok(self.filled()),
            Some(column) => Err(MalformedRow { id: Some(self.id), name: self.name.ok(), column }),
        }
    }

    fn filled(self) -> Trust {
        Trust {
            id: self.id,
            name: self.name.unwrap_or_default(),
            code: self.code.unwrap_or_default(),
            region: self.region.unwrap_or_default(),
            api_key_hash: self.api_key_hash.unwrap_or_default(),
            created_at: self.created_at.ok(),
            last_heartbeat: self.last_heartbeat,
            disabled_at: self.disabled_at.unwrap_or_else(|Malformed| Some(now())),
            attributes: self.attributes.unwrap_or_default(),
            keys: self.keys,
        }
    }
}

fn parse_json(text: &str) -> Result<Value, Malformed> {
    serde_json::from_str(text).map_err(|_| Malformed)
}

/// Reads the keys of a trust from a JSON array. Each element is an array of `id`, `label`,
/// `digest`, `last_four`, `created_at`, `expires_at` and `revoked_at`, each a text or null, and of
/// the milliseconds that are left, or null. A malformed key is left out, with a warning: its digest
/// is accepted no more.
pub(crate) fn parse_keys(
    trust: Uuid,
    json: &str,
    id: impl Fn(&str) -> Option<Uuid>,
    time: impl Fn(&str) -> Option<OffsetDateTime>,
    warnings: &RowWarnings,
) -> Vec<TrustKey> {
    let Ok(rows) = serde_json::from_str::<Vec<Value>>(json) else {
        warnings.key(trust);
        return Vec::new();
    };
    let key = |row: Value| {
        let row = KeyRow::deserialize(row).ok()?;
        let KeyRow(key, label, digest, last_four, created_at, expires_at, revoked_at, left) = row;
        let ends = |text: Option<String>| match text {
            Some(text) => time(&text).map(Some),
            None => Some(None),
        };
        Some(TrustKey {
            label,
            last_four,
            // No decision depends on this column.
            created_at: created_at.and_then(|text| time(&text)),
            expires_at: ends(expires_at)?,
            // A time that cannot be read revokes as well.
            revoked_at: revoked_at.map(|text| time(&text).unwrap_or_else(now)),
            term: left.map_or(Term::Unknown, |left| {
                Term::Left(Duration::from_millis(u64::try_from(left).unwrap_or_default()))
            }),
            ..TrustKey::new(id(&key)?, trust, digest.parse().ok()?)
        })
    };
    let keys = rows.into_iter().filter_map(|row| {
        let key = key(row);
        if key.is_none() {
            warnings.key(trust);
        }
        key
    });
    keys.collect()
}

/// A row of `trust_key`, without its trust.
#[derive(Deserialize)]
struct KeyRow(
    String,
    Option<String>,
    String,
    Option<String>,
    Option<String>,
    Option<String>,
    Option<String>,
    Option<i64>,
);

/// Reads a digest, and warns if the text is not one.
pub(crate) fn parse_hash(id: Uuid, digits: &str, warnings: &RowWarnings) -> Option<KeyHash> {
    let hash = digits.parse().ok();
    if hash.is_none() {
        warnings.hash(id);
    }
    hash
}

/// Returns a time as both stores write it.
pub(crate) fn time_text(time: OffsetDateTime) -> Result<String, StoreError> {
    time.format(&Rfc3339).map_err(|error| StoreError::Other(error.into()))
}
