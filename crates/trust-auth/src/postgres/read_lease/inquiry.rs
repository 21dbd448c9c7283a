//! [`Inquiry`]: the registrations and the server's run, on one snapshot (R12).

use std::time::Duration;

use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Connection, Row};
use uuid::Uuid;

use super::source::{LeaseSource, are_sound, barrier_text, run};
use crate::error::StoreError;

/// What one statement has read.
#[derive(Debug)]
pub(super) struct Inquiry {
    pub(super) run: String,
    /// Whether each lease in force is known to be registered (R14).
    pub(super) is_settled: bool,
    pub(super) max_lease: Duration,
    /// Whether there are records that no holder needs.
    pub(super) may_prune: bool,
    pub(super) holders: Vec<Registered>,
    /// Whether the snapshot shows the barrier, or none was looked for.
    pub(super) shows_barrier: bool,
}

/// A registration.
#[derive(Debug)]
pub(super) struct Registered {
    pub(super) id: Uuid,
    pub(super) name: String,
    pub(super) lease: Duration,
    pub(super) renewals: i64,
    /// Whether the holder has acknowledged the barrier (RL26).
    pub(super) has_barrier: bool,
}

/// The id below which no record is needed: no holder's applied snapshot begins before it.
macro_rules! prunable {
    () => {
        "least(coalesce((SELECT min(pg_snapshot_xmin(applied)::text::numeric)::text::xid8 \
             FROM trust_auth_holder), pg_snapshot_xmin(pg_current_snapshot())), \
             pg_snapshot_xmin(pg_current_snapshot()))"
    };
}

const INQUIRE: &str = concat!(
    "SELECT pg_is_in_recovery(), ",
    run!(),
    ", l.server_run IS NOT DISTINCT FROM ",
    run!(),
    ", l.max_lease_ms, EXISTS (SELECT FROM trust_auth_change WHERE xid < ",
    prunable!(),
    "), ",
    are_sound!("$2"),
    ", h.id, h.name, h.lease_ms, h.renewals, \
     coalesce(pg_visible_in_snapshot($1::text::xid8, h.applied), false), \
     coalesce(pg_visible_in_snapshot($1::text::xid8, pg_current_snapshot()), true) \
     FROM (SELECT 1) AS one LEFT JOIN trust_auth_lease AS l ON true \
     LEFT JOIN trust_auth_holder AS h ON true"
);

/// A `kept_from` that this cluster has not reached is that of a restored dump. The lease's row is
/// locked before, so the statement's snapshot shows each pruning. No id that was pruned is larger
/// than the new value (RL5).
const LOWER_BOUND: &str = "UPDATE trust_auth_lease \
     SET kept_from = least(kept_from, pg_snapshot_xmax(pg_current_snapshot()))";

const SETTLE: &str = concat!("UPDATE trust_auth_lease SET server_run = $1 WHERE $1 = ", run!());

const STRIKE_OFF: &str =
    concat!("DELETE FROM trust_auth_holder WHERE id = $1 AND renewals = $2 AND $3 = ", run!());

/// Records of ids that this cluster has not given out: a dump of another cluster was restored.
const REMOVE_FOREIGN: &str =
    "DELETE FROM trust_auth_change WHERE xid >= pg_snapshot_xmax(pg_current_snapshot())";

/// Deletes the oldest records, some more than `$1` of them at most: all records of one transaction
/// go together.
const PRUNE: &str = concat!(
    "WITH prunable AS (SELECT xid AS newest FROM (SELECT xid FROM trust_auth_change \
         WHERE xid < ",
    prunable!(),
    " ORDER BY xid LIMIT $1) AS oldest ORDER BY xid DESC LIMIT 1), \
     pruned AS (UPDATE trust_auth_lease SET kept_from = greatest(kept_from, \
         (newest::text::numeric + 1)::text::xid8) FROM prunable \
         RETURNING kept_from) \
     DELETE FROM trust_auth_change USING pruned WHERE xid < pruned.kept_from"
);

/// How many records one pruning deletes: a fraction of a second's work.
const BATCH: i64 = 50_000;

impl LeaseSource {
    /// Reads the registrations. `barrier` is the id of the transaction whose acknowledgements are
    /// looked for.
    pub(super) async fn inquire(
        &self,
        connection: &mut PgConnection,
        barrier: Option<u64>,
    ) -> Result<Inquiry, StoreError> {
        let rows = sqlx::query(INQUIRE)
            .bind(barrier.map(|id| id.to_string()))
            .bind(barrier_text())
            .fetch_all(connection)
            .await
            .map_err(|error| self.failed(&error))?;
        self.read_inquiry(&rows).map_err(|error| self.failed(&error))?
    }

