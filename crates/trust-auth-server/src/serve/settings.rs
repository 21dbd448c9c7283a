//! [`Settings`]: what the service is told by flags and environment, and its check.
//!
//! It must never carry a secret that it would then print: of the admin key there is only the
//! digest, and not even that is shown.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use axum::http::HeaderName;
use clap::Args;
use clap::builder::BoolishValueParser;
use serde::{Serialize, Serializer};
use trust_auth::{AuthenticatorBuilder, KeyHeader, TrustStore};
use trust_key_cache::{KeyHash, TrustKeyCache};

use super::connections::UNHEARD;
use super::limits::Limits;
use super::logs::{LogFormat, LogLevel};
use super::open_files;
use crate::database::{IfMissing, Pool};
use crate::failure::Failure;

/// Each flag has an environment variable, `TRUST_AUTH_` and its name; the flag goes before it.
/// `--help` shows no value of the environment: it is where keys are kept.
#[derive(Debug, Args, Serialize)]
pub(crate) struct Settings {
    /// Where `/verify` and the probes are answered; port 0 takes a free one, which the first line
    /// of output tells
    // The first line of output has the address itself.
    #[serde(skip)]
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "TRUST_AUTH_LISTEN",
        hide_env_values = true,
        default_value = "127.0.0.1:8080"
    )]
    pub(crate) listen: SocketAddr,

    /// Where the admin API is answered, or `off`
    #[serde(skip)]
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "TRUST_AUTH_ADMIN_LISTEN",
        hide_env_values = true,
        default_value = "127.0.0.1:8081"
    )]
    pub(crate) admin_listen: AdminListen,

    /// The SHA-256, in hexadecimal, of the key that the admin API asks for; without it, the admin
    /// API refuses everything
    ///
    /// For example, printf %s "$ADMIN_KEY" | sha256sum. Take a key of 32 random bytes: whoever
    /// sees the digest can try weak ones.
    #[arg(long, value_name = "HEX", env = "TRUST_AUTH_ADMIN_KEY_SHA256", hide_env_values = true)]
    #[serde(rename = "admin_key_configured", serialize_with = "is_some")]
    pub(crate) admin_key_sha256: Option<AdminKeyDigest>,

    /// Leave /metrics out of the main listener: only the admin listener has it then
    #[arg(long, env = "TRUST_AUTH_METRICS_ON_ADMIN_ONLY", hide_env_values = true, value_parser = BoolishValueParser::new())]
    pub(crate) metrics_on_admin_only: bool,

    /// Add to a table that is there what it lacks, as `trust-auth migrate` does, before serving;
    /// without it, a table is only looked at
    #[arg(long, env = "TRUST_AUTH_MIGRATE", hide_env_values = true, value_parser = BoolishValueParser::new())]
    pub(crate) migrate: bool,

    /// The header that carries the API key
    #[arg(long, value_name = "NAME", env = "TRUST_AUTH_HEADER", hide_env_values = true, default_value = "X-Api-Key", value_parser = header_name)]
    #[serde(serialize_with = "shown")]
    pub(crate) header: HeaderName,

    /// A word before the key in that header, such as `ApiKey` or `Bearer` with --header
    /// Authorization; without regard to case
    #[arg(long, value_name = "WORD", env = "TRUST_AUTH_SCHEME", hide_env_values = true)]
    pub(crate) scheme: Option<String>,

    /// How long a verified key is remembered, from before its row was read
    #[arg(long, value_name = "DURATION", env = "TRUST_AUTH_TTL", hide_env_values = true, default_value = "60s", value_parser = humantime::parse_duration)]
    #[serde(serialize_with = "duration")]
    pub(crate) ttl: Duration,

    /// How many keys are remembered: more than there are trusts
    #[arg(long, value_name = "COUNT", env = "TRUST_AUTH_CAPACITY", hide_env_values = true, default_value_t = TrustKeyCache::DEFAULT_CAPACITY)]
    pub(crate) capacity: usize,

    /// How many requests may wait for a walk over all rows; one more is answered with 503 at once.
    /// Less than half of --max-connections
    #[arg(
        long,
        value_name = "COUNT",
        env = "TRUST_AUTH_WAITING_LIMIT",
        hide_env_values = true,
        default_value_t = 256
    )]
    pub(crate) waiting_limit: usize,

    /// How long a refusal takes at least, or a whole multiple of it, so that its duration does not
    /// tell how many trusts there are; 0s: none
    #[arg(long, value_name = "DURATION", env = "TRUST_AUTH_REJECT_FLOOR", hide_env_values = true, default_value = "0s", value_parser = humantime::parse_duration)]
    #[serde(serialize_with = "duration")]
    pub(crate) reject_floor: Duration,

    /// How many connections to the database are open at most for reads; a walk takes one of them,
    /// so 2 at least
    #[arg(long, value_name = "COUNT", env = "TRUST_AUTH_DATABASE_CONNECTIONS", hide_env_values = true, default_value_t = 8, value_parser = clap::value_parser!(u32).range(2..=1_024))]
    pub(crate) database_connections: u32,

    /// End with exit code 1 if the database cannot be reached at the start; otherwise the service
    /// waits for it, and is not ready
    #[arg(long, env = "TRUST_AUTH_EXIT_IF_UNREACHABLE", hide_env_values = true, value_parser = BoolishValueParser::new())]
    pub(crate) exit_if_unreachable: bool,

    /// How old a connection to PostgreSQL may become before another one replaces it
    ///
    /// It bounds how long an old primary is read after a failover that left the connections to it
    /// up.
    #[arg(long, value_name = "DURATION", env = "TRUST_AUTH_DATABASE_CONNECTION_MAX_AGE", hide_env_values = true, default_value = "2m", value_parser = humantime::parse_duration)]
    #[serde(serialize_with = "duration")]
    pub(crate) database_connection_max_age: Duration,

    /// How long the database may take over one request, all steps together; then the request is
    /// answered with 503
    #[arg(long, value_name = "DURATION", env = "TRUST_AUTH_QUERY_TIMEOUT", hide_env_values = true, default_value = "2s", value_parser = humantime::parse_duration)]
    #[serde(serialize_with = "duration")]
    pub(crate) query_timeout: Duration,

    /// How long a request of the admin API may take, its body included; then it is answered with
    /// 503. No less than --query-timeout and --reject-floor together
    #[arg(long, value_name = "DURATION", env = "TRUST_AUTH_REQUEST_TIMEOUT", hide_env_values = true, default_value = "10s", value_parser = humantime::parse_duration)]
    #[serde(serialize_with = "duration")]
    pub(crate) request_timeout: Duration,

    /// How long a client may take over a request's headers, and a connection may be idle
    #[arg(long, value_name = "DURATION", env = "TRUST_AUTH_HEADER_TIMEOUT", hide_env_values = true, default_value = "30s", value_parser = humantime::parse_duration)]
    #[serde(serialize_with = "duration")]
    pub(crate) header_timeout: Duration,

    /// How large a request's line and headers may be together, in bytes; beyond it, 431
    #[arg(long, value_name = "BYTES", env = "TRUST_AUTH_MAX_HEADER_BYTES", hide_env_values = true, default_value_t = 32 * 1024, value_parser = clap::value_parser!(u32).range(8_192..=1_048_576))]
    pub(crate) max_header_bytes: u32,

    /// How many connections of clients are open at most; others wait to be accepted
    #[arg(long, value_name = "COUNT", env = "TRUST_AUTH_MAX_CONNECTIONS", hide_env_values = true, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) max_connections: u32,

    /// How long new connections are still taken after a request to terminate, while /readyz says
    /// no, so that the proxy goes elsewhere first
    #[arg(long, value_name = "DURATION", env = "TRUST_AUTH_DRAIN_DELAY", hide_env_values = true, default_value = "1s", value_parser = humantime::parse_duration)]
    #[serde(serialize_with = "duration")]
    pub(crate) drain_delay: Duration,

    /// How long answers that are owed may take after that
    #[arg(long, value_name = "DURATION", env = "TRUST_AUTH_DRAIN_TIMEOUT", hide_env_values = true, default_value = "15s", value_parser = humantime::parse_duration)]
    #[serde(serialize_with = "duration")]
    pub(crate) drain_timeout: Duration,

    /// How the log is written, on standard error
    #[arg(
        long,
        value_name = "FORMAT",
        env = "TRUST_AUTH_LOG_FORMAT",
        hide_env_values = true,
        value_enum,
        default_value_t
    )]
    pub(crate) log_format: LogFormat,

    /// What is logged
    #[arg(
        long,
        value_name = "LEVEL",
        env = "TRUST_AUTH_LOG_LEVEL",
        hide_env_values = true,
        value_enum,
        default_value_t
    )]
    pub(crate) log_level: LogLevel,
}

