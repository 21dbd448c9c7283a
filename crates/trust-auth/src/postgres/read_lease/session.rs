//! [`PgSession`]: a holder's connection. It loads, registers, renews, looks, receives hints, and
//! watches the other registrations.
//!
//! A session must never be used after an error: the server may have answered, or may still answer.
//! Differences count within one session only (R2, RL6).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::postgres::{PgConnection, PgListener, PgRow};
use sqlx::{Acquire, Row, SqlStr};
use uuid::Uuid;

use super::changes::TRUST_ID;
use super::inquiry::LONGEST_LEASE;
use super::run_watch::RunWatch;
use super::schema::Catalog;
use super::source::{CHANNEL, EVERYTHING, LeaseSource};
use super::statements::{FIRST, PREPARE, RAISE, REGISTER, Statements};
use crate::error::StoreError;
use crate::postgres::connector::Connector;
use crate::postgres::failure::elsewhere;
use crate::postgres::row;
use crate::postgres::server::ServerIdentity;
use crate::postgres::subscription::listener;
use crate::read_lease::{Answer, Difference, Ended, FeedSession, Reload};
use crate::row_warnings::RowWarnings;
use crate::time_limit::within;
use crate::trust::Trust;

/// A connection of a holder to PostgreSQL. The renewals, the looks and the hints share it.
pub struct PgSession {
    source: LeaseSource,
    statements: Statements,
    listener: PgListener,
    server: ServerIdentity,
    nonce: String,
    base: Option<Base>,
    length: Duration,
    watch: RunWatch,
    watched: Option<Instant>,
    /// The shortest lease that is registered, as the last renewal has found, so that its end is
    /// noticed soon.
    shortest: Duration,
    /// How many holders were registered then.
    holders: Option<usize>,
    sources: HashMap<String, NamedBy>,
    warnings: RowWarnings,
}

/// What the next difference starts from (R2).
struct Base {
    snapshot: String,
    oids: Vec<i64>,
    fingerprint: String,
    place: String,
}

/// What the source of a record names.
#[derive(Clone)]
enum NamedBy {
    Key,
    Value(Arc<str>),
    TrustId,
}

impl PgSession {
    /// Connects, listens for hints, and marks the session.
    pub(super) async fn open(source: &LeaseSource, length: Duration) -> Result<Self, StoreError> {
        if length > LONGEST_LEASE {
            return Err(StoreError::Other("a read lease lasts at most 300 s".into()));
        }
        let connector = source.connector.named("lease");
        within(connector.connect_timeout, Box::pin(Self::connect(source, &connector, length))).await
    }

    async fn connect(
        source: &LeaseSource,
        connector: &Connector,
        length: Duration,
    ) -> Result<Self, StoreError> {
        let (mut listener, server) =
            connector.dial(|options| listener(connector, options, [CHANNEL])).await?;
        let nonce = fresh_id()?.to_string();
        let milliseconds = |limit: Duration| limit.as_millis().max(1).to_string();
        let failed = |error| source.failed(&error);
        sqlx::query(PREPARE)
            .bind(&nonce)
            .bind(milliseconds(source.limit().mul_f64(0.9)))
            .bind(milliseconds(connector.lock_timeout))
            .execute(&mut listener)
            .await
            .map_err(failed)?;
        sqlx::query(RAISE).bind(lease_ms(length)).execute(&mut listener).await.map_err(failed)?;
        let connection = Acquire::acquire(&mut listener).await.map_err(failed)?;
        source.lower_foreign_bound(connection).await?;
        Ok(Self {
            sources: sources(source),
            statements: Statements::of(source),
            source: source.clone(),
            listener,
            server,
            nonce,
            base: None,
            length,
            shortest: length,
            watch: RunWatch::default(),
            watched: None,
            holders: None,
            warnings: RowWarnings::default(),
        })
    }

    async fn load_now(&mut self) -> Result<Vec<Trust>, StoreError> {
        self.base = None;
        let source = self.source.clone();
        let failed = |error| source.failed(&error);
        let connection = Acquire::acquire(&mut self.listener).await.map_err(failed)?;
        let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
        sqlx::raw_sql(begin).execute(&mut *connection).await.map_err(failed)?;
        let catalog = Catalog::read(&source, connection).await?;
        catalog.check(&source)?;
        let oids: Vec<i64> = catalog.tables.iter().map(|table| table.oid).collect();
        let mut trusts = Vec::new();
        if source.has_trusts {
            let query = sqlx::query(self.statements.trusts.clone());
            let rows = query.fetch_all(&mut *connection).await.map_err(failed)?;
            trusts = rows.iter().filter_map(|row| trust(row, &self.warnings)).collect();
        }
        // After the rows: the tables that were read are locked.
        let base = sqlx::query(self.statements.base.clone())
            .bind(&self.nonce)
            .bind(&oids)
            .fetch_one(&mut *connection)
            .await
            .map_err(failed)?;
        self.base = Some(read_base(&source, &base, oids)?);
        sqlx::raw_sql("COMMIT").execute(connection).await.map_err(failed)?;
        Ok(trusts)
    }

