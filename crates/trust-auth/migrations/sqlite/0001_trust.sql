-- The trusts: one row a tenant.
--
-- There is no index on api_key_hash, on purpose. A lookup by digest compares it byte by byte along the tree's path, so
-- that its duration tells how much of a digest was right; the sweep compares every row in constant time instead.
CREATE TABLE trust (
    -- Hyphenated, lower case.
    id             TEXT NOT NULL PRIMARY KEY,
    name           TEXT NOT NULL UNIQUE,
    code           TEXT,
    region         TEXT,
    -- SHA-256 of the API key in 64 hexadecimal digits. Null: no key is accepted.
    api_key_hash   TEXT CHECK (length(api_key_hash) = 64),
    -- The times are RFC 3339, in UTC.
    created_at     TEXT NOT NULL,
    last_heartbeat TEXT,
    -- Null: enabled.
    disabled_at    TEXT
) STRICT;
