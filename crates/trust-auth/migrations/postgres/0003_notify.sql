-- Tells every process that listens which keys a change concerns, whoever makes it.
--
-- The payload is `1 OPERATION ID OLD NEW`: the version of this form, then insert, update, delete or truncate, then the
-- trust's id, the digest that it had, and the digest that it has now, each `-` if there is none or it is unchanged.
-- At most 184 bytes. Digests that are not 64 hexadecimal digits are left out: no key has them.
--
-- Whoever can connect to this database can listen, and so sees digests of keys that change. They are digests of 32 random
-- bytes, from which no key can be had.
CREATE OR REPLACE FUNCTION trust_auth_notify() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $trust_auth$
DECLARE
    hexadecimal constant text := '^[0-9a-fA-F]{64}$';
    id          text;
    old_hash    text;
    new_hash    text;
BEGIN
    -- Triggers of version 2. Count this up whenever those below change: they are made anew where this text is another.
    IF TG_OP IN ('UPDATE', 'DELETE') THEN
        id := OLD.id::text;
        old_hash := lower(substring(OLD.api_key_hash::text COLLATE "C" FROM hexadecimal));
    END IF;
    IF TG_OP IN ('INSERT', 'UPDATE') THEN
        id := NEW.id::text;
        new_hash := lower(substring(NEW.api_key_hash::text COLLATE "C" FROM hexadecimal));
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

-- ALWAYS: also for what logical replication applies, and for restores that turn triggers off.
CREATE OR REPLACE TRIGGER trust_auth_row AFTER INSERT OR DELETE ON trust
    FOR EACH ROW EXECUTE FUNCTION trust_auth_notify();
ALTER TABLE trust ENABLE ALWAYS TRIGGER trust_auth_row;

-- A heartbeat concerns no key, and notifies nobody. By value, not by column: a trigger may write columns that the statement does not name.
-- As text, and byte by byte: for `varchar` itself there is no operator but one that somebody else may have made, and a collation may take
-- different digests for the same.
CREATE OR REPLACE TRIGGER trust_auth_update AFTER UPDATE ON trust
    FOR EACH ROW WHEN (
        OLD.id IS DISTINCT FROM NEW.id
        OR OLD.api_key_hash::text COLLATE "C" IS DISTINCT FROM NEW.api_key_hash::text COLLATE "C"
        OR OLD.disabled_at IS DISTINCT FROM NEW.disabled_at
    ) EXECUTE FUNCTION trust_auth_notify();
ALTER TABLE trust ENABLE ALWAYS TRIGGER trust_auth_update;

CREATE OR REPLACE TRIGGER trust_auth_truncate AFTER TRUNCATE ON trust
    FOR EACH STATEMENT EXECUTE FUNCTION trust_auth_notify();
ALTER TABLE trust ENABLE ALWAYS TRIGGER trust_auth_truncate;
