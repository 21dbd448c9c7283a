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

use crate::columns::{Columns, Malformed, parse_hash};
use crate::error::StoreError;
use crate::row_warnings::RowWarnings;
use crate::store::MalformedRow;

/// The columns that [`columns`] reads, in their order.
macro_rules! read_columns {
    () => {
        "id, name, code, region, api_key_hash, created_at, last_heartbeat, disabled_at"
    };
}

pub(super) use read_columns;

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
    let time = |index| match text(index)? {
        Some(text) => time(&text).map(Some).ok_or(Malformed),
        None => Ok(None),
    };
    Ok(Columns::read(id, text, time, warnings))
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

/// Reads the first column, an id.
pub(super) fn id(row: &SqliteRow) -> Option<Uuid> {
    row.try_get(0).ok().and_then(id_of)
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
