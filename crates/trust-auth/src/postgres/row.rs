//! How a trust is read from a row. A malformed row gives an error or a warning that names its id,
//! never its content.

use sqlx::Row;
use sqlx::postgres::PgRow;
use time::macros::datetime;
use time::{Duration, OffsetDateTime};
use trust_key_cache::KeyHash;
use uuid::Uuid;

use crate::StoreError;
use crate::columns::{Columns, Malformed};
use crate::row_warnings::RowWarnings;

/// From where PostgreSQL counts its microseconds.
const EPOCH: OffsetDateTime = datetime!(2000-01-01 0:00 UTC);

/// Whether the server that answered is a replica: the first column of each read.
pub(super) fn is_replica(row: &PgRow) -> bool {
    // What cannot be read is not known to be the primary.
    row.try_get(0).unwrap_or(true)
}

/// The row of a query for a flag, and `id, name, code, region, api_key_hash, created_at,
/// last_heartbeat, disabled_at`; `None` if the id is null, which stands for no row.
pub(super) fn columns(row: &PgRow, warnings: &RowWarnings) -> Result<Option<Columns>, StoreError> {
    let id: Option<Uuid> =
        row.try_get(1).map_err(|_| StoreError::BadRow { id: None, column: "id" })?;
    let Some(id) = id else { return Ok(None) };
    let text = |index| row.try_get::<Option<String>, usize>(index).map_err(|_| Malformed);
    Ok(Some(Columns {
        id,
        name: text(2).and_then(|name| name.ok_or(Malformed)),
        code: text(3),
        region: text(4),
        api_key_hash: text(5).map(|digits| digits.and_then(|digits| hash(id, &digits, warnings))),
        created_at: time(row, 6).and_then(|time| time.ok_or(Malformed)),
        // The application writes this one.
        last_heartbeat: time(row, 7).unwrap_or_else(|Malformed| {
            warnings.last_heartbeat(id);
            None
        }),
        disabled_at: time(row, 8),
    }))
}

/// The row of a query for a flag, `id` and `api_key_hash`; `None` if it is none, or malformed.
pub(super) fn candidate(row: &PgRow, warnings: &RowWarnings) -> Option<(Uuid, KeyHash)> {
    let id = row.try_get::<Option<Uuid>, usize>(1).ok()??;
    let digits = row.try_get::<&str, usize>(2).unwrap_or_default();
    hash(id, digits, warnings).map(|hash| (id, hash))
}

fn hash(id: Uuid, digits: &str, warnings: &RowWarnings) -> Option<KeyHash> {
    let hash = digits.parse().ok();
    if hash.is_none() {
        warnings.hash(id);
    }
    hash
}

/// A `timestamptz`, read as the microseconds that it is: the driver's own conversion panics at
/// infinity. One that is infinite, or of a year that no calendar here has, is malformed.
fn time(row: &PgRow, index: usize) -> Result<Option<OffsetDateTime>, Malformed> {
    match row.try_get_unchecked::<Option<i64>, usize>(index) {
        Ok(None) => Ok(None),
        Ok(Some(i64::MIN | i64::MAX)) | Err(_) => Err(Malformed),
        Ok(Some(microseconds)) => {
            EPOCH.checked_add(Duration::microseconds(microseconds)).map(Some).ok_or(Malformed)
        }
    }
}
