//! Reads all candidates as one value for each table, for a scan. One row for each candidate would
//! cost several times more, mostly to pass the rows from the driver's thread to the executor's.
//!
//! Such a value is a text of records of one length without separators. A record is a trust's id and
//! a digest. SQL packs only rows whose two columns are texts of the expected length. So no content
//! of a row can shift the records after it, or pass for another row. All other rows are read one by
//! one.

use sqlx::sqlite::SqlitePool;
use sqlx::{Error, Row};
use tokio::task::yield_now;
use trust_key_cache::KeyHash;
use uuid::Uuid;

use super::row;
use super::statements::Statements;
use crate::row_warnings::RowWarnings;
use crate::store::Candidates;

const ID: usize = 36;
const RECORD: usize = ID + 64;

/// How many records are decoded before the task yields: some 30 µs of work.
const RECORDS_AT_A_TIME: usize = 256;

/// The condition of a row that is packed, by its two columns. A database whose texts are UTF-16
/// packs no row: SQLite converts its texts, and the conversion may change their length.
macro_rules! well_formed {
    ($id:literal, $digest:literal) => {
        concat!(
            "octet_length('a') = 1 AND typeof(",
            $id,
            ") = 'text' AND octet_length(",
            $id,
            ") = 36 AND typeof(",
            $digest,
            ") = 'text' AND octet_length(",
            $digest,
            ") = 64"
        )
    };
}

/// The rows of trusts that should be candidates.
macro_rules! trusts {
    () => {
        "FROM {trust} WHERE api_key_hash IS NOT NULL AND disabled_at IS NULL"
    };
}

/// The rows of keys that should be candidates. `CROSS JOIN` keeps the order of the two tables.
macro_rules! keys {
    () => {
        concat!(
            "FROM {trust_key} CROSS JOIN {trust} ON trust.id = trust_key.trust \
             WHERE trust.disabled_at IS NULL AND ",
            row::is_active!()
        )
    };
}

/// Selects, for the trusts, how many should be candidates, how many of them are packed, and the
/// packed text. Then the same for the keys, as one text: a second row would cost a scan of few
/// trusts more than its keys, and further columns would read the keys again. An aggregate over a
/// subquery reads the rows in the subquery's order.
pub(super) const PACKED: &str = concat!(
    "SELECT count(*), count(record), group_concat(record, ''), \
     (SELECT count(*) || ' ' || count(record) || ' ' || coalesce(group_concat(record, ''), '') \
     FROM (SELECT CASE WHEN ",
    well_formed!("trust.id", "digest"),
    " THEN trust.id || digest END AS record ",
    keys!(),
    " ORDER BY trust_key.rowid)) FROM ( \
     SELECT CASE WHEN ",
    well_formed!("id", "api_key_hash"),
    " THEN id || api_key_hash END AS record ",
    trusts!(),
    " ORDER BY rowid)"
);

/// Selects the rows of trusts that are not packed.
pub(super) const OTHER_TRUSTS: &str = concat!(
    "SELECT id, api_key_hash ",
    trusts!(),
    " AND NOT (",
    well_formed!("id", "api_key_hash"),
    ") ORDER BY rowid"
);

/// Selects the rows of keys that are not packed.
pub(super) const OTHER_KEYS: &str = concat!(
    "SELECT trust.id, digest ",
    keys!(),
    " AND NOT (",
    well_formed!("trust.id", "digest"),
    ") ORDER BY trust_key.rowid"
);

/// Reads the candidates in the order of the rows, and warns of malformed rows.
pub(super) async fn candidates(
    pool: &SqlitePool,
    statements: &Statements,
    warnings: &RowWarnings,
) -> Result<Candidates, Error> {
    let packed = sqlx::query(statements.packed.clone()).fetch_one(pool).await?;
    let trusts = packed.try_get::<Option<&[u8]>, _>(2)?.unwrap_or_default();
    let trusts = Records::of(packed.try_get(0)?, packed.try_get(1)?, trusts)?;
    let keys = Records::parse(packed.try_get(3)?)?;
    let mut candidates = Candidates::with_capacity(trusts.len() + keys.len());
    trusts.unpack(&mut candidates, |id, digits| row::candidate_of(id, digits, warnings)).await;
    if trusts.lacks_rows {
        // These rows are malformed, unless the database is UTF-16. The next scan reads a row that
        // was repaired meanwhile.
        for row in sqlx::query(statements.other_trusts.clone()).fetch_all(pool).await? {
            if let Some((id, hash)) = row::candidate(&row, warnings) {
                candidates.push(id, hash);
            }
        }
    }
    keys.unpack(&mut candidates, |id, digits| row::key_of(id, digits, warnings)).await;
    if keys.lacks_rows {
        for row in sqlx::query(statements.other_keys.clone()).fetch_all(pool).await? {
            if let Some((id, hash)) = row::key(&row, warnings) {
                candidates.push(id, hash);
            }
        }
    }
    Ok(candidates)
}

/// The records of one table.
struct Records<'a> {
    packed: &'a [u8],
    /// Whether rows that should be candidates are not packed.
    lacks_rows: bool,
}

impl<'a> Records<'a> {
    fn of(should_be: u64, are: u64, packed: &'a [u8]) -> Result<Self, Error> {
        if are.checked_mul(RECORD as u64) != Some(packed.len() as u64) {
            return Err(Error::Decode(
                "the length of the packed candidates does not match their number".into(),
            ));
        }
        Ok(Self { packed, lacks_rows: should_be != are })
    }

    /// Reads the two numbers and the packed text from one text.
    fn parse(text: &'a [u8]) -> Result<Self, Error> {
        let mut parts = text.splitn(3, |byte| *byte == b' ');
        let mut number = || str::from_utf8(parts.next()?).ok()?.parse().ok();
        match (number(), number(), parts.next()) {
            (Some(should_be), Some(are), Some(packed)) => Self::of(should_be, are, packed),
            _ => Err(Error::Decode("the packed candidates lack their number".into())),
        }
    }

    fn len(&self) -> usize {
        self.packed.len() / RECORD
    }

    async fn unpack(
        &self,
        candidates: &mut Candidates,
        candidate: impl Fn(Option<&str>, Option<&str>) -> Option<(Uuid, KeyHash)>,
    ) {
        for (at, record) in self.packed.chunks_exact(RECORD).enumerate() {
            if at % RECORDS_AT_A_TIME == RECORDS_AT_A_TIME - 1 {
                yield_now().await;
            }
            let (id, digits) = record.split_at(ID);
            let (id, digits) = (str::from_utf8(id).ok(), str::from_utf8(digits).ok());
            if let Some((id, hash)) = candidate(id, digits) {
                candidates.push(id, hash);
            }
        }
    }
}
