//! All candidates as one value: what a walk reads. A row of its own for each would cost several
//! times as much, most of it for handing it from the driver's thread to the executor's.
//!
//! The value is a text of records of one length, an id and a digest each, without separators. SQL
//! packs just the rows whose two columns are texts of the bytes that they should have, so that
//! nothing that a row holds can shift what follows it, or pass for another row. The others are read
//! as rows of their own.

use sqlx::sqlite::{SqlitePool, SqliteRow};
use sqlx::{Error, Row};
use tokio::task::yield_now;

use super::row;
use crate::row_warnings::RowWarnings;
use crate::store::Candidates;

const ID: usize = 36;
const RECORD: usize = ID + 64;

/// How many records are decoded before others have a turn: some 30 µs of work.
const RECORDS_AT_A_TIME: usize = 256;

/// What is packed. In a database whose texts are UTF-16 nothing is: there, one that has the bytes
/// may have more of them by the time that it gets here.
macro_rules! well_formed {
    () => {
        "octet_length('a') = 1 \
         AND typeof(id) = 'text' AND octet_length(id) = 36 \
         AND typeof(api_key_hash) = 'text' AND octet_length(api_key_hash) = 64"
    };
}

/// How many rows there are that should be candidates, how many of them are packed, and those. An
/// aggregate over a subquery takes its rows in the subquery's order.
const PACKED: &str = concat!(
    "SELECT count(*), count(record), group_concat(record, '') FROM ( \
     SELECT CASE WHEN ",
    well_formed!(),
    " THEN id || api_key_hash END AS record \
      FROM trust WHERE api_key_hash IS NOT NULL AND disabled_at IS NULL ORDER BY rowid)"
);

/// Those that are not packed.
const OTHERS: &str = concat!(
    "SELECT id, api_key_hash FROM trust WHERE api_key_hash IS NOT NULL AND disabled_at IS NULL AND NOT (",
    well_formed!(),
    ") ORDER BY rowid"
);

/// Reads the candidates, in the order of the rows, and warns of each that is malformed.
pub(super) async fn candidates(
    pool: &SqlitePool,
    warnings: &RowWarnings,
) -> Result<Candidates, Error> {
    let packed = sqlx::query(PACKED).fetch_one(pool).await?;
    let (should_be, are): (i64, i64) = (packed.try_get(0)?, packed.try_get(1)?);
    let mut candidates = unpack(&packed, are, warnings).await?;
    if should_be != are {
        // All of them are malformed, unless the database is UTF-16. One that has been repaired
        // meanwhile is for the next walk.
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
            "the packed candidates do not have the length that their number says".into(),
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
