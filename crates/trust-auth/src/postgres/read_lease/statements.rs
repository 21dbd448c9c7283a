//! The statements of a holder. A renewal and a look are one statement each, so that each reads one
//! snapshot.

use sqlx::SqlStr;

use super::source::{LeaseSource, place};
use crate::postgres::row::{all_keys, own_columns, read_columns};

/// The statements of a session that name the tables of trusts.
pub(super) struct Statements {
    pub(super) base: SqlStr,
    pub(super) trusts: SqlStr,
    pub(super) renew: SqlStr,
    pub(super) look: SqlStr,
}

impl Statements {
    pub(super) fn of(source: &LeaseSource) -> Self {
        let (renew, look) =
            if source.has_trusts { (RENEW_TRUSTS, LOOK_TRUSTS) } else { (RENEW, LOOK) };
        let names = &source.connector.names;
        Self {
            base: names.for_postgres(BASE),
            trusts: names.for_postgres(TRUSTS),
            renew: names.for_postgres(renew),
            look: names.for_postgres(look),
        }
    }
}

/// Differs after a trigger or its function was made, changed, or turned on or off, after the
/// table's rows were rewritten, and after the table, its schema or a column was renamed, or it got
/// columns or children (RL2). A trigger's condition knows its columns by number. It differs also if
/// the name `trust` or `trust_key`, or one of the lease's own tables, leads to another table, and
/// if row security may hide rows of the latter.
macro_rules! fingerprint {
    ($oids:literal) => {
        concat!(
            "concat(to_regclass('{trust_table}')::oid, ' ', \
             to_regclass('{trust_key_table}')::oid, ';', \
             (SELECT string_agg(concat_ws(' ', oid, relnamespace, relpersistence, \
                     row_security_active(oid)), ',' ORDER BY oid) \
                 FROM pg_class WHERE oid IN (to_regclass('trust_auth_lease'), \
                     to_regclass('trust_auth_change'), to_regclass('trust_auth_holder'))), ';', \
             (SELECT string_agg(concat_ws(' ', c.oid, c.xmin, c.relname, c.relnamespace, \
                 (SELECT concat(nspname, '.', n.xmin) FROM pg_namespace AS n \
                     WHERE n.oid = c.relnamespace), c.relfilenode, \
                 c.relnatts, c.relkind, \
                 (SELECT string_agg(concat_ws(' ', attnum, attname, a.xmin), ' ' \
                         ORDER BY attnum) \
                     FROM pg_attribute AS a WHERE attrelid = c.oid AND attnum > 0), \
                 g.tgname, g.oid, g.xmin, g.tgenabled, f.oid, f.xmin), ',' \
                 ORDER BY c.oid, g.tgname) \
             FROM pg_class AS c LEFT JOIN pg_trigger AS g \
                 ON g.tgrelid = c.oid AND g.tgname LIKE 'trust\\_auth\\_rec\\_%' \
             LEFT JOIN pg_proc AS f ON f.oid = g.tgfoid \
             WHERE c.oid = ANY (",
            $oids,
            "::int8[]::oid[])))"
        )
    };
}

/// Whether the session is the one that the nonce was given to (RL6), and commits as durably as then
/// (R15). A pooler in transaction mode gives the session to other clients, too, and they may set
/// `synchronous_commit`.
macro_rules! same_session {
    ($nonce:literal) => {
        concat!(
            "(current_setting('trust_auth.session', true) IS NOT DISTINCT FROM ",
            $nonce,
            " AND current_setting('trust_auth.commits', true) IS NOT DISTINCT FROM \
             current_setting('synchronous_commit'))"
        )
    };
}

/// The least durability of a commit of the lease: none is lost in a crash (R15).
macro_rules! durability {
    () => {
        "CASE current_setting('synchronous_commit') \
             WHEN 'off' THEN 'local' ELSE current_setting('synchronous_commit') END"
    };
}

/// Sets the nonce, the limits and the durability. To compile a renewal takes the server longer than
/// a short lease lasts; for a table without statistics it would compile each.
pub(super) const PREPARE: &str = concat!(
    "SELECT set_config('trust_auth.session', $1, false), set_config('jit', 'off', false), \
     set_config('statement_timeout', $2, false), set_config('lock_timeout', $3, false), \
     set_config('synchronous_commit', ",
    durability!(),
    ", false), set_config('trust_auth.commits', ",
    durability!(),
    ", false)"
);