    async fn difference(
        &mut self,
        sql: SqlStr,
        registration: Option<Uuid>,
    ) -> Result<Answer, StoreError> {
        let Some(base) = &self.base else { return Ok(Answer::Reload(Reload::Pruned)) };
        if !self.source.connector.current.is(&self.server) {
            return Err(elsewhere(&self.source.connector.location));
        }
        let query = sqlx::query(sql)
            .bind(&base.snapshot)
            .bind(&self.nonce)
            .bind(&base.oids)
            .bind(&base.fingerprint)
            .bind(registration)
            .fetch_all(&mut self.listener);
        let rows = within(self.source.limit(), async {
            query.await.map_err(|error| self.source.failed(&error))
        });
        let rows = rows.await?;
        let shortest = rows.first().map(|row| row.try_get::<Option<i32>, _>(FIRST + 4));
        if let Some(Ok(Some(shortest))) = shortest {
            let shortest = Duration::from_millis(shortest.unsigned_abs().into());
            self.shortest = self.length.min(shortest);
        }
        let (outcome, snapshot) = self.read(&rows)?;
        if let (Some(base), Some(snapshot)) = (&mut self.base, snapshot) {
            base.snapshot = snapshot;
        }
        Ok(outcome)
    }

    fn read(&self, rows: &[PgRow]) -> Result<(Answer, Option<String>), StoreError> {
        let failed = |error| self.source.failed(&error);
        let Some(first) = rows.first() else {
            return Err(self.source.unusable(
                "the table `trust_auth_lease` has no row; let the owner run the read lease's \
                 migration",
            ));
        };
        if row::is_replica(first) {
            let server = self.source.connector.location.to_string();
            return Err(StoreError::ReadOnly { server });
        }
        // A value that cannot be read counts as a doubt.
        let holds = |index: usize| first.try_get(FIRST + index).unwrap_or(false);
        // Another session updates no registration. After that, a missing one is reported before all
        // else: the holder must give its lease up (R9).
        let reasons = [
            (0, Reload::OtherSession),
            (3, Reload::Unregistered),
            (1, Reload::Pruned),
            (2, Reload::OtherTriggers),
        ];
        for (index, reason) in reasons {
            if !holds(index) {
                return Ok((Answer::Reload(reason), None));
            }
        }
        let snapshot = first.try_get(FIRST + 5).map_err(failed)?;
        let mut ended = Vec::new();
        let mut has_records = false;
        for row in rows {
            if row.try_get::<Option<bool>, usize>(FIRST + 6).map_err(failed)?.is_some() {
                has_records = true;
                ended.extend(self.ended(row).map_err(failed)?);
            }
        }
        Ok((Answer::Difference(Difference { ended, has_records }), Some(snapshot)))
    }

    /// Returns what a record ends. A barrier ends nothing. Null is no value by which one is found.
    fn ended(&self, row: &PgRow) -> Result<Option<Ended>, sqlx::Error> {
        let source: Option<String> = row.try_get(FIRST + 7)?;
        let value: Option<String> = row.try_get(FIRST + 8)?;
        let Some(source) = source else { return Ok(None) };
        if source == EVERYTHING {
            return Ok(Some(Ended::Everything));
        }
        let Some(value) = value else { return Ok(Some(Ended::Everything)) };
        Ok(match self.sources.get(&source) {
            // A column that has something else than digests does not say which key has changed.
            Some(NamedBy::Key) => Some(value.parse().map_or(Ended::Everything, Ended::Key)),
            Some(NamedBy::Value(column)) => {
                Some(Ended::Value { column: Arc::clone(column), value })
            }
            Some(NamedBy::TrustId) => match value.parse() {
                Ok(id) => Some(Ended::Trust { id, row: trust(row, &self.warnings) }),
                Err(_) => Some(Ended::Everything),
            },
            // Another declaration of a watched table.
            None if self.source.watches_table_of(&source) => Some(Ended::Everything),
            // Another program's table.
            None => None,
        })
    }

    async fn watch_now(&mut self) -> Result<(), StoreError> {
        let source = self.source.clone();
        let failed = |error| source.failed(&error);
        let connection: &mut PgConnection =
            Acquire::acquire(&mut self.listener).await.map_err(failed)?;
        let asked = Instant::now();
        let inquiry = source.inquire(connection, None).await?;
        let now = Instant::now();
        let conclusions = self.watch.note(&inquiry, asked, now);
        self.watched = Some(now);
        self.holders = Some(inquiry.holders.len());
        if conclusions.settles {
            source.record_settled(connection, &inquiry.run).await?;
        }
        for (id, renewals) in conclusions.silent {
            source.strike_off(connection, id, renewals, &inquiry.run).await?;
        }
        if inquiry.may_prune {
            source.prune(connection).await?;
        }
        Ok(())
    }
}

