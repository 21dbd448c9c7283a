//! [`PgChanges`]: the declaration of the watched tables, their migration, and the connections of
//! the read lease.

use std::fmt;
use std::sync::Arc;

use super::feed::PgFeed;
use super::source::LeaseSource;
use super::watched_table::WatchedTable;
use crate::error::StoreError;
use crate::migration::MigrationPlan;
use crate::postgres::PostgresOptions;
use crate::table_names::TableNames;
use crate::table_names::TrustColumn::{self, Id, LastHeartbeat};
use crate::time_limit::within;

/// The connections for inquiries: a wait of one revocation must not delay another's.
const READERS: u32 = 2;

/// The tables of an application whose changes end what its processes hold under a read lease.
///
/// Triggers record each change in the transaction that makes it, whichever program makes it.
/// [`plan_migration`](Self::plan_migration) shows their SQL, and
/// [`run_migration`](Self::run_migration) runs it. The page `read_lease_protocol` of the crate
/// `trust-key-cache` has the protocol and its proof.
///
/// # Examples
///
/// ```no_run
/// use trust_auth::{PgChanges, PostgresStore};
///
/// # type Done = Result<(), Box<dyn std::error::Error>>;
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Done {
/// let changes = PgChanges::new(PostgresStore::options("postgres://app@db.example/app"))
///     .table("api_keys", |table| table.key("key_hash").ignore(["last_used_at"]))
///     .table("users", |table| table.everything());
/// println!("{}", changes.plan_migration().await?);
/// changes.run_migration().await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct PgChanges {
    options: PostgresOptions,
    tables: Vec<WatchedTable>,
    has_trusts: bool,
}

impl PgChanges {
    /// Watches no table yet. The options have the connection and its time limits.
    #[must_use]
    pub fn new(options: PostgresOptions) -> Self {
        Self { options, tables: Vec::new(), has_trusts: false }
    }

    /// Watches the table `trust` of a [`PostgresStore`](crate::PostgresStore): each column that a
    /// grant shows, and not `last_heartbeat`.
    #[must_use]
    pub fn trusts(options: PostgresOptions) -> Self {
        Self { tables: trust_tables(options.table_names()).into(), options, has_trusts: true }
    }

    /// Watches a table too. The name is `table` or `schema.table`, as SQL writes it.
    #[must_use]
    pub fn table(
        mut self,
        name: impl Into<String>,
        declare: impl FnOnce(WatchedTable) -> WatchedTable,
    ) -> Self {
        self.tables.push(declare(WatchedTable::new(name.into())));
        self
    }

    /// Returns the SQL that [`run_migration`](Self::run_migration) would run. Changes nothing. The
    /// plan is empty if nothing is missing.
    ///
    /// # Errors
    ///
    /// [`StoreError::Schema`] if a table is not there, lacks a named column, or cannot be watched:
    /// a view, a partitioned or foreign table, one with children, an unlogged one. Any other
    /// [`StoreError`] if the database does not answer.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime with time and IO enabled.
    pub async fn plan_migration(&self) -> Result<MigrationPlan, StoreError> {
        let source = self.source().await?;
        within(source.limit(), source.plan()).await
    }

    /// Makes the lease's tables and the triggers that are missing, in one transaction, and returns
    /// what was done. The role must own the watched tables, and have the right to create in the
    /// schema. The transaction locks each watched table against writers for a moment.
    ///
    /// The role of a process that holds a lease, or makes revocations, needs SELECT, INSERT, UPDATE
    /// and DELETE on the lease's tables. Other writers need no right.
    ///
    /// # Errors
    ///
    /// As [`plan_migration`](Self::plan_migration), and [`StoreError::MissingRight`]. Nothing was
    /// changed then.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime with time and IO enabled.
    pub async fn run_migration(&self) -> Result<MigrationPlan, StoreError> {
        let source = self.source().await?;
        within(source.limit(), source.migrate()).await
    }

    /// Returns the feed for holders and changers. Connections are opened when they are needed, and
    /// [`open`](crate::ChangeFeed::open) checks the triggers.
    ///
    /// # Errors
    ///
    /// [`StoreError::UnsupportedUrl`] if the options are contradictory.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime with time and IO enabled.
    pub async fn connect(&self) -> Result<PgFeed, StoreError> {
        self.source().await.map(PgFeed::new)
    }

    pub(super) async fn source(&self) -> Result<LeaseSource, StoreError> {
        let connector = self.options.connector().await?;
        let readers = connector.named("lease").pool(READERS, self.options.acquire_limit())?;
        let tables: Arc<[WatchedTable]> = self.tables.as_slice().into();
        let has_trusts = self.has_trusts;
        Ok(LeaseSource { connector, readers, tables, has_trusts, watching: Arc::default() })
    }
}

impl fmt::Debug for PgChanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PgChanges")
            .field("options", &self.options)
            .field("tables", &self.tables)
            .finish_non_exhaustive()
    }
}

/// Returns the declarations of the tables of trusts: each column that a grant shows. A change of a
/// key counts as one of its trust.
pub(super) fn trust_tables(names: &TableNames) -> [WatchedTable; 2] {
    let columns = TrustColumn::ALL.into_iter().filter(|column| *column != LastHeartbeat);
    let columns = columns.filter_map(|column| names.name_of(column));
    let of_keys =
        ["id", "trust", "label", "digest", "last_four", "created_at", "expires_at", "revoked_at"];
    let id = names.name_of(Id).unwrap_or_default();
    let [trusts, keys] = ["{trust_table}", "{trust_key_table}"]
        .map(|table| WatchedTable::new(names.for_postgres(table).as_str().to_owned()));
    [trusts.value_of(id, TRUST_ID).only(columns), keys.value_of("trust", TRUST_ID).only(of_keys)]
}

/// How a record names a trust.
pub(super) const TRUST_ID: &str = "trust.id";
