//! How a trust is written in a row, and read back. A malformed row gives an error or a warning that names its
//! id, never its content.

use sqlx::Row;
use sqlx::sqlite::SqliteRow;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use trust_key_cache::KeyHash;
use uuid::Uuid;

use crate::{StoreError, Trust};

/// The row of a query for `id, name, code, region, api_key_hash, created_at, last_heartbeat, disabled_at`.
pub(super) fn trust(row: &SqliteRow) -> Result<Trust, StoreError> {
    let id = id(row).ok_or(StoreError::BadRow { id: None, column: "id" })?;
    let bad = |column| StoreError::BadRow { id: Some(id), column };
    let text = |index, column| row.try_get::<Option<String>, usize>(index).map_err(|_| bad(column));
    let time = |index, column| match text(index, column)? {
        Some(text) => OffsetDateTime::parse(&text, &Rfc3339).map(Some).map_err(|_| bad(column)),
        None => Ok(None),
    };
    Ok(Trust {
        id,
        name: text(1, "name")?.ok_or_else(|| bad("name"))?,
        code: text(2, "code")?,
        region: text(3, "region")?,
        api_key_hash: text(4, "api_key_hash")?.and_then(|digits| hash(id, &digits)),
        created_at: time(5, "created_at")?.ok_or_else(|| bad("created_at"))?,
        last_heartbeat: time(6, "last_heartbeat")?,
        disabled_at: time(7, "disabled_at")?,
    })
}

/// The row of a query for `id, api_key_hash`; `None` if it is malformed.
pub(super) fn candidate(row: &SqliteRow) -> Option<(Uuid, KeyHash)> {
    let Some(id) = id(row) else {
        tracing::warn!(
            "a trust's id is no UUID; nobody can authenticate as this trust until the row is repaired"
        );
        return None;
    };
    let digits = row.try_get::<&str, usize>(1).unwrap_or_default();
    hash(id, digits).map(|hash| (id, hash))
}

fn id(row: &SqliteRow) -> Option<Uuid> {
    row.try_get::<&str, usize>(0).ok().and_then(|text| Uuid::try_parse(text).ok())
}

fn hash(id: Uuid, digits: &str) -> Option<KeyHash> {
    let hash = digits.parse().ok();
    if hash.is_none() {
        tracing::warn!(%id, "a trust's api_key_hash is not 64 hexadecimal digits; rotate its key to make it usable again");
    }
    hash
}

pub(super) fn id_text(id: Uuid) -> String {
    id.hyphenated().to_string()
}

pub(super) fn time_text(time: OffsetDateTime) -> Result<String, StoreError> {
    time.format(&Rfc3339).map_err(|error| StoreError::Other(error.into()))
}
