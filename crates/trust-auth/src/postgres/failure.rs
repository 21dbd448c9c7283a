//! The diagnosis of an error of PostgreSQL: what is wrong, and what to do.
//!
//! The server's messages quote values, such as a digest that is not unique. An error passes on the
//! code and the names of columns and constraints, and never a message. The server's log has the
//! rest.

use sqlx::postgres::PgDatabaseError;

use super::connector::Connector;
use super::location::Location;
use super::password::Found;
use crate::error::StoreError;

/// What failed, without any value.
#[derive(Debug, thiserror::Error)]
enum Cause {
    #[error("PostgreSQL reported error {code}{about}; its log has the details")]
    Server {
        code: String,
        /// ` about` and a name in backticks, or empty.
        about: String,
    },
    #[error("the driver did not understand the server's answer")]
    Driver,
}

/// Returns whether the connection is lost, so that the operation may succeed on another one.
pub(super) fn is_lost(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolClosed => true,
        error => code(error).is_some_and(ends_the_session),
    }
}

/// Returns whether this SQLSTATE means that the server ends the session, or has lost it.
fn ends_the_session(code: &str) -> bool {
    // 57P: an administrator or a crash. 08: the connection itself. 25P03: the session was idle in a
    // transaction.
    code.starts_with("57P") || code.starts_with("08") || code == "25P03"
}

/// Returns the diagnosis of an error during an operation whose time limit is `after`.
pub(super) fn failed(
    error: &sqlx::Error,
    connector: &Connector,
    after: std::time::Duration,
) -> StoreError {
    let location = &connector.location;
    let (trust, trust_key) = (connector.names.trust(), connector.names.trust_key());
    if is_lost(error) {
        return StoreError::Unreachable;
    }
    let Some(database) = database(error) else { return StoreError::Other(Cause::Driver.into()) };
    let column = database.column().unwrap_or("unknown");
    match database.code() {
        // query_canceled: the statement's time limit. The caller's own limit is a little longer.
        "57014" => StoreError::Timeout { after },
        // lock_not_available, deadlock_detected, serialization_failure.
        "55P03" | "40P01" | "40001" => StoreError::Busy,
        // read_only_sql_transaction
        "25006" => StoreError::ReadOnly { server: location.to_string() },
        // undefined_table, undefined_column, datatype_mismatch, cannot_coerce, undefined_function,
        // and "cached plan must not change result type": the table was changed since the store was
        // opened.
        "42P01" | "42703" | "42804" | "42846" | "42883" | "0A000" => schema(
            location,
            &format!(
                "its table `{trust}` or `{trust_key}` is gone or was changed while it was open; \
                 restore it, or let its owner run `trust-auth migrate`"
            ),
        ),
        // insufficient_privilege. `name_right` finds out which right it is.
        "42501" => StoreError::MissingRight {
            server: location.to_string(),
            right: format!(
                "a right on the table `{trust}` or `{trust_key}`, or on what their triggers use; \
                 let their owners grant it"
            ),
        },
        // not_null_violation
        "23502" => schema(
            location,
            &format!(
                "its table `{trust}` has a column `{column}` that must be filled; give it a default"
            ),
        ),
        // string_data_right_truncation
        "22001" => schema(
            location,
            &format!("a column of its table `{trust}` is too short for this; make it longer"),
        ),
        // character_not_in_repertoire: PostgreSQL's texts cannot contain this character.
        "22021" => schema(
            location,
            "a text has a character that it cannot hold, such as NUL; leave it out",
        ),
        // duplicate_prepared_statement, invalid_sql_statement_name: another client's statements are
        // on this connection.
        "42P05" | "26000" => StoreError::Deaf { server: location.to_string() },
        // disk_full, out_of_memory and the like.
        code if code.starts_with("53") => StoreError::Exhausted { server: location.to_string() },
        _ => StoreError::Other(server_cause(database).into()),
    }
}

/// Returns the diagnosis of an attempt to connect that failed.
pub(super) fn connect_failed(
    error: &sqlx::Error,
    location: &Location,
    found: &Found,
) -> StoreError {
    let reason = match (error, code(error).unwrap_or_default()) {
        (sqlx::Error::Io(error), _) => format!("{error}; check the address, and that it runs"),
        (sqlx::Error::PoolTimedOut, _) => {
            "it accepted no connection in time; check the address, and that it runs".into()
        }
        (sqlx::Error::Configuration(_), _) => {
            "the user or the password has characters that a login cannot have; change them".into()
        }
        (_, "28P01") if found.password.is_none() => {
            let hint = found.hint.map_or(String::new(), |hint| format!(" ({hint})"));
            format!("it asks for a password, and there is none{hint}; give one")
        }
        (_, "28P01") => "it refused the password; check user and password".into(),
        (_, "28000") => "it refused the login; check the user, and its pg_hba.conf".into(),
        (_, "42501") => {
            "it does not let this role connect; grant it CONNECT on the database".into()
        }
        (_, "3D000") => "it has no such database; create it, or check its name".into(),
        (_, "53300") => {
            "it has no connection left for this role; raise its limit, or lower max_connections \
             here"
                .into()
        }
        (_, "57P03") => "it is starting or stopping; try again".into(),
        (_, "") => "it does not use PostgreSQL's protocol; check the address".into(),
        (_, code) => format!("it reported error {code}; its log has the details"),
    };
    StoreError::CannotConnect { server: location.to_string(), reason }
}

/// Returns the diagnosis of a connection to another server than the newest connection's.
pub(super) fn elsewhere(location: &Location) -> StoreError {
    StoreError::CannotConnect {
        server: location.to_string(),
        reason: "its address leads to another server by now, as after a failover; connect again"
            .into(),
    }
}

/// Returns the diagnosis of an old primary, whose successor this process has reached before.
pub(super) fn superseded(location: &Location) -> StoreError {
    StoreError::CannotConnect {
        server: location.to_string(),
        reason: "its address leads to an old primary, and a server that was promoted later was \
                 seen there; check where the address leads, or restart this program if that server \
                 was restored on purpose"
            .into(),
    }
}

pub(super) fn schema(location: &Location, reason: &str) -> StoreError {
    StoreError::Schema { path: location.to_string().into(), reason: reason.into() }
}

fn database(error: &sqlx::Error) -> Option<&PgDatabaseError> {
    error.as_database_error()?.try_downcast_ref()
}

/// Returns the SQLSTATE, if the server sent one.
pub(super) fn code(error: &sqlx::Error) -> Option<&str> {
    database(error).map(PgDatabaseError::code)
}

fn server_cause(error: &PgDatabaseError) -> Cause {
    let name = error.constraint().or(error.column()).or(error.table());
    let about = name.map_or(String::new(), |name| format!(" about `{name}`"));
    Cause::Server { code: error.code().into(), about }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_that_the_server_ends_is_told_from_a_statement_that_it_ends() {
        for code in ["57P01", "57P05", "08000", "08006", "25P03"] {
            assert!(ends_the_session(code), "{code}");
        }
        for code in ["57014", "25006", "25P02", "40P01", "42P08", "00000", ""] {
            assert!(!ends_the_session(code), "{code}");
        }
    }
}
