//! How a trust is written in a row, and read back. A malformed row gives an error or a warning that
//! names its id, never its content.

use sqlx::Row;
use sqlx::sqlite::SqliteRow;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;
use time::{OffsetDateTime, PrimitiveDateTime};
use trust_key_cache::KeyHash;
use uuid::Uuid;
use uuid::fmt::Hyphenated;

use crate::columns::{Columns, Malformed};
use crate::row_warnings::RowWarnings;
use crate::{MalformedRow, StoreError};

/// The row of a query for `id, name, code, region, api_key_hash, created_at, last_heartbeat,
/// disabled_at`; or that its id is malformed.
pub(super) fn columns(row: &SqliteRow, warnings: &RowWarnings) -> Result<Columns, MalformedRow> {
    let text = |index| row.try_get::<Option<String>, usize>(index).map_err(|_| Malformed);
    let name = text(1).and_then(|name| name.ok_or(Malformed));
    let Some(id) = id(row) else {
        return Err(MalformedRow { id: None, name: name.ok(), column: "id" });
    };
    let time_of = |index| match text(index)? {
        Some(text) => time(&text).map(Some).ok_or(Malformed),
        None => Ok(None),
    };
    Ok(Columns {
        id,
        name,
        code: text(2),
        region: text(3),
        api_key_hash: text(4).map(|digits| digits.and_then(|digits| hash(id, &digits, warnings))),
        created_at: time_of(5).and_then(|time| time.ok_or(Malformed)),
        // The application writes this one.
        last_heartbeat: time_of(6).unwrap_or_else(|Malformed| {
            warnings.last_heartbeat(id);
            None
        }),
        disabled_at: time_of(7),
    })
}

/// That a row's id is malformed, as an error.
pub(super) fn without_id(row: MalformedRow) -> StoreError {
    StoreError::BadRow { id: row.id, column: row.column }
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

/// The id, if it is spelt as [`id_text`] spells it. Any other spelling of a UUID would be read here
/// and found by no statement: a change of such a row would write nothing.
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
        PrimitiveDateTime::parse(
            text,
            format_description!("[year]-[month]-[day] [hour]:[minute]:[second]"),
        )
    };
    OffsetDateTime::parse(text, &Rfc3339)
        .ok()
        .or_else(|| sqlite().ok().map(PrimitiveDateTime::assume_utc))
}

pub(super) fn id_text(id: Uuid) -> String {
    id.hyphenated().to_string()
}

pub(super) fn time_text(time: OffsetDateTime) -> Result<String, StoreError> {
    time.format(&Rfc3339).map_err(|error| StoreError::Other(error.into()))
}
