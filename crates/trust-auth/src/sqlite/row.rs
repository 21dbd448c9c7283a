//! Reading a row of SQLite. A malformed row gives an error or a warning that names its id, never
//! its content.

use sqlx::Row;
use sqlx::sqlite::SqliteRow;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;
use time::{OffsetDateTime, PrimitiveDateTime};
use trust_key_cache::KeyHash;
use uuid::Uuid;
use uuid::fmt::Hyphenated;

use crate::columns::{Columns, Malformed, parse_hash, parse_keys};
use crate::error::StoreError;
use crate::row_warnings::RowWarnings;
use crate::store::MalformedRow;
use crate::trust_key::TrustKey;

/// The columns of `{trust}` that [`columns`] reads, in their order, and the active keys. As one
/// value, the keys cost a trust without keys the least.
macro_rules! read_columns {
    () => {
        concat!(
            "id, name, code, region, api_key_hash, created_at, last_heartbeat, disabled_at, \
             attributes, (",
            $crate::sqlite::row::select_keys!(
                "trust_key.trust = trust.id AND ",
                $crate::sqlite::row::is_active!()
            ),
            ")"
        )
    };
}

/// Selects one value for [`keys`]: the keys for which the condition holds, by their creation. It is
/// null if there are none. An aggregate over a subquery reads the rows in the subquery's order.
macro_rules! select_keys {
    ($($condition:tt)+) => {
        concat!(
            "SELECT '[' || group_concat(json_array(\
             key, label, digest, last_four, created_at, expires_at, revoked_at, left_ms)) \
             || ']' FROM (\
             SELECT id AS key, label, digest, last_four, created_at, expires_at, revoked_at, \
             CAST((julianday(expires_at) - julianday('now')) * 86400000 AS INTEGER) AS left_ms \
             FROM {trust_key} WHERE ",
            $($condition)+,
            " ORDER BY trust_key.rowid)"
        )
    };
}

/// The condition of a key that is neither revoked nor at its end by the database's time.
macro_rules! is_active {
    () => {
        "trust_key.revoked_at IS NULL AND (trust_key.expires_at IS NULL \
         OR julianday(trust_key.expires_at) > julianday('now'))"
    };
}

pub(super) use {is_active, read_columns, select_keys};

/// The index of the keys among the columns.
const KEYS: usize = 9;

/// Reads a row of `read_columns!()`.
///
/// # Errors
///
/// The row's name, if the id is malformed.
pub(super) fn columns(row: &SqliteRow, warnings: &RowWarnings) -> Result<Columns, MalformedRow> {
    let text = |index| row.try_get::<Option<String>, usize>(index).map_err(|_| Malformed);
    let Some(id) = id(row) else {
        return Err(MalformedRow { id: None, name: text(1).ok().flatten(), column: "id" });
    };
    let read_time = |index| match text(index)? {
        Some(text) => time(&text).map(Some).ok_or(Malformed),
        None => Ok(None),
    };
    Ok(Columns::read(id, text, read_time, keys(row, KEYS, id, warnings), warnings))
}

/// Reads a value of `select_keys!()`.
pub(super) fn keys(
    row: &SqliteRow,
    index: usize,
    trust: Uuid,
    warnings: &RowWarnings,
) -> Vec<TrustKey> {
    let json = match row.try_get::<Option<&str>, usize>(index) {
        Ok(None) => return Vec::new(),
        Ok(Some(json)) => json.into(),
        // A text that is no UTF-8 must not refuse the other keys.
        Err(_) => String::from_utf8_lossy(row.try_get(index).unwrap_or_default()),
    };
    parse_keys(trust, &json, id_of, time, warnings)
}

/// Returns the error of a row that is needed, and whose id is malformed.
pub(super) fn without_id(row: MalformedRow) -> StoreError {
    StoreError::BadRow { id: row.id, column: row.column }
}

/// Reads a row of `id, api_key_hash`, and warns if it is malformed.
pub(super) fn candidate(row: &SqliteRow, warnings: &RowWarnings) -> Option<(Uuid, KeyHash)> {
    candidate_of(row.try_get(0).ok(), row.try_get(1).ok(), warnings)
}

/// Reads a candidate from the texts of its two columns, and warns if it is malformed. `None` means
/// a value that is not a text.
pub(super) fn candidate_of(
    id: Option<&str>,
    digits: Option<&str>,
    warnings: &RowWarnings,
) -> Option<(Uuid, KeyHash)> {
    let Some(id) = id.and_then(id_of) else {
        warnings.id();
        return None;
    };
    parse_hash(id, digits.unwrap_or_default(), warnings).map(|hash| (id, hash))
}

/// Reads a row of a trust's id and the digest of one of its keys, and warns if it is malformed.
pub(super) fn key(row: &SqliteRow, warnings: &RowWarnings) -> Option<(Uuid, KeyHash)> {
    key_of(row.try_get(0).ok(), row.try_get(1).ok(), warnings)
}

/// Does as [`candidate_of`], for a key.
pub(super) fn key_of(
    id: Option<&str>,
    digits: Option<&str>,
    warnings: &RowWarnings,
) -> Option<(Uuid, KeyHash)> {
    let Some(id) = id.and_then(id_of) else {
        warnings.id();
        return None;
    };
    let hash = digits.and_then(|digits| digits.parse().ok());
    if hash.is_none() {
        warnings.key(id);
    }
    Some((id, hash?))
}

/// Reads the first column, an id.
pub(super) fn id(row: &SqliteRow) -> Option<Uuid> {
    id_at(row, 0)
}

/// Reads an id in another column.
pub(super) fn id_at(row: &SqliteRow, index: usize) -> Option<Uuid> {
    row.try_get(index).ok().and_then(id_of)
}

/// Reads an id that is spelt as [`id_text`] spells it. No statement finds a row whose id has
/// another spelling, so a change of such a row would write nothing.
fn id_of(text: &str) -> Option<Uuid> {
    let id = Uuid::try_parse(text).ok()?;
    let spelt = &mut [0; Hyphenated::LENGTH];
    (id.hyphenated().encode_lower(spelt) == text).then_some(id)
}

/// Reads a time as this store writes it, or as SQLite's own `datetime('now')` writes it, in UTC.
fn time(text: &str) -> Option<OffsetDateTime> {
    let sqlite = || {
        PrimitiveDateTime::parse(
            text,
            format_description!("[year]-[month]-[day] [hour]:[minute]:[second]"),
        )
    };
    OffsetDateTime::parse(text, &Rfc3339)
        .ok()
        .or_else(|| sqlite().ok().map(PrimitiveDateTime::assume_utc))
}

/// Returns an id as this store writes it.
pub(super) fn id_text(id: Uuid) -> String {
    id.hyphenated().to_string()
}