/// R7: the bound is raised before the holder uses the longer lease.
pub(super) const RAISE: &str =
    "UPDATE trust_auth_lease SET max_lease_ms = $1 WHERE max_lease_ms < $1";

/// Whether the names lead to the tables that were checked, which are the first two, and those are
/// the tables that were read: a load locks no other ones, and keeps its locks until its end.
macro_rules! leads_to {
    () => {
        "ARRAY[to_regclass('{trust_table}')::oid::int8, \
         to_regclass('{trust_key_table}')::oid::int8] = $2[1:2] AND \
         (SELECT count(DISTINCT relation) = 2 FROM pg_locks WHERE pid = pg_backend_pid() \
          AND granted AND relation::int8 = ANY ($2[1:2]))"
    };
}

const BASE: &str = concat!(
    "SELECT pg_is_in_recovery(), ",
    same_session!("$1"),
    ", pg_current_snapshot()::text, ",
    fingerprint!("$2"),
    ", concat(",
    place!(),
    "), ",
    leads_to!()
);

const TRUSTS: &str = concat!(
    "SELECT false, ",
    own_columns!(),
    ", keys.rows FROM {trust} LEFT JOIN ",
    all_keys!(),
    " ON keys.of_trust = trust.id WHERE disabled_at IS NULL \
     AND (api_key_hash IS NOT NULL OR keys.rows IS NOT NULL) ORDER BY created_at, id"
);

/// The row lock keeps the bound from being lowered in between.
pub(super) const REGISTER: &str = concat!(
    "INSERT INTO trust_auth_holder (id, name, lease_ms, applied) \
     SELECT $1, $2, $3, $4::text::pg_snapshot FROM trust_auth_lease \
     WHERE $3 <= max_lease_ms AND ",
    same_session!("$5"),
    " FOR SHARE"
);

/// Writes the acknowledgement, if the session is still the same (R10).
macro_rules! acknowledge {
    () => {
        concat!(
            "WITH me AS (UPDATE trust_auth_holder SET renewals = renewals + 1, \
                 applied = $1::text::pg_snapshot WHERE id = $5 AND ",
            same_session!("$2"),
            " RETURNING 1) "
        )
    };
}

/// Reads what `$1` does not show (RL4), after the columns of a trust.
macro_rules! difference {
    ($columns:expr, $registered:expr, $join:expr) => {
        concat!(
            "SELECT pg_is_in_recovery(), ",
            $columns,
            ", ",
            same_session!("$2"),
            ", l.kept_from <= pg_snapshot_xmin($1::text::pg_snapshot), ",
            fingerprint!("$3"),
            " IS NOT DISTINCT FROM $4, ",
            $registered,
            ", pg_current_snapshot()::text, c.is_record, c.source, c.value \
             FROM trust_auth_lease AS l LEFT JOIN \
             (SELECT DISTINCT source, value, true AS is_record FROM trust_auth_change \
              WHERE xid >= pg_snapshot_xmin($1::text::pg_snapshot) \
              AND NOT pg_visible_in_snapshot(xid, $1::text::pg_snapshot)) AS c ON true",
            $join
        )
    };
}

/// Whether a renewal has found its registration, and the shortest lease that is registered.
macro_rules! registered {
    () => {
        "EXISTS (SELECT FROM me), (SELECT min(lease_ms) FROM trust_auth_holder)"
    };
}

macro_rules! no_trust {
    () => {
        "NULL::uuid, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL"
    };
}

const RENEW: &str = concat!(acknowledge!(), difference!(no_trust!(), registered!(), ""));
const LOOK: &str = difference!(no_trust!(), "$5::uuid IS NULL, NULL::int", "");
/// The trust that a record names. A table of another declaration may have the source, too, and
/// other values.
macro_rules! changed_trust {
    () => {
        " LEFT JOIN {trust} ON id = CASE WHEN c.source = 'trust.id' \
             AND c.value ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' THEN c.value::uuid END \
         AND disabled_at IS NULL"
    };
}

const RENEW_TRUSTS: &str =
    concat!(acknowledge!(), difference!(read_columns!(), registered!(), changed_trust!()));
const LOOK_TRUSTS: &str =
    difference!(read_columns!(), "$5::uuid IS NULL, NULL::int", changed_trust!());

/// The first column after those of a trust.
pub(super) const FIRST: usize = 11;
