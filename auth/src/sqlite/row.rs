//! How a trust is written in a row, and read back. A malformed row gives an error or a warning that names its
//! id, never its content.

use sqlx::Row;
use sqlx::sqlite::SqliteRow;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;
use time::{OffsetDateTime, PrimitiveDateTime};
use trust_key_cache::KeyHash;
use uuid::Uuid;
use uuid::fmt::Hyphenated;

use crate::row_warnings::RowWarnings;
use crate::{StoreError, Trust};

/// The row of a query for `id, name, code, region, api_key_hash, created_at, last_heartbeat, disabled_at`.
pub(super) fn trust(row: &SqliteRow, warnings: &RowWarnings) -> Result<Trust, StoreError> {
    let id = id(row).ok_or(StoreError::BadRow { id: None, column: "id" })?;
    let bad = |column| StoreError::BadRow { id: Some(id), column };
    let text = |index, column| row.try_get::<Option<String>, usize>(index).map_err(|_| bad(column));
    let time_of = |index, column| match text(index, column)? {
        Some(text) => time(&text).map(Some).ok_or_else(|| bad(column)),
        None => Ok(None),
    };
    // The application writes this one, and nothing is decided by it.
    let last_heartbeat = time_of(6, "last_heartbeat").unwrap_or_else(|_| {
        warnings.last_heartbeat(id);
        None
    });
    Ok(Trust {
        id,
        name: text(1, "name")?.ok_or_else(|| bad("name"))?,
        code: text(2, "code")?,
        region: text(3, "region")?,
        api_key_hash: text(4, "api_key_hash")?.and_then(|digits| hash(id, &digits, warnings)),
        created_at: time_of(5, "created_at")?.ok_or_else(|| bad("created_at"))?,
        last_heartbeat,
        disabled_at: time_of(7, "disabled_at")?,
    })
}

/// The row of a query for `id, api_key_hash`; `None` if it is malformed.
pub(super) fn candidate(row: &SqliteRow, warnings: &RowWarnings) -> Option<(Uuid, KeyHash)> {
    candidate_of(row.try_get(0).ok(), row.try_get(1).ok(), warnings)
}

/// As [`candidate`], of the two columns' texts, as far as they are texts.
pub(super) fn candidate_of(
    id: Option<&str>,
    digits: Option<&str>,
    warnings: &RowWarnings,
) -> Option<(Uuid, KeyHash)> {
    let Some(id) = id.and_then(id_of) else {
        warnings.id();
        return None;
    };
    hash(id, digits.unwrap_or_default(), warnings).map(|hash| (id, hash))
}

/// The first column, if it is an id as this store spells it.
pub(super) fn id(row: &SqliteRow) -> Option<Uuid> {
    row.try_get(0).ok().and_then(id_of)
}

/// The id, if it is spelt as [`id_text`] spells it. Any other spelling of a UUID would be read here and found by
/// no statement: a change of such a row would write nothing.
fn id_of(text: &str) -> Option<Uuid> {
    let id = Uuid::try_parse(text).ok()?;
    let spelt = &mut [0; Hyphenated::LENGTH];
    (id.hyphenated().encode_lower(spelt) == text).then_some(id)
}

fn hash(id: Uuid, digits: &str, warnings: &RowWarnings) -> Option<KeyHash> {
    let hash = digits.parse().ok();
    if hash.is_none() {
        warnings.hash(id);
    }
    hash
}

/// A time as this store writes it, or as SQLite's own `datetime('now')` does, which means UTC.
fn time(text: &str) -> Option<OffsetDateTime> {
    let sqlite = || {
        PrimitiveDateTime::parse(text, format_description!("[year]-[month]-[day] [hour]:[minute]:[second]"))
    };
    OffsetDateTime::parse(text, &Rfc3339).ok().or_else(|| sqlite().ok().map(PrimitiveDateTime::assume_utc))
}

pub(super) fn id_text(id: Uuid) -> String {
    id.hyphenated().to_string()
}

pub(super) fn time_text(time: OffsetDateTime) -> Result<String, StoreError> {
    time.format(&Rfc3339).map_err(|error| StoreError::Other(error.into()))
}