impl FeedSession for PgSession {
    async fn load(&mut self) -> Result<Vec<Trust>, StoreError> {
        let limit = self.source.limit();
        within(limit, Box::pin(self.load_now())).await
    }

    fn place(&self) -> Option<&str> {
        self.base.as_ref().map(|base| &*base.place)
    }

    async fn register(&mut self, name: &str) -> Result<Uuid, StoreError> {
        let id = fresh_id()?;
        let base = self.base.as_ref().ok_or(StoreError::Unsettled)?;
        let query = sqlx::query(REGISTER)
            .bind(id)
            .bind(name)
            .bind(lease_ms(self.length))
            .bind(&base.snapshot)
            .bind(&self.nonce)
            .execute(&mut self.listener);
        let done = within(self.source.limit(), async {
            query.await.map_err(|error| self.source.failed(&error))
        });
        match done.await?.rows_affected() {
            1 => Ok(id),
            _ => Err(self.source.unusable(
                "the longest lease was lowered meanwhile, or the table `trust_auth_lease` has no \
                 row; connect again, or let the owner run the read lease's migration",
            )),
        }
    }

    async fn renew(&mut self, registration: Uuid) -> Result<Answer, StoreError> {
        self.difference(self.statements.renew.clone(), Some(registration)).await
    }

    async fn look(&mut self) -> Result<Answer, StoreError> {
        self.difference(self.statements.look.clone(), None).await
    }

    async fn hint(&mut self) -> Result<(), StoreError> {
        let received = self.listener.try_recv().await;
        match received.map_err(|error| self.source.failed(&error))? {
            Some(_) => {
                // One renewal answers all that have arrived.
                while self.listener.next_buffered().is_some() {}
                Ok(())
            }
            None => Err(StoreError::Unreachable),
        }
    }

    async fn upkeep(&mut self) -> Result<(), StoreError> {
        if self.watched.is_some_and(|watched| watched.elapsed() < self.shortest) {
            return Ok(());
        }
        let limit = self.source.limit();
        within(limit, Box::pin(self.watch_now())).await
    }

    fn holders(&self) -> Option<usize> {
        self.holders
    }

    async fn leave(&mut self, registration: Uuid) -> Result<(), StoreError> {
        let source = self.source.clone();
        within(source.limit(), async {
            let connection = Acquire::acquire(&mut self.listener).await;
            source.remove(connection.map_err(|error| source.failed(&error))?, registration).await
        })
        .await
    }
}

/// Returns what the sources of records name.
fn sources(source: &LeaseSource) -> HashMap<String, NamedBy> {
    let mut sources = HashMap::new();
    for table in &*source.tables {
        if let Some(key) = &table.key {
            sources.insert(table.source(key), NamedBy::Key);
        }
        for column in &table.values {
            let name = table.source(column);
            let by = match source.has_trusts && name == TRUST_ID {
                true => NamedBy::TrustId,
                false => NamedBy::Value(name.as_str().into()),
            };
            sources.insert(name, by);
        }
    }
    sources
}

fn read_base(source: &LeaseSource, row: &PgRow, oids: Vec<i64>) -> Result<Base, StoreError> {
    let failed = |error| source.failed(&error);
    if row::is_replica(row) {
        return Err(StoreError::ReadOnly { server: source.connector.location.to_string() });
    }
    if !row.try_get::<bool, usize>(1).map_err(failed)? {
        return Err(StoreError::Deaf { server: source.connector.location.to_string() });
    }
    if source.has_trusts && !row.try_get::<bool, usize>(5).map_err(failed)? {
        return Err(StoreError::Unsettled);
    }
    Ok(Base {
        snapshot: row.try_get(2).map_err(failed)?,
        fingerprint: row.try_get(3).map_err(failed)?,
        place: row.try_get(4).map_err(failed)?,
        oids,
    })
}

/// Returns the trust in the first columns of a row. A malformed one accepts no key, and a request
/// with its key reads the row, which reports what is wrong.
fn trust(row: &PgRow, warnings: &RowWarnings) -> Option<Trust> {
    row::columns(row, warnings).ok()??.trust(warnings).ok()
}

/// Returns the length for the tables: rounded up, and not shorter than they allow.
pub(super) fn lease_ms(length: Duration) -> i32 {
    let milliseconds = length.as_nanos().div_ceil(1_000_000);
    i32::try_from(milliseconds).unwrap_or(i32::MAX).max(300)
}

fn fresh_id() -> Result<Uuid, StoreError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| StoreError::Other(error.to_string().into()))?;
    Ok(uuid::Builder::from_random_bytes(bytes).into_uuid())
}
