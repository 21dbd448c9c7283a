//! Reading a row of PostgreSQL. A malformed row gives an error or a warning that names its id,
//! never its content. The macros are parts of templates that
//! [`for_postgres`](crate::table_names::TableNames::for_postgres) fills.

use sqlx::Row;
use sqlx::postgres::PgRow;
use time::format_description::well_known::Rfc3339;
use time::macros::datetime;
use time::{Duration, OffsetDateTime};
use trust_key_cache::KeyHash;
use uuid::Uuid;

use crate::columns::{Columns, Malformed, parse_hash, parse_keys};
use crate::error::StoreError;
use crate::row_warnings::RowWarnings;
use crate::trust_key::TrustKey;

/// The columns that [`columns`] reads after the flag, in their order.
macro_rules! read_columns {
    () => {
        concat!(
            $crate::postgres::row::own_columns!(),
            ", ",
            $crate::postgres::row::select_keys!(
                "key.trust = trust.id AND ",
                $crate::postgres::row::is_active!()
            )
        )
    };
}

/// The same without the keys.
macro_rules! own_columns {
    () => {
        "id, name::text, code::text, region::text, api_key_hash::text, created_at::timestamptz, \
         last_heartbeat::timestamptz, disabled_at::timestamptz, attributes::text"
    };
}

/// An array for [`keys`]: the keys for which the condition holds. An aggregate would cost a trust
/// without keys more, and so would an order.
macro_rules! select_keys {
    ($($condition:tt)+) => {
        concat!(
            "ARRAY(SELECT ",
            $crate::postgres::row::key_as_json!(),
            " FROM {trust_key_table} AS key WHERE ",
            $($condition)+,
            ")"
        )
    };
}

/// The condition of a key that is neither revoked nor at its end by the database's time. That of
/// the statement: an own pool may have a connection with an open transaction.
macro_rules! is_active {
    () => {
        "key.revoked_at IS NULL \
         AND (key.expires_at IS NULL OR key.expires_at > statement_timestamp())"
    };
}

/// The active keys of all trusts, as `keys.rows` for each `keys.of_trust`: a subquery for each
/// trust might read the whole table of keys each time.
macro_rules! all_keys {
    () => {
        concat!(
            "(SELECT key.trust AS of_trust, array_agg(",
            $crate::postgres::row::key_as_json!(),
            ") AS rows FROM {trust_key_table} AS key WHERE ",
            $crate::postgres::row::is_active!(),
            " GROUP BY key.trust) AS keys"
        )
    };
}

/// What [`keys`] reads of one key.
macro_rules! key_as_json {
    () => {
        "json_build_array(key.id, key.label, key.digest, key.last_four, key.created_at, \
         key.expires_at, key.revoked_at, CASE WHEN isfinite(key.expires_at) THEN \
         floor(extract(epoch FROM key.expires_at - clock_timestamp()) * 1000)::int8 END)::text"
    };
}

pub(super) use {all_keys, is_active, key_as_json, own_columns, read_columns, select_keys};

/// The index of the keys among the columns.
const KEYS: usize = 9;

/// The start of PostgreSQL's count of microseconds.
const EPOCH: OffsetDateTime = datetime!(2000-01-01 0:00 UTC);

/// Returns whether the server that answered is a replica: the flag in the first column of each
/// read.
pub(super) fn is_replica(row: &PgRow) -> bool {
    // A server that cannot be recognized as a primary counts as a replica.
    row.try_get(0).unwrap_or(true)
}

/// Reads a row of a flag and `read_columns!()`, or `own_columns!()` for no keys. Returns `None` if
/// the id is null, which means no row.
///
/// # Errors
///
/// [`StoreError::BadRow`] if the id is malformed.
pub(super) fn columns(row: &PgRow, warnings: &RowWarnings) -> Result<Option<Columns>, StoreError> {
    let id: Option<Uuid> =
        row.try_get(1).map_err(|_| StoreError::BadRow { id: None, column: "id" })?;
    let Some(id) = id else { return Ok(None) };
    let text = |index| row.try_get::<Option<String>, usize>(1 + index).map_err(|_| Malformed);
    let keys = keys(row, 1 + KEYS, id, warnings);
    Ok(Some(Columns::read(id, text, |index| time(row, 1 + index), keys, warnings)))
}

/// Reads a value of `select_keys!()`, and sorts the keys by their creation.
pub(super) fn keys(
    row: &PgRow,
    index: usize,
    trust: Uuid,
    warnings: &RowWarnings,
) -> Vec<TrustKey> {
    let Ok(Some(rows)) = row.try_get::<Option<Vec<String>>, usize>(index) else {
        return Vec::new();
    };
    if rows.is_empty() {
        return Vec::new();
    }
    // The server writes a time with its offset. An infinite time is malformed.
    let time = |text: &str| OffsetDateTime::parse(text, &Rfc3339).ok();
    let json = format!("[{}]", rows.join(","));
    let mut keys = parse_keys(trust, &json, |id| Uuid::try_parse(id).ok(), time, warnings);
    keys.sort_by_key(|key| (key.created_at, key.id));
    keys
}

/// Reads a row of a flag, a trust's id and the digest of one of its keys. Returns `None` if it is
/// malformed, and warns of it.
pub(super) fn key(row: &PgRow, warnings: &RowWarnings) -> Option<(Uuid, KeyHash)> {
    let id = row.try_get::<Option<Uuid>, usize>(1).ok()??;
    let hash = row.try_get::<&str, usize>(2).ok().and_then(|digits| digits.parse().ok());
    if hash.is_none() {
        warnings.key(id);
    }
    Some((id, hash?))
}

/// Reads a row of a flag, `id` and `api_key_hash`. Returns `None` if there is no row, or if it is
/// malformed, and warns of a malformed digest.
pub(super) fn candidate(row: &PgRow, warnings: &RowWarnings) -> Option<(Uuid, KeyHash)> {
    let id = row.try_get::<Option<Uuid>, usize>(1).ok()??;
    let digits = row.try_get::<&str, usize>(2).unwrap_or_default();
    parse_hash(id, digits, warnings).map(|hash| (id, hash))
}

/// Reads a `timestamptz` as its microseconds: the driver's own conversion panics at infinity. An
/// infinite time, and a year outside the calendar of the crate `time`, are malformed.
pub(super) fn time(row: &PgRow, index: usize) -> Result<Option<OffsetDateTime>, Malformed> {
    match row.try_get_unchecked::<Option<i64>, usize>(index) {
        Ok(None) => Ok(None),
        Ok(Some(i64::MIN | i64::MAX)) | Err(_) => Err(Malformed),
        Ok(Some(microseconds)) => {
            EPOCH.checked_add(Duration::microseconds(microseconds)).map(Some).ok_or(Malformed)
        }
    }
}
