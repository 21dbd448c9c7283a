//! The diagnosis of an error of the read lease's statements.

use std::time::Duration;

use sqlx::postgres::PgDatabaseError;

use crate::error::StoreError;
use crate::postgres::connector::Connector;
use crate::postgres::failure::{code, failed, schema};

/// Returns the message of the server, and its hint.
fn texts(error: &sqlx::Error) -> String {
    let Some(error) = error.as_database_error() else { return String::new() };
    let hint = error.try_downcast_ref::<PgDatabaseError>().and_then(PgDatabaseError::hint);
    [Some(error.message()), hint].into_iter().flatten().collect::<Vec<_>>().join(". ")
}

/// Returns the diagnosis of an error of a statement whose time limit is `after`.
pub(super) fn lease_failed(
    error: &sqlx::Error,
    connector: &Connector,
    after: Duration,
) -> StoreError {
    let location = &connector.location;
    match code(error) {
        // Raised by `trust_auth_barrier`, which says what to do.
        Some("TA001") => schema(location, &texts(error)),
        // undefined_table, undefined_column, undefined_function.
        Some("42P01" | "42703" | "42883") => schema(
            location,
            "it lacks the tables of the read lease; let the owner of the watched tables run the \
             read lease's migration: `trust-auth migrate --read-lease` for the table `trust`, or \
             `PgChanges::run_migration`",
        ),
        Some("42501") => StoreError::MissingRight {
            server: location.to_string(),
            right: "the rights of the read lease: SELECT, INSERT, UPDATE and DELETE on the tables \
                    `trust_auth_lease`, `trust_auth_change` and `trust_auth_holder`, SELECT on \
                    each watched table, and EXECUTE on `trust_auth_barrier`; let their owner grant \
                    them"
                .into(),
        },
        _ => failed(error, connector, after),
    }
}
