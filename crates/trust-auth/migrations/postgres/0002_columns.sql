-- Adds the columns that another tool's table may lack. They are nullable and have no default, so no
-- row is rewritten.
ALTER TABLE trust
    ADD COLUMN IF NOT EXISTS code           varchar,
    ADD COLUMN IF NOT EXISTS region         varchar,
    ADD COLUMN IF NOT EXISTS last_heartbeat timestamptz,
    ADD COLUMN IF NOT EXISTS disabled_at    timestamptz;
