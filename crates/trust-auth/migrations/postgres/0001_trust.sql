-- The trusts: one row a tenant. Run where there is no table of the name.
--
-- There is no index on api_key_hash, on purpose. A lookup by digest compares it byte by byte along the tree's path, so
-- that its duration tells how much of a digest was right; the sweep compares every row in constant time instead.
CREATE TABLE trust (
    id             uuid PRIMARY KEY,
    name           varchar NOT NULL UNIQUE,
    code           varchar,
    region         varchar,
    -- SHA-256 of the API key in 64 hexadecimal digits. Null: no key is accepted.
    api_key_hash   varchar(64) CHECK (pg_catalog.length(api_key_hash) = 64),
    created_at     timestamptz NOT NULL DEFAULT now(),
    last_heartbeat timestamptz,
    -- Null: enabled.
    disabled_at    timestamptz
);