    fn read_inquiry(&self, rows: &[PgRow]) -> Result<Result<Inquiry, StoreError>, sqlx::Error> {
        let first = rows.first().ok_or(sqlx::Error::RowNotFound)?;
        if first.try_get(0)? {
            let server = self.connector.location.to_string();
            return Ok(Err(StoreError::ReadOnly { server }));
        }
        if !first.try_get::<bool, usize>(5)? {
            return Ok(Err(self.unusable(
                "the tables and the function of the read lease are not of one schema, not of this \
                 version, unlogged, or hide rows from this role by row security; let the owner run \
                 the read lease's migration, and look at the search_path",
            )));
        }
        let milliseconds = |row: &PgRow, index| {
            row.try_get::<i32, usize>(index)
                .map(|number| Duration::from_millis(number.unsigned_abs().into()))
        };
        let mut holders = Vec::with_capacity(rows.len());
        for row in rows {
            if let Some(id) = row.try_get(6)? {
                holders.push(Registered {
                    id,
                    name: row.try_get(7)?,
                    lease: milliseconds(row, 8)?,
                    renewals: row.try_get(9)?,
                    has_barrier: row.try_get(10)?,
                });
            }
        }
        // Without the lease's row, the longest lease of all counts.
        let max_lease = match first.try_get::<Option<i32>, usize>(3)? {
            Some(_) => milliseconds(first, 3)?,
            None => LONGEST_LEASE,
        };
        Ok(Ok(Inquiry {
            run: first.try_get(1)?,
            is_settled: first.try_get(2)?,
            max_lease,
            may_prune: first.try_get(4)?,
            holders,
            shows_barrier: first.try_get(11)?,
        }))
    }

    /// Lowers a `kept_from` that this cluster has not reached: no renewal would count (RL5).
    pub(super) async fn lower_foreign_bound(
        &self,
        connection: &mut PgConnection,
    ) -> Result<(), StoreError> {
        let failed = |error| self.failed(&error);
        let is_foreign: Option<bool> = sqlx::query_scalar(
            "SELECT kept_from > pg_snapshot_xmax(pg_current_snapshot()) FROM trust_auth_lease",
        )
        .fetch_optional(&mut *connection)
        .await
        .map_err(failed)?;
        if is_foreign != Some(true) {
            return Ok(());
        }
        let begin = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE";
        let mut transaction = connection.begin_with(begin).await.map_err(failed)?;
        self.lock_lease(&mut transaction).await?;
        sqlx::query(LOWER_BOUND).execute(&mut *transaction).await.map_err(failed)?;
        transaction.commit().await.map_err(failed)
    }

    /// Records that the run was watched for the longest lease (R14).
    pub(super) async fn record_settled(
        &self,
        connection: &mut PgConnection,
        run: &str,
    ) -> Result<(), StoreError> {
        let failed = |error| self.failed(&error);
        // READ COMMITTED, whatever the default is: each statement must see what the lock waited
        // for.
        let begin = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE";
        let mut transaction = connection.begin_with(begin).await.map_err(failed)?;
        self.lock_lease(&mut transaction).await?;
        sqlx::query(SETTLE).bind(run).execute(&mut *transaction).await.map_err(failed)?;
        sqlx::query(LOWER_BOUND).execute(&mut *transaction).await.map_err(failed)?;
        sqlx::query(REMOVE_FOREIGN).execute(&mut *transaction).await.map_err(failed)?;
        transaction.commit().await.map_err(failed)
    }

    /// Keeps other sessions from changing the lease's row until the end of the transaction.
    pub(super) async fn lock_lease(&self, connection: &mut PgConnection) -> Result<(), StoreError> {
        let done = sqlx::query("SELECT FROM trust_auth_lease FOR UPDATE").execute(connection).await;
        done.map(drop).map_err(|error| self.failed(&error))
    }

    /// Deletes a registration if its count is still the one that was watched, in the run that was
    /// watched (R13): a pooler may deliver the statement to another server.
    pub(super) async fn strike_off(
        &self,
        connection: &mut PgConnection,
        holder: Uuid,
        renewals: i64,
        run: &str,
    ) -> Result<bool, StoreError> {
        let done = sqlx::query(STRIKE_OFF)
            .bind(holder)
            .bind(renewals)
            .bind(run)
            .execute(connection)
            .await
            .map_err(|error| self.failed(&error))?;
        Ok(done.rows_affected() > 0)
    }

    /// Deletes the registration of a holder that has given its lease up (R9).
    pub(super) async fn remove(
        &self,
        connection: &mut PgConnection,
        holder: Uuid,
    ) -> Result<(), StoreError> {
        let done = sqlx::query("DELETE FROM trust_auth_holder WHERE id = $1")
            .bind(holder)
            .execute(connection)
            .await;
        done.map(drop).map_err(|error| self.failed(&error))
    }

    /// Deletes the oldest of the records that no holder needs (RL5).
    pub(super) async fn prune(&self, connection: &mut PgConnection) -> Result<(), StoreError> {
        let done = sqlx::query(PRUNE).bind(BATCH).execute(connection).await;
        done.map(drop).map_err(|error| self.failed(&error))
    }
}

/// No registration has a longer lease: the tables refuse it.
pub(super) const LONGEST_LEASE: Duration = Duration::from_secs(300);