/// A digest, or something else, which may be the key itself by mistake: clap would repeat it in its
/// error.
#[derive(Clone, Copy)]
pub(crate) struct AdminKeyDigest(Option<KeyHash>);

impl From<&str> for AdminKeyDigest {
    fn from(text: &str) -> Self {
        Self(text.parse().ok())
    }
}

impl fmt::Debug for AdminKeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AdminKeyDigest")
    }
}

impl Settings {
    /// Makes sure that the settings go together: better no service than one that does other than it
    /// was told.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        let wrong = |message: &str| Err(Failure::new("settings", message));
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
        if self.admin_key_sha256.is_some_and(|AdminKeyDigest(digest)| digest.is_none()) {
            return wrong(
                "--admin-key-sha256 must be 64 hexadecimal digits: the SHA-256 of the key, not the key",
            );
        }
        if self.query_timeout > self.request_timeout {
            return wrong(
                "--query-timeout must be at most --request-timeout, which would end the request first",
            );
        }
        if !(LEAST_CONNECTION_AGE..=MAX_TIMEOUT).contains(&self.database_connection_max_age) {
            return wrong("--database-connection-max-age must be at least 1s, and at most a day");
        }
        // A refusal takes a whole multiple of the floor, the last one after the deadline.
        if self.reject_floor > self.request_timeout - self.query_timeout {
            return wrong(
                "--reject-floor and --query-timeout must be at most --request-timeout together: a refusal takes so long",
            );
        }
        if self.metrics_on_admin_only && self.admin_listen == AdminListen::Off {
            return wrong(
                "--metrics-on-admin-only leaves nobody to give /metrics with --admin-listen off",
            );
        }
        if self.waiting_limit == 0 {
            return wrong(
                "--waiting-limit must be at least 1: an unknown key could never be verified",
            );
        }
        if self.scheme.as_deref().is_some_and(|word| {
            !word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        }) {
            return wrong("--scheme must be one word of letters, digits and `-`");
        }
        Ok(())
    }

    /// Says in the log what will do, and yet not do well.
    pub(crate) fn warn(&self) {
        if self.waiting_limit >= self.max_connections as usize / 2 {
            tracing::warn!(
                waiting_limit = self.waiting_limit,
                max_connections = self.max_connections,
                "requests that wait for walks can take all connections, so that hits wait too; lower --waiting-limit below half of --max-connections"
            );
        }
        if self.drain_timeout < self.request_timeout + UNHEARD {
            tracing::warn!(
                drain_timeout = ?self.drain_timeout,
                request_timeout = ?self.request_timeout,
                "a request may take longer than the end waits for its answer; raise --drain-timeout a second above --request-timeout"
            );
        }
        let needed = open_files::needed(self.max_connections, self.database_connections);
        if let Some(limit) = open_files::limit().filter(|limit| *limit < needed) {
            tracing::warn!(
                limit,
                needed,
                "clients can take all files that this process may have open, so that the admin API and the database cannot be reached; raise the hard limit (LimitNOFILE=, ulimit -Hn), or lower --max-connections"
            );
        }
    }

    /// The digest of the key that the admin API asks for.
    pub(crate) fn admin_key(&self) -> Option<KeyHash> {
        self.admin_key_sha256.and_then(|AdminKeyDigest(digest)| digest)
    }

    /// Where the key is looked for.
    pub(crate) fn key_header(&self) -> KeyHeader {
        KeyHeader::new(self.header.clone()).scheme(self.scheme.as_deref().unwrap_or_default())
    }

    /// The cache.
    pub(crate) fn cache(&self) -> Result<TrustKeyCache, Failure> {
        TrustKeyCache::builder()
            .ttl(self.ttl)
            .capacity(self.capacity)
            .build()
            .map_err(|error| Failure::new("settings", format!("--ttl or --capacity: {error}")))
    }

    /// The limits of the miss path.
    pub(crate) fn limit<S: TrustStore>(
        &self,
        builder: AuthenticatorBuilder<S>,
    ) -> AuthenticatorBuilder<S> {
        builder
            .waiting_limit(self.waiting_limit)
            .reject_floor(self.reject_floor)
            .deadline(self.query_timeout)
    }

    /// What to do where the table is missing, or lacks something.
    pub(crate) fn if_missing(&self) -> IfMissing {
        if self.migrate { IfMissing::CreateOrMigrate } else { IfMissing::Create }
    }

    /// How the database is used.
    pub(crate) fn pool(&self) -> Pool {
        Pool {
            connections: self.database_connections,
            max_connection_age: self.database_connection_max_age,
            query_timeout: self.query_timeout,
        }
    }

    /// The limits of the main listener.
    pub(crate) fn limits(&self) -> Limits {
        Limits {
            connections: self.max_connections as usize,
            header_timeout: self.header_timeout,
            header_bytes: self.max_header_bytes as usize,
        }
    }

    /// One line of the log with everything that was decided.
    pub(crate) fn log(&self, listen: SocketAddr, admin_listen: &str, database: &str) {
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            %listen,
            admin_listen,
            admin_key_configured = self.admin_key_sha256.is_some(),
            metrics_on_admin_only = self.metrics_on_admin_only,
            database,
            migrate = self.migrate,
            header = %self.header,
            scheme = self.scheme.as_deref(),
            ttl = ?self.ttl,
            capacity = self.capacity,
            waiting_limit = self.waiting_limit,
            reject_floor = ?self.reject_floor,
            database_connections = self.database_connections,
            exit_if_unreachable = self.exit_if_unreachable,
            database_connection_max_age = ?self.database_connection_max_age,
            query_timeout = ?self.query_timeout,
            request_timeout = ?self.request_timeout,
            header_timeout = ?self.header_timeout,
            max_header_bytes = self.max_header_bytes,
            max_connections = self.max_connections,
            drain_delay = ?self.drain_delay,
            drain_timeout = ?self.drain_timeout,
            "serving"
        );
    }
}

/// Below this, connecting would be most of the work.
const LEAST_CONNECTION_AGE: Duration = Duration::from_secs(1);

/// Timers count from an instant, which has an end.
const MAX_TIMEOUT: Duration = Duration::from_hours(24);

/// An address, or `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AdminListen {
    At(SocketAddr),
    Off,
}

impl AdminListen {
    pub(crate) fn address(self) -> Option<SocketAddr> {
        match self {
            Self::At(address) => Some(address),
            Self::Off => None,
        }
    }
}

impl FromStr for AdminListen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.eq_ignore_ascii_case("off") {
            return Ok(Self::Off);
        }
        text.parse()
            .map(Self::At)
            .map_err(|_| "give an address and a port, such as 127.0.0.1:8081, or `off`".to_owned())
    }
}

fn header_name(text: &str) -> Result<HeaderName, String> {
    text.parse().map_err(|_| "a header's name has letters, digits and `-`".to_owned())
}

fn is_some<S: Serializer, T>(value: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_bool(value.is_some())
}

fn shown<S: Serializer>(value: &impl fmt::Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

fn duration<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_duration(*value))
}
