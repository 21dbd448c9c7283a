//! Changes of the table `users`, so that a [`TrustRegistry`](trust_auth::TrustRegistry) registers
//! users, rotates their keys, and disables and deletes them.
//!
//! Each change is one transaction, which begins as a write. So its reads are not overtaken.

use sqlx::sqlite::{SqliteArguments, SqliteConnection};
use sqlx::{Sqlite, Transaction, query};
use tokio::time::timeout;
use trust_auth::{Candidates, Change, KeyHash, NewTrust, StoreError, Trust, TrustLedger, TrustRef};

use crate::app::{TIME_OUT, Users, in_time, trust_of, user_of};

/// Names the columns, because sqlx keeps a statement and its columns: `*` may mean others later.
macro_rules! select {
    ($which:literal) => {
        concat!(
            "SELECT id, email, plan, scopes, key_digest, created_at, deactivated_at FROM users ",
            $which
        )
    };
}

/// The last parameter of the statement is the user's id.
type Statement = sqlx::query::Query<'static, Sqlite, SqliteArguments>;

impl TrustLedger for Users {
    async fn insert(&self, new: NewTrust, hash: KeyHash) -> Result<Trust, StoreError> {
        let mut users = self.begin().await?;
        in_time_or_unknown(async move {
            let trust = add(&mut users, &new, hash).await?;
            commit(users, trust).await
        })
        .await
    }

    async fn import(&self, new: NewTrust, hash: KeyHash) -> Result<Trust, StoreError> {
        let mut users = self.begin().await?;
        in_time_or_unknown(async move {
            digests(&mut users).await?.check_absent(&hash)?;
            let trust = add(&mut users, &new, hash).await?;
            commit(users, trust).await
        })
        .await
    }

    async fn replace_hash(&self, which: &TrustRef, hash: KeyHash) -> Result<Change, StoreError> {
        let write = query("UPDATE users SET key_digest = ? WHERE id = ?");
        self.change(which, write.bind(hash.to_bytes().to_vec())).await
    }

    async fn set_enabled(&self, which: &TrustRef, enabled: bool) -> Result<Change, StoreError> {
        // A second deactivation keeps the time of the first.
        let write = query(
            "UPDATE users SET deactivated_at = iif(?, NULL, coalesce(deactivated_at, unixepoch()))
             WHERE id = ?",
        );
        self.change(which, write.bind(enabled)).await
    }

    async fn delete(&self, which: &TrustRef) -> Result<Change, StoreError> {
        self.change(which, query("DELETE FROM users WHERE id = ?")).await
    }

    async fn list(&self) -> Result<Vec<Trust>, StoreError> {
        let read = query(select!("ORDER BY email")).try_map(trust_of);
        in_time(read.fetch_all(&self.0)).await
    }
}

impl Users {
    async fn begin(&self) -> Result<Transaction<'static, Sqlite>, StoreError> {
        in_time(self.0.begin_with("BEGIN IMMEDIATE")).await
    }

    /// Runs the statement on the user's row. A change concerns the key that the row had before.
    async fn change(&self, which: &TrustRef, write: Statement) -> Result<Change, StoreError> {
        let mut users = self.begin().await?;
        in_time_or_unknown(async move {
            let former = find(&mut users, which).await?;
            let write = write.bind(user_of(former.id)).execute(&mut *users).await;
            if write.map_err(failed)?.rows_affected() != 1 {
                return Err(StoreError::Other("a trigger has kept the user's row".into()));
            }
            let trust = match find(&mut users, &former.id.into()).await {
                Err(StoreError::NoSuchTrust { .. }) => former.clone(),
                found => found?,
            };
            commit(users, Change::new(trust, former.api_key_hash)).await
        })
        .await
    }
}

/// Finds a user by the id or by the e-mail address: as it was given, or else in the form in which
/// `NewTrust` stores it.
async fn find(users: &mut SqliteConnection, which: &TrustRef) -> Result<Trust, StoreError> {
    for exact in [which, &which.normalized()] {
        let read = match exact {
            TrustRef::Id(id) => query(select!("WHERE id = ?")).bind(user_of(*id)),
            TrustRef::Name(name) => query(select!("WHERE email = ?")).bind(name),
        };
        let found = read.try_map(trust_of).fetch_optional(&mut *users).await;
        if let Some(trust) = found.map_err(failed)? {
            return Ok(trust);
        }
    }
    Err(StoreError::NoSuchTrust { which: which.clone() })
}

/// Adds an active user. The table has no column for a code or a region.
async fn add(
    users: &mut SqliteConnection,
    new: &NewTrust,
    hash: KeyHash,
) -> Result<Trust, StoreError> {
    let attribute = |name| new.attributes().and_then(|attributes| attributes.get(name));
    let write = query(
        "INSERT INTO users (email, plan, scopes, key_digest)
         VALUES (?, coalesce(?, 'free'), coalesce(?, '[]'), ?)
         ON CONFLICT (email) DO NOTHING",
    );
    let write = write.bind(new.name()).bind(attribute("plan").and_then(|plan| plan.as_str()));
    let write = write.bind(attribute("scopes")).bind(hash.to_bytes().to_vec());
    if write.execute(&mut *users).await.map_err(failed)?.rows_affected() == 0 {
        return Err(StoreError::NameTaken { name: new.name().to_owned() });
    }
    find(users, &new.name().into()).await
}

/// Reads the digests of all users, active or not.
async fn digests(users: &mut SqliteConnection) -> Result<Candidates, StoreError> {
    let read = query(select!("ORDER BY id")).try_map(trust_of).fetch_all(users);
    let rows = read.await.map_err(failed)?;
    Ok(rows.iter().filter_map(|user| Some((user.id, user.api_key_hash?))).collect())
}

async fn commit<T>(users: Transaction<'static, Sqlite>, outcome: T) -> Result<T, StoreError> {
    users.commit().await.map_err(failed)?;
    Ok(outcome)
}

fn failed(error: sqlx::Error) -> StoreError {
    StoreError::Other(error.into())
}

/// Bounds the time of a change, which may still be committed after that: the connection is in a
/// thread of its own.
async fn in_time_or_unknown<T>(
    write: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    timeout(TIME_OUT, write).await.unwrap_or(Err(StoreError::OutcomeUnknown))
}
