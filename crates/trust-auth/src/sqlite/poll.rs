//! [`Poll`]: what each poll of a file needs. A connection of its own, the version of the file, and
//! the check that the open file is the one at the path.

use std::sync::Arc;
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::{Sqlite, SqliteConnection, SqlitePool};

use super::anchor::Anchor;
use super::failure::failed;
use super::file::File;
use super::file_checker::FileChecker;
use super::statements::Statements;
use super::store::SqliteStore;
use crate::error::StoreError;
use crate::table_names::TableNames;

/// The part of the store that a poll uses.
pub(super) struct Poll {
    pool: SqlitePool,
    file: Arc<File>,
    anchor: Arc<Anchor>,
    file_checker: Option<FileChecker>,
    statements: Arc<Statements>,
    /// The time limit of a step.
    time_limit: Duration,
}

impl Poll {
    pub(super) fn of(store: &SqliteStore) -> Self {
        Self {
            pool: store.watchers.clone(),
            file: Arc::clone(&store.file),
            anchor: Arc::clone(&store.anchor),
            file_checker: None,
            statements: Arc::clone(&store.statements),
            time_limit: store.query_timeout,
        }
    }

    pub(super) fn pool(&self) -> &SqlitePool {
        &self.pool
    }

    pub(super) fn statements(&self) -> Arc<Statements> {
        Arc::clone(&self.statements)
    }

    /// Returns a connection that closes when it is dropped: after a failure, the next attempt uses
    /// a new one.
    pub(super) async fn connect(&self) -> Result<PoolConnection<Sqlite>, StoreError> {
        let mut connection = self.within(self.pool.acquire()).await?;
        connection.close_on_drop();
        Ok(connection)
    }

    /// Holds the side files open, if the file is in WAL mode. Later checks then include them.
    pub(super) async fn hold_sides(&mut self) -> Result<bool, StoreError> {
        let are_held = self.within(self.anchor.hold(&self.pool.connect_options())).await?;
        if are_held {
            self.file.hold_sides();
            self.check_files().await?;
        }
        Ok(are_held)
    }

    pub(super) async fn within<T>(
        &self,
        step: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, StoreError> {
        within(self.time_limit, &self.file, &self.statements.names, step).await
    }

    /// Reads the version of the file, and meanwhile checks that the file is the one at the path.
    pub(super) async fn checked_version(
        &mut self,
        connection: &mut SqliteConnection,
    ) -> Result<i64, StoreError> {
        let file = Arc::clone(&self.file);
        let statements = self.statements();
        let version = within(self.time_limit, &file, &statements.names, data_version(connection));
        let (checked, version) = tokio::join!(self.check_files(), version);
        checked.and(version)
    }

    /// Checks that the files are those that the store has open.
    pub(super) async fn check_files(&mut self) -> Result<(), StoreError> {
        let file_checker = match &mut self.file_checker {
            Some(file_checker) => file_checker,
            None => self.file_checker.insert(FileChecker::new(Arc::clone(&self.file))?),
        };
        file_checker.verify(self.time_limit).await
    }
}

async fn within<T>(
    limit: Duration,
    file: &File,
    names: &TableNames,
    step: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, StoreError> {
    match tokio::time::timeout(limit, step).await {
        Ok(Err(sqlx::Error::PoolTimedOut)) | Err(_) => Err(StoreError::Timeout { after: limit }),
        Ok(outcome) => outcome.map_err(|error| failed(error, file.path(), names)),
    }
}

/// Reads a number that differs after another connection has committed
/// (<https://www.sqlite.org/pragma.html#pragma_data_version>).
pub(super) async fn data_version(connection: &mut SqliteConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("PRAGMA data_version").fetch_one(connection).await
}
