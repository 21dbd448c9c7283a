-- What a table that another tool has made may lack. Nullable and without a default: no row is rewritten.
ALTER TABLE trust
    ADD COLUMN IF NOT EXISTS code           varchar,
    ADD COLUMN IF NOT EXISTS region         varchar,
    ADD COLUMN IF NOT EXISTS last_heartbeat timestamptz,
    ADD COLUMN IF NOT EXISTS disabled_at    timestamptz;
