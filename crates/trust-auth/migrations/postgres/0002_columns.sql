-- Adds the columns that a table may lack which another tool has made, or an application. They are
-- nullable and have no default, so no row is rewritten. A migration runs the lines of those alone.
ALTER TABLE {trust_table} ADD COLUMN IF NOT EXISTS {code} varchar;
ALTER TABLE {trust_table} ADD COLUMN IF NOT EXISTS {region} varchar;
ALTER TABLE {trust_table} ADD COLUMN IF NOT EXISTS {last_heartbeat} timestamptz;
ALTER TABLE {trust_table} ADD COLUMN IF NOT EXISTS {disabled_at} timestamptz;
ALTER TABLE {trust_table} ADD COLUMN IF NOT EXISTS {attributes} jsonb;
