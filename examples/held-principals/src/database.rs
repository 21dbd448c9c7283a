//! The tables of the service and its SQL. Nothing here has a cache.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sqlx::postgres::{PgArguments, PgPoolOptions};
use sqlx::query::Query;
use sqlx::{PgPool, Postgres};
use trust_key_cache::KeyHash;

use crate::{Done, Failure};

/// The schema of PostgreSQL that has all tables, those of the read lease included.
pub(crate) const SCHEMA: &str = "held_principals";

const TABLES: &str = "
    DROP SCHEMA IF EXISTS held_principals CASCADE;
    CREATE SCHEMA held_principals;
    CREATE TABLE users (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        name text NOT NULL,
        disabled_at timestamptz
    );
    CREATE TABLE organizations (id bigint PRIMARY KEY, name text NOT NULL);
    CREATE TABLE memberships (
        user_id bigint NOT NULL REFERENCES users,
        organization_id bigint NOT NULL REFERENCES organizations,
        role text NOT NULL,
        PRIMARY KEY (user_id, organization_id)
    );
    CREATE TABLE api_keys (
        key_hash bytea PRIMARY KEY CHECK (octet_length(key_hash) = 32),
        user_id bigint NOT NULL REFERENCES users,
        organization_id bigint NOT NULL REFERENCES organizations,
        revoked_at timestamptz,
        last_used_at timestamptz
    );
    INSERT INTO organizations VALUES (1, 'St. Mary');
";

/// What a handler needs to know of the user of a key.
#[derive(Debug)]
pub(crate) struct Principal {
    pub(crate) user_id: i64,
    pub(crate) name: String,
    pub(crate) organization: String,
    pub(crate) role: String,
}

pub(crate) type Found = Result<Option<Arc<Principal>>, Failure>;

/// What a change has written for the wait that follows its commit.
pub(crate) type Barrier = Result<String, Failure>;

#[derive(Clone)]
pub(crate) struct Database {
    pool: PgPool,
    reads: Arc<AtomicU64>,
}

impl Database {
    pub(crate) async fn connect(url: &str) -> Result<Self, Failure> {
        let pool = PgPoolOptions::new().max_connections(4).connect(url).await?;
        Ok(Self { pool, reads: Arc::default() })
    }

    /// Makes the tables again, empty.
    pub(crate) async fn make_tables(&self) -> Done {
        sqlx::raw_sql(TABLES).execute(&self.pool).await?;
        Ok(())
    }

    pub(crate) async fn drop_tables(&self) -> Done {
        sqlx::raw_sql("DROP SCHEMA held_principals CASCADE").execute(&self.pool).await?;
        Ok(())
    }

    /// Reads the principal of a key, if the key, the user and the membership are in force.
    pub(crate) async fn principal_of(&self, hash: &KeyHash) -> Found {
        // Relaxed: a count, which orders nothing.
        self.reads.fetch_add(1, Ordering::Relaxed);
        let principal = sqlx::query_as(
            "SELECT u.id, u.name, o.name, role FROM api_keys AS k \
             JOIN users AS u ON u.id = k.user_id AND disabled_at IS NULL \
             JOIN organizations AS o ON o.id = k.organization_id \
             JOIN memberships AS m ON m.user_id = u.id AND m.organization_id = o.id \
             WHERE key_hash = $1 AND revoked_at IS NULL",
        );
        let principal = principal.bind(hash.to_bytes().to_vec()).fetch_optional(&self.pool).await?;
        Ok(principal.map(|(user_id, name, organization, role)| {
            Arc::new(Principal { user_id, name, organization, role })
        }))
    }

    /// Returns how often this process has read a principal.
    pub(crate) fn reads(&self) -> u64 {
        // Relaxed: as above.
        self.reads.load(Ordering::Relaxed)
    }

    /// Writes the time of a request.
    pub(crate) async fn key_was_used(&self, hash: &KeyHash) -> Done {
        let used = "UPDATE api_keys SET last_used_at = now() WHERE key_hash = $1";
        sqlx::query(used).bind(hash.to_bytes().to_vec()).execute(&self.pool).await?;
        Ok(())
    }

    /// Returns the time of a key's last request, as text.
    pub(crate) async fn last_used_at(&self, key: &str) -> Result<Option<String>, Failure> {
        let used =
            sqlx::query_scalar("SELECT last_used_at::text FROM api_keys WHERE key_hash = $1");
        Ok(used.bind(KeyHash::of(key).to_bytes().to_vec()).fetch_one(&self.pool).await?)
    }

    /// Adds users with one key each, who are nurses of the organization 1.
    pub(crate) async fn add_keys(&self, keys: &[String]) -> Barrier {
        let hashes: Vec<_> = keys.iter().map(|key| KeyHash::of(key).to_bytes().to_vec()).collect();
        let add = "WITH added AS (
                INSERT INTO users (name) SELECT encode(key_hash, 'hex') FROM unnest($1) AS key_hash
                RETURNING id, decode(name, 'hex') AS key_hash
            ), members AS (INSERT INTO memberships SELECT id, 1, 'nurse' FROM added)
            INSERT INTO api_keys (key_hash, user_id, organization_id)
            SELECT key_hash, id, 1 FROM added";
        self.change(sqlx::query(add).bind(hashes)).await
    }

    pub(crate) async fn promote(&self, user_id: i64) -> Barrier {
        let promote = "UPDATE memberships SET role = 'head nurse' WHERE user_id = $1";
        self.change(sqlx::query(promote).bind(user_id)).await
    }

    pub(crate) async fn revoke_key(&self, hash: &KeyHash) -> Barrier {
        let revoke = "UPDATE api_keys SET revoked_at = now() WHERE key_hash = $1";
        self.change(sqlx::query(revoke).bind(hash.to_bytes().to_vec())).await
    }

    pub(crate) async fn disable_user(&self, user_id: i64) -> Barrier {
        let disable = "UPDATE users SET disabled_at = now() WHERE id = $1";
        self.change(sqlx::query(disable).bind(user_id)).await
    }

    pub(crate) async fn remove_member(&self, user_id: i64) -> Barrier {
        let remove = "DELETE FROM memberships WHERE user_id = $1";
        self.change(sqlx::query(remove).bind(user_id)).await
    }

    /// Runs a statement and writes the barrier in one transaction, which is committed when this
    /// returns `Ok`.
    async fn change(&self, statement: Query<'_, Postgres, PgArguments>) -> Barrier {
        let mut transaction = self.pool.begin().await?;
        statement.execute(&mut *transaction).await?;
        let barrier = sqlx::query_scalar("SELECT trust_auth_barrier()");
        let barrier = barrier.fetch_one(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(barrier)
    }
}
