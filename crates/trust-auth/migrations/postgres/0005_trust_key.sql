-- The further keys of the trusts: one row a key. The column api_key_hash stays: it has a key
-- without an end.

-- A role gets a right on the keys only if its right on the whole table of trusts is as strong
-- already:
--   SELECT for SELECT, which shows the digests of the trusts' own keys;
--   INSERT and UPDATE for UPDATE, which can give any trust another key;
--   DELETE for DELETE, which ends the keys with their trust.
-- INSERT on the trusts gives none: it makes a trust, and changes no other one. A right on single
-- columns gives none, and neither do default privileges. The owner of the tables can grant more.
DO $trust_auth$
DECLARE
    of_role record;
BEGIN
    -- The rights on a table that is there are those that its owner has chosen.
    IF to_regclass('{trust_key_table}') IS NOT NULL THEN
        RETURN;
    END IF;

    -- There is deliberately no index on digest: see 0001_trust.sql.
    CREATE TABLE {trust_key_table} (
        id         uuid PRIMARY KEY,
        trust      uuid NOT NULL REFERENCES {trust_table} ({id}) ON DELETE CASCADE,
        -- For people, and so is last_four: the end of the key itself.
        label      varchar,
        -- SHA-256 of the API key in 64 hexadecimal digits, lower case.
        digest     varchar(64) NOT NULL
            CHECK (digest::text COLLATE "C" OPERATOR(pg_catalog.~) '^[0-9a-f]{64}$'),
        last_four  varchar,
        created_at timestamptz NOT NULL DEFAULT now(),
        -- From when on the key is refused. Null: it has no end.
        expires_at timestamptz,
        -- Null: the key is not revoked.
        revoked_at timestamptz
    );

    -- The owner of the trusts owns the keys also if a superuser runs this.
    BEGIN
        EXECUTE (
            SELECT pg_catalog.format(
                'ALTER TABLE %s OWNER TO %s', '{trust_key_table}'::regclass, relowner::regrole
            )
            FROM pg_catalog.pg_class WHERE oid = '{trust_table}'::regclass
        );
    EXCEPTION WHEN insufficient_privilege THEN
        -- The owner may not have further tables in this schema. The rights below are enough.
        NULL;
    END;

    FOR of_role IN
        SELECT DISTINCT CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END AS name
        FROM pg_catalog.pg_class, pg_catalog.aclexplode(relacl)
        WHERE pg_class.oid = '{trust_key_table}'::regclass AND grantee <> relowner
    LOOP
        EXECUTE pg_catalog.format(
            'REVOKE ALL ON %s FROM %s', '{trust_key_table}'::regclass, of_role.name
        );
    END LOOP;
    FOR of_role IN
        SELECT CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END AS name,
            CASE privilege_type WHEN 'UPDATE' THEN 'INSERT, UPDATE' ELSE privilege_type END
                AS rights
        FROM pg_catalog.pg_class, pg_catalog.aclexplode(
            coalesce(relacl, pg_catalog.acldefault('r', relowner))
        )
        WHERE pg_class.oid = '{trust_table}'::regclass
        AND privilege_type IN ('SELECT', 'UPDATE', 'DELETE')
    LOOP
        EXECUTE pg_catalog.format(
            'GRANT %s ON %s TO %s', of_role.rights, '{trust_key_table}'::regclass, of_role.name
        );
    END LOOP;

    -- With row-level security on the trusts, a role sees the keys of the trusts that it sees, and
    -- changes those of the trusts that it may update: the lock applies the policies for UPDATE.
    IF (SELECT relrowsecurity FROM pg_catalog.pg_class WHERE oid = '{trust_table}'::regclass) THEN
        CREATE POLICY trust_auth_read ON {trust_key_table} FOR SELECT
            USING (EXISTS (
                SELECT FROM {trust_table} WHERE {trust_table}.{id} = {trust_key_table}.trust
            ));
        CREATE POLICY trust_auth_add ON {trust_key_table} FOR INSERT
            WITH CHECK (EXISTS (
                SELECT FROM {trust_table}
                WHERE {trust_table}.{id} = {trust_key_table}.trust FOR KEY SHARE
            ));
        CREATE POLICY trust_auth_change ON {trust_key_table} FOR UPDATE
            USING (EXISTS (
                SELECT FROM {trust_table}
                WHERE {trust_table}.{id} = {trust_key_table}.trust FOR KEY SHARE
            ));
        CREATE POLICY trust_auth_remove ON {trust_key_table} FOR DELETE
            USING (EXISTS (
                SELECT FROM {trust_table}
                WHERE {trust_table}.{id} = {trust_key_table}.trust FOR KEY SHARE
            ));
        ALTER TABLE {trust_key_table} ENABLE ROW LEVEL SECURITY;
    END IF;
    IF (
        SELECT relforcerowsecurity FROM pg_catalog.pg_class
        WHERE oid = '{trust_table}'::regclass
    ) THEN
        ALTER TABLE {trust_key_table} FORCE ROW LEVEL SECURITY;
    END IF;
END
$trust_auth$;

-- A deletion removes the keys of a trust. The read of a trust reads those that are not revoked.
CREATE INDEX IF NOT EXISTS {own:trust_key_trust} ON {trust_key_table} (trust);
CREATE INDEX IF NOT EXISTS {own:trust_key_kept} ON {trust_key_table} (trust)
    WHERE revoked_at IS NULL;
