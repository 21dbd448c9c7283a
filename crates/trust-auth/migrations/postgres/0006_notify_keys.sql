-- Notifies every listening process of a change of the table of keys, in the form of
-- `trust_auth_notify`: the id is that of the trust. The body of the function must not change
-- without need.
CREATE OR REPLACE FUNCTION {own:trust_auth_notify_key}() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $trust_auth$
DECLARE
    hexadecimal constant text := '^[0-9a-fA-F]{64}$';
    id          text;
    old_hash    text;
    new_hash    text;
BEGIN
    -- Triggers of version 1. Count this up whenever those below change.
    IF TG_OP IN ('UPDATE', 'DELETE') THEN
        id := OLD.trust::text;
        old_hash := lower(substring(OLD.digest::text COLLATE "C" FROM hexadecimal));
    END IF;
    IF TG_OP IN ('INSERT', 'UPDATE') THEN
        id := NEW.trust::text;
        new_hash := lower(substring(NEW.digest::text COLLATE "C" FROM hexadecimal));
    END IF;
    IF new_hash = old_hash THEN
        new_hash := NULL;
    END IF;
    PERFORM pg_notify(
        'trust_auth',
        concat_ws(
            ' ', '1', lower(TG_OP COLLATE "C"), coalesce(id, '-'), coalesce(old_hash, '-'),
            coalesce(new_hash, '-')
        )
    );
    RETURN NULL;
END
$trust_auth$;

CREATE OR REPLACE TRIGGER trust_auth_key_row AFTER INSERT OR DELETE ON {trust_key_table}
    FOR EACH ROW EXECUTE FUNCTION {own:trust_auth_notify_key}();
ALTER TABLE {trust_key_table} ENABLE ALWAYS TRIGGER trust_auth_key_row;

CREATE OR REPLACE TRIGGER trust_auth_key_update AFTER UPDATE ON {trust_key_table}
    FOR EACH ROW WHEN (
        OLD.trust IS DISTINCT FROM NEW.trust
        OR OLD.digest::text COLLATE "C" IS DISTINCT FROM NEW.digest::text COLLATE "C"
        OR OLD.expires_at IS DISTINCT FROM NEW.expires_at
        OR OLD.revoked_at IS DISTINCT FROM NEW.revoked_at
    ) EXECUTE FUNCTION {own:trust_auth_notify_key}();
ALTER TABLE {trust_key_table} ENABLE ALWAYS TRIGGER trust_auth_key_update;

CREATE OR REPLACE TRIGGER trust_auth_key_truncate AFTER TRUNCATE ON {trust_key_table}
    FOR EACH STATEMENT EXECUTE FUNCTION {own:trust_auth_notify_key}();
ALTER TABLE {trust_key_table} ENABLE ALWAYS TRIGGER trust_auth_key_truncate;

-- A trust that is disabled concerns all its keys. A deletion removes their rows, which notify.
CREATE OR REPLACE FUNCTION {own:trust_auth_notify_keys}() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $trust_auth_keys$
DECLARE
    keys     constant oid := (
        SELECT found.oid FROM pg_class AS found JOIN pg_class AS trust USING (relnamespace)
        WHERE trust.oid = TG_RELID AND found.relname = '{trust_key_name}'
    );
    old_hash text;
BEGIN
    -- Triggers of version 1. Count this up whenever the one below changes.
    --
    -- Without the table, or without the right to read it, a role disables a trust all the same. All
    -- keys are concerned then.
    IF has_table_privilege(keys, 'SELECT') IS NOT TRUE OR row_security_active(keys)
        OR NOT has_schema_privilege(TG_TABLE_SCHEMA, 'USAGE')
    THEN
        PERFORM pg_notify('trust_auth', '1 truncate - - -');
        RETURN NULL;
    END IF;
    FOR old_hash IN EXECUTE format(
        'SELECT digest::text FROM %s WHERE trust IN ($1, $2)
         AND digest::text COLLATE "C" ~ ''^[0-9a-f]{64}$''',
        keys::regclass
    ) USING OLD.{id}, NEW.{id} LOOP
        PERFORM pg_notify('trust_auth', concat_ws(' ', '1', 'update', NEW.{id}::text, old_hash, '-'));
    END LOOP;
    RETURN NULL;
END
$trust_auth_keys$;

CREATE OR REPLACE TRIGGER trust_auth_keys AFTER UPDATE ON {trust_table}
    FOR EACH ROW WHEN (
        OLD.{id} IS DISTINCT FROM NEW.{id}
        OR OLD.{disabled_at} IS DISTINCT FROM NEW.{disabled_at}
    ) EXECUTE FUNCTION {own:trust_auth_notify_keys}();
ALTER TABLE {trust_table} ENABLE ALWAYS TRIGGER trust_auth_keys;
