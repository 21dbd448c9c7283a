//! Which [`Settings`] are refused, and of which the log warns.

use std::time::Duration;

use trust_auth::ApiKey;

use super::drain::FIRST_REQUEST_LIMIT;
use super::open_files;
use super::settings::{ADMIN_CONNECTIONS, AdminListen, Settings};
use crate::command_error::CommandError;
use crate::find_by::FindByArg;
use crate::key_digest::KeyDigest;

/// What SQLite, and a revocation, allow.
pub(crate) const LEAST_LEASE: Duration = Duration::from_millis(300);
pub(crate) const LONGEST_LEASE: Duration = Duration::from_mins(5);

/// With a lower age, connecting would be most of the work.
const LEAST_CONNECTION_AGE: Duration = Duration::from_secs(1);

/// The end of a longer timer may be later than the last instant that the system can represent.
const MAX_TIMEOUT: Duration = Duration::from_hours(24);

impl Settings {
    /// Checks that the settings fit together.
    ///
    /// # Errors
    ///
    /// The flag that is wrong, and what it must be.
    pub(crate) fn check(&self) -> Result<(), CommandError> {
        let wrong = |message: &str| Err(CommandError::new("settings", message));
        let limits = [
            ("--query-timeout", self.query_timeout),
            ("--request-timeout", self.request_timeout),
            ("--header-timeout", self.header_timeout),
        ];
        for (flag, limit) in limits {
            if limit.is_zero() || limit > MAX_TIMEOUT {
                return wrong(&format!("{flag} must be longer than 0s, and at most a day"));
            }
        }
        for (flag, limit) in
            [("--drain-delay", self.drain_delay), ("--drain-timeout", self.drain_timeout)]
        {
            if limit > MAX_TIMEOUT {
                return wrong(&format!("{flag} must be at most a day"));
            }
        }
        if let Some(Err(what)) = self.admin_key_sha256.map(KeyDigest::hash) {
            return wrong(&format!("--admin-key-sha256 {what}"));
        }
        if self.read_lease.is_some_and(|length| !(LEAST_LEASE..=LONGEST_LEASE).contains(&length)) {
            return wrong("--read-lease must be at least 300ms, and at most 5m");
        }
        if self.query_timeout > self.request_timeout {
            return wrong(
                "--query-timeout must be at most --request-timeout, which otherwise ends the \
                 request first",
            );
        }
        if !(LEAST_CONNECTION_AGE..=MAX_TIMEOUT).contains(&self.database_connection_max_age) {
            return wrong("--database-connection-max-age must be at least 1s, and at most a day");
        }
        // The duration of a refusal is a multiple of the floor, the last one after the deadline.
        if self.reject_floor > self.request_timeout - self.query_timeout {
            return wrong(
                "--reject-floor and --query-timeout must be at most --request-timeout together: a \
                 refusal may take that long",
            );
        }
        if self.metrics_on_admin_only && self.admin_listen == AdminListen::Off {
            return wrong(
                "--metrics-on-admin-only with --admin-listen off leaves no listener for /metrics",
            );
        }
        if self.waiting_limit == 0 {
            return wrong(
                "--waiting-limit must be at least 1: no key that is not cached could be verified",
            );
        }
        if self.scheme.as_deref().is_some_and(|word| {
            !word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        }) {
            return wrong("--scheme must be one word of letters, digits and `-`");
        }
        // The service sends the scheme to each client that is refused, and logs both.
        if self.scheme.as_deref().is_some_and(ApiKey::may_be_in)
            || ApiKey::may_be_in(self.header.as_str())
        {
            return wrong("--header and --scheme must be names: one of them looks like an API key");
        }
        Ok(())
    }

    /// Logs settings that work, but do not fit together well.
    pub(crate) fn warn(&self) {
        if self.waiting_limit >= self.max_connections as usize / 2 {
            tracing::warn!(
                waiting_limit = self.waiting_limit,
                max_connections = self.max_connections,
                "requests that wait for scans can take all connections, so that cached keys wait \
                 too; lower --waiting-limit below half of --max-connections"
            );
        }
        if self.drain_timeout < self.request_timeout + FIRST_REQUEST_LIMIT {
            tracing::warn!(
                drain_timeout = ?self.drain_timeout,
                request_timeout = ?self.request_timeout,
                "the end of the service may cut a request before its answer; raise \
                 --drain-timeout a second above --request-timeout"
            );
        }
        let has_unpeppered = self.pepper.pepper_file.is_none() || self.pepper.accept_unpeppered;
        if self.find_by == FindByArg::Index && has_unpeppered {
            tracing::warn!(
                "--find-by index gives up constant time: the duration of a lookup reveals how much \
                 of a stored digest matches that of a presented key, and a client can compute \
                 digests of keys without a pepper; give --pepper-file without \
                 --accept-unpeppered, or find by a scan"
            );
        }
        if let Some(read_lease) = self.read_lease
            && self.admin_listen != AdminListen::Off
            && read_lease >= self.request_timeout
        {
            tracing::warn!(
                ?read_lease,
                request_timeout = ?self.request_timeout,
                "a revocation by the admin API may answer 202 instead of 200 while a service with \
                 a read lease does not answer, and on SQLite it always does; raise \
                 --request-timeout above --read-lease, and --drain-timeout with it, or shorten \
                 --read-lease"
            );
        }
        let clients = u64::from(self.max_connections) + ADMIN_CONNECTIONS as u64;
        let needed = open_files::needed(clients, u64::from(self.database_connections));
        if let Some(limit) = open_files::limit().filter(|limit| *limit < needed) {
            tracing::warn!(
                limit,
                needed,
                "clients can use up the open files of this process, and block the admin API and \
                 the database; raise the hard limit (LimitNOFILE=, ulimit -Hn), or lower \
                 --max-connections"
            );
        }
    }
}
