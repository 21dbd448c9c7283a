-- The records of the read lease. docs/read-lease.md has the protocol, its rules (R1 to R16) and its
-- proof (RL1 to RL31).

-- One row. No process holds a longer lease than `max_lease_ms`. `server_run` is the run in which
-- each lease in force is known to be registered (R14). Records of transactions before `kept_from`
-- were pruned (RL5).
CREATE TABLE IF NOT EXISTS trust_auth_lease (
    one          bool PRIMARY KEY DEFAULT true CHECK (one),
    server_run   text,
    max_lease_ms int  NOT NULL DEFAULT 300 CHECK (max_lease_ms BETWEEN 300 AND 300000),
    kept_from    xid8 NOT NULL DEFAULT pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot())
);
INSERT INTO trust_auth_lease DEFAULT VALUES ON CONFLICT DO NOTHING;

-- What changed, by the transaction that changed it: a table's column and its value. The source `*`
-- stands for everything, and no source for a barrier, which changes nothing (R11).
CREATE TABLE IF NOT EXISTS trust_auth_change (
    xid    xid8 NOT NULL DEFAULT pg_catalog.pg_current_xact_id(),
    source text,
    value  text
);
CREATE INDEX IF NOT EXISTS trust_auth_change_xid ON trust_auth_change (xid);

-- The processes that hold a lease. A holder has applied what the snapshot `applied` shows (R10).
-- Each renewal writes the row again, so the page has room for several versions.
CREATE TABLE IF NOT EXISTS trust_auth_holder (
    id       uuid        PRIMARY KEY,
    name     text        NOT NULL,
    lease_ms int         NOT NULL CHECK (lease_ms BETWEEN 300 AND 300000),
    renewals bigint      NOT NULL DEFAULT 0,
    applied  pg_snapshot NOT NULL
) WITH (
    fillfactor = 20, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_scale_factor = 0
);

-- Writes the barrier of a revoking transaction (R11). The text that it returns is for the wait that
-- follows the commit: the transaction's id, and the run: the server's start, the database, the
-- table of the registrations, and the names of database and schema. The commit is then on disk
-- before it returns, as a crash within the run would undo the revocation. Without the hint, the
-- transaction can be prepared for a commit in two phases. The triggers note in the setting
-- `trust_auth.recorded` which schemas have records of the transaction: the holders that are
-- registered in another schema are not waited for by this barrier.
CREATE OR REPLACE FUNCTION trust_auth_barrier(hint bool DEFAULT true) RETURNS text
LANGUAGE plpgsql SET search_path FROM CURRENT AS $trust_auth$
DECLARE
    here     text := pg_catalog.quote_ident(pg_catalog.current_schema());
    recorded text := pg_catalog.current_setting('trust_auth.recorded', true);
BEGIN
    IF recorded <> '' AND recorded <> here THEN
        RAISE EXCEPTION USING ERRCODE = 'TA001',
            MESSAGE = pg_catalog.format(
                'this is the barrier of the read lease in the schema %s, and the transaction '
                'changed tables whose read lease is in %s', here, recorded),
            HINT = 'Call the function `trust_auth_barrier` of that schema by its qualified name, '
                'or put that schema first in the search_path. If there are several, call each, '
                'run `SET LOCAL trust_auth.recorded TO ''''` before each call, and wait for each '
                'by its own feed.';
    END IF;
    INSERT INTO trust_auth_change DEFAULT VALUES;
    IF pg_catalog.current_setting('synchronous_commit') = 'off' THEN
        PERFORM pg_catalog.set_config('synchronous_commit', 'local', true);
    END IF;
    IF hint THEN
        PERFORM pg_catalog.pg_notify('trust_auth_lease', '');
    END IF;
    RETURN pg_catalog.concat_ws(
        ' ', pg_catalog.pg_current_xact_id(),
        pg_catalog.concat(
            extract(epoch FROM pg_catalog.pg_postmaster_start_time()), '/',
            (SELECT pg_catalog.concat(oid, '.', xmin) FROM pg_catalog.pg_database
             WHERE datname = pg_catalog.current_database()), '/',
            pg_catalog.to_regclass('trust_auth_holder')::oid, '/',
            pg_catalog.current_database(), '/',
            (SELECT pg_catalog.concat(n.oid::pg_catalog.regnamespace, '.', n.xmin)
             FROM pg_catalog.pg_class AS c
             JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
             WHERE c.oid = pg_catalog.to_regclass('trust_auth_holder'))
        )
    );
END
$trust_auth$;
