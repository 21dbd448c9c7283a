//! Reads all candidates as one value, for a scan. One row for each candidate would cost several
//! times more, mostly to pass the rows from the driver's thread to the executor's.
//!
//! The value is a text of records of one length without separators. A record is an id and a digest.
//! SQL packs only rows whose two columns are texts of the expected length. So no content of a row
//! can shift the records after it, or pass for another row. All other rows are read one by one.

use sqlx::sqlite::{SqlitePool, SqliteRow};
use sqlx::{Error, Row};
use tokio::task::yield_now;

use super::row;
use crate::row_warnings::RowWarnings;
use crate::store::Candidates;

const ID: usize = 36;
const RECORD: usize = ID + 64;

/// How many records are decoded before the task yields: some 30 µs of work.
const RECORDS_AT_A_TIME: usize = 256;

/// The condition of a row that is packed. A database whose texts are UTF-16 packs no row: SQLite
/// converts its texts, and the conversion may change their length.
macro_rules! well_formed {
    () => {
        "octet_length('a') = 1 \
         AND typeof(id) = 'text' AND octet_length(id) = 36 \
         AND typeof(api_key_hash) = 'text' AND octet_length(api_key_hash) = 64"
    };
}

/// Selects how many rows should be candidates, how many of them are packed, and the packed text. An
/// aggregate over a subquery reads the rows in the subquery's order.
const PACKED: &str = concat!(
    "SELECT count(*), count(record), group_concat(record, '') FROM ( \
     SELECT CASE WHEN ",
    well_formed!(),
    " THEN id || api_key_hash END AS record \
      FROM trust WHERE api_key_hash IS NOT NULL AND disabled_at IS NULL ORDER BY rowid)"
);

/// Selects the rows that are not packed.
const OTHERS: &str = concat!(
    "SELECT id, api_key_hash FROM trust \
     WHERE api_key_hash IS NOT NULL AND disabled_at IS NULL AND NOT (",
    well_formed!(),
    ") ORDER BY rowid"
);

/// Reads the candidates in the order of the rows, and warns of malformed rows.
pub(super) async fn candidates(
    pool: &SqlitePool,
    warnings: &RowWarnings,
) -> Result<Candidates, Error> {
    let packed = sqlx::query(PACKED).fetch_one(pool).await?;
    let (should_be, are): (i64, i64) = (packed.try_get(0)?, packed.try_get(1)?);
    let mut candidates = unpack(&packed, are, warnings).await?;
    if should_be != are {
        // These rows are malformed, unless the database is UTF-16. The next scan reads a row that
        // was repaired meanwhile.
        for row in sqlx::query(OTHERS).fetch_all(pool).await? {
            if let Some((id, hash)) = row::candidate(&row, warnings) {
                candidates.push(id, hash);
            }
        }
    }
    Ok(candidates)
}

async fn unpack(
    packed: &SqliteRow,
    number: i64,
    warnings: &RowWarnings,
) -> Result<Candidates, Error> {
    let records = packed.try_get::<Option<&[u8]>, _>(2)?.unwrap_or_default();
    if u64::try_from(number).ok().and_then(|number| number.checked_mul(RECORD as u64))
        != Some(records.len() as u64)
    {
        return Err(Error::Decode(
            "the length of the packed candidates does not match their number".into(),
        ));
    }
    let mut candidates = Candidates::with_capacity(records.len() / RECORD);
    for (at, record) in records.chunks_exact(RECORD).enumerate() {
        if at % RECORDS_AT_A_TIME == RECORDS_AT_A_TIME - 1 {
            yield_now().await;
        }
        let (id, digits) = record.split_at(ID);
        let (id, digits) = (str::from_utf8(id).ok(), str::from_utf8(digits).ok());
        if let Some((id, hash)) = row::candidate_of(id, digits, warnings) {
            candidates.push(id, hash);
        }
    }
    Ok(candidates)
}
