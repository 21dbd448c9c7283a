-- The service's own table. Without its checks, a store has to expect malformed rows. An id is never
-- used again, so that logs name one user by it.
CREATE TABLE IF NOT EXISTS users (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    email TEXT NOT NULL UNIQUE,
    plan TEXT NOT NULL DEFAULT 'free',
    scopes TEXT NOT NULL DEFAULT '[]' CHECK (json_valid(scopes)),
    key_digest BLOB CHECK (length(key_digest) = 32), -- SHA-256; NULL for a user without a key
    created_at INTEGER NOT NULL DEFAULT (unixepoch()),
    deactivated_at INTEGER -- seconds since 1970; NULL while the user is active
) STRICT;

-- What `watch.rs` reads: the digests that changes concern, each with a number without gaps. The row
-- 0 is there before the first change.
CREATE TABLE IF NOT EXISTS user_key_changes (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    key_digest BLOB
) STRICT;

INSERT INTO user_key_changes (seq) SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM user_key_changes);

CREATE TRIGGER IF NOT EXISTS user_added AFTER INSERT ON users
BEGIN
    INSERT INTO user_key_changes (key_digest) VALUES (NEW.key_digest);
END;

CREATE TRIGGER IF NOT EXISTS user_key_changed AFTER UPDATE ON users
WHEN OLD.id IS NOT NEW.id
    OR OLD.key_digest IS NOT NEW.key_digest
    OR OLD.deactivated_at IS NOT NEW.deactivated_at
BEGIN
    INSERT INTO user_key_changes (key_digest) SELECT OLD.key_digest UNION SELECT NEW.key_digest;
END;

CREATE TRIGGER IF NOT EXISTS user_removed AFTER DELETE ON users
BEGIN
    INSERT INTO user_key_changes (key_digest) VALUES (OLD.key_digest);
END;

-- A watcher that finds its last row gone invalidates every key.
CREATE TRIGGER IF NOT EXISTS user_key_changes_limit AFTER INSERT ON user_key_changes
BEGIN
    DELETE FROM user_key_changes WHERE seq <= NEW.seq - 1000;
END;
