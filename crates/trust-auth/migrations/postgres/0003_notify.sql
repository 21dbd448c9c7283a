-- Notifies every listening process of the keys that a change concerns, whichever program makes the
-- change.
--
-- The payload is `1 OPERATION ID OLD NEW`: the version of this form; insert, update, delete or
-- truncate; the trust's id; the digest that the trust had; and the digest that it has now. A digest
-- is `-` if there is none, or if it is unchanged. A digest that is not 64 hexadecimal digits is left
-- out, because no key has it. The payload has at most 184 bytes.
--
-- Every client of this database can listen, and then sees the digests of keys that change. They are
-- digests of 32 random bytes, and reveal no key.
--
-- The body of the function must not change without need: where a database has another body, its
-- triggers count as missing until it is migrated.
CREATE OR REPLACE FUNCTION {own:trust_auth_notify}() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $trust_auth$
DECLARE
    hexadecimal constant text := '^[0-9a-fA-F]{64}$';
    id          text;
    old_hash    text;
    new_hash    text;
BEGIN
    -- Triggers of version 2. Count this up whenever those below change: they are made anew where this text is another.
    IF TG_OP IN ('UPDATE', 'DELETE') THEN
        id := OLD.{id}::text;
        old_hash := lower(substring(OLD.{api_key_hash}::text COLLATE "C" FROM hexadecimal));
    END IF;
    IF TG_OP IN ('INSERT', 'UPDATE') THEN
        id := NEW.{id}::text;
        new_hash := lower(substring(NEW.{api_key_hash}::text COLLATE "C" FROM hexadecimal));
    END IF;
    IF new_hash = old_hash THEN
        new_hash := NULL;
    END IF;
    PERFORM pg_notify(
        'trust_auth',
        concat_ws(' ', '1', lower(TG_OP COLLATE "C"), coalesce(id, '-'), coalesce(old_hash, '-'), coalesce(new_hash, '-'))
    );
    RETURN NULL;
END
$trust_auth$;

-- ALWAYS: the triggers also run for changes by logical replication, and for restores that turn
-- triggers off.
CREATE OR REPLACE TRIGGER trust_auth_row AFTER INSERT OR DELETE ON {trust_table}
    FOR EACH ROW EXECUTE FUNCTION {own:trust_auth_notify}();
ALTER TABLE {trust_table} ENABLE ALWAYS TRIGGER trust_auth_row;

-- A heartbeat concerns no key, and sends no notification. The condition compares values and does not
-- use the statement's list of columns: a trigger may write other columns.
-- The digests are compared as text and byte by byte. For `varchar`, another program may have made an
-- operator of its own, and a collation may treat different digests as equal.
CREATE OR REPLACE TRIGGER trust_auth_update AFTER UPDATE ON {trust_table}
    FOR EACH ROW WHEN (
        OLD.{id} IS DISTINCT FROM NEW.{id}
        OR OLD.{api_key_hash}::text COLLATE "C" IS DISTINCT FROM NEW.{api_key_hash}::text COLLATE "C"
        OR OLD.{disabled_at} IS DISTINCT FROM NEW.{disabled_at}
    ) EXECUTE FUNCTION {own:trust_auth_notify}();
ALTER TABLE {trust_table} ENABLE ALWAYS TRIGGER trust_auth_update;

CREATE OR REPLACE TRIGGER trust_auth_truncate AFTER TRUNCATE ON {trust_table}
    FOR EACH STATEMENT EXECUTE FUNCTION {own:trust_auth_notify}();
ALTER TABLE {trust_table} ENABLE ALWAYS TRIGGER trust_auth_truncate;
