-- The further keys of the trusts: one row a key. The column trust.api_key_hash stays: it has a key
-- without an end. And what an application stores about a trust.
ALTER TABLE trust ADD COLUMN IF NOT EXISTS attributes jsonb;

-- There is deliberately no index on digest: see the table trust.
CREATE TABLE IF NOT EXISTS trust_key (
    id         uuid PRIMARY KEY,
    trust      uuid NOT NULL REFERENCES trust (id) ON DELETE CASCADE,
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

-- The read of a trust reads its keys, and a deletion removes them.
CREATE INDEX IF NOT EXISTS trust_key_trust ON trust_key (trust);

-- The owner of the trusts owns the keys also if a superuser runs this. Each role has the
-- rights on the keys that it has on the trusts.
DO $trust_auth$
DECLARE
    of_trust record;
BEGIN
    BEGIN
        EXECUTE (
            SELECT pg_catalog.format('ALTER TABLE trust_key OWNER TO %s', relowner::regrole)
            FROM pg_catalog.pg_class WHERE oid = 'trust'::regclass
        );
    EXCEPTION WHEN insufficient_privilege THEN
        -- The owner may not have further tables in this schema. The rights below are enough.
        NULL;
    END;
    FOR of_trust IN
        SELECT privilege_type AS name,
            CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END AS role
        FROM pg_catalog.pg_class, pg_catalog.aclexplode(
            coalesce(relacl, pg_catalog.acldefault('r', relowner))
        )
        WHERE pg_class.oid = 'trust'::regclass
        AND privilege_type IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE')
    LOOP
        EXECUTE pg_catalog.format('GRANT %s ON trust_key TO %s', of_trust.name, of_trust.role);
    END LOOP;
END
$trust_auth$;
