-- The further keys of the trusts: one row a key. {trust_table}.{api_key_hash} stays a key beside them, which has no end.
--
-- There is no index on digest, on purpose: see the table {trust_table}.
CREATE TABLE {trust_key_table} (
    -- Hyphenated, lower case.
    id         TEXT NOT NULL PRIMARY KEY,
    -- A connection with foreign keys off may leave a row whose trust is gone. No key of such a row is accepted.
    trust      TEXT NOT NULL REFERENCES {trust_table} ({id}) ON DELETE CASCADE,
    -- For people, and so is last_four: the end of the key itself.
    label      TEXT,
    -- SHA-256 of the API key in 64 hexadecimal digits, lower case.
    digest     TEXT NOT NULL CHECK (length(digest) = 64 AND digest NOT GLOB '*[^0-9a-f]*'),
    last_four  TEXT,
    -- The times are RFC 3339, in UTC.
    created_at TEXT NOT NULL,
    -- From when on the key is refused, also as datetime() writes it. Null: it has no end.
    expires_at TEXT CHECK (
        expires_at IS NULL
        OR julianday(expires_at) IS NOT NULL
        AND (expires_at GLOB '????-??-??T??:??:??*Z' OR expires_at GLOB '????-??-?? ??:??:??')
    ),
    -- Null: the key is not revoked.
    revoked_at TEXT
) STRICT;

-- A deletion removes the keys of a trust. The read of a trust reads those that are not revoked.
CREATE INDEX {own:trust_key_trust} ON {trust_key_table} (trust);
CREATE INDEX {own:trust_key_kept} ON {trust_key_table} (trust) WHERE revoked_at IS NULL;
