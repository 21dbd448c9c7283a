-- The trusts: one row for each tenant. This migration runs where there is no table `trust`.
--
-- There is deliberately no index on api_key_hash. A lookup in an index compares digests byte by
-- byte along the tree's path, so its duration reveals how much of a digest was right. The sweep
-- compares every row in constant time instead.
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
    disabled_at    timestamptz,
    -- What an application stores about a trust.
    attributes     jsonb
);
