//! [`Connector`]: what is needed to make a connection.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;

use super::location::Location;
use super::password::PasswordSource;
use super::server::CurrentServer;
use crate::error::StoreError;
use crate::table_names::TableNames;

/// Makes connections.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    pub(super) location: Location,
    /// The options of the application's own pool. They make the connections, if there are any.
    pub(super) own: Option<Arc<PgConnectOptions>>,
    pub(super) password: PasswordSource,
    /// The limit for all servers together.
    pub(super) connect_timeout: Duration,
    /// The limit for each server.
    pub(super) host_timeout: Duration,
    pub(super) query_timeout: Duration,
    pub(super) lock_timeout: Duration,
    /// The age at which a connection is replaced.
    pub(super) max_age: Duration,
    /// The server that the address leads to, found by all connections of the store.
    pub(super) current: Arc<CurrentServer>,
    pub(super) names: Arc<TableNames>,
}

impl Connector {
    /// Returns the same connector with a purpose in its application name. The name shows in
    /// `pg_stat_activity` what each connection is for.
    pub(super) fn named(&self, purpose: &str) -> Self {
        let mut named = self.clone();
        named.location.application_name = format!("{} {purpose}", self.location.application_name);
        named
    }

    pub(super) fn cannot_connect(&self, reason: String) -> StoreError {
        StoreError::CannotConnect { server: self.location.to_string(), reason }
    }
}
