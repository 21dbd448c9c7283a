//! [`Statements`]: the statements that read the tables, under their names. A store fills them once:
//! requests wait for them.

use sqlx::SqlStr;

use super::ended::ENDED;
use super::index::FIND;
use super::row::{all_keys, is_active, own_columns, read_columns};
use crate::table_names::TableNames;

/// Reads a trust without its keys. Without a trust there is no row, and the answer does not tell
/// whether the server is a replica.
const FETCH_ROW: &str =
    concat!("SELECT pg_is_in_recovery(), ", own_columns!(), " FROM {trust} WHERE id = $1");

/// Reads a trust and its keys. Returns a row in any case: without the trust, the server's answer is
/// still needed.
const FETCH: &str = concat!(
    "SELECT server.is_replica, ",
    read_columns!(),
    " FROM (SELECT pg_is_in_recovery() AS is_replica) AS server LEFT JOIN {trust} ON id = $1"
);

/// Selects the digests of the trusts' own rows.
const CANDIDATES: &str = "SELECT pg_is_in_recovery(), id, api_key_hash::text FROM {trust} \
     WHERE api_key_hash IS NOT NULL AND disabled_at IS NULL ORDER BY created_at, id";

/// Selects the digests of the other keys. Returns a row in any case: without keys, the server's
/// answer is still needed.
const KEY_CANDIDATES: &str = concat!(
    "SELECT server.is_replica, candidate.trust, candidate.digest \
     FROM (SELECT pg_is_in_recovery() AS is_replica) AS server LEFT JOIN ( \
     SELECT key.trust, key.digest::text, key.created_at, key.id \
     FROM {trust_key_table} AS key JOIN {trust} ON trust.id = key.trust \
     WHERE disabled_at IS NULL AND ",
    is_active!(),
    ") AS candidate ON TRUE ORDER BY candidate.created_at, candidate.id"
);

/// Reads all rows, in the order of the names' bytes.
const LIST: &str = concat!(
    "SELECT server.is_replica, ",
    own_columns!(),
    ", keys.rows FROM (SELECT pg_is_in_recovery() AS is_replica) AS server \
     LEFT JOIN {trust} ON true LEFT JOIN ",
    all_keys!(),
    " ON keys.of_trust = trust.id ORDER BY name COLLATE \"C\""
);

/// The statements of one store.
pub(super) struct Statements {
    pub(super) fetch_row: SqlStr,
    pub(super) fetch: SqlStr,
    pub(super) candidates: SqlStr,
    pub(super) key_candidates: SqlStr,
    pub(super) list: SqlStr,
    pub(super) find: SqlStr,
    pub(super) ended: SqlStr,
}

impl Statements {
    pub(super) fn new(names: &TableNames) -> Self {
        let fill = |template| names.for_postgres(template);
        Self {
            fetch_row: fill(FETCH_ROW),
            fetch: fill(FETCH),
            candidates: fill(CANDIDATES),
            key_candidates: fill(KEY_CANDIDATES),
            list: fill(LIST),
            find: fill(FIND),
            ended: fill(ENDED),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A hit and a miss wait for these. The server must plan them as before there were names.
    #[test]
    fn with_the_default_names_the_tables_are_read_without_a_subquery_of_their_own() {
        let statements = Statements::new(&TableNames::default());
        assert_eq!(
            statements.fetch_row.as_str(),
            "SELECT pg_is_in_recovery(), id, name::text, code::text, region::text, \
             api_key_hash::text, created_at::timestamptz, last_heartbeat::timestamptz, \
             disabled_at::timestamptz, attributes::text FROM trust WHERE id = $1"
        );
        assert_eq!(
            statements.candidates.as_str(),
            "SELECT pg_is_in_recovery(), id, api_key_hash::text FROM trust \
             WHERE api_key_hash IS NOT NULL AND disabled_at IS NULL ORDER BY created_at, id"
        );
        for (filled, template) in [
            (statements.fetch, FETCH),
            (statements.key_candidates, KEY_CANDIDATES),
            (statements.list, LIST),
            (statements.find, FIND),
            (statements.ended, ENDED),
        ] {
            let plain = template.replace("{trust}", "trust");
            assert_eq!(filled.as_str(), plain.replace("{trust_key_table}", "trust_key"));
        }
    }
}
