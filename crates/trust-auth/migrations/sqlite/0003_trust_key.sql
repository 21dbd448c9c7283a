-- The further keys of the trusts: one row a key. trust.api_key_hash stays a key beside them, which has no end.
--
-- There is no index on digest, on purpose: see the table trust.
CREATE TABLE trust_key (
    -- Hyphenated, lower case.
    id         TEXT NOT NULL PRIMARY KEY,
    -- A connection with foreign keys off may leave a row whose trust is gone. No key of such a row is accepted.
    trust      TEXT NOT NULL REFERENCES trust (id) ON DELETE CASCADE,
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
CREATE INDEX trust_key_trust ON trust_key (trust);
CREATE INDEX trust_key_kept ON trust_key (trust) WHERE revoked_at IS NULL;
